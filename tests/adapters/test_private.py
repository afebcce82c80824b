"""DP-SGD of what is trained beside a frozen network: gradients record by record, noise, memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.adapters import adapter_names, attach
from fedsim.privacy import per_sample as per_sample_module
from fedsim.privacy.coupling import require_uncoupled
from fedsim.privacy.per_sample import PerSampleGradients
from fedsim.privacy.training import fit_private
from fedsim.wire.sharing import freeze, sharing_of
from tests.adapters.test_lora import randomise
from tests.plugins.tiny_vit import TinyViT
from tests.privacy.test_per_sample import batch, by_autograd, cross_entropy, relative
from tests.wire.test_sharing import rules

LORA = {"rank": 3}
REIN = {"tokens": 6, "rank": 2, "scale": 0.3}


class Scaled(TinyViT):
    """With a parameter that no layer owns."""

    def __init__(self) -> None:
        super().__init__(2, 3, 16)
        self.temperature = nn.Parameter(torch.tensor([1.3]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, 2]."""
        return super().forward(images) * self.temperature


class Gain(nn.Module):
    """A layer without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(16))

    def forward(self, tokens: Tensor) -> Tensor:
        """Of the same shape."""
        return tokens * self.gain


def made(
    adapter: str | None, trainable: Any = "all", model: nn.Module | None = None, **parameters: Any
) -> nn.Module:
    """A model as a run of such a scenario has it, with an adapter that has moved."""
    torch.manual_seed(0)
    model = TinyViT(2, 3, 16) if model is None else model
    if adapter is not None:
        given = (LORA if adapter == "lora" else REIN) | parameters
        attach(model, adapter, given, input_shape=(3, 16, 16), head=("classifier",))
        randomise(model)
    return freeze(model, sharing_of(rules(trainable=trainable), model))


def trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


CASES = [
    ("lora", "all", {}),
    ("lora", "all", {"freeze_a": True}),
    ("lora", "norm+head", {}),
    ("lora", "bias+head", {}),
    ("rein", "all", {}),
    ("rein", "norm+head", {}),
    (None, "norm+head", {}),
    (None, "bias+head", {}),
]


@pytest.mark.parametrize(("adapter", "trainable", "parameters"), CASES)
def test_gradients_are_autograds_record_by_record_by_rules_alone(
    adapter: str | None,
    trainable: str,
    parameters: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(per_sample_module, "_hooks", None)
    model = made(adapter, trainable, **parameters).double()
    images, labels = batch(4, dtype=torch.float64)
    with PerSampleGradients(model) as per_sample:
        found = per_sample.gradients(images, labels, cross_entropy)
    assert found.shape == (4, trained(model)), "frozen weights take no memory"
    expected = by_autograd(model, images, labels)
    assert relative(found, expected) < 1e-10
    assert (expected != 0).any(0).float().mean() > 0.9, "nearly all of it has an effect"
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert frozen
    assert all(p.grad is None for p in frozen)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("adapter", ["lora", "rein"])
def test_without_a_rule_the_general_path_is_right_too(adapter: str) -> None:
    pytest.importorskip("opacus")
    model = made(adapter, ("temperature", "classifier.*"), model=Scaled())
    images, labels = batch(4)
    found = PerSampleGradients(model).gradients(images, labels, cross_entropy)
    assert relative(found, by_autograd(model, images, labels)) < 1e-4


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_where_the_general_path_misses_tokens_it_says_so() -> None:
    # Opacus looks at calls of the layer that owns a parameter, and the tokens' owner has none.
    pytest.importorskip("opacus")
    model = TinyViT(2, 3, 16)
    model.norm = nn.Sequential(model.norm, Gain())
    model = made("rein", ("norm.1.*", "classifier.*"), model=model)
    with pytest.raises(ValueError, match=r"gradients of 'rein\..*' are not complete"):
        PerSampleGradients(model).gradients(*batch(4), cross_entropy)


@pytest.mark.parametrize("adapter", ["lora", "rein"])
def test_records_do_not_mix(adapter: str) -> None:
    require_uncoupled(made(adapter), cross_entropy, *batch(4))


class Releases:
    """Every record each step; clipped to 1, without noise; keeps what was released."""

    def __init__(self, n: int) -> None:
        self.n, self.seen = n, []  # type: ignore[var-annotated]
        self.settings = type("S", (), {"averaging": 0.0, "augmentations": 1, "physical_batch": 8})
        self.plan = type("P", (), {"mechanism": type("M", (), {"passes": 1})})

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(self.n), np.arange(self.n)

    def release(self, parts: Any) -> Tensor:
        rows = torch.cat(list(parts))
        self.seen.append(rows)
        clipped = rows / rows.norm(dim=1, keepdim=True).clamp_min(1.0)
        return clipped.sum(0) + 0.01 * torch.ones(rows.shape[1])


@pytest.mark.parametrize("adapter", ["lora", "rein"])
def test_clipping_and_noise_are_of_what_is_trained_and_the_rest_stays(adapter: str) -> None:
    model = made(adapter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = batch(5)
    releases, optimizer = Releases(5), torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    fit_private(
        model,
        lambda where: (images[where], labels[where]),
        releases,  # type: ignore[arg-type]
        range(2),
        optimizer,
        lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
        device=torch.device("cpu"),
    )
    assert [rows.shape for rows in releases.seen] == [(5, trained(model))] * 2
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == adapter_names(model) | {"classifier.weight", "classifier.bias"}
