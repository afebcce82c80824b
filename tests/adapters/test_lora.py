"""Low-rank changes: what they compute, which layers have them, what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.adapters import LoRALinear, UnfitError, adapter_names, attach, product, require_used
from fedsim.models import ResNet18, SmallCNN
from tests.plugins.tiny_vit import TinyViT
from tests.shipped import CLASSIFIERS, MIXES_RECORDS, images_of, small

SHAPE = (3, 16, 16)


def adapted(model: nn.Module, **parameters: Any) -> nn.Module:
    return attach(model, "lora", parameters, input_shape=SHAPE, head=("classifier",))


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def randomise(model: nn.Module) -> None:
    """Give what an adapter added other values than the first ones."""
    draws = torch.Generator().manual_seed(2)
    state = model.state_dict()
    for name in sorted(adapter_names(model)):
        state[name].copy_(torch.randn(state[name].shape, generator=draws))


@pytest.mark.parametrize("made", [lambda: SmallCNN(2, 3, 16, 8), lambda: TinyViT(2, 3, 16)])
def test_the_first_output_and_all_names_are_the_models_own(made: Any) -> None:
    torch.manual_seed(0)
    plain = made()
    torch.manual_seed(0)
    model = adapted(made(), rank=4)
    assert torch.equal(model(images()), plain(images()))
    state, added = model.state_dict(), adapter_names(model)
    assert set(state) - added == set(plain.state_dict())
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
    assert added
    assert not any(name.startswith("classifier") for name in added)
    assert all(not state[name].any() for name in added if name.endswith("lora_b.weight"))
    randomise(model)
    assert not torch.allclose(model(images()), plain(images()))


def test_a_is_drawn_from_the_seed_after_the_model() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return adapted(TinyViT(2, 3, 16)).state_dict()["layers.0.attn.qkv.lora_a.weight"]

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    # As torch draws weights: uniform between +-1 / sqrt(in).
    assert 0.9 / 4 < float(first(0).abs().max()) <= 1 / 4


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Linear(6, 5, bias=False),
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Conv2d(3, 6, (3, 2), stride=2, dilation=2, bias=False),
        nn.Conv2d(3, 6, 3, padding="same", padding_mode="reflect"),
    ],
    ids=str,
)
def test_the_change_is_a_low_rank_weight(layer: nn.Module) -> None:
    merged = copy.deepcopy(layer)
    model = attach(nn.Sequential(layer), "lora", {"rank": 2, "alpha": 3.0}, input_shape=())
    randomise(model)
    a, b = layer.lora_a.weight, layer.lora_b.weight
    change = torch.from_numpy(product(a.detach().numpy(), b.detach().numpy()))
    assert torch.linalg.matrix_rank(change) == 2
    merged.weight.data += 1.5 * change.view(merged.weight.shape).float()
    inputs = torch.randn(4, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 9, 9)
    assert torch.allclose(model(inputs), merged(inputs), atol=1e-5)


def test_parameters_are_those_of_the_formula() -> None:
    model = adapted(TinyViT(2, 3, 16), rank=4, targets=["layers.*.attn.*"])
    state = model.state_dict()
    # Of each layer r (in + out).
    assert sum(state[name].numel() for name in adapter_names(model)) == 2 * 4 * (
        (16 + 48) + (16 + 16)
    )
    cnn = adapted(SmallCNN(2, 3, 16, 8), rank=4)
    state = cnn.state_dict()
    convolutions = [(3, 8), (8, 16), (16, 32)]
    assert sum(state[name].numel() for name in adapter_names(cnn)) == sum(
        4 * (9 * before + after) for before, after in convolutions
    )


def test_frozen_a_is_not_trained() -> None:
    model = adapted(TinyViT(2, 3, 16), freeze_a=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {n for n in adapter_names(model) if n in trained} == {
        n for n in adapter_names(model) if n.endswith(".lora_b.weight")
    }


def test_a_layer_with_two_paths_has_one_change() -> None:
    layer = nn.Linear(4, 4)
    model = adapted(nn.Sequential(layer, nn.ReLU(), layer), rank=2)
    assert adapter_names(model) == {"0.lora_a.weight", "0.lora_b.weight"}
    assert model[2] is model[0]
    assert isinstance(model[2], LoRALinear)


def test_copies_have_factors_of_their_own() -> None:
    model = adapted(TinyViT(2, 3, 16), rank=2)
    randomise(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images()), model(images()))
        other.layers[0].mlp[0].lora_b.weight.data.zero_()
        assert not torch.equal(other(images()), model(images()))


class Odd(nn.Module):
    """One of each layer that cannot be adapted, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.able = nn.Linear(8, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.groups = nn.Conv2d(8, 8, 3, groups=8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)


def test_by_default_only_layers_that_can_be_are_adapted() -> None:
    assert adapter_names(adapted(Odd(), rank=2)) == {"able.lora_a.weight", "able.lora_b.weight"}


@pytest.mark.parametrize(
    ("parameters", "key", "words"),
    [
        ({"targets": ["abel"]}, "targets", "'abel' matches no layer; the nearest: 'able'"),
        ({"targets": ["able", "q?"]}, "targets", "'q?' matches no layer; there are 'able'"),
        ({"targets": ["norm"]}, "targets", "(LayerNorm): only linear layers"),
        ({"targets": ["groups"]}, "targets", "a convolution in groups"),
        ({"targets": ["normed"]}, "targets", "its weight is computed out of others"),
        ({"targets": ["attention.*"]}, "targets", "reads its weight past it"),
        ({"rank": 9}, "rank", "9 is too large for 'able', whose weight 8x8 takes at most 8"),
    ],
)
def test_what_cannot_be_adapted_is_refused(
    parameters: dict[str, Any], key: str, words: str
) -> None:
    with pytest.raises(UnfitError) as refused:
        adapted(Odd(), **parameters)
    assert refused.value.key == key
    assert words in str(refused.value)
    assert refused.value.hint


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(UnfitError, match="no linear layer and no two-dimensional convolution"):
        adapted(nn.Sequential(nn.Conv3d(1, 2, 3)))
    with pytest.raises(UnfitError, match="is adapted already"):
        adapted(adapted(TinyViT(2, 3, 16)), targets=["layers.0.attn.qkv"])


def test_layers_that_the_model_passes_by_are_refused() -> None:
    # In evaluation torch's transformer reads the weights of its layers, and calls none.
    model = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    attach(model, "lora", {"rank": 2}, input_shape=(4, 8))
    model.train()
    with pytest.raises(UnfitError, match="'linear1' is adapted, but the model does not call it"):
        require_used(model, (4, 8))
    assert all(module.training for module in model.modules())
    assert "forward" not in vars(model.linear1)
    require_used(adapted(TinyViT(2, 3, 16), rank=2), SHAPE)
    own = adapted(TinyViT(2, 3, 16), rank=2)
    kept = own.layers[0].mlp[0].forward = own.layers[0].mlp[0].forward
    require_used(own, SHAPE)
    assert vars(own.layers[0].mlp[0])["forward"] is kept
    require_used(adapted(ResNet18(2, 3, 32, width=8), rank=2), (3, 32, 32))
    require_used(TinyViT(2, 3, 16), (1, 1))  # no adapter: not even tried


@pytest.mark.parametrize("name", sorted({*CLASSIFIERS, *MIXES_RECORDS} - {"linear"}))
def test_shipped_networks_take_it(name: str) -> None:
    model, records = small(name).eval(), images_of(name, 2)
    before, count = model(records), len(list(model.parameters()))
    found = attach(model, "lora", {"rank": 1}, input_shape=SHAPE, head=("classifier",))
    assert torch.equal(found(records), before)
    assert len(list(found.parameters())) > count
