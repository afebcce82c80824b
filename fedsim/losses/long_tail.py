"""Losses for classes of very different sizes: pure functions of logits, labels and counts.

Each takes logits [n, k], labels int64 [n] and, where it depends on them, how many training records
of each class the client has: counts [k], at least 0. Each gives the losses of the records, float
[n]. They are differences of logarithms, so that no finite float32 logit gives a loss or a gradient
that is not finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ABSENT = 1e-12
"""Added to a class's share, so that the logarithm of a class without a record is finite."""


def balanced_softmax(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of logits that are shifted by the logarithm of the classes' shares.

    Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition" (2020), Eq. 3. With equal
    counts it is cross-entropy.

    Raises:
        ValueError: shapes or counts that do not fit.
    """
    return logit_adjusted(logits, labels, counts, tau=1.0)


def logit_adjusted(logits: Tensor, labels: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy of logits that are shifted by `tau` log(share).

    Menon et al., "Long-tail learning via logit adjustment" (2021), Eq. 10. With `tau` 1 it is
    `balanced_softmax`, with 0 cross-entropy.

    Raises:
        ValueError: shapes or counts that do not fit.
    """
    _require(logits, labels, counts)
    shares = counts.double() / counts.double().sum()
    return F.cross_entropy(
        logits + (tau * (shares + ABSENT).log()).to(logits), labels, reduction="none"
    )


def calibrated(logits: Tensor, labels: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy of logits that are lowered by `tau` n_c^(-1/4); absent classes are left out.

    FedLC: Zhang et al., "Federated Learning with Label Distribution Skew via Logits Calibration"
    (2022). The paper's sum runs over the other classes alone; here the record's own class is in it,
    as in any softmax, so the loss is never below 0. A class without a record has no finite margin:
    its logit does not enter.

    Raises:
        ValueError: shapes or counts that do not fit, or a label whose class has no record.
    """
    _require(logits, labels, counts)
    if not (counts[labels] > 0).all():
        raise ValueError(
            "A record's class has no record: counts and labels do not belong together."
        )
    margins = tau * counts.double().pow(-0.25)  # Infinite where there is none.
    return F.cross_entropy(logits - margins.to(logits), labels, reduction="none")


def ldam(
    logits: Tensor, labels: Tensor, counts: Tensor, max_margin: float = 0.5, scale: float = 1.0
) -> Tensor:
    """Cross-entropy where a record's own logit is lowered by a margin, larger for rare classes.

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss" (2019),
    Eq. 13: the margin of class c is proportional to n_c^(-1/4), and the largest is `max_margin`.
    The paper's logits are cosines, which it multiplies by 30. A linear layer's are not, so `scale`
    is 1 here.

    Raises:
        ValueError: shapes or counts that do not fit.
    """
    _require(logits, labels, counts)
    margins = counts.double().clamp(min=1.0).pow(-0.25)
    margins = (margins * (max_margin / margins[counts > 0].max())).to(logits)
    own = F.one_hot(labels, logits.shape[1]).to(logits) * margins[labels, None]
    return F.cross_entropy(scale * (logits - own), labels, reduction="none")


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross-entropy times (1 - p)^`gamma`, p the probability of the record's class.

    Lin et al., "Focal Loss for Dense Object Detection" (2017), Eq. 4, over a softmax. With `gamma`
    0 it is cross-entropy.

    Raises:
        ValueError: shapes that do not fit.
    """
    _require(logits, labels)
    losses = F.cross_entropy(logits, labels, reduction="none")
    # 1 - p of the loss itself; the power's own gradient at 0 is not finite below 1.
    return (-torch.expm1(-losses)).clamp(min=torch.finfo(logits.dtype).tiny).pow(gamma) * losses


def effective_weights(counts: Tensor, beta: float = 0.9999) -> Tensor:
    """Weights of classes by their effective number of records, float64 [k].

    Cui et al., "Class-Balanced Loss Based on Effective Number of Samples" (2019), Eq. 3:
    (1 - beta) / (1 - beta^n_c), scaled so that they add up to the number of classes that have a
    record; 0 for others. `beta` 0 gives equal weights; the closer to 1, the closer to 1 / n_c.

    Raises:
        ValueError: `beta` is not in [0, 1), or no class has a record.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta lies in [0, 1), not {beta}.")
    counts = counts.double()
    present = counts > 0
    if not present.any():
        raise ValueError("No class has a record.")
    weights = torch.zeros_like(counts)
    share = 1.0 if beta == 0 else -torch.expm1(counts[present] * math.log(beta))
    weights[present] = (1 - beta) / share
    scaled: Tensor = weights * (present.sum() / weights.sum())
    return scaled


def _require(logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> None:
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"Logits are [n, k] and labels [n], but their shapes are {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if counts is None:
        return
    if counts.shape != logits.shape[1:] or (counts < 0).any() or not (counts > 0).any():
        below, above = int((counts < 0).sum()), int((counts > 0).sum())
        raise ValueError(  # What they are stays at the client.
            f"Counts are {logits.shape[1]} numbers, one a class, at least 0 and not all 0, but of "
            f"{len(counts)} are {below} below and {above} above 0."
        )
