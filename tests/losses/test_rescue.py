"""Fed-MAS's distances and factor: the golden numbers of the specification, and invariants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from fedsim.losses import class_means, divergence, rescue_factor

Y = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 4.0]])
FROZEN = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [4.0, 3.0]])
A = torch.tensor([0.8, 0.2]), torch.tensor([1.0, 0.4])
B = torch.tensor([0.8, 1.2]), torch.tensor([0.5, 0.9])
positive = st.lists(st.floats(0.001, 4.0), min_size=3, max_size=3)


def test_golden_distances() -> None:
    found = divergence(Y, FROZEN)
    assert found.tolist() == pytest.approx([0.0, 2.0, 0.5857864, 0.08], abs=1e-6)
    means = class_means(found, torch.tensor([0, 0, 1, 1]), 3)
    assert means.tolist() == pytest.approx([1.0, 0.3328932, 0.0], abs=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1.0, 3e4, 1e19, 1e38])
def test_float32_at_its_ends(size: float) -> None:
    """The formula, 2 - 2 cosine, in float64; what is in range keeps its bits."""
    draws = torch.Generator().manual_seed(0)
    own, other = torch.randn(2, 6, 5, generator=draws).clamp(-3, 3)
    given = (own * size).requires_grad_()
    found = divergence(given, other / size)
    wide = given.detach().double().requires_grad_()
    wanted = 2 - 2 * F.cosine_similarity(wide, other.double(), eps=0.0)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(each.sum(), x)[0] for each, x in
                    ((found, given), (wanted, wide)))  # fmt: skip
    torch.testing.assert_close(ours.double() * size, theirs * size, rtol=1e-4, atol=1e-4)
    if size == 1.0:
        plain = F.normalize(own, dim=1) - F.normalize(other, dim=1)
        assert torch.equal(found, plain.square().sum(1))


def test_a_vector_of_zeros_has_no_direction_and_a_finite_gradient() -> None:
    own = torch.zeros(1, 3, requires_grad=True)
    distance = divergence(own, torch.tensor([[0.0, 2.0, 0.0]]))
    assert distance.item() == 1.0
    assert torch.isfinite(torch.autograd.grad(distance.sum(), own)[0]).all()


def test_golden_factors_whose_order_inverts() -> None:
    paper = [rescue_factor(*client) for client in (A, B)]
    code = [rescue_factor(*client, "code") for client in (A, B)]
    assert paper == pytest.approx([0.88, 1.48])
    assert code == pytest.approx([0.6285714, 0.5285714])
    assert paper[0] / sum(paper) == pytest.approx(0.3728814)
    assert code[0] / sum(code) == pytest.approx(0.5432099)


@given(before=positive, during=positive)
def test_the_factor_of_the_code_is_at_most_one(before: list[float], during: list[float]) -> None:
    one, other = torch.tensor(before), torch.tensor(during)
    assert 0 < rescue_factor(one, other, "code") <= 1 + 1e-12
    # The scale of all distances is lost in it, and not in the paper's.
    assert rescue_factor(3 * one, other, "code") == pytest.approx(rescue_factor(one, other, "code"))
    assert rescue_factor(3 * one, other) == pytest.approx(3 * rescue_factor(one, other))


def test_uniform_distances_and_single_classes() -> None:
    same = torch.full((4,), 0.7)
    assert rescue_factor(same, same, "code") == pytest.approx(1 / 4)
    alone = torch.tensor([0.7, 0.0]), torch.tensor([1.3, 0.0])
    assert rescue_factor(*alone, "code") == pytest.approx(1.0)


@pytest.mark.parametrize("normalise", ["paper", "code"])
def test_no_distance_is_a_factor_of_zero(normalise: str) -> None:
    found = class_means(divergence(Y, 2 * Y), torch.tensor([0, 0, 1, 1]), 2)
    assert found.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    assert rescue_factor(torch.zeros(2), torch.zeros(2), normalise) == 0.0  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="Projections"):
        divergence(Y, FROZEN[:, :1])
    with pytest.raises(ValueError, match="Distances are"):
        rescue_factor(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        rescue_factor(torch.tensor([float("nan")]), torch.zeros(1))
