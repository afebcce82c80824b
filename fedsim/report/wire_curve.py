"""Utility over megabytes: what runs are worth whose models were compressed, as table and picture.

Its points are those of `fedsim.report.privacy_curve`, and are told apart by how models travelled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fedsim.report.drawing import COLOURS, Picture, frame, png
from fedsim.report.privacy_curve import Curve, Method, Point, aligned, spread_words
from fedsim.report.statistics import Measure, measure

HEADER = ("scenario", "wire", "seed", "metric", "value", "mb_up", "mb_down", "data")
"""Columns of curve.csv."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
_LEGEND = 2.4  # inches
_WIDE = 4.0  # Megabytes that differ by more get a logarithmic axis.


@dataclass(frozen=True)
class WirePoint(Point):
    """One finished run of a curve over megabytes.

    Attributes:
        wire: how its models were compressed, in a few words.
    """

    wire: str = "none"


def by_wire(method: Method) -> dict[str, list[Point]]:
    """The points of each way to compress, by their mean megabytes, the least first."""
    found: dict[str, list[Point]] = {}
    for point in sorted(method.points, key=lambda one: one.seed):
        found.setdefault(_wire(point), []).append(point)
    return dict(sorted(found.items(), key=lambda item: _mean(item[1], _total)))


def rows(curve: Curve) -> list[tuple[Any, ...]]:
    """The lines of curve.csv, unrounded; None for an empty cell."""
    return [
        (
            point.scenario,
            wire,
            point.seed,
            curve.metric,
            point.value(curve.metric),
            float(point.summary["mb_up_total"]),
            float(point.summary["mb_down_total"]),
            "embedded" if point.data["source"] == "embedded" else point.data["name"],
        )
        for method in curve.methods
        for wire, points in by_wire(method).items()
        for point in points
    ]


def table(curve: Curve) -> str:
    """The curve as text for a terminal: a line for each scenario and way to compress."""
    one = curve.shown
    title = f"{curve.metric_name} ({one.plain_unit})" if one.plain_unit else curve.metric_name
    lines = [("", "wire", "seeds", title, "MB up", "MB down")]
    lines += [
        (
            method.name,
            wire,
            str(len(points)),
            spread_words(one, measure([point.value(curve.metric) for point in points])),
            f"{_mean(points, _up):.3f}",
            f"{_mean(points, _down):.3f}",
        )
        for method in curve.methods
        for wire, points in by_wire(method).items()
    ]
    return "\n".join([*aligned(lines), *(f"{note}." for note in curve.notes)])


def picture(curve: Curve) -> Picture:
    """Draw the curve: a line for each scenario, from the fewest megabytes to the most."""
    title = f"{curve.metric_name} over megabytes"
    heading: Any = SimpleNamespace(title=_subtitle(curve), note="; ".join(curve.notes))
    figure, panels = frame(heading, title, height=5.2, left=0.85, right=_LEGEND)
    axes: Any = panels[0]
    wires = dict.fromkeys(wire for method in curve.methods for wire in by_wire(method))
    markers = {wire: _MARKERS[k % len(_MARKERS)] for k, wire in enumerate(wires)}
    for k, method in enumerate(curve.methods):
        _draw(axes, curve, method, COLOURS[k % len(COLOURS)], markers)
    sizes = [point.megabytes for point in curve.points]
    if min(sizes) > 0 and max(sizes) > _WIDE * min(sizes):
        axes.set_xscale("log")
        _plain_ticks(axes)
    else:
        axes.set_xlim(0, 1.1 * max([*sizes, 1e-6]))
    unit = f" ({curve.shown.plain_unit})" if curve.shown.plain_unit else ""
    axes.set_ylabel(f"{curve.metric_name} on the test split{unit}")
    axes.set_xlabel("MB sent in the whole run, up and down")
    _legend(axes, curve, markers)
    return Picture(
        "curve",
        title,
        "Means over seeds; bars are one standard deviation. Markers say how models were "
        "compressed, and lines join the points of a scenario.",
        "; ".join(_told(curve, method) for method in curve.methods) + ".",
        png(figure),
        HEADER,
        rows(curve),
    )


def _draw(axes: Any, curve: Curve, method: Method, colour: str, markers: dict[str, str]) -> None:
    """The line of one scenario, a marker for each way to compress."""
    found: list[tuple[str, float, Measure]] = []
    for wire, points in by_wire(method).items():
        values = measure([point.value(curve.metric) for point in points])
        if values.mean is not None:
            found.append((wire, _mean(points, _total), values))
    places, means = [size for _, size, _ in found], [one.mean for *_, one in found]
    axes.plot(places, means, color=colour, linewidth=1.2, alpha=0.6)
    for wire, size, one in found:
        spread = None if one.sd is None else [one.sd]
        style = {"color": colour, "marker": markers[wire], "markersize": 8, "capsize": 3}
        axes.errorbar([size], [one.mean], spread, markeredgecolor="white", zorder=3, **style)


def _legend(axes: Any, curve: Curve, markers: dict[str, str]) -> None:
    """Right of the axes: the scenarios, then the ways to compress."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], linewidth=2.5, label=method.name)
        for k, method in enumerate(curve.methods)
    ]
    grey: dict[str, Any] = {"color": "#555555", "linestyle": "", "markersize": 7}
    lines += [Line2D([], [], marker=one, label=wire, **grey) for wire, one in markers.items()]
    axes.legend(
        handles=lines,
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        frameon=False,
        fontsize=9,
        labelspacing=0.7,
    )


def _plain_ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _wire(point: Point) -> str:
    return point.wire if isinstance(point, WirePoint) else "none"


def _total(point: Point) -> float:
    return point.megabytes


def _up(point: Point) -> float:
    return float(point.summary["mb_up_total"])


def _down(point: Point) -> float:
    return float(point.summary["mb_down_total"])


def _mean(points: list[Point], of: Callable[[Point], float]) -> float:
    return sum(of(point) for point in points) / len(points)


def _subtitle(curve: Curve) -> str:
    """The data, and the seeds."""
    data = ", ".join(dict.fromkeys(str(point.data["name"]) for point in curve.points))
    seeds = sorted({point.seed for point in curve.points})
    listed = ", ".join(map(str, seeds)) if len(seeds) < 7 else f"{seeds[0]} to {seeds[-1]}"
    return f"{data}, {'seed' if len(seeds) == 1 else 'seeds'} {listed}"


def _told(curve: Curve, method: Method) -> str:
    """The means of a scenario, in words."""
    parts = []
    for wire, points in by_wire(method).items():
        mean = measure([point.value(curve.metric) for point in points]).mean
        if mean is not None:
            parts.append(f"{mean:.3f} at {_mean(points, _total):.3g} MB ({wire})")
    return f"{method.name}: {curve.metric_name} {', '.join(parts) or 'undefined'}"
