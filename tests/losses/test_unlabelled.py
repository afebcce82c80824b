"""Losses without labels: golden numbers, direct formulas, extreme logits, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from fedsim.losses import consistency, pseudo_label_loss

EXTREME = torch.tensor([[1e4, -1e4, 0.0], [-1e38, 1e38, 0.0], [0.0, 0.0, 0.0], [80.0, 81.0, 79.0]])


def test_the_golden_numbers_of_two_teachers() -> None:
    """Eq. 2 of Fed-CoT with means, and its decomposition."""
    p = torch.tensor([[0.2, 0.8]])
    targets = [torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]])]
    found = consistency(p, targets)
    assert found.item() == pytest.approx(0.065, rel=1e-6)
    middle = (targets[0] + targets[1]) / 2
    apart = ((targets[0] - targets[1]) ** 2).sum() / 4
    whole = ((p - middle) ** 2).sum() + apart
    assert whole.item() == pytest.approx(0.13, rel=1e-6)
    assert found.item() == pytest.approx(whole.item() / 2, rel=1e-6)


def test_two_teachers_act_through_their_mean_alone() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, one, other = (torch.randn(3, 4, 5, 5, generator=draws) for _ in range(3))
    targets = [one.softmax(1), other.softmax(1)]
    gradients = []
    for asked in (targets, [(targets[0] + targets[1]) / 2]):
        student = logits.clone().requires_grad_()
        consistency(student.softmax(1), asked).backward()
        gradients.append(student.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-9)


def test_consistency_is_the_mean_squared_distance_and_leaves_teachers_alone() -> None:
    draws = torch.Generator().manual_seed(1)
    student = torch.randn(6, 3, generator=draws, requires_grad=True)
    teacher = torch.randn(6, 3, generator=draws, requires_grad=True)
    found = consistency(student.softmax(1), [teacher.softmax(1)])
    by_hand = sum(
        (student.softmax(1)[i, c].item() - teacher.softmax(1)[i, c].item()) ** 2
        for i in range(6)
        for c in range(3)
    )
    assert found.item() == pytest.approx(by_hand / 18, rel=1e-5)
    found.backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_pseudo_labels_are_those_that_are_sure() -> None:
    teaching = torch.tensor([[2.0, 0.0], [0.1, 0.0], [0.0, 5.0]])
    logits = torch.tensor([[0.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
    loss, kept = pseudo_label_loss(logits, teaching, 0.8)
    by_hand = [math.log(1 + math.exp(1.0)), math.log(1 + math.exp(-1.0))]
    assert kept.item() == pytest.approx(2 / 3)
    assert loss.item() == pytest.approx(sum(by_hand) / 3, rel=1e-6)
    everything, all_kept = pseudo_label_loss(logits, teaching)
    assert all_kept.item() == 1
    assert everything.item() == pytest.approx(F.cross_entropy(logits, teaching.argmax(1)).item())
    nothing, none_kept = pseudo_label_loss(logits, teaching, 1.0)
    assert (nothing.item(), none_kept.item()) == (0, 0)


def test_pseudo_labels_of_voxels_are_those_of_records_side_by_side() -> None:
    draws = torch.Generator().manual_seed(2)
    logits, teaching = (torch.randn(2, 3, 4, 5, generator=draws) for _ in range(2))
    flat = [one.movedim(1, -1).reshape(-1, 3) for one in (logits, teaching)]
    for here, there in zip(
        pseudo_label_loss(logits, teaching, 0.5), pseudo_label_loss(*flat, 0.5), strict=True
    ):
        assert here.item() == pytest.approx(there.item(), rel=1e-6)


def test_no_gradient_goes_to_what_teaches() -> None:
    draws = torch.Generator().manual_seed(3)
    logits, teaching = (torch.randn(5, 3, generator=draws, requires_grad=True) for _ in range(2))
    pseudo_label_loss(logits, teaching, 0.3)[0].backward()
    assert logits.grad is not None
    assert teaching.grad is None


@pytest.mark.parametrize("threshold", [0.0, 0.95])
def test_extreme_logits_give_finite_losses_and_gradients(threshold: float) -> None:
    for teaching in (EXTREME, EXTREME.flip(1)):
        student = EXTREME.clone().requires_grad_()
        loss, _ = pseudo_label_loss(student, teaching, threshold)
        distance = consistency(student.softmax(1), [teaching.softmax(1)])
        (loss + distance).backward()
        assert torch.isfinite(loss + distance)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()


def test_gradients_agree_with_differences() -> None:
    draws = torch.Generator().manual_seed(4)
    logits, teaching = (torch.randn(4, 3, generator=draws, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pseudo_label_loss(x, teaching, 0.4)[0], logits)
    targets = [teaching.softmax(1), teaching.flip(1).softmax(1)]
    assert torch.autograd.gradcheck(lambda x: consistency(x.softmax(1), targets), logits)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        consistency(torch.zeros(2, 3), [])
    with pytest.raises(ValueError, match="shape"):
        consistency(torch.zeros(2, 3), [torch.zeros(2, 2)])
    with pytest.raises(ValueError, match="one shape"):
        pseudo_label_loss(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        pseudo_label_loss(torch.zeros(2, 3), torch.zeros(2, 3), 1.5)
