"""Losses of segmentation: Dice + cross-entropy, plain and marginal.

A client that outlines only some structures cannot say what its background is: it may be any
structure that it does not label. The plain loss takes it at its word and so unlearns what other
clients teach; the marginal loss adds up the probabilities of everything that the client does not
label and compares only the sum (Wang et al., "ConDistFL: Conditional Distillation for Federated
Learning from Partially Annotated Data", 2023, Eq. 2; Shi et al., "Marginal loss and exclusion loss
for partially supervised multi-organ segmentation", 2021).

Logits are [B, C, *spatial] with one or more spatial axes and class 0 as background; labels are
int64 [B, *spatial]. Probabilities are kept as logarithms, so that no finite float32 logit gives a
gradient that is not finite.

By default Dice takes its sums over the whole batch, as the papers do, which couples the records of
a batch. With `batch=False` it is the mean over records; the loss is then the mean of what each
record gives by itself, which per-record gradients (differential privacy) need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTH = 1e-5
"""Added to the denominator of Dice, as MONAI does. Nothing is added to the numerator: a class that
a batch does not hold costs the constant 1 and has no gradient; cross-entropy pushes it down."""

CrossEntropy = Literal["marginal_nll", "compat"]


def soft_dice(
    probabilities: Tensor, target: Tensor, mask: Tensor | None = None, batch: bool = True
) -> Tensor:
    """The Dice coefficient of two soft segmentations, 2 sum(pq) / (sum(p) + sum(q) + SMOOTH).

    Soft means soft: of a distribution with itself it is sum(q^2) / sum(q), which is 1 only where
    all probabilities are 0 or 1.

    Args:
        probabilities: [B, C, *spatial], between 0 and 1.
        target: the same shape; one-hot labels, or another model's probabilities.
        mask: [B, 1, *spatial], True (or 1) where a voxel counts; all count when None.
        batch: take the sums over the whole batch instead of each record's.

    Returns:
        [1, C] if `batch`, else [B, C]; each between 0 and 1.

    Raises:
        ValueError: shapes that do not fit.
    """
    if probabilities.dim() < 3 or probabilities.shape != target.shape:
        raise ValueError(
            "Dice needs two segmentations of one shape [B, C, *spatial], but the shapes are "
            f"{tuple(probabilities.shape)} and {tuple(target.shape)}."
        )
    if mask is not None:
        if mask.shape != (len(target), 1, *target.shape[2:]):
            raise ValueError(
                f"A mask of a segmentation {tuple(target.shape)} has one channel and the same "
                f"other axes, but its shape is {tuple(mask.shape)}."
            )
        probabilities, target = probabilities * mask, target * mask
    axes = [0, *range(2, target.dim())] if batch else list(range(2, target.dim()))
    both = (probabilities * target).sum(axes)
    total = probabilities.sum(axes) + target.sum(axes)
    ratio = 2 * both / (total + SMOOTH)
    return ratio[None] if batch else ratio


def dice_cross_entropy(
    logits: Tensor, labels: Tensor, batch: bool = True, each: bool = False
) -> Tensor:
    """Plain Dice + cross-entropy over all classes, background included, with equal weights.

    On partial labels this is what the paper calls FedAvg*: every structure that the client does
    not label is taught to be background.

    Args:
        logits: [B, C, *spatial], C >= 2.
        labels: int64 [B, *spatial], 0 <= label < C.
        batch: whether Dice takes its sums over the whole batch.
        each: what each record gives by itself, whatever `batch` is, in place of their mean.

    Returns:
        A scalar, or [B] if `each`; at least 0: one minus the mean Dice of the classes, plus the
        mean over voxels of the negative log-likelihood.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    _require_fitting(logits, labels)
    log_probabilities = F.log_softmax(logits, dim=1)
    return _dice_part(log_probabilities, labels, batch, each) + _cross_entropy_part(
        F.nll_loss, log_probabilities, labels, each
    )


def dice_loss(logits: Tensor, labels: Tensor, batch: bool = True, each: bool = False) -> Tensor:
    """One minus the mean soft Dice of all classes, background included (Milletari et al., 2016).

    Args, Returns, Raises: as `dice_cross_entropy`.
    """
    _require_fitting(logits, labels)
    return _dice_part(F.log_softmax(logits, dim=1), labels, batch, each)


