"""Scores of a classifier's predictions: pure functions of labels and probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def classification_metrics(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating]
) -> dict[str, float | None]:
    """Score predicted class probabilities.

    The prediction is the most probable class, the first of equals. A score that the records do not
    define is None: `auc`, `pr_auc` and `balanced_accuracy` where only one class occurs,
    `sensitivity` without positives, `specificity` without negatives, everything without records.
    The keys depend on the number of classes only.

    * `auc`, `pr_auc` (average precision): two classes, of the second one; more classes, the mean
      over the classes that occur, each against the rest.
    * `balanced_accuracy`: mean recall of the classes that occur.
    * `precision`, `recall`: means over the classes weighted by their records; `recall` therefore
      equals `accuracy`. A class that is never predicted has precision 0.
    * `f1`: harmonic mean of that `precision` and `recall`, as GDD-FL reports it; not the weighted
      mean of the classes' F1, which is usually lower.
    * `macro_f1`: mean of the classes' F1, of those that occur or are predicted, as in scikit-learn.
    * `ece`: expected calibration error, the mean distance between how sure the prediction is and
      how often it is right, over 15 bins of equal width (Guo et al. 2017, Eq. 3).
    * `sensitivity`, `specificity`: two classes only; recall of the second and of the first class.

    Args:
        labels: int64 [n], 0 <= label < k.
        probabilities: [n, k], k >= 2, each between 0 and 1.

    Raises:
        ValueError: shapes or labels that do not fit, or values that are no probabilities. NaN, as
            a diverged model gives, is never scored.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    _require_scorable(labels, probabilities)
    labels = labels.astype(np.int64)
    count, classes = probabilities.shape

    # Rows are true classes, columns predicted ones.
    cells = labels * classes + probabilities.argmax(axis=1)
    confusion = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    support, predicted, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    recalls = right / np.maximum(support, 1)
    precisions = right / np.maximum(predicted, 1)
    present = np.flatnonzero(support)

    scores: dict[str, float | None] = dict.fromkeys(
        (
            *("auc", "pr_auc", "accuracy", "balanced_accuracy", "precision", "recall", "f1"),
            *("macro_f1", "ece"),
        )
    )
    if count:
        precision = float(precisions @ support) / count
        recall = float(right.sum()) / count
        both = precision + recall
        scores |= {"accuracy": recall, "precision": precision, "recall": recall}
        scores["f1"] = 2 * precision * recall / both if both else 0.0
        either = support + predicted
        scores["macro_f1"] = float((2 * right[either > 0] / either[either > 0]).mean())
        scores["ece"] = calibration_error(labels, probabilities)
    if len(present) > 1:
        # Of two classes the second is the positive one; its AUC is also that of the first.
        scored = np.array([1]) if classes == 2 else present
        scores["auc"], scores["pr_auc"] = _ranking(labels, probabilities, scored)
        scores["balanced_accuracy"] = float(recalls[present].mean())
    if classes == 2:
        scores["sensitivity"] = float(recalls[1]) if support[1] else None
        scores["specificity"] = float(recalls[0]) if support[0] else None
    return scores


def calibration_error(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], bins: int = 15
) -> float:
    """Expected calibration error of the most probable class, between 0 and 1.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), Eq. 3. A bin is open below and
    closed above.

    Args:
        labels: int64 [n], n >= 1.
        probabilities: [n, k].
        bins: of equal width.
    """
    sure = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, sure - right, bins)
    return float(np.abs(gaps).sum() / len(labels))


def group_metrics(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    groups: Mapping[str, Sequence[int]],
) -> dict[str, float | None]:
    """Score groups of classes, such as frequent and rare ones.

    Args:
        labels: int64 [n].
        probabilities: [n, k].
        groups: class numbers by the group's name.

    Returns:
        `balanced_accuracy/<group>`, the mean recall of the group's classes that occur, and
        `accuracy/<group>`, the share of its records that are predicted right; None of a group
        without a record.
    """
    labels = np.asarray(labels, dtype=np.int64)
    right = probabilities.argmax(axis=1) == labels
    scores: dict[str, float | None] = {}
    for name, classes in groups.items():
        recalls = [right[labels == one].mean() for one in classes if (labels == one).any()]
        inside = np.isin(labels, list(classes))
        scores[f"balanced_accuracy/{name}"] = float(np.mean(recalls)) if recalls else None
        scores[f"accuracy/{name}"] = float(right[inside].mean()) if inside.any() else None
    return scores


