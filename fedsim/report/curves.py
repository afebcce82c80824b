"""ROC and precision-recall curves of a run's predictions on its test split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedsim.report.drawing import COLOURS, Picture, frame, png
from fedsim.report.many import MANY, TITLES, draw_bands, quantiles
from fedsim.report.plot import COLOURS as COLOURS_ON_PAGE
from fedsim.report.plot import Area, Line, Plot, bands, shares
from fedsim.report.record import Record

_GRID = np.linspace(0, 1, 201)  # where curves of several models are averaged


class Curve(NamedTuple):
    """A curve from threshold to threshold, and the area below it."""

    threshold: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    area: float


def roc_curve(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> Curve:
    """False positive rate (x) and true positive rate (y) at falling thresholds, from (0, 0).

    The area is that of the trapezoids: the AUC.

    Args:
        positive: bool [n], with both values among them.
        scores: [n], higher for the positive.
    """
    threshold, true, false = _counts(positive, scores)
    x, y = false / false[-1], true / true[-1]
    # A corner is where the direction changes; counts are whole, so this is exact.
    more_true, more_false = np.diff(true), np.diff(false)
    turns = more_true[:-1] * more_false[1:] != more_true[1:] * more_false[:-1]
    return _thinned(threshold, x, y, turns, float(np.trapezoid(y, x)))


def precision_recall_curve(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> Curve:
    """Recall (x) and precision (y) at falling thresholds; precision 1 where nothing is predicted.

    The area is that of the steps, precision times gain in recall: the average precision.

    Args:
        positive: bool [n], with both values among them.
        scores: [n], higher for the positive.
    """
    threshold, true, false = _counts(positive, scores)
    x = true / true[-1]
    y = np.divide(true, true + false, out=np.ones_like(x), where=true + false > 0)
    moves = (true[:-2] != true[1:-1]) | (true[1:-1] != true[2:])
    return _thinned(threshold, x, y, moves, float(np.sum(np.diff(x) * y[1:])))


def _counts(
    positive: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Thresholds, and true and false positives at and above each; first an infinite threshold."""
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order].astype(np.float64), positive[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of equal scores
    true = np.cumsum(positive)[last].astype(np.float64)
    false = last + 1 - true
    return (np.append(np.inf, scores[last]), np.append(0.0, true), np.append(0.0, false))


def _thinned(
    threshold: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    inner: NDArray[np.bool_],
    area: float,
) -> Curve:
    """The curve without the inner points that change nothing about its shape."""
    keep = np.concatenate([[True], inner, [True]])
    return Curve(threshold[keep], x[keep], y[keep], area)


def roc(record: Record) -> Picture | None:
    """The ROC curve of each class that the test split has."""
    return _picture(record, "roc", roc_curve, "ROC curve", "AUC")


def precision_recall(record: Record) -> Picture | None:
    """The precision-recall curve of each class that the test split has."""
    name, title = "precision_recall", "Precision-recall curve"
    return _picture(record, name, precision_recall_curve, title, "average precision")


def _picture(
    record: Record,
    name: str,
    curve: Callable[[NDArray[np.bool_], NDArray[np.floating]], Curve],
    title: str,
    area: str,
) -> Picture | None:
    labels, probabilities = record.labels, record.probabilities
    if labels is None or probabilities is None or len(np.unique(labels)) < 2:
        return None
    models, _, classes = probabilities.shape
    # Of two classes the second is the positive one; of several, each against the rest.
    scored = [1] if classes == 2 else np.unique(labels).tolist()
    figure, (axes,) = frame(record, f"{title} on the test split", height=5.2, right=3.4)
    axes.set_aspect("equal", anchor="NW")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    told, rows = [], []
    lines: list[Line] = []
    areas: list[Area] = []
    for k, label in enumerate(scored):
        found = (curve(labels == label, one[:, label]) for one in probabilities)
        several = _Several(name, found)
        text = f"{record.class_name(label)}: {np.mean(several.areas):.3f}"
        told.append(f"{record.class_name(label)}: {area} {np.mean(several.areas):.3f}")
        if models > 1:
            text += f" ({min(several.areas):.3f} to {max(several.areas):.3f})"
        _draw(axes, name, several, _look(k, len(scored)), text, thin=len(scored) == 1)
        drawn = several.on_page(name, k, text, thin=len(scored) == 1)
        areas += drawn[0]
        lines += drawn[1]
        rows += several.rows(record.class_name(label))
    if name == "roc":
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="chance: 0.500")
        lines.insert(0, Line("chance: 0.500", [(0, 0), (1, 1)], -1, thin=True))
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
    else:
        axes.set(xlabel="recall", ylabel="precision")
        if len(scored) == 1:
            share = float(np.mean(labels == scored[0]))
            axes.axhline(share, color="#999999", linewidth=1, label=f"chance: {share:.3f}")
            lines.insert(0, Line(f"chance: {share:.3f}", [(0, share), (1, share)], -1, thin=True))
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        frameon=False,
        fontsize=9,
        title=area if models == 1 else f"{area}, mean (range) of {models} models",
        alignment="left",
        title_fontsize=9,
    )
    places = ("false_positive_rate", "true_positive_rate")
    places = places if name == "roc" else ("recall", "precision")
    return Picture(
        name,
        f"{title} on the test split",
        _caption(models, classes, record, name),
        "; ".join(told),
        png(figure),
        ("model", "class", "area" if models >= MANY else "threshold", *places),
        rows,
        [
            Plot(
                f"{area}{'' if models == 1 else f', mean (range) of {models} models'}",
                shares(places[0].replace("_", " ")),
                shares(places[1].replace("_", " ")),
                lines,
                areas,
                square=True,
            )
        ],
    )


