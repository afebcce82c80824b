"""Utility over epsilon: the numbers behind a privacy curve, and its table.

`fedsim.report.privacy_picture` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fedsim.errors import InputError, Problem
from fedsim.privacy.accounting import UNIT_NAMES
from fedsim.report.record import NUMBER
from fedsim.report.statistics import Measure, measure
from fedsim.tasks.facts import TaskFacts
from fedsim.tasks.metric import Metric

HEADER = (
    "scenario",
    "epsilon",
    "seed",
    "metric",
    "value",
    "mb_up",
    "mb_down",
    "audited",
    "audit",
    "epsilon_reported",
    "certified",
    "data",
    "unit",
    "delta",
)
"""Columns of curve.csv."""


@dataclass(frozen=True)
class Point:
    """One finished run of a curve.

    Attributes:
        scenario: its name.
        epsilon: the target; infinite: without privacy.
        seed: of the run.
        reference: the scenario has no privacy block: it is a line for all epsilons.
        summary: summary.json.
        data: the entry `data` of run.json.
        told: the entry `task` of run.json; None where an older fedsim wrote it.
    """

    scenario: str
    epsilon: float
    seed: int
    reference: bool
    summary: Mapping[str, Any] = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    told: Mapping[str, Any] | None = field(default=None, repr=False)

    @cached_property
    def task(self) -> TaskFacts:
        """What was learned, and how its metrics are told."""
        return TaskFacts.read({"task": self.told, "data": self.data}, self.summary["metrics"])

    def value(self, metric: str) -> float | None:
        """The metric of the final model on the test split."""
        return _number(self.summary["metrics"].get(metric))

    @property
    def megabytes(self) -> float:
        """MB (10^6 bytes) sent in the whole run, up and down."""
        return float(self.summary["mb_up_total"] + self.summary["mb_down_total"])

    @property
    def audited(self) -> float | None:
        """The lower bound on epsilon that the run's audit found; None without an audit."""
        return _number(self._audit.get("epsilon_lower"))

    @property
    def verdict(self) -> str | None:
        """What the run's audit found, in a few words; None without an audit."""
        if not self._audit:
            return None
        if self._audit.get("violation"):
            return "violation"
        return "claim above cap" if self._audit.get("claim_above_cap") else "consistent"

    @property
    def unit(self) -> str | None:
        """Whose epsilon it is: "record", "patient" or "client"; None without privacy."""
        return self.summary.get("unit") if math.isfinite(self.epsilon) else None

    @property
    def delta(self) -> float | None:
        """The delta of epsilon; None without privacy."""
        return _number(self.summary.get("delta")) if math.isfinite(self.epsilon) else None

    @property
    def _audit(self) -> Mapping[str, Any]:
        audit = self.summary.get("audit")
        return audit if isinstance(audit, Mapping) else {}

    @property
    def certified(self) -> bool:
        """Whether a proof stands behind epsilon."""
        return bool(self.summary.get("certified"))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, NUMBER) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Method:
    """One scenario of a curve: a line over epsilon, or a level line."""

    name: str
    reference: bool
    points: list[Point]

    @cached_property
    def levels(self) -> dict[float, list[Point]]:
        """The points of each epsilon, ascending; an infinite one comes last."""
        found: dict[float, list[Point]] = {}
        for point in sorted(self.points, key=lambda one: (one.epsilon, one.seed)):
            found.setdefault(point.epsilon, []).append(point)
        return found

    @property
    def certified(self) -> bool:
        """Whether a proof stands behind every epsilon."""
        return all(one.certified for one in self.points if math.isfinite(one.epsilon))

    @property
    def told(self) -> str:
        """Its name, and whom its epsilon trusts where it does."""
        trusts = any(one.summary.get("trust") == "secure_sum" for one in self.points)
        return f"{self.name} (secure sum)" if trusts else self.name

    @property
    def whose(self) -> str:
        """Whose epsilon it is, in words, such as "patient or lesion"; "" where nothing says so."""
        units = dict.fromkeys(one.unit for one in self.points)
        return ", ".join(UNIT_NAMES[unit] for unit in units if unit in UNIT_NAMES)

    def measures(self, of: Callable[[Point], float | None]) -> dict[float, Measure]:
        """Mean and spread over seeds at each epsilon where there is a value."""
        found = {e: measure([of(one) for one in points]) for e, points in self.levels.items()}
        return {epsilon: one for epsilon, one in found.items() if one.n}


