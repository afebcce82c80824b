"""Conditional distillation: worked numbers, what is exactly zero, and what is not zero at all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.losses import MaskedDiceLoss
from torch import Tensor

from fedsim.losses.condist import (
    condist_loss,
    condist_weight,
    conditional_probabilities,
    distillation_mask,
)

# Three voxels of four classes; the client labels class 1, classes 2 and 3 are one organ.
GROUPS = [[0], [2, 3]]
LOCAL = torch.tensor([[2.0, 1, 0, -1], [0, 0, 1, 1], [0, 3, 0, 0]]).T.reshape(1, 4, 3)
GLOBAL = torch.tensor([[1.0, 0, 0, 0], [0, 1, 2, 0], [0, 4, 0, 0]]).T.reshape(1, 4, 3)
NOTHING = torch.zeros(1, 3, dtype=torch.int64)

# Eight classes in four groups besides the two that are labelled.
MANY, LABELLED = [[0], [1, 2], [3], [4, 5]], [6, 7]


def scene(seed: int, records: int = 2, dtype: torch.dtype = torch.float64):
    """Logits of student and teacher [records, 8, 3, 4], and labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        2 * torch.randn(records, 8, 3, 4, generator=generator, dtype=dtype) for _ in range(2)
    )
    return student, teacher, torch.randint(8, (records, 3, 4), generator=generator)


def as_in_the_paper(logits: Tensor, groups, temperature: float, epsilon: float) -> Tensor:
    p = (logits / temperature).softmax(dim=1)
    members = [number for group in groups for number in group]
    labelled = [number for number in range(logits.shape[1]) if number not in members]
    merged = torch.stack([p[:, group].sum(dim=1) for group in groups], dim=1)
    return merged / (1 - p[:, labelled].sum(dim=1, keepdim=True) + epsilon)


def close(actual: Tensor, expected: float, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected).to(actual), atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("temperature", "apart", "equal"), [(0.5, 0.1526562, 0.1923481), (2.0, 0.4548503, 0.4675610)]
)
def test_losses_of_the_worked_example_with_the_epsilon_of_the_paper(temperature, apart, equal):
    close(condist_loss(LOCAL, GLOBAL, NOTHING, GROUPS, temperature, epsilon=1e-5), apart)
    close(condist_loss(GLOBAL, GLOBAL, NOTHING, GROUPS, temperature, epsilon=1e-5), equal)


@pytest.mark.parametrize(("temperature", "apart"), [(0.5, 0.152647), (2.0, 0.454843)])
def test_losses_of_the_worked_example_in_the_stable_form(temperature, apart):
    close(condist_loss(LOCAL, GLOBAL, NOTHING, GROUPS, temperature), apart)


def test_conditionals_of_the_worked_example():
    expected = [(0.979618, 0.020371), (0.063378, 0.936611), (0.332887, 0.665774)]
    conditional = conditional_probabilities(LOCAL, GROUPS, 0.5, epsilon=1e-5)
    torch.testing.assert_close(conditional[0].T[:2], torch.tensor(expected[:2]), atol=1e-6, rtol=0)
    # Of the third, where the foreground is probable, float32 has only these digits in the paper's
    # form; ours are those of float64.
    torch.testing.assert_close(conditional[0].T[2], torch.tensor(expected[2]), atol=1e-5, rtol=0)
    exact = as_in_the_paper(LOCAL.double(), GROUPS, 0.5, 1e-5)
    torch.testing.assert_close(conditional.double(), exact, atol=1e-6, rtol=0)


def test_mask_of_the_worked_example_leaves_out_what_the_teacher_sees_as_labelled():
    assert distillation_mask(NOTHING, GLOBAL, GROUPS).tolist() == [[[True, True, False]]]


