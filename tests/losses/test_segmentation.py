"""Plain and marginal Dice + cross-entropy: worked numbers, invariances, and extreme logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor
from torch.nn import functional as F

from fedsim.losses.segmentation import (
    deep_supervision_weights,
    deeply_supervised,
    dice_cross_entropy,
    marginal_dice_cross_entropy,
    marginal_labels,
    marginal_log_probabilities,
    soft_dice,
)

# Three voxels of four classes; the client labels class 1.
LOGITS = torch.tensor([[2.0, 1, 0, -1], [0, 0, 1, 1], [0, 3, 0, 0]]).T.reshape(1, 4, 3)
LABELS = torch.tensor([[0, 0, 1]])


def scene(seed: int, records: int = 2, classes: int = 5, dtype: torch.dtype = torch.float64):
    """Random logits [records, classes, 3, 4] and labels in which every class may occur."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(records, classes, 3, 4, generator=generator, dtype=dtype)
    return logits, torch.randint(classes, (records, 3, 4), generator=generator)


def close(actual: Tensor, expected: float, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected).to(actual), atol=atol, rtol=0)


def monai_dice_ce(logits: Tensor, labels: Tensor, batch: bool = True) -> Tensor:
    oracle = DiceCELoss(softmax=True, to_onehot_y=True, batch=batch, smooth_nr=0, smooth_dr=1e-5)
    return oracle(logits, labels[:, None])


def test_marginal_probabilities_of_the_worked_example():
    merged = marginal_log_probabilities(LOGITS, [1]).exp()
    expected = torch.tensor([[0.763117, 0.236883], [0.865529, 0.134471], [0.129951, 0.870049]])
    torch.testing.assert_close(merged[0].T, expected, atol=1e-6, rtol=0)


def test_marginal_loss_of_the_worked_example_and_its_parts():
    merged = marginal_log_probabilities(LOGITS, [1])
    one_hot = F.one_hot(LABELS, 2).movedim(-1, 1).float()
    close(1 - soft_dice(merged.exp(), one_hot).mean(), 0.178519)
    close(F.nll_loss(merged, LABELS), 0.184655)
    close(marginal_dice_cross_entropy(LOGITS, LABELS, [1]), 0.363174)


def test_the_published_code_takes_the_softmax_of_probabilities_and_gives_another_number():
    compat = marginal_dice_cross_entropy(LOGITS, LABELS, [1], cross_entropy="compat")
    close(compat, 0.594285)
    close(compat - 0.178519, 0.415766, atol=2e-6)
    merged = marginal_log_probabilities(LOGITS, [1]).exp()
    one_hot = F.one_hot(LABELS, 2).movedim(-1, 1).float()
    official = DiceCELoss(batch=True, smooth_nr=0, smooth_dr=1e-5)(merged, one_hot)
    torch.testing.assert_close(compat, official)


@pytest.mark.parametrize("batch", [True, False])
def test_plain_loss_is_monai_dice_ce(batch):
    logits, labels = scene(0)
    torch.testing.assert_close(
        dice_cross_entropy(logits, labels, batch), monai_dice_ce(logits, labels, batch)
    )


@pytest.mark.parametrize("batch", [True, False])
def test_marginal_loss_is_monai_dice_ce_of_merged_logits(batch):
    logits, labels = scene(1)
    background = logits[:, [0, 2, 3]].logsumexp(dim=1, keepdim=True)
    merged = torch.cat([background, logits[:, [1, 4]]], dim=1)
    table = torch.tensor([0, 1, 0, 0, 2])
    torch.testing.assert_close(
        marginal_dice_cross_entropy(logits, labels, [1, 4], batch),
        monai_dice_ce(merged, table[labels], batch),
    )


def test_marginal_loss_of_a_client_that_labels_everything_is_the_plain_one():
    logits, labels = scene(2)
    torch.testing.assert_close(
        marginal_dice_cross_entropy(logits, labels, [1, 2, 3, 4]),
        dice_cross_entropy(logits, labels),
    )