@dataclass(frozen=True)
class Curve:
    """The finished runs of a curve, and the metric that it shows.

    Attributes:
        methods: in the order of the command line.
        metric: name of the metric, as in summary.json.
        expected: runs that the curve would have, were all of them finished.
    """

    methods: list[Method]
    metric: str
    expected: int

    @property
    def points(self) -> list[Point]:
        """All points, method by method."""
        return [point for method in self.methods for point in method.points]

    @property
    def metric_name(self) -> str:
        """The metric as a reader calls it."""
        return self.task.title(self.metric)

    @property
    def shown(self) -> Metric:
        """The metric."""
        return self.task.metric(self.metric)

    @property
    def task(self) -> TaskFacts:
        """What was learned, by the first run that has the metric."""
        having = (one.task for one in self.points if one.value(self.metric) is not None)
        return next(having, self.points[0].task)

    @property
    def whose(self) -> str:
        """Whose epsilon it is, in words, where that is the same for all methods; else ""."""
        units = {method.whose for method in self.methods} - {""}
        return units.pop() if len(units) == 1 else ""

    def told(self, method: Method, between: str = ", ") -> str:
        """A method's name, and whose its epsilon is, where methods differ in that."""
        apart = method.whose and not self.whose
        return f"{method.told}{between}for every {method.whose}" if apart else method.told

    @property
    def notes(self) -> list[str]:
        """What the picture must say beside its lines."""
        points = self.points
        notes = []
        if any(point.data["source"] == "embedded" for point in points):
            notes.append("embedded stand-in: generated images, not real data")
        if len({point.data["fingerprint"] for point in points}) > 1:
            notes.append("not all lines are of the same data")
        if any(method.told != method.name for method in self.methods):
            notes.append(
                "secure sum: epsilon holds only if all clients are honest and mask their answers"
            )
        if len({point.seed for point in points}) == 1:
            notes.append("one seed: how much a value spreads is not known")
        if missing := self.expected - len(points):
            notes.append(f"{missing} of {self.expected} runs are missing")
        return notes

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The lines of curve.csv, unrounded; None for an empty cell."""
        return [
            (
                point.scenario,
                point.epsilon,
                point.seed,
                self.metric,
                point.value(self.metric),
                float(point.summary["mb_up_total"]),
                float(point.summary["mb_down_total"]),
                point.audited,
                point.verdict,
                _number(point.summary.get("epsilon")),
                point.certified,
                "embedded" if point.data["source"] == "embedded" else point.data["name"],
                point.unit,
                point.delta,
            )
            for method in self.methods
            for points in method.levels.values()
            for point in points
        ]


def curve_of(points: Sequence[Point], metric: str | None = None, expected: int = 0) -> Curve:
    """Group finished runs by method.

    Args:
        points: at least one.
        metric: name of a metric; None: the task's headline.
        expected: runs that there would be, were all finished; at least those there are.

    Raises:
        InputError: no run has a value of the metric.
    """
    known = sorted(
        {name for one in points for name in one.summary["metrics"] if one.value(name) is not None}
    )
    headlines = dict.fromkeys(one.task.headline for one in points)
    has = [name for name in headlines if name in known]
    chosen = metric or next(iter(has or headlines))
    if chosen not in known:
        raise InputError(
            f"no run of the curve has a value of the metric {chosen!r}",
            [Problem("their metrics", ", ".join(known) or "none")],
            hint="type: --metric and one of these",
        )
    names = dict.fromkeys(point.scenario for point in points)
    methods = []
    for name in names:
        own = [point for point in points if point.scenario == name]
        methods.append(Method(name, own[0].reference, own))
    return Curve(methods, chosen, max(expected, len(points)))


def table(curve: Curve) -> str:
    """The curve as text for a terminal: a line for each method and epsilon."""
    one = curve.shown
    title = f"{curve.metric_name} ({one.plain_unit})" if one.plain_unit else curve.metric_name
    lines = [("", "epsilon", "seeds", title, "MB up", "MB down", "audited")]
    for method in curve.methods:
        for epsilon, points in method.levels.items():
            lines.append(
                (
                    curve.told(method) + ("" if method.certified else " (not certified)"),
                    "none" if math.isinf(epsilon) else f"{epsilon:g}",
                    str(len(points)),
                    spread_words(one, measure([point.value(curve.metric) for point in points])),
                    f"{measure([point.summary['mb_up_total'] for point in points]).mean:.3f}",
                    f"{measure([point.summary['mb_down_total'] for point in points]).mean:.3f}",
                    _audited(points),
                )
            )
    whose = [f"epsilon is for every {curve.whose}"] if curve.whose else []
    return "\n".join([*aligned(lines), *(f"{note}." for note in [*whose, *curve.notes])])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines, the first of which is its head: names to the left, all else to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return text


def _audited(points: Sequence[Point]) -> str:
    """The largest bound that audits found, and what else they did."""
    bounds = [bound for point in points if (bound := point.audited) is not None]
    verdicts = {point.verdict for point in points}
    found = f">= {max(bounds):.2f}" if bounds else "-"
    for worth_saying in ("violation", "claim above cap"):
        found += f" ({worth_saying})" if worth_saying in verdicts else ""
    return found


def spread_words(metric: Metric, one: Measure) -> str:
    """A mean and its spread over seeds, as the metric is told."""
    if one.mean is None:
        return "-"
    return metric.number(one.mean) + (f"+-{metric.number(one.sd)}" if one.sd is not None else "")
