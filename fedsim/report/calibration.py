"""Calibration: whether of the records that a model gives a probability, that share is so.

The records are put into ten bins of equal width by their probability: of the positive class where
there are two classes, else of the class that the model chooses. Sources: Guo et al., On Calibration
of Modern Neural Networks (2017) for the expected calibration error; Brier (1950) for his score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.report.drawing import COLOURS, Picture, frame, legend_above, png
from fedsim.report.plot import Line, Plot, shares
from fedsim.report.record import Record

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """The bins that hold records, and two numbers over all of them.

    Attributes:
        predicted: float64 [bins], mean probability of the records in each.
        observed: float64 [bins], share of them of which it is true.
        counts: int64 [bins], how many they are, all models together.
        error: expected calibration error, the mean distance of both, weighted by records.
        brier: mean squared distance of the probabilities from what is true, summed over classes
            (of two classes, of the positive one alone).
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    counts: NDArray[np.int64]
    error: float
    brier: float


def calibrate(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> Calibration:
    """Compare probabilities with what is true.

    Args:
        labels: [n], at least one.
        probabilities: [models, n, classes]; the models' records count together.
    """
    models, _, classes = probabilities.shape
    every = np.asarray(probabilities, dtype=np.float64)
    if classes == 2:
        told = every[:, :, 1].ravel()
        true = np.tile(labels == 1, models)
        brier = float(np.mean((told - true) ** 2))
    else:
        told = every.max(axis=2).ravel()
        true = (every.argmax(axis=2) == labels).ravel()
        brier = float(np.mean(((every - np.eye(classes)[labels]) ** 2).sum(axis=2)))
    place = np.clip((told * BINS).astype(int), 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    held = counts > 0
    predicted = np.bincount(place, told, BINS)[held] / counts[held]
    observed = np.bincount(place, true, BINS)[held] / counts[held]
    counts = counts[held]
    error = float(np.abs(predicted - observed) @ counts / counts.sum())
    return Calibration(predicted, observed, counts, error, brier)


def calibration(record: Record) -> Picture | None:
    """The calibration of the final model on the test split; a private run tells no counts."""
    labels, probabilities = record.labels, record.probabilities
    if labels is None or probabilities is None or len(labels) == 0:
        return None
    found = calibrate(labels, probabilities)
    binary = probabilities.shape[2] == 2
    what = record.class_name(1) if binary else "the class that the model chose"
    across = f"probability of {what}"
    up = f"share of records that are {what}" if binary else "share of records where it is right"
    points = list(zip(found.predicted.tolist(), found.observed.tolist(), strict=True))
    title = "Calibration on the test split"
    figure, (axes,) = frame(record, title, height=5.2, right=3.4)
    axes.set_aspect("equal", anchor="NW")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=across, ylabel=up)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="calibrated")
    axes.plot(*zip(*points, strict=True), color=COLOURS[0], marker="o", label="the model")
    legend_above(axes)
    several = f" All {len(probabilities)} models together." if len(probabilities) > 1 else ""
    header: tuple[str, ...] = ("predicted", "observed")
    rows: list[tuple[float, ...]] = [*points]
    if not record.private:
        header = (*header, "records")
        rows = [(*one, int(n)) for one, n in zip(points, found.counts, strict=True)]
    return Picture(
        "calibration",
        title,
        "Of the records to which the model gives a probability, so many are so: on the straight "
        "line both agree, below it the model is too sure. Ten bins; one with few records jumps."
        f"{several} Mean distance from it {found.error:.3f}, Brier score {found.brier:.3f} "
        "(both: 0 is best).",
        f"Mean distance from calibration {found.error:.3f}; "
        + ", ".join(f"{100 * x:.0f} % told, {100 * y:.0f} % so" for x, y in points),
        png(figure),
        header,
        rows,
        [
            Plot(
                f"mean distance from the line {found.error:.3f}",
                shares(across),
                shares(up),
                [
                    Line("calibrated", [(0, 0), (1, 1)], -1, thin=True),
                    Line("the model", points, 0, dots=True),
                ],
                square=True,
            )
        ],
    )