def test_plain_loss_pushes_down_what_is_not_labelled_and_the_marginal_one_does_not():
    """Class 2 is the truth, but the client labels only class 1 and so has background there."""
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    seen = torch.tensor([[0, 0, 1, 1]])
    (plain,) = torch.autograd.grad(dice_cross_entropy(logits, seen), logits)
    (marginal,) = torch.autograd.grad(marginal_dice_cross_entropy(logits, seen, [1]), logits)
    assert plain[0, 2, :2].min() > 0.05
    assert plain[0, 0, :2].max() < -0.05
    assert marginal[0, 2, :2].max() < 0
    torch.testing.assert_close(marginal[0, 2], marginal[0, 0])


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_labels_that_the_client_does_not_give_make_no_difference(seed):
    logits, labels = scene(seed)
    seen = torch.where((labels == 1) | (labels == 4), labels, 0)
    assert torch.equal(
        marginal_dice_cross_entropy(logits, labels, [1, 4]),
        marginal_dice_cross_entropy(logits, seen, [1, 4]),
    )


@given(st.integers(0, 10_000), st.floats(-50, 50), st.sampled_from(["marginal_nll", "compat"]))
@settings(max_examples=30)
def test_a_constant_added_to_all_logits_makes_no_difference(seed, constant, cross_entropy):
    logits, labels = scene(seed)
    torch.testing.assert_close(
        dice_cross_entropy(logits + constant, labels), dice_cross_entropy(logits, labels)
    )
    both = [
        marginal_dice_cross_entropy(shifted, labels, [2, 3], cross_entropy=cross_entropy)
        for shifted in (logits, logits + constant)
    ]
    torch.testing.assert_close(*both)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=30)
def test_order_of_voxels_makes_no_difference(seed, batch):
    logits, labels = scene(seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    moved = logits.flatten(2)[..., order].reshape(logits.shape)
    relabelled = labels.flatten(1)[..., order].reshape(labels.shape)
    for loss in (dice_cross_entropy, lambda *args: marginal_dice_cross_entropy(*args, [3])):
        torch.testing.assert_close(loss(moved, relabelled), loss(logits, labels))


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_order_of_classes_makes_no_difference(seed):
    logits, labels = scene(seed)
    order = torch.tensor([0, 3, 1, 4, 2])  # new class -> old class
    names = order.argsort()
    torch.testing.assert_close(
        marginal_dice_cross_entropy(logits[:, order], names[labels], [int(names[2])]),
        marginal_dice_cross_entropy(logits, labels, [2]),
    )
    torch.testing.assert_close(
        dice_cross_entropy(logits[:, order], names[labels]), dice_cross_entropy(logits, labels)
    )


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=30)
def test_per_record_loss_is_the_mean_over_records_and_has_their_mean_gradient(seed, records):
    logits, labels = scene(seed, records)
    logits.requires_grad_()
    for foreground in ([1, 2, 3, 4], [2, 3]):
        whole = marginal_dice_cross_entropy(logits, labels, foreground, batch=False)
        alone = [
            marginal_dice_cross_entropy(logits[i : i + 1], labels[i : i + 1], foreground)
            for i in range(records)
        ]
        mean = torch.stack(alone).mean()
        each = marginal_dice_cross_entropy(logits, labels, foreground, each=True)
        torch.testing.assert_close(each, torch.stack(alone))
        torch.testing.assert_close(whole, mean)
        torch.testing.assert_close(
            torch.autograd.grad(whole, logits), torch.autograd.grad(mean, logits)
        )


def test_losses_of_each_record_are_those_of_batches_of_one():
    logits, labels = scene(3, 3)
    own = [slice(i, i + 1) for i in range(3)]
    for loss in (
        dice_cross_entropy,
        lambda *of, **more: marginal_dice_cross_entropy(*of, [2], cross_entropy="compat", **more),
    ):
        alone = torch.stack([loss(logits[i], labels[i]) for i in own])
        torch.testing.assert_close(loss(logits, labels, each=True), alone)
    each = deeply_supervised(lambda one: dice_cross_entropy(one, labels, each=True), [logits] * 2)
    torch.testing.assert_close(each, dice_cross_entropy(logits, labels, each=True))


def test_batch_dice_couples_records():
    logits, labels = scene(3)
    whole = dice_cross_entropy(logits, labels)
    alone = [dice_cross_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(2)]
    assert (whole - torch.stack(alone).mean()).abs() > 1e-3


