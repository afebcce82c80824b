"""Conditional distillation: agree with the global model on the structures that one does not label.

Wang et al., "ConDistFL: Conditional Distillation for Federated Learning from Partially Annotated
Data" (2023), Eqs. 3 to 9. Given that a voxel is none of the structures that the client labels, how
probable is each group of the others? The client's answer is pulled towards that of the received
global model, in the voxels where neither the label nor the global model says otherwise.

The conditional probabilities are computed as a softmax over the background classes alone. The
paper divides by one minus the foreground's probability, which is the same number but cancels in
float32 as soon as the foreground is probable. In this form the foreground's logits get no gradient
and masked voxels get none, both exactly.

What the loss is not, although it is often said: a loss that vanishes when student and teacher
agree. It is one minus a soft Dice, and of a soft distribution with itself that is above 0. Unless
all voxels are alike, agreement is not the minimum either: the gradient there sharpens the student.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.losses.segmentation import soft_dice


def conditional_probabilities(
    logits: Tensor, groups: Sequence[Sequence[int]], temperature: float, epsilon: float = 0.0
) -> Tensor:
    """Probability of each group of classes, given that it is one of the groups (Eqs. 3 to 7).

    Args:
        logits: [B, C, *spatial].
        groups: the background groups, at least one; disjoint, none empty. A class in no group is
            foreground: the client labels it.
        temperature: tau > 0 divides the logits. The paper has 0.5, its public code 2.
        epsilon: what the paper adds to the probability of the background before it divides by it
            (1e-5 in its code); it makes the result smaller where the foreground is near certain.

    Returns:
        [B, len(groups), *spatial], with sum 1 over the groups when epsilon is 0.

    Raises:
        ValueError: groups that do not fit the classes, or a temperature or epsilon out of range.
    """
    _require_groups(groups, logits.shape[1])
    if not temperature > 0 or not epsilon >= 0:
        raise ValueError(
            f"The temperature must be above 0 and epsilon at least 0, not {temperature} and "
            f"{epsilon}."
        )
    scaled = logits / temperature
    background = [number for group in groups for number in group]
    given = F.log_softmax(scaled[:, background], dim=1)
    sizes = [len(group) for group in groups]
    merged = [part.logsumexp(dim=1) for part in given.split(sizes, dim=1)]
    conditional = torch.stack(merged, dim=1).exp()
    if epsilon:
        certain = F.log_softmax(scaled, dim=1)[:, background].exp().sum(dim=1, keepdim=True)
        conditional = conditional * (certain / (certain + epsilon))
    return conditional


def distillation_mask(
    labels: Tensor, teacher_logits: Tensor, groups: Sequence[Sequence[int]]
) -> Tensor:
    """Where to distil: neither the label nor the teacher's prediction is a labelled structure.

    Args:
        labels: int64 [B, *spatial], 0 <= label < C.
        teacher_logits: [B, C, *spatial].
        groups: the background groups, as in `conditional_probabilities`.

    Returns:
        Boolean [B, 1, *spatial].

    Raises:
        ValueError: groups or shapes that do not fit.
    """
    classes = teacher_logits.shape[1]
    _require_groups(groups, classes)
    if labels.shape != (len(teacher_logits), *teacher_logits.shape[2:]):
        raise ValueError(
            "Labels [B, *spatial] and the teacher's logits [B, C, *spatial] must fit, but their "
            f"shapes are {tuple(labels.shape)} and {tuple(teacher_logits.shape)}."
        )
    background = torch.zeros(classes, dtype=torch.bool, device=labels.device)
    background[[number for group in groups for number in group]] = True
    return (background[labels] & background[teacher_logits.argmax(dim=1)])[:, None]


def condist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    groups: Sequence[Sequence[int]],
    temperature: float = 0.5,
    epsilon: float = 0.0,
    batch: bool = True,
) -> Tensor:
    """One minus the soft Dice of the student's and the teacher's conditional probabilities (Eq. 8).

    With a single group, as of a client that labels everything, both are 1 everywhere and there is
    nothing to learn: spare the teacher's forward pass.

    Args:
        student_logits: [B, C, *spatial], of the full-resolution output.
        teacher_logits: the same shape, of the global model that the round began with, in
            evaluation mode. No gradient goes into them.
        labels: int64 [B, *spatial], 0 <= label < C.
        groups: the background groups, as in `conditional_probabilities`.
        temperature: as in `conditional_probabilities`.
        epsilon: as in `conditional_probabilities`.
        batch: whether Dice takes its sums over the whole batch; if not, the loss is the mean of
            what each record gives by itself.

    Returns:
        A scalar between 0 and 1, the mean over groups. Records (the batch) without a voxel to
        distil count 0; the paper's code counts 1, without a gradient either.

    Raises:
        ValueError: shapes, groups, temperature or epsilon that do not fit.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "Student and teacher must give logits of one shape, but they are "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}."
        )
    teacher_logits = teacher_logits.detach()
    mask = distillation_mask(labels, teacher_logits, groups)
    student = conditional_probabilities(student_logits, groups, temperature, epsilon)
    teacher = conditional_probabilities(teacher_logits, groups, temperature, epsilon)
    distances = 1 - soft_dice(student, teacher, mask, batch)
    somewhere = mask.any()[None] if batch else mask.flatten(1).any(dim=1)
    return (distances.mean(dim=1) * somewhere).mean()


def condist_weight(round: int, rounds: int, first: float = 0.01, last: float = 1.0) -> float:
    """Weight of the loss in a round: linear from `first` in the first to `last` in the last.

    Args:
        round: from 0 to rounds - 1. A run of one round has weight `first`.
        rounds: how many rounds there are, at least 1.
        first: the weight at first, small because the first teacher has not learnt anything.
        last: the weight in the end.

    Raises:
        ValueError: a round that the run does not have.
    """
    if not 0 <= round < rounds:
        raise ValueError(f"The round must lie between 0 and {rounds - 1}, not be {round}.")
    return first + (last - first) * round / max(rounds - 1, 1)


def _require_groups(groups: Sequence[Sequence[int]], classes: int) -> None:
    members = [number for group in groups for number in group]
    outside = [number for number in members if not 0 <= number < classes]
    if not groups or not all(groups) or outside or len(set(members)) < len(members):
        raise ValueError(
            f"Background groups must be one or more, disjoint, none empty, of classes from 0 to "
            f"{classes - 1}, not {[list(group) for group in groups]}."
        )