def test_mask_leaves_out_what_the_label_says_is_labelled():
    labels = torch.tensor([[1, 2, 0]])
    assert distillation_mask(labels, GLOBAL, GROUPS).tolist() == [[[False, True, False]]]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_loss_is_the_masked_dice_of_monai_on_the_formula_of_the_paper(temperature):
    student, teacher, labels = scene(0)
    mask = distillation_mask(labels, teacher, MANY)
    oracle = MaskedDiceLoss(batch=True, smooth_nr=0, smooth_dr=1e-5)
    sides = (as_in_the_paper(logits, MANY, temperature, 1e-5) for logits in (student, teacher))
    torch.testing.assert_close(
        condist_loss(student, teacher, labels, MANY, temperature, epsilon=1e-5),
        oracle(*sides, mask.double()),
    )


@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 1e-5]))
@example(150, 0.5, 0.0)
@settings(max_examples=30)
def test_conditionals_are_those_of_the_paper_in_float64(seed, temperature, epsilon):
    logits, _, _ = scene(seed)
    # The printed quotient loses digits where the foreground is nearly certain (1.5e-12 there).
    torch.testing.assert_close(
        conditional_probabilities(logits, MANY, temperature, epsilon),
        as_in_the_paper(logits, MANY, temperature, epsilon),
        atol=1e-9,
        rtol=0,
    )


@given(st.integers(0, 10_000), st.sampled_from([0.5, 2.0]))
@settings(max_examples=30)
def test_conditionals_sum_to_one(seed, temperature):
    logits, _, _ = scene(seed, dtype=torch.float32)
    total = conditional_probabilities(logits, MANY, temperature).sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)


def test_epsilon_makes_the_sum_smaller_than_one():
    total = conditional_probabilities(LOCAL, GROUPS, 0.5, epsilon=1e-5).sum(dim=1)
    assert (total < 1).all()
    torch.testing.assert_close(total[0, 2], torch.tensor(0.998647), atol=1e-6, rtol=0)


def test_the_form_of_the_paper_loses_everything_where_the_foreground_is_certain_and_ours_nothing():
    logits, _, _ = scene(1, dtype=torch.float32)
    certain = logits.clone()
    certain[:, 6] += 30
    assert as_in_the_paper(certain, MANY, 0.5, 1e-5).sum(dim=1).min() < 1e-20
    assert torch.equal(
        conditional_probabilities(certain, MANY, 0.5), conditional_probabilities(logits, MANY, 0.5)
    )


def test_the_form_of_the_paper_is_off_already_at_a_logit_of_five():
    raised = LOCAL.clone()
    raised[:, 1] += 5
    paper = [as_in_the_paper(logits, GROUPS, 0.5, 0.0) for logits in (LOCAL, raised)]
    close((paper[0] - paper[1]).abs().max(), 0.037, atol=1e-3)


@given(st.integers(0, 10_000), st.floats(-50, 50))
@settings(max_examples=30)
def test_a_constant_added_to_all_logits_makes_no_difference(seed, constant):
    student, teacher, labels = scene(seed)
    torch.testing.assert_close(
        condist_loss(student + constant, teacher - constant, labels, MANY),
        condist_loss(student, teacher, labels, MANY),
    )


@given(st.integers(0, 10_000), st.floats(-20, 20))
@settings(max_examples=30)
def test_labelled_logits_of_the_student_change_neither_conditionals_nor_loss(seed, change):
    student, teacher, labels = scene(seed)
    changed = student.clone()
    changed[:, LABELLED] += change
    assert torch.equal(
        conditional_probabilities(changed, MANY, 0.5),
        conditional_probabilities(student, MANY, 0.5),
    )
    assert torch.equal(
        condist_loss(changed, teacher, labels, MANY), condist_loss(student, teacher, labels, MANY)
    )


