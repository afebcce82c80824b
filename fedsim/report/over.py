"""The headline over a setting or a cost: a line for each method, a point for each row.

Such as the AUC over `data.split.fraction`, a line for each initialisation, or over megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fedsim.errors import InputError, Problem
from fedsim.report.comparison import HOURS, Comparison, Line
from fedsim.report.drawing import (
    COLOURS,
    STYLES,
    Picture,
    frame,
    marker,
    png,
    short,
    span,
    time_unit,
)
from fedsim.report.rows import Run
from fedsim.report.statistics import Measure
from fedsim.report.text import typed

_FAR = 8.0  # Values that differ by this factor get a logarithmic axis.
_LEGEND = 2.9  # inches
_LETTERS = 34
_TICKS = 8
_HEADER = ("line", "x", "metric", "mean", "sd", "low", "high", "seeds")


@dataclass(frozen=True)
class Over:
    """Points of several lines.

    Attributes:
        key: what the horizontal axis is, as it was asked for.
        label: what it is called on the axis.
        lines: by name, the points (x, measure) by ascending x.
        comparison: the table behind them.
    """

    key: str
    label: str
    lines: dict[str, list[tuple[float, Measure]]]
    comparison: Comparison


def over(comparison: Comparison, key: str) -> Over:
    """What `fedsim compare --over KEY` draws.

    Args:
        comparison: the rows. Those that differ in `key` alone are one line; over a cost, each row
            is a point.
        key: a dotted key of the scenarios that holds numbers, such as `data.split.fraction`, or a
            cost: `mb_up_total`, `mb_down_total`, `wall_seconds`; `simulated_hours` where all runs
            had a clock.

    Raises:
        InputError: a row has no number there, rows learned different tasks, or no row has a score.
    """
    costs = {one.key: one.title for one in comparison.columns if one.group == "costs"}
    metrics = {line.row.task.headline for line in comparison.lines}
    if len(metrics) > 1:
        raise InputError(f"--over {key}: rows have different scores: {', '.join(sorted(metrics))}")
    (metric,) = metrics
    _require_clock(comparison, key)
    lines: dict[str, list[tuple[float, Measure]]] = {}
    problems = []
    names = _names(comparison, key, key in costs)
    for name, line in zip(names, comparison.lines, strict=True):
        at = line.measures[key].mean if key in costs else _setting(line, key)
        if at is None:
            problems.append(Problem(line.row.name, f"has no number there{_instead(line, key)}"))
        elif metric in line.measures and line.measures[metric].mean is not None:
            lines.setdefault(name, []).append((at, line.measures[metric]))
    if problems:
        raise InputError(
            f"--over {key}: not all rows can be drawn",
            problems,
            "name a key of the scenarios that was varied, such as data.split.fraction, or one of "
            f"{', '.join(_costs(comparison, costs))}",
        )
    if not lines:
        raise InputError(f"--over {key}: no row has a score to draw")
    ordered = {name: sorted(points, key=lambda one: one[0]) for name, points in lines.items()}
    return Over(key, costs.get(key, key), ordered, comparison)


def _require_clock(comparison: Comparison, key: str) -> None:
    """Refuse simulated hours where runs had no clock, and name these alone."""
    if key != HOURS.key:
        return
    problems = [
        Problem(line.row.name, f"{one.folder.path} ran without a clock")
        for line in comparison.lines
        for one in _untimed(line)
    ]
    if not problems:
        return
    left = [line for line in comparison.lines if not _untimed(line)]
    raise InputError(
        f"--over {key}: not all rows can be drawn",
        problems,
        "leave these runs out: name the folder of each other run"
        if left
        else "runs with a block federation.clock have simulated hours",
    )


def _untimed(line: Line) -> list[Run]:
    """A row's runs without a clock."""
    runs = [one for run in line.row.runs for one in run.each]
    return [one for one in runs if one.summary.get(HOURS.key) is None]


def _costs(comparison: Comparison, known: Iterable[str]) -> list[str]:
    """What can be on the axis, simulated hours included where some rows have them."""
    timed = any(not _untimed(line) for line in comparison.lines)
    return list(dict.fromkeys([*known, *([HOURS.key] if timed else [])]))


