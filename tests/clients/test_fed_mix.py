"""FedMix: its loss in closed form, how far it is from mixup, and what clients exchange."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import RecordDict
from torch import Tensor, nn

from fedsim import Result, Site
from fedsim.clients.fed_mix import FedMix, Scaled, mixed_loss
from fedsim.clients.supervised import Supervised
from fedsim.folder.runfolder import RunFolder
from tests.engine.conftest import run_tiny, tiny  # noqa: F401 - fixtures

STEPS = "batch_size: 16, steps: 3, learning_rate: 0.05"
FEDMIX = ("strategy=fed_mix", f"client={{name: fed_mix, {STEPS}, mix: 0.2, group: 4}}")
PLAIN = (
    "strategy=fed_mix",
    f"client={{name: tests.clients.test_fed_mix.Plain, {STEPS}}}",
    f"plugins=[{Path(__file__).parents[2]}]",
)


class Plain(Supervised):
    """Shares as FedMix's client does, and trains as FedAvg's."""

    payload_kind = "fed_mix"
    keeps_state = True

    def means(self, content: RecordDict, site: Site) -> RecordDict:
        return FedMix(group=4).means(content, site)


def linear() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A model in float64, two images, their labels, another image and its classes."""
    draws = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=draws, dtype=torch.float64))
    images = torch.randn(2, 3, 2, 2, generator=draws, dtype=torch.float64)
    image = torch.randn(3, 2, 2, generator=draws, dtype=torch.float64)
    return model, images, torch.tensor([0, 2]), image, torch.tensor([0.25, 0.5, 0.25]).double()


def loss_of(mix: float) -> Tensor:
    model, images, labels, image, shares = linear()
    scaled = Scaled(model, 1 - mix)
    return mixed_loss(scaled(images), scaled.inputs, labels, image, shares, mix)


def test_the_loss_of_a_linear_model_is_that_of_its_closed_form() -> None:
    mix = 0.3
    model, images, labels, image, shares = linear()
    weight = model[1].weight.detach()
    logits = model((1 - mix) * images).detach()
    p, y = logits.softmax(dim=1), F.one_hot(labels, 3).double()
    own = -(y * p.log()).sum(1).mean()
    other = -(shares * p.log()).sum(1).mean()
    # The slope of cross-entropy in the image is W' (p - y).
    slope = ((p - y) @ weight @ image.flatten()).mean()
    wanted = (1 - mix) * own + mix * other + mix * (1 - mix) * slope
    assert loss_of(mix).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_it_is_mixup_up_to_the_second_order() -> None:
    def gap(mix: float) -> float:
        model, images, labels, image, shares = linear()
        mixed = model((1 - mix) * images + mix * image)
        classes = (1 - mix) * F.one_hot(labels, 3).double() + mix * shares
        return abs(F.cross_entropy(mixed, classes) - loss_of(mix)).item()

    assert gap(0.02) > 0
    assert gap(0.02) / gap(0.01) == pytest.approx(4, rel=0.1)


def test_what_a_client_sends_are_means_of_its_images() -> None:
    class Records:
        labels = torch.tensor([0, 1, 1, 0, 1])

        def __len__(self) -> int:
            return 5

        def images(self, rows: Tensor) -> Tensor:
            return rows.float()[:, None, None, None].expand(-1, 3, 2, 2) / 10

    class Here:
        train, task = Records(), type("Task", (), {"num_classes": 2})

        def generator(self, purpose: str) -> torch.Generator:
            return torch.Generator().manual_seed(1)

    from fedsim.wire import decode_images, tensors

    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    for group, count in ((2, 2), (9, 1)):
        reply = FedMix(group=group).means(RecordDict(), Here())  # type: ignore[arg-type]
        sent = tensors(reply.array_records["means"])
        groups = order[: count * 2].split(2) if group == 2 else [order]
        wanted = torch.stack([Records().images(rows).mean(0) for rows in groups])
        assert decode_images(sent["images"]) == pytest.approx(wanted, abs=0.02)
        shares = [[1 - x, x] for x in (Records.labels[r].float().mean().item() for r in groups)]
        assert sent["labels"] == pytest.approx(np.array(shares))


def test_without_mixing_training_is_fedavgs(run_tiny: Callable[..., Result]) -> None:  # noqa: F811
    plain = run_tiny(*PLAIN)
    assert run_tiny(*FEDMIX, "client.mix=0").metrics == plain.metrics
    assert run_tiny(*FEDMIX).metrics != plain.metrics


def test_means_go_to_each_client_once_and_are_listed(
    run_tiny: Callable[..., Result],  # noqa: F811
) -> None:
    result = run_tiny(*FEDMIX, "rounds=4", "federation.participation=0.5", seed=3)
    folder = RunFolder.open(result.folder)
    rows = folder.read_lines("traffic.jsonl")
    sent = [row for row in rows if row["direction"] == "up" and "means" in row["fields"]]
    got = [row["client"] for row in rows if row["direction"] == "down" and "means" in row["fields"]]
    assert [row["client"] for row in sent] == [0, 1, 2, 3]
    assert len(got) == len(set(got)) > 2
    listed = folder.read_json("run.json")["released_without_privacy"]
    assert any("means of 4" in line for line in listed)
    assert FedMix(group=1).discloses[0].startswith("REAL IMAGES")


def test_a_site_alone_trains_as_fedavg_does(run_tiny: Callable[..., Result]) -> None:  # noqa: F811
    alone = ("federation.clients=1", "federation.partition=iid")
    assert run_tiny(*FEDMIX, *alone).metrics == run_tiny(*PLAIN, *alone).metrics
