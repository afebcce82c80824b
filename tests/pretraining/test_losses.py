"""NT-Xent and KoLeo against loops, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from fedsim.pretraining.losses import koleo, nt_xent


def looped(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Eq. 1 of Chen et al. (2020), image by image."""
    views = [one for pair in zip(first, second, strict=True) for one in pair]
    cosine = [[float(F.cosine_similarity(a, b, dim=0)) for b in views] for a in views]
    total = 0.0
    for i in range(len(views)):
        partner = i ^ 1
        others = [math.exp(cosine[i][k] / temperature) for k in range(len(views)) if k != i]
        total -= math.log(math.exp(cosine[i][partner] / temperature) / sum(others))
    return total / len(views)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_the_loop(temperature: float) -> None:
    first, second = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    found = float(nt_xent(first, second, temperature))
    assert found == pytest.approx(looped(first, second, temperature), rel=1e-5)
    assert float(nt_xent(second, first, temperature)) == pytest.approx(found, rel=1e-6)
    assert float(nt_xent(9 * first, second, temperature)) == pytest.approx(found, rel=1e-5)


def test_nt_xent_golden() -> None:
    """Two images at right angles, whose views agree: log(1 + 2 exp(-1 / temperature))."""
    one = torch.eye(2)
    assert float(nt_xent(one, one, 1.0)) == pytest.approx(math.log(1 + 2 / math.e), rel=1e-6)
    alike = torch.ones(4, 3)
    assert float(nt_xent(alike, alike)) == pytest.approx(math.log(7), rel=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "temperature"),
    [((1, 3), (1, 3), 0.5), ((2, 3), (3, 3), 0.5), ((2, 3), (2, 3), 0.0)],
)
def test_nt_xent_refuses(first: tuple, second: tuple, temperature: float) -> None:
    with pytest.raises(ValueError, match=r"NT-Xent|temperature"):
        nt_xent(torch.ones(first), torch.ones(second), temperature)


def test_koleo_of_equal_features_is_finite() -> None:
    features = torch.ones(2, 4, requires_grad=True)
    loss = koleo(features)
    assert loss.item() == pytest.approx(-math.log(1e-4), rel=1e-6)
    assert loss.item() == pytest.approx(9.21, abs=0.005)
    loss.backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_koleo_is_the_loop() -> None:
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    points = [one / one.norm() for one in features]
    nearest = [
        min(float((a - b).norm()) for j, b in enumerate(points) if j != i)
        for i, a in enumerate(points)
    ]
    wanted = -sum(math.log(distance + 1e-4) for distance in nearest) / 6
    assert float(koleo(features)) == pytest.approx(wanted, rel=1e-4)
    assert float(koleo(100 * features)) == pytest.approx(wanted, rel=1e-4)


def test_koleo_golden_and_its_gradient() -> None:
    """Opposite points are 2 apart; of nearer ones the gradient drives them apart."""
    assert float(koleo(torch.tensor([[1.0, 0], [-1, 0]]))) == pytest.approx(-math.log(2 + 1e-4))
    near = torch.tensor([[1.0, 0.1], [1.0, -0.1]], requires_grad=True)
    koleo(near).backward()
    assert near.grad is not None
    assert near.grad[0, 1] < 0 < near.grad[1, 1]


@pytest.mark.parametrize(("shape", "epsilon"), [((1, 3), 1e-4), ((2, 3), 0.0), ((2,), 1e-4)])
def test_koleo_refuses(shape: tuple, epsilon: float) -> None:
    with pytest.raises(ValueError, match="KoLeo"):
        koleo(torch.ones(shape), epsilon)