def _setting(line: Line, key: str) -> float | None:
    """The number at a dotted key of a row's scenario; None where there is none."""
    found = _at(line, key)
    return None if isinstance(found, bool) or not isinstance(found, int | float) else float(found)


def _at(line: Line, key: str) -> Any:
    found: Any = line.row.runs[0].config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _instead(line: Line, key: str) -> str:
    """What is there, where it can be told in a word."""
    found = _at(line, key)
    return "" if found is None or isinstance(found, Mapping) else f", but {typed(found)}"


def _names(comparison: Comparison, key: str, cost: bool) -> list[str]:
    """What each row's line is called: its label, without what is on the axis; of rows of one
    scenario the settings alone."""
    labels = [line.row.name.split(" ") for line in comparison.lines]
    if cost:
        return [" ".join(words) for words in labels]
    labels = [[word for word in words if not word.startswith(f"{key}=")] for words in labels]
    if len({words[0] for words in labels}) == 1 and all(len(words) > 1 for words in labels):
        labels = [words[1:] for words in labels]
    return [" ".join(words) for words in labels]


def picture(drawn: Over) -> Picture:
    """Means over seeds against the axis.

    Bars are the 95 % bootstrap interval over test records where there is one, else one standard
    deviation over seeds.
    """
    rows = [line.row for line in drawn.comparison.lines]
    metric = rows[0].task.main
    label, scale = drawn.label, 1.0
    if drawn.key == HOURS.key:
        unit, scale = time_unit(max(at for points in drawn.lines.values() for at, _ in points))
        label = f"simulated {unit}"
    title = f"{metric.title} over {label}"
    stand_in = all(row.data == "embedded" for row in rows)
    data = ", ".join(sorted({row.data for row in rows}))
    seeds = span([len(row.seeds) for row in rows], "d")
    heading: Any = SimpleNamespace(
        title=f"{data}; seeds: {seeds}", note="generated stand-in images" if stand_in else ""
    )
    figure, (axes,) = frame(heading, title, height=4.4, left=0.85, right=_LEGEND)
    table = []
    for k, (name, points) in enumerate(drawn.lines.items()):
        x = [scale * at for at, _ in points]
        means = [one.mean or 0.0 for _, one in points]
        ends = [_ends(one) for _, one in points]
        style: dict[str, Any] = {
            "color": COLOURS[k % len(COLOURS)],
            "linestyle": STYLES[k // len(COLOURS) % 4],
        }
        axes.plot(x, means, label=_wrapped(name), marker=marker(len(x)), **style)
        for at, (low, high) in zip(x, ends, strict=True):
            axes.plot([at, at], [low, high], color=style["color"], linewidth=1, alpha=0.7)
        table += [
            [name, at, metric.name, one.mean, one.sd, *(one.interval or (None, None)), one.n]
            for at, one in points
        ]
    places = sorted({scale * at for points in drawn.lines.values() for at, _ in points})
    if places[0] > 0 and places[-1] >= _FAR * places[0]:
        _logarithmic(axes, places)
    else:
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_xlabel(label)
    axes.set_ylabel(f"{metric.axis} on the test split")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    told = "; ".join(
        f"{name}: "
        + ", ".join(f"{scale * at:g}: {metric.text(one.mean or 0.0)}" for at, one in points)
        for name, points in drawn.lines.items()
    )
    return Picture(
        "over",
        title,
        "Means over seeds. Bars are the 95 % bootstrap interval over test records, or one standard "
        "deviation over seeds where there is none.",
        f"{told}.",
        png(figure),
        _HEADER,
        table,
    )


def _wrapped(name: str) -> str:
    """A name as the legend has room for it, a line for each of its words."""
    return "\n".join(short(word, _LETTERS) for word in name.split(" "))


def _ends(one: Measure) -> tuple[float, float]:
    """The ends of a point's bar."""
    mean = one.mean or 0.0
    return one.interval or (mean - (one.sd or 0.0), mean + (one.sd or 0.0))


def _logarithmic(axes: Any, places: Sequence[float]) -> None:
    """A logarithmic axis whose ticks are the values there are, if these are few."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    if len(places) <= _TICKS:
        axes.xaxis.set_major_locator(FixedLocator(list(places)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{at:g}" for at in places])
