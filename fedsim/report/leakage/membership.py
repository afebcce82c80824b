"""Membership inference by a threshold on the loss, scored: pure functions of losses.

Yeom et al., "Privacy Risk in Machine Learning", CSF 2018: who trained on a record has a lower loss
on it. The rate of members found at few false alarms is what Carlini et al., "Membership Inference
Attacks From First Principles", S&P 2022, ask to report beside the area under the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.data.views import View
from fedsim.tasks.evaluation import BATCH

_BOOTSTRAPS = 500
_FALSE_ALARMS = 0.01
"""The rate of false alarms at which members are counted."""

EXPLAINED_ATTACK = {
    "members": "training images of all clients, as many as there are non-members of each class and "
    "site",
    "non_members": "images of the test split",
    "auc": "probability that the final model's loss is lower on a member than on a non-member of "
    "the same class, mean over classes; 0.5 is expected without leakage",
    "auc_pooled": "the same over all images whatever their class",
    "tpr_at_1_percent_fpr": "share of members below the highest loss threshold with at most 1 % of "
    "the non-members below it; about 0.01 is expected without leakage",
    "auc_by_class": "the area within each class",
} | {
    f"{name}_{end}": f"{word} end of the 95 % bootstrap interval of `{name}`"
    for name in ("auc", "auc_pooled", "tpr_at_1_percent_fpr")
    for end, word in (("low", "lower"), ("high", "upper"))
}
"""What each number of `membership_attack` is."""


@torch.inference_mode()
def record_losses(model: torch.nn.Module, view: View, device: torch.device) -> NDArray[np.float64]:
    """The cross-entropy of each record, float64 [n], of a model in evaluation mode."""
    model.to(device).eval()
    parts = []
    for images, labels in view.batches(BATCH):
        # In float32 the small losses of a sure model would all round to 0.
        logits = model(images.to(device)).cpu().double()
        parts.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def membership_attack(
    member_losses: NDArray[np.float64],
    member_labels: NDArray[np.int64],
    other_losses: NDArray[np.float64],
    other_labels: NDArray[np.int64],
    classes: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Any] | None:
    """Score the attack "a loss below a threshold means a member".

    A model has a higher loss on rare classes, whoever trained on them. So the area is taken within
    each class and averaged; the sets should have equal shares of the classes besides, on which the
    other two numbers rest.

    Args:
        member_losses, member_labels: float64 and int64 [n], records the model was trained for.
        other_losses, other_labels: float64 and int64 [m], records it was not.
        classes: class names in label order.
        rng: draws the bootstrap samples, within each class and side.

    Returns:
        Numbers by the keys of `EXPLAINED_ATTACK`; None where no class has records of both sides.

    Raises:
        ValueError: a loss is not finite.
    """
    wrong = sum(int((~np.isfinite(losses)).sum()) for losses in (member_losses, other_losses))
    if wrong:
        raise ValueError(f"The losses of {wrong} records are not finite: the model has diverged.")
    sides = {
        name: (member_losses[member_labels == label], other_losses[other_labels == label])
        for label, name in enumerate(classes)
    }
    both = {name: side for name, side in sides.items() if len(side[0]) and len(side[1])}
    if not both:
        return None
    by_class, values = _scores(list(both.values()))
    draws = np.array(
        [
            _scores([tuple(rng.choice(s, len(s)) for s in side) for side in both.values()])[1]
            for _ in range(_BOOTSTRAPS)
        ]
    )
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    result: dict[str, Any] = {
        "members": sum(len(members) for members, _ in both.values()),
        "non_members": sum(len(others) for _, others in both.values()),
    }
    for k, name in enumerate(("auc", "auc_pooled", "tpr_at_1_percent_fpr")):
        result |= {name: values[k], f"{name}_low": low[k], f"{name}_high": high[k]}
    found = dict(zip(both, by_class, strict=True))
    return result | {"auc_by_class": {name: found.get(name) for name in classes}}


def auc_of_losses(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Probability that a member's loss is lower than a non-member's, ties counted half."""
    ordered = np.sort(others)
    above = len(others) - np.searchsorted(ordered, members, side="right")
    level = len(others) - np.searchsorted(ordered, members, side="left")
    return float((above + level).mean() / (2 * len(others)))


def found_at_few_alarms(
    members: NDArray[np.float64], others: NDArray[np.float64], rate: float = _FALSE_ALARMS
) -> float:
    """Share of members below the highest threshold with at most `rate` of the others below it."""
    # Exactly `allowed` others may lie below: the threshold is the next one's loss.
    allowed = int(np.floor(rate * len(others)))
    return float((members < np.partition(others, allowed)[allowed]).mean())


def _scores(sides: Sequence[tuple[np.ndarray, ...]]) -> tuple[list[float], tuple[float, ...]]:
    """AUC by class; and their mean, the pooled AUC and the share found at few false alarms."""
    by_class = [auc_of_losses(members, others) for members, others in sides]
    members, others = (np.concatenate(side) for side in zip(*sides, strict=True))
    pooled = auc_of_losses(members, others), found_at_few_alarms(members, others)
    return by_class, (float(np.mean(by_class)), *pooled)
