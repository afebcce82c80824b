"""Losses for long tails: golden numbers, direct formulas in float64, extreme logits, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedsim.losses.long_tail import (
    balanced_softmax,
    calibrated,
    effective_weights,
    focal,
    ldam,
    logit_adjusted,
)

COUNTS = torch.tensor([90, 9, 1])
Loss = Callable[[Tensor, Tensor], Tensor]


def direct(name: str, z: Tensor, label: int) -> float:
    """One record's loss as it is written in the papers, in float64."""
    z, n = z.double(), COUNTS.double()
    if name == "focal":
        p = float(z.softmax(0)[label])
        return -((1 - p) ** 2) * math.log(p)
    if name == "ldam":
        margins = 0.5 * n.pow(-0.25) / n.pow(-0.25).max()
        z = z.clone()
        z[label] -= margins[label]
    elif name == "calibrated":
        z = z - n.pow(-0.25)
    else:
        z = z + {"balanced_softmax": 1.0, "logit_adjusted": 0.5}[name] * (n / n.sum()).log()
    return float(-(z[label].exp() / z.exp().sum()).log())


LOSSES: dict[str, Loss] = {
    "balanced_softmax": lambda z, t: balanced_softmax(z, t, COUNTS),
    "logit_adjusted": lambda z, t: logit_adjusted(z, t, COUNTS, tau=0.5),
    "calibrated": lambda z, t: calibrated(z, t, COUNTS),
    "ldam": lambda z, t: ldam(z, t, COUNTS),
    "focal": lambda z, t: focal(z, t),
}


def test_the_golden_number_of_balanced_softmax() -> None:
    loss = balanced_softmax(torch.zeros(1, 3), torch.tensor([2]), COUNTS)
    assert loss.item() == pytest.approx(4.6051702, abs=1e-6)
    assert loss.item() == pytest.approx(-math.log(0.01), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@given(logits=st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3), label=st.integers(0, 2))
def test_each_equals_its_formula(name: str, logits: list[float], label: int) -> None:
    z = torch.tensor([logits])
    found = LOSSES[name](z, torch.tensor([label])).item()
    assert found == pytest.approx(direct(name, z[0], label), rel=2e-5, abs=2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_differences(name: str) -> None:
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1])
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels), z.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [0.0, 80.0, 1e4, 1e30])
def test_extreme_logits_stay_finite(name: str, size: float) -> None:
    z = torch.tensor([[size, -size, 0.0], [-size, size, 0.0], [0.0, 0.0, size]], requires_grad=True)
    losses = LOSSES[name](z, torch.tensor([0, 0, 2]))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert (losses >= 0).all()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_gradient_where_a_record_is_certain(gamma: float) -> None:
    z = torch.tensor([[200.0, 0.0]], requires_grad=True)
    focal(z, torch.tensor([0]), gamma).sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_equal_counts_and_neutral_parameters_are_cross_entropy() -> None:
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    labels, equal = torch.tensor([0, 1, 2, 3, 0]), torch.full((4,), 7)
    plain = F.cross_entropy(z, labels, reduction="none")
    for found in (
        balanced_softmax(z, labels, equal),
        calibrated(z, labels, equal),
        focal(z, labels, 0.0),
        logit_adjusted(z, labels, torch.tensor([9, 1, 1, 1]), tau=0.0),
        ldam(z, labels, equal, max_margin=0.0),
    ):
        torch.testing.assert_close(found, plain)


def test_rare_classes_have_larger_margins() -> None:
    z, labels = torch.zeros(3, 3), torch.tensor([0, 1, 2])
    for loss in (balanced_softmax, calibrated, ldam):
        values = loss(z, labels, COUNTS)
        assert values[0] < values[1] < values[2]


def test_a_class_that_a_client_lacks() -> None:
    counts = torch.tensor([5, 0, 5])
    z = torch.zeros(1, 3, requires_grad=True)
    loss = calibrated(z, torch.tensor([0]), counts)
    assert loss.item() == pytest.approx(math.log(2))
    loss.sum().backward()
    assert z.grad is not None
    assert z.grad[0, 1] == 0
    with pytest.raises(ValueError, match="has no record"):
        calibrated(z, torch.tensor([1]), counts)
    # Nothing is learned of it by the balanced softmax, either: 1e-12 of the probability.
    assert balanced_softmax(z, torch.tensor([0]), counts).item() == pytest.approx(math.log(2))


def test_effective_numbers() -> None:
    found = effective_weights(torch.tensor([1000, 10, 0]), beta=0.999)
    raw = [0.001 / (1 - 0.999**n) for n in (1000, 10)]
    assert found.tolist() == pytest.approx([2 * raw[0] / sum(raw), 2 * raw[1] / sum(raw), 0.0])
    assert effective_weights(COUNTS, beta=0.0).tolist() == [1.0, 1.0, 1.0]
    # Towards 1 they are inverse frequencies.
    near = effective_weights(COUNTS, beta=1 - 1e-9)
    assert (near * COUNTS / near[2]).tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-5)


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_what_does_not_fit_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        effective_weights(COUNTS, beta)
    with pytest.raises(ValueError, match="No class"):
        effective_weights(torch.zeros(3))
    with pytest.raises(ValueError, match="of 2 are 0 below and 2 above 0"):
        balanced_softmax(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="Logits"):
        focal(torch.zeros(3), torch.tensor([0]))