@given(st.integers(0, 10_000), st.floats(0, 20))
@settings(max_examples=30)
def test_labelled_logits_of_the_teacher_act_through_the_mask_only(seed, change):
    """Where it was not a labelled class before, less of those; where it was, more."""
    student, teacher, labels = scene(seed)
    wins = torch.isin(teacher.argmax(dim=1, keepdim=True), torch.tensor(LABELLED))
    changed = teacher.clone()
    changed[:, LABELLED] += torch.where(wins, change, -change)
    assert torch.equal(
        distillation_mask(labels, changed, MANY), distillation_mask(labels, teacher, MANY)
    )
    assert torch.equal(
        condist_loss(student, changed, labels, MANY), condist_loss(student, teacher, labels, MANY)
    )


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_masked_voxels_and_labelled_channels_have_exactly_no_gradient(seed):
    student, teacher, labels = scene(seed, dtype=torch.float32)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(condist_loss(student, teacher, labels, MANY), student)
    mask = distillation_mask(labels, teacher, MANY)
    assert not (gradient * ~mask).any()
    assert not gradient[:, LABELLED].any()
    if mask.any():
        assert gradient.any()


def test_the_teacher_gets_no_gradient():
    student, teacher, labels = scene(2)
    teacher.requires_grad_()
    student.requires_grad_()
    condist_loss(student, teacher, labels, MANY).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_it_is_not_zero_when_student_and_teacher_agree():
    """Of a soft distribution with itself the loss is 1 - sum(q^2) / sum(q): here one half."""
    agreed = torch.tensor([0.7, 0.3, 1e-9]).log().reshape(1, 3, 1)
    labels = torch.zeros(1, 1, dtype=torch.int64)
    close(condist_loss(agreed, agreed, labels, [[0], [1]], temperature=1.0), 0.5, atol=2e-5)


def test_agreement_is_no_minimum_and_its_gradient_sharpens():
    """A step down from agreement makes probable groups more probable, and costs less."""
    for seed in range(10):
        _, agreed, _ = scene(seed)
        labels = torch.zeros(2, 3, 4, dtype=torch.int64)
        student = agreed.clone().requires_grad_()
        loss = condist_loss(student, agreed, labels, MANY, temperature=2.0)
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.abs().max() > 1e-4
        stepped = agreed - 20 * gradient
        assert condist_loss(stepped, agreed, labels, MANY, temperature=2.0) < loss
        mask = distillation_mask(labels, agreed, MANY)
        before, after = (
            (conditional_probabilities(logits, MANY, 2.0).square() * mask).sum()
            for logits in (agreed, stepped)
        )
        assert after > before


def test_of_a_single_voxel_agreement_is_the_minimum_although_not_zero():
    """What agreement is not in general it is where all voxels have the same conditionals."""
    share = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    students = torch.stack([share, 1 - share, torch.full_like(share, 1e-9)]).log()
    teacher = students[:, 69].reshape(1, 3, 1)  # 0.7 and 0.3
    labels = torch.zeros(1, 1, dtype=torch.int64)
    losses = [
        condist_loss(one.reshape(1, 3, 1), teacher, labels, [[0], [1]], temperature=1.0).item()
        for one in students.T
    ]
    assert min(range(99), key=losses.__getitem__) == 69
    assert losses[69] == pytest.approx(0.5, abs=2e-5)


def test_it_is_zero_when_both_are_certain_and_agree():
    certain = 1e3 * torch.eye(4)[[0, 2, 3]].T.reshape(1, 4, 3)
    close(condist_loss(certain, certain, NOTHING, GROUPS), 5e-6, atol=3e-6)


@pytest.mark.parametrize("batch", [True, False])
def test_a_batch_without_a_voxel_to_distil_counts_nothing(batch):
    """The paper's code has the constant 1 here, which would show in a log as a loss."""
    labels = torch.full((1, 3), 1)
    student = LOCAL.clone().requires_grad_()
    loss = condist_loss(student, GLOBAL, labels, GROUPS, batch=batch)
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, student)
    assert not gradient.any()
    official = MaskedDiceLoss(batch=True, smooth_nr=0, smooth_dr=1e-5)
    sides = (conditional_probabilities(logits, GROUPS, 0.5) for logits in (LOCAL, GLOBAL))
    assert official(*sides, torch.zeros(1, 1, 3)) == 1


