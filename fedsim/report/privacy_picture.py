"""The picture of a privacy curve: utility over epsilon above, megabytes below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from fedsim.report.drawing import ALARM, COLOURS, Picture, frame, png
from fedsim.report.privacy_curve import HEADER, Curve, Method, Point
from fedsim.report.statistics import Measure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LEGEND = 2.95  # inches
_LABEL_APART = 0.06  # of the axis, between the labels of two epsilons
# A bound this many times below the smallest epsilon stands at the left border.
_FARTHEST = 4.0
# How audited bounds are marked, and what the legend says of them.
_BOUNDS: dict[str, tuple[dict[str, Any], str]] = {
    "inside": (
        {"marker": "|", "markersize": 13, "markeredgewidth": 2, "linestyle": ""},
        "audited lower bound of ε",
    ),
    "outside": (
        {"marker": "<", "markersize": 6, "linestyle": ""},
        "audited bound left of the axis",
    ),
    "above": (
        {
            "marker": "X",
            "markersize": 9,
            "markeredgecolor": "white",
            "linestyle": "",
            "color": ALARM,
        },
        "audited bound above ε",
    ),
    "failed": (
        {
            "marker": "P",
            "markersize": 9,
            "markeredgecolor": "white",
            "linestyle": "",
            "color": ALARM,
        },
        "audited bound, and a check failed",
    ),
    "capped": (
        {"marker": "d", "markersize": 7, "markerfacecolor": "white", "linestyle": ""},
        "audited bound, ε above its cap",
    ),
}
_LEAST_HEIGHT = 0.1  # of the axis of a fraction, such as an AUC
_WIDE = 20.0  # Megabytes that differ by more get a logarithmic axis.


def picture(curve: Curve) -> Picture:
    """Draw the curve.

    Raises:
        ValueError: no method has a point at a finite epsilon.
    """
    finite = sorted({e for one in curve.methods for e in one.levels if math.isfinite(e)})
    if not finite:
        raise ValueError("A privacy curve needs a point at a finite epsilon, but there is none.")
    scale = _Scale(curve, finite)
    title = f"{curve.metric_name} over epsilon"
    # Here the title of a run names the data instead.
    heading: Any = SimpleNamespace(title=_subtitle(curve), note="; ".join(curve.notes))
    figure, panels = frame(
        heading, title, rows=2, height=6.8, left=0.85, right=_LEGEND, between=0.55
    )
    utility: Any
    megabytes: Any
    utility, megabytes = panels
    utility.get_gridspec().set_height_ratios([2.2, 1])
    for axes in (utility, megabytes):
        axes.set_position(axes.get_subplotspec().get_position(figure))
        scale.apply(axes)
    for k, method in enumerate(curve.methods):
        _draw_utility(utility, curve, method, k, scale)
        _draw_megabytes(megabytes, method, k, scale)
    _draw_audits(utility, curve, scale)
    _not_magnified(utility, curve)
    unit = f" ({curve.shown.plain_unit})" if curve.shown.plain_unit else ""
    utility.set_ylabel(f"{curve.metric_name} on the test split{unit}")
    chance = curve.shown.chance
    if chance is not None and utility.get_ylim()[0] <= chance <= utility.get_ylim()[1]:
        utility.axhline(chance, color="#999999", linewidth=1, label="chance")
    _megabyte_axis(megabytes, curve)
    ends = "smaller: more private" + ("; ∞: without privacy" if scale.without else "")
    whose = f" for every {curve.whose}" if curve.whose else ""
    megabytes.set_xlabel(f"ε{whose}, aimed at ({ends})")
    _legend(utility, curve, scale)
    return Picture(
        "curve",
        title,
        "Means over seeds; bands and bars are one standard deviation. Lower bounds on epsilon that "
        "an audit found stand as ticks left of their points.",
        "; ".join(_told(curve, method) for method in curve.methods) + ".",
        png(figure),
        HEADER,
        curve.rows,
    )


class _Scale:
    """The axis of epsilon: logarithmic, then a break and a tick for no privacy at all."""

    def __init__(self, curve: Curve, finite: Sequence[float]) -> None:
        self.finite = finite
        first, last = finite[0], finite[-1]
        bounds = [b for one in curve.points if (b := one.audited) is not None and b > 0]
        self.least = max(min([first, *bounds]), first / _FARTHEST)
        without = any(
            math.isinf(epsilon)
            for method in curve.methods
            if not method.reference
            for epsilon in method.levels
        )
        self.without = last * max(2.0, (last / self.least) ** 0.2) if without else None
        right = self.without or last
        margin = (right / self.least) ** 0.05 if right > self.least else 1.5
        self.limits = self.least / margin, right * margin

    def place(self, epsilon: float) -> float:
        """Where epsilon stands on the axis."""
        if math.isfinite(epsilon):
            return epsilon
        assert self.without is not None
        return self.without

    def apply(self, axes: Any) -> None:
        """Set limits, ticks and the break."""
        from matplotlib.ticker import FixedLocator, NullLocator

        axes.set_xscale("log")
        axes.set_xlim(*self.limits)
        axes.xaxis.set_minor_locator(NullLocator())
        places = [*self.finite, *([self.without] if self.without else [])]
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.set_xticklabels([*self._labels(), *(["∞"] if self.without else [])])
        if self.without:
            middle = math.sqrt(self.finite[-1] * self.without)
            apart = (self.limits[1] / self.limits[0]) ** 0.006
            ends = [middle / apart, middle * apart]
            below = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 4}
            axes.plot(ends, [0, 0], color="white", linewidth=3, **below)
            slash = [(-1, -2), (1, 2)]
            style = {"marker": slash, "markersize": 9, "linestyle": "", "color": "black"}
            axes.plot(ends, [0, 0], **style, **below)

    def _labels(self) -> list[str]:
        """The finite epsilons, without those that would touch the one before."""
        width = math.log(self.limits[1] / self.limits[0])
        labels, shown = [], -math.inf
        for epsilon in self.finite:
            at = math.log(epsilon) / width
            labels.append(f"{epsilon:g}" if at - shown >= _LABEL_APART else "")
            shown = at if labels[-1] else shown
        return labels


def _draw_utility(axes: Any, curve: Curve, method: Method, k: int, scale: _Scale) -> None:
    measures = method.measures(lambda point: point.value(curve.metric))
    colour = COLOURS[k % len(COLOURS)]
    without = measures.get(math.inf)
    if without is not None and without.mean is not None:
        axes.axhline(without.mean, color=colour, linestyle="--", linewidth=1.2, zorder=1.5)
        if method.reference and without.sd:
            low, high = without.mean - without.sd, without.mean + without.sd
            axes.axhspan(low, high, color=colour, alpha=0.08, linewidth=0)
    if method.reference:
        return
    finite = {e: one for e, one in measures.items() if math.isfinite(e)}
    means, sds = _means(finite), [one.sd or 0.0 for one in finite.values()]
    if len(finite) > 1 and any(sds):
        lower, upper = (
            [mean + side * sd for mean, sd in zip(means, sds, strict=True)] for side in (-1, 1)
        )
        axes.fill_between(list(finite), lower, upper, color=colour, alpha=0.15, linewidth=0)
    style = _points_style(method, k)
    axes.plot(list(finite), means, **style | {"linewidth": 1.8})
    # A point alone has no band.
    alone = {e: one for e, one in measures.items() if math.isinf(e) or len(finite) == 1}
    for epsilon, one in alone.items():
        spread = None if one.sd is None else [one.sd]
        bar = style | {"linestyle": "", "capsize": 4}
        axes.errorbar([scale.place(epsilon)], [one.mean], spread, **bar)


def _draw_audits(axes: Any, curve: Curve, scale: _Scale) -> None:
    """A tick at each audited bound, as high as its point, and a thin line between the two."""
    for k, method in enumerate(curve.methods):
        means = method.measures(lambda point: point.value(curve.metric))
        for epsilon, points in method.levels.items():
            if epsilon not in means or math.isinf(epsilon):
                continue
            height = means[epsilon].mean
            for point in points:
                kind = _kind(point, scale)
                if kind is None or point.audited is None:
                    continue
                at = scale.limits[0] if point.audited < scale.least else point.audited
                style = {"color": COLOURS[k % len(COLOURS)]} | _BOUNDS[kind][0]
                thin = {"color": style["color"], "linewidth": 0.7, "alpha": 0.6}
                axes.plot([at, epsilon], [height] * 2, **thin)
                axes.plot([at], [height], **style, clip_on=False, zorder=4)


def _not_magnified(axes: Any, curve: Curve) -> None:
    """Give fractions an axis of a tenth at least: what two runs differ by looks no larger."""
    if curve.shown.plain_unit:
        return
    low, high = axes.get_ylim()
    if (missing := _LEAST_HEIGHT - (high - low)) > 0:
        axes.set_ylim(low - missing / 2, high + missing / 2)


def _kind(point: Point, scale: _Scale) -> str | None:
    """Which of `_BOUNDS` the audited bound of a point is; None without one."""
    if point.audited is None:
        return None
    if point.audited > point.epsilon:
        return "above"
    if point.verdict == "violation":
        return "failed"
    if point.verdict == "claim above cap":
        return "capped"
    return "outside" if point.audited < scale.least else "inside"


def _draw_megabytes(axes: Any, method: Method, k: int, scale: _Scale) -> None:
    means = method.measures(lambda point: point.megabytes)
    style = _points_style(method, k)
    if method.reference:
        level = means[math.inf].mean
        axes.axhline(level, color=style["color"], linestyle="--", linewidth=1.2)
        return
    # Where two methods send as much, the larger marker shows behind the smaller one.
    style |= {"markersize": max(9.5 - 2 * k, 4), "linewidth": max(2.6 - 0.7 * k, 1)}
    finite = {e: one for e, one in means.items() if math.isfinite(e)}
    axes.plot(list(finite), _means(finite), **style)
    if math.inf in means:
        at = [scale.place(math.inf)]
        axes.plot(at, [means[math.inf].mean], **style | {"linestyle": ""})


def _means(measures: dict[float, Measure]) -> list[float]:
    return [one.mean for one in measures.values() if one.mean is not None]


def _points_style(method: Method, k: int) -> dict[str, Any]:
    """Colour and marker of a method; hollow where no proof stands behind epsilon."""
    colour = COLOURS[k % len(COLOURS)]
    return {
        "color": colour,
        "marker": _MARKERS[k % len(_MARKERS)],
        "markersize": 6,
        "markerfacecolor": colour if method.certified else "white",
        "zorder": 3,
    }


def _megabyte_axis(axes: Any, curve: Curve) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    sizes = [point.megabytes for point in curve.points]
    positive = [size for size in sizes if size > 0]
    if positive and max(positive) > _WIDE * min(positive):
        if len(positive) == len(sizes):
            axes.set_yscale("log")
        else:
            axes.set_yscale("symlog", linthresh=min(positive))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.15 * max([*positive, 1e-6]))
    axes.set_ylabel("MB sent, up\nand down")


def _legend(axes: Any, curve: Curve, scale: _Scale) -> None:
    """Right of the axes: the methods, then what the marks mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for k, method in enumerate(curve.methods):
        colour = COLOURS[k % len(COLOURS)]
        if method.reference:
            label = f"{method.name}\n(reference, no privacy)"
            handles.append(Line2D([], [], color=colour, linestyle="--", label=label))
        else:
            label = curve.told(method, "\n")
            label += "" if method.certified else "\n(claimed, not certified)"
            handles.append(Line2D([], [], **_points_style(method, k), label=label))
    marks: list[Any] = []
    curves = [method for method in curve.methods if not method.reference]
    if any(math.inf in method.levels for method in curves):
        marks.append(Line2D([], [], color="#555555", linestyle="--", label="without privacy"))
    if any(len(points) > 1 for method in curve.methods for points in method.levels.values()):
        marks.append(Patch(color="#555555", alpha=0.25, label="± 1 sd over seeds"))
    kinds = {_kind(point, scale) for point in curve.points if math.isfinite(point.epsilon)}
    marks += [
        Line2D([], [], **{"color": "#555555"} | mark, label=label)
        for kind, (mark, label) in _BOUNDS.items()
        if kind in kinds
    ]
    marks += [line for line in axes.get_lines() if line.get_label() == "chance"]
    axes.legend(
        handles=[*handles, *marks],
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        frameon=False,
        fontsize=9,
        labelspacing=0.7,
    )


def _subtitle(curve: Curve) -> str:
    """The data, the seeds and delta."""
    points = curve.points
    data = ", ".join(dict.fromkeys(str(point.data["name"]) for point in points))
    seeds = sorted({point.seed for point in points})
    listed = ", ".join(map(str, seeds)) if len(seeds) < 7 else f"{seeds[0]} to {seeds[-1]}"
    deltas = {d for point in points if (d := point.delta) is not None}
    delta = [f"delta {d:g}" for d in deltas] if len(deltas) == 1 else []
    return ", ".join([data, f"{'seed' if len(seeds) == 1 else 'seeds'} {listed}", *delta])


def _told(curve: Curve, method: Method) -> str:
    """The means of a method, in words."""
    means = method.measures(lambda point: point.value(curve.metric))
    parts = [
        f"{one.mean:.3f} " + ("without privacy" if math.isinf(e) else f"at epsilon {e:g}")
        for e, one in means.items()
    ]
    return f"{method.name}: {curve.metric_name} {', '.join(parts) or 'undefined'}"
