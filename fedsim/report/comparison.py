"""The comparison of methods: scores, differences from a baseline, and costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fedsim.errors import InputError, Problem
from fedsim.report.choosing import chosen_of, renamed
from fedsim.report.columns import DIFFERENCE, REACH, WIRE, Column, score_column
from fedsim.report.costs import Link, megabytes_to_reach, wire_seconds
from fedsim.report.data_labels import CONTENTS
from fedsim.report.many import MANY, TITLES, quantiles
from fedsim.report.pairing import Bootstrap, difference, trouble_of, why_unpaired
from fedsim.report.rows import Row
from fedsim.report.statistics import LEVEL, REPLICATES, Measure, measure
from fedsim.report.text import positive_note, without_reply
from fedsim.tasks.facts import EXTERNAL, TaskFacts
from fedsim.tasks.metric import Metric
from fedsim.tasks.words import spoken

if TYPE_CHECKING:
    import pandas

_TRUSTING = (
    "secure sum: epsilon holds only if all clients are honest and mask their answers, so that the "
    "server learns their sum alone"
)
_UNPROVED = "* claimed, not certified: no proof stands behind this epsilon"
_CONTENTS = (
    f"{CONTENTS} 1, 2: one folder, as many records, but not the same ones (their fingerprints "
    "differ)."
)
_EMBEDDED = "data 'embedded': generated stand-in images, not real data."


_COSTS = (
    Column("mb_up_total", "mb_up_total", "MB up", "MB", "costs", 3),
    Column("mb_down_total", "mb_down_total", "MB down", "MB", "costs", 3),
    Column("wall_seconds", "wall_seconds", "seconds", "s", "costs", 0),
)

HOURS = Column("simulated_hours", "simulated_hours", "sim. hours", "h", "costs", 3)
"""Of runs with a clock."""


@dataclass(frozen=True)
class Line:
    """What is said of one row: its measures by column key, and why it has no difference, or ""."""

    row: Row
    measures: dict[str, Measure]
    failed: int
    unpaired: str = ""


@dataclass(frozen=True)
class Comparison:
    """Rows and columns, ready to be printed.

    Printed, it is the table; in a notebook it is shown as one.

    Attributes:
        columns: in the order of print.
        lines: one for each row.
        baseline: the row that differences are taken from; None for a single row.
        notes: what a reader must know about the numbers, a sentence or two each.
        chosen: names of the columns that are shown, in this order; None: all.
        titles: other titles for columns, by the usual ones.
        left_out: runs that are not in it, and why.
    """

    columns: list[Column]
    lines: list[Line]
    baseline: Row | None
    notes: list[str]
    chosen: tuple[str, ...] | None = None
    titles: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()

    def text(self, width: int = 120) -> str:
        """As `fedsim compare` prints it, in so many columns."""
        from fedsim.report.table import text

        return text(self, width)

    def csv(self) -> str:
        """As tidy CSV: a line for each row and quantity, unrounded."""
        from fedsim.report.export import csv_text

        return csv_text(self)

    def latex(self) -> str:
        """As a LaTeX table with the rules of booktabs."""
        from fedsim.report.export import latex

        return latex(self)

    def markdown(self) -> str:
        """As a Markdown table."""
        from fedsim.report.export import markdown

        return markdown(self)

    def frame(self) -> pandas.DataFrame:
        """The lines of the CSV as a DataFrame; needs pandas."""
        from fedsim.report.frames import comparison_frame

        return comparison_frame(self)

    def record(self) -> dict[str, Any]:
        """Plain values: what `fedsim compare --json` prints."""
        from fedsim.report.export import record

        return record(self)

    @property
    def about_differences(self) -> str:
        """What differences are, of whom and in which unit."""
        base = "" if self.baseline is None else self.baseline.name
        of = next((one.points for one in self.columns if one.key == DIFFERENCE), "")
        told = f"minus {base}: same seeds, same test records"
        return f"{told}, in {of}" if of else told

    def shows(self, name: str) -> bool:
        """Whether a column is shown."""
        return self.chosen is None or name in self.chosen

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        from fedsim.report.snippets import comparison_html

        return comparison_html(self)


def compare(
    rows: Sequence[Row],
    *,
    baseline: str | None = None,
    reach: float | None = None,
    link: Link | None = None,
    per_site: bool = False,
    columns: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    left_out: Sequence[str] = (),
    intervals: bool = True,
) -> Comparison:
    """Compare methods.

    Args:
        rows: the methods, as `fedsim.report.rows.rows_of` groups them.
        baseline: name of the row to take differences from, or words of its label and data that no
            other row has; None is the first row.
        reach: adds the megabytes until the score was first this good, unscaled: 0.75, or 24 dB.
        link: adds the seconds that the messages take on such a link.
        per_site: adds the main score on each site's test records.
        columns: what is shown, in this order; None: all. See `fedsim.report.choosing`.
        names: other names for rows, scenarios and titles of columns.
        left_out: runs that are not in it, and why.
        intervals: whether there are any over test records. Of many rows they take minutes.

    Raises:
        InputError: no rows, `baseline` names none or several, or there is no such column or name.
    """
    if not rows:
        raise InputError(
            "no finished run to compare", hint="type: fedsim compare runs/<scenario> ..."
        )
    tasks = {row.task.headline: row.task for row in rows}
    have = [
        name
        for name in dict.fromkeys(name for task in tasks.values() for name in task.in_tables)
        if any(run.value(name) is not None for row in rows for run in row.runs)
    ]
    # Of runs of several tasks, the one that is told first.
    task = rows[0].task
    main, metric = task.headline, task.main
    title = metric.short or metric.title
    if reach is not None and metric.unit == "%" and reach > 1:
        percent = f" (did you mean {reach / 100:g}?)" if reach <= 100 else ""
        problem = Problem("--reach", f"must lie above 0 and not above 1{percent}")
        raise InputError("the options do not fit", [problem])
    base = rows[0] if baseline is None else find_row(rows, baseline)
    have += _parts(rows, task)
    found = [
        score_column(_metric(tasks.values(), name), name, _part_title(tasks.values(), name))
        for name in have
    ]
    sites = _sites(rows, main) if per_site else []
    many = len(sites) >= MANY
    for name in sites:
        found.append(score_column(metric, name, name[name.index("@") :], printed=not many))
    have += sites
    if many:
        for title_ in TITLES:
            key = f"{main}@{title_}"
            name = f"{main}_of_sites_{title_.replace(' ', '').replace('%', 'percent')}"
            found.append(score_column(metric, key, f"@{title_}", name=name))
    if len(rows) > 1:
        name = f"{main}_difference"
        column = score_column(metric, DIFFERENCE, f"{title} diff", name=name)
        found.append(replace(column, group="difference"))
    runs = [one for row in rows for run in row.runs for one in run.each]
    timed = all(one.summary.get(HOURS.key) is not None for one in runs)
    costs = (*_COSTS, HOURS) if timed else _COSTS
    found += costs
    if reach is not None:
        name = f"mb_to_{main}_{reach:g}"
        aim = f"MB to {title} {metric.scale * reach:g}"
        found.append(Column(REACH, name, aim, "MB", "costs", 3, better="lower"))
    if link is not None:
        name = f"wire_seconds_{link.mbit_per_second:g}mbit_{link.latency_ms:g}ms"
        found.append(Column(WIRE, name, "wire s", "s", "costs", 2))

    chosen = None if columns is None else chosen_of(found, rows, columns)
    titles = renamed(rows, found, names or {})
    lines, told, resampled = [], [], Bootstrap() if intervals else None
    for row in rows:
        measures = {name: measure([run.value(name) for run in row.runs]) for name in have}
        if main in measures and resampled is not None:
            if trouble := trouble_of(row):
                told.append(f"{row.name}: {trouble}; no interval.")
            else:
                interval = resampled.interval(row.runs, main)
                measures[main] = measure([run.value(main) for run in row.runs], interval)
        if many:
            measures |= _spread(row, main, sites)
        for cost in costs:
            spent = [fmean(one.summary[cost.key] for one in run.each) for run in row.runs]
            measures[cost.key] = measure(spent)
        if reach is not None:
            measures[REACH] = measure(
                [
                    megabytes_to_reach(one.rounds, metric, reach)
                    for run in row.runs
                    for one in run.each
                ]
            )
        if link is not None:
            measures[WIRE] = measure(
                [wire_seconds(one.traffic, link) for run in row.runs for one in run.each]
            )
        unpaired = ""
        if row is not base:
            unpaired = why_unpaired(row, base, main)
            none = measure([])
            measures[DIFFERENCE] = none if unpaired else difference(row, base, main, resampled)
        lines.append(Line(row, measures, sum(run.failed for run in row.runs), unpaired))
    notes = [*_notes(lines, found, metric, reach, link), *told]
    base_shown = base if len(rows) > 1 else None
    return Comparison(found, lines, base_shown, notes, chosen, titles, tuple(left_out))


def _spread(row: Row, main: str, sites: Sequence[str]) -> dict[str, Measure]:
    """The quantiles over sites of the main score, means over runs."""
    found: list[Sequence[float | None]] = []
    for run in row.runs:
        known = [value for name in sites if (value := run.value(name)) is not None]
        found.append(quantiles(known).tolist() if known else [None] * len(TITLES))
    return {
        f"{main}@{title}": measure([each[k] for each in found]) for k, title in enumerate(TITLES)
    }


def _names(rows: Sequence[Row]) -> list[str]:
    """Names of all metrics."""
    return list(
        dict.fromkeys(name for row in rows for run in row.runs for name in run.summary["metrics"])
    )


def _sites(rows: Sequence[Row], main: str) -> list[str]:
    """Names of the main score on each site's test records."""
    return [name for name in _names(rows) if name.startswith(f"{main}@")]