@pytest.mark.parametrize("batch", [True, False])
def test_gradients_are_those_of_finite_differences(batch):
    logits, labels = scene(4)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dice_cross_entropy(x, labels, batch), logits)
    for cross_entropy in ("marginal_nll", "compat"):
        assert torch.autograd.gradcheck(
            lambda x, ce=cross_entropy: marginal_dice_cross_entropy(x, labels, [1, 4], batch, ce),
            logits,
        )


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_float32_logits_give_finite_losses_and_gradients(size):
    signs, labels = scene(5, records=3, dtype=torch.float32)
    logits = (size * signs.sign()).requires_grad_()
    for cross_entropy in ("marginal_nll", "compat"):
        loss = marginal_dice_cross_entropy(logits, labels, [1, 4], cross_entropy=cross_entropy)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    loss = dice_cross_entropy(logits, labels)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_a_confident_error_still_has_a_gradient(size):
    """The sum of the background's probabilities is 0 in float32, its logarithm is not -inf."""
    logits = torch.zeros(1, 4, 1)
    logits[0, 1] = size
    logits.requires_grad_()
    loss = marginal_dice_cross_entropy(logits, torch.tensor([[0]]), [1])
    close(loss, size - math.log(3) + 1, atol=2e-3)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = torch.tensor([-1 / 3, 1, -1 / 3, -1 / 3])
    torch.testing.assert_close(gradient.flatten(), expected, atol=1e-4, rtol=0)


def test_a_certain_and_right_answer_costs_next_to_nothing():
    labels = torch.tensor([[0, 1, 2, 2]])
    logits = 1e4 * F.one_hot(labels, 3).movedim(-1, 1).float()
    assert dice_cross_entropy(logits, labels) < 1e-5
    assert marginal_dice_cross_entropy(logits, labels, [2]) < 1e-5


def test_dice_of_a_class_that_no_voxel_has_is_a_constant_without_gradient():
    logits, labels = scene(6)
    labels[labels == 4] = 0
    logits.requires_grad_()
    present = F.one_hot(labels, 5).movedim(-1, 1).double()
    absent = soft_dice(logits.softmax(1), present)[0, 4]
    assert absent == 0
    (gradient,) = torch.autograd.grad(absent, logits)
    assert not gradient.any()


def test_soft_dice_is_that_of_monai_with_and_without_a_mask():
    logits, labels = scene(7)
    p, q = logits.softmax(1), F.one_hot(labels, 5).movedim(-1, 1).double()
    mask = labels[:, None] % 2 == 0
    for batch in (True, False):
        oracle = DiceLoss(batch=batch, smooth_nr=0, smooth_dr=1e-5)
        torch.testing.assert_close(1 - soft_dice(p, q, batch=batch).mean(), oracle(p, q))
        torch.testing.assert_close(
            1 - soft_dice(p, q, mask, batch).mean(), oracle(p * mask, q * mask)
        )


def test_marginal_labels_are_positions_in_the_labelled_classes():
    labels = torch.tensor([[0, 1, 2, 3, 4]])
    assert marginal_labels(labels, [4, 2], 5).tolist() == [[0, 0, 2, 0, 1]]


def test_deep_supervision_halves_from_head_to_head():
    assert deep_supervision_weights(1) == (1.0,)
    assert deep_supervision_weights(4) == pytest.approx((0.5333, 0.2667, 0.1333, 0.0667), abs=1e-4)
    assert sum(deep_supervision_weights(4)) == pytest.approx(1)


def test_deeply_supervised_loss_weighs_the_outputs_in_order():
    outputs = [torch.tensor(value, requires_grad=True) for value in (3.0, 6.0)]
    total = deeply_supervised(torch.square, outputs)
    close(total, (2 * 9 + 36) / 3)
    gradients = torch.autograd.grad(total, outputs)
    assert [gradient.item() for gradient in gradients] == pytest.approx([4, 4])
    with pytest.raises(ValueError, match="not 0"):
        deeply_supervised(torch.square, [])


@pytest.mark.parametrize("foreground", [[], [0, 1], [1, 1], [4], [-1]])
def test_labelled_classes_that_make_no_sense_are_refused(foreground):
    with pytest.raises(ValueError, match="from 1 to 3"):
        marginal_dice_cross_entropy(LOGITS, LABELS, foreground)


def test_shapes_and_types_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 4, 3\) and \(1, 2\)"):
        dice_cross_entropy(LOGITS, LABELS[:, :2])
    with pytest.raises(ValueError, match="int64"):
        dice_cross_entropy(LOGITS, LABELS.float())
    with pytest.raises(ValueError, match="one shape"):
        soft_dice(LOGITS, LOGITS[:, :2])
    with pytest.raises(ValueError, match="mask"):
        soft_dice(LOGITS, LOGITS, torch.ones(1, 3))
    with pytest.raises(ValueError, match="'nll'"):
        marginal_dice_cross_entropy(LOGITS, LABELS, [1], cross_entropy="nll")