class _Several:
    """The curves that several models have of one class.

    Attributes:
        areas: of each.
        curves: all of them; none where they are many, of which only heights are kept.
        heights: float64 [models, 201], on the grid.
    """

    def __init__(self, name: str, curves: Iterable[Curve]) -> None:
        self.areas: list[float] = []
        self.curves: list[Curve] = []
        heights = []
        for one in curves:
            self.areas.append(one.area)
            self.curves.append(one)
            heights.append(_height(one, _GRID, name))
            if len(heights) >= MANY:
                self.curves.clear()
        self.heights = np.array(heights)

    @property
    def many(self) -> bool:
        """Whether there are too many to draw each."""
        return len(self.areas) >= MANY

    def on_page(self, name: str, k: int, text: str, thin: bool) -> tuple[list[Area], list[Line]]:
        """The k-th class on a page: bands, and lines."""
        if len(self.areas) == 1:
            (one,) = self.curves
            points = list(zip(one.x.tolist(), one.y.tolist(), strict=True))
            if name != "roc":
                points = _steps(points)
            return [], [Line(text, points, k, k // COLOURS_ON_PAGE)]
        grid = _GRID.tolist()
        areas: list[Area] = []
        lines: list[Line] = []
        if thin and self.many:
            areas = bands(grid, quantiles(self.heights, axis=0).T.tolist(), k)
        elif thin:
            for heights in self.heights.tolist():
                lines.append(Line("", list(zip(grid, heights, strict=True)), k, thin=True))
        mean = list(zip(grid, self.heights.mean(axis=0).tolist(), strict=True))
        return areas, [*lines, Line(text, mean, k, k // COLOURS_ON_PAGE)]

    def rows(self, label: str) -> list[tuple[Any, ...]]:
        """Lines of the CSV: each corner of each curve; of many curves, area of each and bands."""
        if not self.many:
            return [
                (model, label, None if np.isinf(t) else t, x, y)
                for model, one in enumerate(self.curves)
                for t, x, y in zip(
                    one.threshold.tolist(), one.x.tolist(), one.y.tolist(), strict=True
                )
            ]
        bands = {"mean": self.heights.mean(axis=0)}
        bands |= dict(zip(TITLES, quantiles(self.heights, axis=0), strict=True))
        return [
            *((model, label, area, None, None) for model, area in enumerate(self.areas)),
            *(
                (band, label, None, x, y)
                for band, values in bands.items()
                for x, y in zip(_GRID.tolist(), values.tolist(), strict=True)
            ),
        ]


def _draw(
    axes: Any, name: str, several: _Several, look: dict[str, Any], text: str, thin: bool
) -> None:
    """One class: its curve; of several models their mean, and if asked for each of them, thin; of
    many, bands of them."""
    steps = {} if name == "roc" else {"drawstyle": "steps-pre"}
    if len(several.areas) == 1:
        (one,) = several.curves
        axes.plot(one.x, one.y, label=text, **steps, **look)
        return
    if thin and several.many:
        draw_bands(axes, _GRID.tolist(), quantiles(several.heights, axis=0).T, look["color"])
    elif thin:
        for one in several.curves:
            axes.plot(one.x, one.y, **steps, **look | {"linewidth": 0.6, "alpha": 0.5})
    axes.plot(_GRID, several.heights.mean(axis=0), label=text, **look | {"linewidth": 2.2})


def _height(one: Curve, grid: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """The curve's height on a grid: on straight lines for ROC, on steps for precision."""
    if name == "roc":
        return np.interp(grid, one.x, one.y)
    return one.y[np.minimum(np.searchsorted(one.x, grid, side="left"), len(one.y) - 1)]


def _steps(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of steps that take each point's height from the point before on."""
    corners = points[:1]
    for (before, _), (x, y) in pairwise(points):
        corners += [(before, y), (x, y)]
    return corners


def _look(k: int, count: int) -> dict[str, Any]:
    """The k-th of so many classes in its own colour."""
    from matplotlib import colormaps

    many = count > len(COLOURS)
    return {
        "color": colormaps["viridis"](k / (count - 1)) if many else COLOURS[k],
        "linewidth": 1.4,
    }


def _caption(models: int, classes: int, record: Record, name: str) -> str:
    """What is positive, and whose curves these are."""
    parts = [
        f"Positive: {record.class_name(1)}." if classes == 2 else "Each class against the rest."
    ]
    if models > 1:
        along = "false positive rate" if name == "roc" else "recall"
        others = "bands are all, 5 to 95 % and 25 to 75 % of the models"
        if models < MANY:
            others = "thin lines are one model each"
        parts.append(
            f"Each of {models} clients has its own model; the thick line is their mean at equal "
            f"{along}{f'; {others}' if classes == 2 else ''}."
        )
    return " ".join(parts)