def _parts(rows: Sequence[Row], task: TaskFacts) -> list[str]:
    """Names of further scores: the main one of each part of records, and on external records."""
    names = _names(rows)
    parts = [name for name in task.parts(names) if name not in task.in_tables]
    return parts + [name for name in names if name == f"{EXTERNAL}{task.headline}"]


def _metric(tasks: Iterable[TaskFacts], name: str) -> Metric:
    """What a task says of a score."""
    known = [task for task in tasks if name in task.in_tables]
    return (known or list(tasks))[0].metric(name)


def _part_title(tasks: Iterable[TaskFacts], name: str) -> str:
    """Above the column of a part; "" for a whole score."""
    if name.startswith(EXTERNAL):
        return "external"
    whole = any(name in task.in_tables for task in tasks)
    return "" if whole else spoken(name.partition("/")[2])


def find_row(rows: Sequence[Row], words: str) -> Row:
    """The row with this label, or the only one that has all these words in label and data."""
    found = [row for row in rows if words in (row.name, row.label)]
    if len(found) != 1:
        wanted = set(words.split())
        found = [row for row in rows if wanted <= {*row.label.split(), row.data}]
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"--baseline {words!r} is {'no row' if not found else 'several rows'} of this table",
        [Problem("", f"{row.label} ({row.data})") for row in found or rows],
        hint="type a row's label, or words of its label and data that no other row has",
    )


