"""Model contrast: the formula, its gradient, and numbers at the ends of float32."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedsim.losses import model_contrast


def vectors(seed: int, n: int = 5, k: int = 4) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=draws, dtype=torch.float64)


def formula(own: Tensor, near: Tensor, away: Tensor, temperature: float) -> Tensor:
    """Eq. 3 of the paper, as it is written there."""
    p, n = (F.cosine_similarity(own, one).div(temperature).exp() for one in (near, away))
    return -(p / (p + n)).log().mean()


@given(st.integers(0, 99), st.floats(0.05, 5.0))
def test_it_is_the_papers_formula_and_so_is_its_gradient(seed: int, temperature: float) -> None:
    own, near, away = vectors(seed).requires_grad_(), vectors(seed + 100), vectors(seed + 200)
    found = model_contrast(own, near, away, temperature)
    wanted = formula(own, near, away, temperature)
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(loss, own)[0] for loss in (found, wanted))
    torch.testing.assert_close(ours, theirs)


def test_golden_numbers() -> None:
    own = torch.tensor([[1.0, 0.0]])
    same, opposite, across = own * 3, -own, torch.tensor([[0.0, 2.0]])
    assert float(model_contrast(own, same, opposite, 0.5)) == pytest.approx(
        math.log1p(math.exp(-4))
    )
    assert float(model_contrast(own, opposite, same, 0.5)) == pytest.approx(math.log1p(math.exp(4)))
    assert float(model_contrast(own, same, across, 0.5)) == pytest.approx(math.log1p(math.exp(-2)))


def test_the_same_model_twice_gives_a_constant_without_a_gradient() -> None:
    own, other = vectors(0).requires_grad_(), vectors(1)
    loss = model_contrast(own, other, other)
    assert loss.item() == pytest.approx(math.log(2))
    assert not torch.autograd.grad(loss, own)[0].any()


def test_only_the_trained_model_has_a_gradient() -> None:
    own, near, away = (vectors(seed).requires_grad_() for seed in range(3))
    model_contrast(own, near, away).backward()
    assert own.grad is not None
    assert own.grad.abs().sum() > 0
    assert near.grad is None
    assert away.grad is None


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e3, 1e30])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30, 1e38])
def test_float32_at_its_ends(scale: float, temperature: float) -> None:
    draws = torch.Generator().manual_seed(0)
    own, near, away = (torch.rand(4, 6, generator=draws) for _ in range(3))
    plain = model_contrast(own, near, away, temperature)
    large = (own * scale).requires_grad_()
    found = model_contrast(large, near * scale, away * scale, temperature)
    torch.testing.assert_close(found.detach(), plain, rtol=1e-3, atol=1e-6)
    (found * min(scale, 1.0)).backward()
    assert large.grad is not None
    assert torch.isfinite(large.grad).all()


def test_a_vector_of_zeros_has_no_direction_and_a_finite_gradient() -> None:
    own = torch.zeros(2, 3, requires_grad=True)
    loss = model_contrast(own, torch.ones(2, 3), torch.zeros(2, 3))
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert own.grad is not None
    assert own.grad.abs().max() < 10


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="all three models"):
        model_contrast(vectors(0), vectors(1), vectors(2, k=3))
    with pytest.raises(ValueError, match="above 0"):
        model_contrast(vectors(0), vectors(1), vectors(2), 0.0)