def marginal_dice_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    foreground: Sequence[int],
    batch: bool = True,
    cross_entropy: CrossEntropy = "marginal_nll",
    each: bool = False,
) -> Tensor:
    """Dice + cross-entropy where all classes that the client does not label are one background.

    Equals `dice_cross_entropy` when the client labels every structure.

    Args:
        logits: [B, C, *spatial], C >= 2.
        labels: int64 [B, *spatial], 0 <= label < C. Labels outside `foreground` count as
            background, so it does not matter whether they are there.
        foreground: the classes that the client labels; not empty, each once, without 0.
        batch: whether Dice takes its sums over the whole batch.
        cross_entropy: "marginal_nll", the negative logarithm of the merged probabilities, is what
            the paper means. "compat" is what its code computes: a log-softmax of the merged
            probabilities, as if they were logits.
        each: what each record gives by itself, whatever `batch` is, in place of their mean.

    Returns:
        A scalar, or [B] if `each`; at least 0.

    Raises:
        ValueError: shapes, types or classes that do not fit.
    """
    _require_fitting(logits, labels)
    merged = marginal_log_probabilities(logits, foreground)
    marginal = marginal_labels(labels, foreground, logits.shape[1])
    if cross_entropy == "marginal_nll":
        likelihood = _cross_entropy_part(F.nll_loss, merged, marginal, each)
    elif cross_entropy == "compat":
        likelihood = _cross_entropy_part(F.cross_entropy, merged.exp(), marginal, each)
    else:
        raise ValueError(
            f"cross_entropy must be 'marginal_nll' or 'compat', not {cross_entropy!r}."
        )
    return _dice_part(merged, marginal, batch, each) + likelihood


def marginal_log_probabilities(logits: Tensor, foreground: Sequence[int]) -> Tensor:
    """Logarithms of the merged probabilities, [B, 1 + len(foreground), *spatial].

    Channel 0 is everything outside `foreground`, by a log-sum-exp; then the classes of
    `foreground` in their order. The log of a sum of small probabilities stays finite where the sum
    itself would be 0 in float32.

    Raises:
        ValueError: `foreground` is empty, has a class twice, or one that is not in 1 ... C - 1.
    """
    background = _background(foreground, logits.shape[1])
    log_probabilities = F.log_softmax(logits, dim=1)
    rest = torch.logsumexp(log_probabilities[:, background], dim=1, keepdim=True)
    return torch.cat([rest, log_probabilities[:, list(foreground)]], dim=1)


def marginal_labels(labels: Tensor, foreground: Sequence[int], classes: int) -> Tensor:
    """Labels as positions in (background, *foreground), int64 of the same shape.

    Raises:
        ValueError: as `marginal_log_probabilities`.
    """
    _background(foreground, classes)
    table = torch.zeros(classes, dtype=torch.int64, device=labels.device)
    table[list(foreground)] = torch.arange(1, len(foreground) + 1, device=labels.device)
    return table[labels]


def deep_supervision_weights(heads: int) -> tuple[float, ...]:
    """Weights of the outputs of a deeply supervised network: each half the one before; sum 1.

    Four heads weigh 8/15, 4/15, 2/15, 1/15 (ConDistFL, Eq. 9; Isensee et al., "nnU-Net", 2021).

    Raises:
        ValueError: fewer than one head.
    """
    if heads < 1:
        raise ValueError(f"Deep supervision needs at least one output, not {heads}.")
    return tuple(2.0 ** (heads - 1 - head) / (2**heads - 1) for head in range(heads))


def deeply_supervised(loss: Callable[[Tensor], Tensor], outputs: Sequence[Tensor]) -> Tensor:
    """The weighted sum of the losses of a network's outputs, the full-resolution one first.

    A loss is a scalar, or one value a record.
    """
    weights = deep_supervision_weights(len(outputs))
    terms = [weight * loss(output) for weight, output in zip(weights, outputs, strict=True)]
    return torch.stack(terms).sum(0)


def _dice_part(log_probabilities: Tensor, labels: Tensor, batch: bool, each: bool) -> Tensor:
    one_hot = F.one_hot(labels, log_probabilities.shape[1]).movedim(-1, 1)
    target = one_hot.to(log_probabilities.dtype)
    dice = soft_dice(log_probabilities.exp(), target, batch=batch and not each)
    return 1 - (dice.mean(dim=1) if each else dice.mean())


def _cross_entropy_part(
    loss: Callable[..., Tensor], given: Tensor, labels: Tensor, each: bool
) -> Tensor:
    if not each:
        return loss(given, labels)
    return loss(given, labels, reduction="none").flatten(1).mean(dim=1)


def _background(foreground: Sequence[int], classes: int) -> list[int]:
    """The classes outside `foreground`, 0 among them."""
    wrong = [number for number in foreground if not 0 < number < classes]
    if wrong or not foreground or len(set(foreground)) < len(foreground):
        raise ValueError(
            f"The labelled classes must be different numbers from 1 to {classes - 1}, at least "
            f"one, not {list(foreground)}."
        )
    return [number for number in range(classes) if number not in foreground]


def _require_fitting(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() < 3 or labels.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(
            "Logits [B, C, *spatial] and labels [B, *spatial] must fit, but their shapes are "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    if labels.dtype != torch.int64:
        raise ValueError(f"Labels must be int64, but their type is {labels.dtype}.")
