"""Projected ascent: it climbs, stays in the ball, and stops."""

from __future__ import annotations

import itertools

import pytest
import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from fedsim.unlearning import Ascent, ascend
from fedsim.unlearning.ascent import keep_within

CPU = torch.device("cpu")


def climb(
    radius: float, steps: int, stop: float = 0.0, score: float = 1.0
) -> tuple[nn.Module, dict]:  # type: ignore[type-arg]
    """A linear model that fits y = x, made to fit it worse."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    batch = torch.randn(8, 3), torch.randn(8, 1)
    seen: list[float] = []
    first = [value.detach().clone() for value in model.parameters()]

    def measured(inner: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        pairs = zip((one.detach() for one in inner.parameters()), first, strict=True)
        seen.append(float(sum((a - b).square().sum() for a, b in pairs)) ** 0.5)
        return (inner(images) - labels).square().mean(), score

    asked = Ascent(radius, steps, stop)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found = ascend(model, itertools.repeat(batch), range(steps), optimizer, measured, asked, CPU)
    return model, found | {"seen": seen}


def test_every_step_is_in_the_ball() -> None:
    _, found = climb(0.7, 20)
    assert found["num-steps"] == 20
    assert max(found["seen"]) <= 0.7 * (1 + 1e-6)
    assert found["distance"] == pytest.approx(0.7, rel=1e-6)


def test_the_loss_rises() -> None:
    torch.manual_seed(0)
    start, (end, _) = nn.Linear(3, 1), climb(5.0, 5)
    torch.manual_seed(0)
    nn.Linear(3, 1)
    images, labels = torch.randn(8, 3), torch.randn(8, 1)
    losses = [(one(images) - labels).square().mean().item() for one in (start, end)]
    assert losses[1] > 2 * losses[0]


def test_it_ends_before_a_step_when_the_score_is_low() -> None:
    _, found = climb(1.0, 20, stop=0.2, score=0.1)
    assert found["num-steps"] == 0
    assert found["distance"] == 0
    assert found["score"] == 0.1


def test_what_is_asked_travels_whole() -> None:
    asked = Ascent(0.25, 7, 0.12)
    assert Ascent.of(RecordDict({"config": asked.config()})) == asked


def test_the_nearest_point_of_a_ball() -> None:
    value = nn.Parameter(torch.tensor([4.0, 5.0]))
    keep_within([value], [torch.tensor([1.0, 1.0])], 2.0)
    assert value.tolist() == pytest.approx([2.2, 2.6])
    keep_within([value], [torch.tensor([1.0, 1.0])], 3.0)
    assert value.tolist() == pytest.approx([2.2, 2.6])