def test_a_client_that_labels_everything_has_nothing_to_distil():
    student, teacher, _ = scene(3)
    labels = torch.zeros(2, 3, 4, dtype=torch.int64)
    student.requires_grad_()
    loss = condist_loss(student, teacher, labels, [[0]])
    assert loss < 1e-4
    assert not torch.autograd.grad(loss, student)[0].any()


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_order_of_voxels_and_of_groups_makes_no_difference(seed):
    student, teacher, labels = scene(seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    moved = [logits.flatten(2)[..., order] for logits in (student, teacher)]
    torch.testing.assert_close(
        condist_loss(*moved, labels.flatten(1)[:, order], [[5, 4], [3], [0], [2, 1]]),
        condist_loss(student, teacher, labels, MANY),
    )


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=30)
def test_per_record_loss_is_the_mean_of_the_records_alone(seed, records):
    student, teacher, labels = scene(seed, records)
    labels[0] = 6  # nothing to distil in this one
    alone = [
        condist_loss(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1], MANY)
        for i in range(records)
    ]
    torch.testing.assert_close(
        condist_loss(student, teacher, labels, MANY, batch=False), torch.stack(alone).mean()
    )


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_gradients_are_those_of_finite_differences(batch, epsilon):
    student, teacher, labels = scene(4)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: condist_loss(logits, teacher, labels, MANY, 0.5, epsilon, batch), student
    )


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_extreme_float32_logits_give_finite_losses_and_gradients(temperature, epsilon):
    student, teacher, labels = scene(5, records=4, dtype=torch.float32)
    labels[labels > 5] = 0
    student, teacher = 1e4 * student.sign(), 1e4 * teacher.sign()
    student[:, 6], teacher[:, 7] = 1e4, -1e4
    student.requires_grad_()
    loss = condist_loss(student, teacher, labels, MANY, temperature, epsilon)
    (gradient,) = torch.autograd.grad(loss, student)
    assert distillation_mask(labels, teacher, MANY).any()
    assert 0 <= loss <= 1
    assert gradient.isfinite().all()


def test_weight_grows_linearly_over_the_rounds():
    of_sixty = [condist_weight(round, 60) for round in (0, 1, 30, 59)]
    assert of_sixty == pytest.approx([0.01, 0.02678, 0.51339, 1.0], abs=1e-5)
    of_many = [condist_weight(round, 120) for round in (1, 60)]
    assert of_many == pytest.approx([0.018319, 0.50916], abs=1e-5)
    assert condist_weight(0, 1) == 0.01
    assert condist_weight(3, 7, first=0.5, last=0.5) == 0.5


@pytest.mark.parametrize(("round", "rounds"), [(-1, 3), (3, 3), (0, 0)])
def test_a_round_that_does_not_exist_has_no_weight(round, rounds):
    with pytest.raises(ValueError, match=f"not be {round}"):
        condist_weight(round, rounds)


@pytest.mark.parametrize("groups", [[], [[0], []], [[0], [0, 2]], [[0], [4]], [[-1]]])
def test_groups_that_make_no_sense_are_refused(groups):
    for call in (
        lambda: conditional_probabilities(LOCAL, groups, 0.5),
        lambda: distillation_mask(NOTHING, GLOBAL, groups),
    ):
        with pytest.raises(ValueError, match="from 0 to 3"):
            call()


def test_shapes_and_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        condist_loss(LOCAL, GLOBAL[..., :2], NOTHING, GROUPS)
    with pytest.raises(ValueError, match="must fit"):
        condist_loss(LOCAL, GLOBAL, NOTHING[:, :2], GROUPS)
    with pytest.raises(ValueError, match="not 0 and"):
        conditional_probabilities(LOCAL, GROUPS, 0)
    with pytest.raises(ValueError, match="and -1"):
        conditional_probabilities(LOCAL, GROUPS, 0.5, epsilon=-1)