def site_metrics(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    sites: NDArray[np.int64],
    site_names: Sequence[str],
    names: Sequence[str] = ("auc", "balanced_accuracy"),
) -> dict[str, float | None]:
    """Score each site's records by themselves.

    Args:
        labels: int64 [n].
        probabilities: [n, k].
        sites: int64 [n], codes into `site_names`.
        site_names: names of the sites; records of a site named "" are of unknown origin and left
            out.
        names: which of the `classification_metrics` to report.

    Returns:
        `{"auc@hospital": value, ...}` with every name and every site, None where undefined.

    Raises:
        ValueError: as `classification_metrics`, a site code without a name, or an unknown metric.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    sites = np.asarray(sites)
    if sites.shape != labels.shape or np.any((sites < 0) | (sites >= len(site_names))):
        raise ValueError(
            f"Sites must be one code between 0 and {len(site_names) - 1} for each of the "
            f"{len(labels)} labels."
        )
    scores: dict[str, float | None] = {}
    for code, site in enumerate(site_names):
        if site == "":
            continue
        chosen = sites == code
        of_site = classification_metrics(labels[chosen], probabilities[chosen])
        unknown = [name for name in names if name not in of_site]
        if unknown:
            raise ValueError(f"Unknown metrics {unknown}; there are {list(of_site)}.")
        scores |= {f"{name}@{site}": of_site[name] for name in names}
    return scores


def _ranking(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], scored: NDArray[np.intp]
) -> tuple[float, float]:
    """Mean area under the ROC curve and mean average precision of the classes `scored`."""
    counts = [_counts(labels == number, probabilities[:, number]) for number in scored]
    return (
        float(np.mean([_area(*sides) for sides in counts])),
        float(np.mean([_average_precision(*sides) for sides in counts])),
    )


# As scikit-learn computes them, to the bit: importing it takes longer than many a run.
def _counts(
    positive: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Negative and positive records with at least each score that occurs, from the highest on."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order], dtype=np.float64)[ends]
    return 1 + ends - hits, hits


def _area(false: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Area under the ROC curve by the trapezoidal rule; both kinds of records occur."""
    if len(false) > 2:  # Points on a straight line between others change last bits only.
        corners = np.flatnonzero((np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)) + 1
        kept = np.concatenate(([0], corners, [len(false) - 1]))
        false, true = false[kept], true[kept]
    false, true = np.append(0.0, false), np.append(0.0, true)
    return float(np.trapezoid(true / true[-1], false / false[-1]))


def _average_precision(false: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Sum of the precision at each recall, weighted by the recall that it adds."""
    precision = np.append((true / (true + false))[::-1], 1.0)
    recall = np.append((true / true[-1])[::-1], 0.0)
    return float(max(0.0, -np.sum(np.diff(recall) * precision[:-1])))


def _require_scorable(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> None:
    """Raise ValueError unless these are n labels and their n x k probabilities."""
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or labels.ndim != 1:
        raise ValueError(
            "Scores need labels [n] and probabilities [n, k] with k >= 2, but the shapes are "
            f"{labels.shape} and {probabilities.shape}."
        )
    if labels.size and labels.dtype.kind not in "iub":
        raise ValueError(f"Labels must be whole numbers, but their type is {labels.dtype}.")
    if len(labels) != len(probabilities):
        raise ValueError(
            f"There are {len(labels)} labels but {len(probabilities)} rows of probabilities."
        )
    wrong = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if wrong:
        raise ValueError(
            f"The probabilities of {wrong} of {len(labels)} records are not finite numbers: the "
            "model has diverged."
        )
    # Rounding may take a softmax a little beyond one.
    outside = int(((probabilities < -1e-6) | (probabilities > 1 + 1e-6)).any(axis=1).sum())
    if outside:
        raise ValueError(
            f"The probabilities of {outside} of {len(labels)} records are not between 0 and 1: "
            "are they logits?"
        )
    classes = probabilities.shape[1]
    strange = np.unique(labels[(labels < 0) | (labels >= classes)])
    if len(strange):
        raise ValueError(
            f"Labels must lie between 0 and {classes - 1}, but there is {strange[:5].tolist()}."
        )