def _notes(
    lines: Sequence[Line],
    columns: Sequence[Column],
    metric: Metric,
    reach: float | None,
    link: Link | None,
) -> list[str]:
    """What must be said about the numbers."""
    title = metric.short or metric.title
    scores = [one for one in columns if one.group == "scores"]
    share = [one for one in scores if one.spoken == "per cent"]
    # The others name their unit above their columns.
    unit = " in per cent" if scores and len(share) == len(scores) else ""
    if share and not unit:
        unit = f" ({', '.join(one.title for one in share)} in per cent)"
    notes = [f"Metrics{unit} on the test split; mean +- sd over seeds; MB = 10^6 bytes."]
    if less := [one.title for one in scores if one.better == "lower"]:
        notes.append(f"lower is better: {', '.join(less)}.")
    if short := [f"{one.title} {one.long}" for one in scores if one.long and one.printed]:
        notes.append(f"{'; '.join(short)}.")
    measures = [m for line in lines for m in line.measures.values()]
    if any(m.interval for m in measures):
        of = {line.row.task.records for line in lines}
        files = [run.predictions for line in lines for run in line.row.runs]
        by = {one.strata_are for one in files if one is not None}
        notes.append(
            f"{100 * LEVEL:g}%: bootstrap interval over test "
            f"{'records' if of != {'volumes'} else 'volumes'} "
            f"({REPLICATES} resamples, stratified by {' or '.join(sorted(by))}) for these seeds' "
            "models."
        )
    differences = [line.measures[DIFFERENCE] for line in lines if DIFFERENCE in line.measures]
    if any(contains_zero(one) for one in differences):
        notes.append("~ the interval contains 0: these test records do not tell the two apart.")
    if reach is not None:
        notes.append(
            f"MB to {title} {metric.scale * reach:g}: up and down until a scored round first "
            "reached it, mean over the runs that did (how many)."
        )
    if link is not None:
        notes.append(
            f"wire s: {link.mbit_per_second:g} Mbit/s and {link.latency_ms:g} ms a message for "
            "each client, clients at the same time; computation is not included."
        )
    notes += _privacy_notes(lines)
    for line in lines:
        models = max([run.predictions.models for run in line.row.runs if run.predictions] or [1])
        if models > 1:
            notes.append(
                f"{line.row.name}: each of {models} clients has its own model; metrics are means "
                "over clients."
            )
        if count := len(line.row.runs[0].folds):
            notes.append(
                f"{line.row.name}: cross-validated; scores and costs are means over {count} folds."
            )
        if line.failed:
            rounds = "client-round" if line.failed == 1 else "client-rounds"
            happened = without_reply(one for run in line.row.runs for one in run.failures)
            notes.append(
                f"† some replies are missing: {line.failed} {rounds} {happened} ({line.row.name})."
            )
    positive = {line.row.name: line.row.runs[0].data.get("positive") for line in lines}
    known = {one for one in positive.values() if isinstance(one, str)}
    if len(known) == 1:
        notes.append(f"{positive_note(*known)}.")
    elif known:
        told = ", ".join(f"{name}: {one}" for name, one in positive.items() if one)
        notes.append(f"the positive class is not the same in all rows: {told}.")
    outside = [run.data.get("external") for line in lines for run in line.row.runs]
    if len({(one["fingerprint"], *one["sites"]) for one in outside if one}) > 1:
        notes.append("external: not the same external records in all rows.")
    if any(f"{CONTENTS} 1" in line.row.label for line in lines):
        notes.append(_CONTENTS)
    if any(line.row.data == "embedded" for line in lines):
        notes.append(_EMBEDDED)
    return notes


def _privacy_notes(lines: Sequence[Line]) -> list[str]:
    """What the columns of privacy say, and of which rows they say too much."""
    spent = {line.row.name: line.row.privacy for line in lines}
    if not any(spent.values()):
        return []
    notes = [
        "epsilon: of the whole run, the largest of its clients and of the seeds; unit: whose "
        "contents it hides."
    ]
    trusting = [n for n, one in spent.items() if one is not None and one.trust == "secure_sum"]
    if trusting:
        notes.append(f"{_TRUSTING} ({', '.join(trusting)}).")
    claims = [name for name, one in spent.items() if one is not None and not one.certified]
    return notes + ([f"{_UNPROVED} ({', '.join(claims)})."] if claims else [])


def contains_zero(one: Measure) -> bool:
    """Whether the interval of a difference contains 0."""
    return one.interval is not None and one.interval[0] <= 0 <= one.interval[1]
