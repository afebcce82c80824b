"""Membership inference on finished models: LiRA, with a lower bound on epsilon.

Carlini et al., "Membership Inference Attacks From First Principles" (2022), online variant with
one variance for all records, which few shadow models can estimate. The records of the attacked
model are drawn by fair coins, so that its scores also give the one-run bound of Steinke, Nasr &
Jagielski (2023). The attack sees outputs only: it finds less than there is to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.attacks import ScoreRecords, Watch
from fedsim.privacy.audit import LowerBound, one_run

SHADOWS = 24
"""Shadow models of an audit."""


@dataclass(frozen=True)
class Membership:
    """What the attack found.

    Attributes:
        bound: on epsilon of the training.
        auc: probability that a member scores higher than a non-member; 0.5 is chance.
        tpr_at_1_percent_fpr: share of members found while at most 1 % of the non-members are taken
            for members.
        shadows: how many shadow models.
    """

    bound: LowerBound
    auc: float
    tpr_at_1_percent_fpr: float
    shadows: int


def lira(
    score_records: ScoreRecords,
    records: int,
    delta: float,
    rng: np.random.Generator,
    *,
    shadows: int = SHADOWS,
    significance: float = 0.05,
    watch: Watch = iter,
) -> Membership:
    """Attack one model with the help of shadow models.

    Each record is in half of the shadow models, and in the attacked model by a coin. Its score
    there is compared with two normal distributions, fitted to its scores in the shadow models with
    and without it.

    Args:
        score_records: trains a model and scores all records.
        records: how many there are.
        delta: the delta of the claim.
        rng: draws who is in which model, and the models' seeds.
        shadows: models to learn from, an even number of at least 2; `shadows + 1` are trained.
        significance: the probability with which the bound may be wrong.
        watch: shows how many models are done.

    Raises:
        ValueError: an odd number of shadow models, or a score that is not finite.
    """
    if shadows < 2 or shadows % 2:
        raise ValueError(f"Shadow models must be an even number of at least 2, not {shadows}.")
    order = np.argsort(rng.random((shadows, records)), axis=0)
    target = rng.random(records) < 0.5
    masks = np.vstack([order < shadows // 2, target])
    seeds = rng.integers(2**31, size=shadows + 1)
    found = []
    for model in watch(range(shadows + 1)):
        scores = np.asarray(score_records(masks[model], int(seeds[model])), dtype=float)
        if scores.shape != (records,) or not np.isfinite(scores).all():
            raise ValueError(f"A model must give {records} finite scores: it may have diverged.")
        found.append(scores)
    ratio = log_likelihood_ratio(np.array(found[:-1]), masks[:-1], found[-1])
    members, others = ratio[target], ratio[~target]
    if not len(members) or not len(others):
        raise ValueError(f"{records} records are too few to divide into members and others.")
    return Membership(
        bound=one_run(ratio, target, delta, significance),
        auc=_auc(members, others),
        tpr_at_1_percent_fpr=_true_positives(members, others, 0.01),
        shadows=shadows,
    )


def log_likelihood_ratio(
    shadow_scores: NDArray[np.float64], included: NDArray[np.bool_], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much more likely scores are with their record in the training data than without.

    Args:
        shadow_scores: [shadows, n].
        included: bool [shadows, n]; each record is in some shadow models, and not in others.
        scores: [n] of the attacked model.

    Returns:
        [n] log N(score; mean with, variance) - log N(score; mean without, variance).
    """
    with_record = np.where(included, shadow_scores, 0).sum(0) / included.sum(0)
    without = np.where(included, 0, shadow_scores).sum(0) / (~included).sum(0)
    residuals = shadow_scores - np.where(included, with_record, without)
    variance = max(float(np.mean(residuals**2)), 1e-24)
    squares: NDArray[np.float64] = (scores - without) ** 2 - (scores - with_record) ** 2
    return squares / (2 * variance)


def _auc(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Probability that a member scores higher than another record, ties counted half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, "left") + np.searchsorted(ordered, members, "right")
    return float(below.mean() / (2 * len(others)))


def _true_positives(
    members: NDArray[np.float64], others: NDArray[np.float64], rate: float
) -> float:
    """Share of the members that score above all but a share `rate` of the others."""
    allowed = int(rate * len(others))
    return float((members > np.sort(others)[len(others) - 1 - allowed]).mean())
