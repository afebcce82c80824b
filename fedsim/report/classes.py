"""Recall of each class over how many training images it has: a line for each method."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedsim.errors import InputError, Problem
from fedsim.report.comparison import Comparison
from fedsim.report.drawing import COLOURS, STYLES, Picture, frame, png, short, span
from fedsim.report.rows import Row, Run
from fedsim.report.statistics import Measure, measure
from fedsim.report.tested import Predictions

_LEGEND = 2.9  # inches
_LETTERS = 34
_STEP = 1.012  # Between methods, as a factor of the axis, so that bars do not cover one another.
_ALIKE = 1.1
"""The largest count over the smallest, up to which classes stand beside each other instead."""
_ASIDE = 0.03
_HEADER = ("line", "class", "training_images", "recall", "sd", "seeds")


@dataclass(frozen=True)
class Classes:
    """Recalls by class.

    Attributes:
        names: of the classes, rarest first.
        counts: training images of each, of all clients together: a mean over runs.
        lines: by name, the recall of each class over seeds; without a mean where the test split has
            none of it.
        comparison: the table behind them.
    """

    names: list[str]
    counts: list[float]
    lines: dict[str, list[Measure]]
    comparison: Comparison


def classes(comparison: Comparison) -> Classes:
    """What `fedsim compare --classes` draws.

    Raises:
        InputError: a run has no predictions or no counts of classes, or classes differ.
    """
    rows = [line.row for line in comparison.lines]
    problems = [
        Problem(row.name, why)
        for row in rows
        if (why := next(filter(None, map(_lacks, row.runs)), ""))
    ]
    if not problems:
        first = rows[0].runs[0].data["classes"]
        problems = [
            Problem(row.name, f"has other classes than {rows[0].name}")
            for row in rows
            if any(run.data["classes"] != first for run in row.runs)
        ]
    if problems:
        raise InputError(
            "--classes: not all rows can be drawn",
            problems,
            "name runs that tell the same classes apart, without privacy",
        )
    counts = np.mean([_counts(run) for row in rows for run in row.runs], axis=0)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    return Classes(
        [str(first[k]) for k in order],
        [float(counts[k]) for k in order],
        {row.name: [_recalls(row)[k] for k in order] for row in rows},
        comparison,
    )


def _lacks(run: Run) -> str:
    """What a run lacks, in words; "" for nothing."""
    if not isinstance(run.predictions, Predictions):
        return "has no predictions of images (predictions.npz)"
    if not run.data.get("classes") or not run.data.get("classes_by_client"):
        return "does not tell the training images of each class"
    return ""


def _counts(run: Run) -> np.ndarray:
    return np.sum(list(run.data["classes_by_client"].values()), axis=0)


def _recalls(row: Row) -> list[Measure]:
    """The recall of each class: over seeds, of a run with several models their mean."""
    found: list[list[float | None]] = []
    for run in row.runs:
        tested = run.predictions
        assert isinstance(tested, Predictions)
        right = tested.probabilities.argmax(axis=2) == tested.labels
        own = [tested.labels == k for k in range(tested.probabilities.shape[2])]
        found.append([float(right[:, one].mean()) if one.any() else None for one in own])
    return [measure(values) for values in zip(*found, strict=True)]


def picture(drawn: Classes) -> Picture:
    """Means over seeds; bars are one standard deviation."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    rows = [line.row for line in drawn.comparison.lines]
    title = "Recall of each class over its training images"
    stand_in = all(row.data == "embedded" for row in rows)
    seeds = span([len(row.seeds) for row in rows], "d")
    heading: Any = SimpleNamespace(
        title=f"{', '.join(sorted({row.data for row in rows}))}; seeds: {seeds}",
        note="generated stand-in images" if stand_in else "",
    )
    figure, (axes,) = frame(heading, title, height=4.6, left=0.75, right=_LEGEND)
    table = []
    alike = drawn.counts[-1] <= _ALIKE * drawn.counts[0]
    # Over equal counts all recalls would stand above one another.
    places = [float(k) for k in range(1, len(drawn.counts) + 1)] if alike else drawn.counts
    for k, (name, recalls) in enumerate(drawn.lines.items()):
        turn = k - (len(drawn.lines) - 1) / 2
        known = [
            (place + _ASIDE * turn if alike else place * _STEP**turn, one.mean, one.sd or 0.0)
            for place, one in zip(places, recalls, strict=True)
            if one.mean is not None
        ]
        axes.errorbar(
            [place for place, _, _ in known],
            [mean for _, mean, _ in known],
            [sd for _, _, sd in known],
            label="\n".join(short(word, _LETTERS) for word in name.split(" ")),
            marker="o",
            markersize=4,
            elinewidth=1,
            color=COLOURS[k % len(COLOURS)],
            linestyle=STYLES[k // len(COLOURS) % len(STYLES)],
        )
        table += [
            (name, one, count, found.mean, found.sd, found.n)
            for one, count, found in zip(drawn.names, drawn.counts, recalls, strict=True)
        ]
    if alike:
        axes.set_xticks([])
    else:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.03, 1.03)
    above = axes.get_xaxis_transform()
    for k, (name, place) in enumerate(zip(drawn.names, places, strict=True)):
        axes.axvline(place, color="#CCCCCC", linewidth=0.6, zorder=0)
        # In turn at two heights: classes of like size lie close together.
        axes.text(
            place,
            1.01 + 0.045 * (k % 2),
            short(name, 14),
            transform=above,
            ha="center",
            va="bottom",
            fontsize=8,
        )
    most = f"{drawn.counts[0]:.4g}" + f" to {drawn.counts[-1]:.4g}" * (len(set(drawn.counts)) > 1)
    axes.set_xlabel(
        f"classes: each has {most} training images, all clients together"
        if alike
        else "training images of the class, all clients together (logarithmic)"
    )
    axes.set_ylabel("recall on the test split")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    told = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{one} {100 * found.mean:.0f} %"
            for one, found in zip(drawn.names, recalls, strict=True)
            if found.mean is not None
        )
        for name, recalls in drawn.lines.items()
    )
    return Picture(
        "classes",
        title,
        "Means over seeds. Bars are one standard deviation over seeds.",
        f"{told}.",
        png(figure),
        _HEADER,
        table,
    )
