"""The comparison of methods: scores, differences from a baseline, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fedsim.errors import InputError, Problem
from fedsim.report.choosing import chosen_of, renamed
from fedsim.report.columns import DIFFERENCE, REACH, WIRE, Column
from fedsim.report.costs import Link, megabytes_to_reach, wire_seconds
from fedsim.report.data_labels import CONTENTS
from fedsim.report.many import MANY, TITLES, quantiles
from fedsim.report.pairing import bootstrap, difference, trouble_of, why_unpaired
from fedsim.report.rows import Row
from fedsim.report.statistics import LEVEL, REPLICATES, Measure, measure
from fedsim.report.text import positive_note

if TYPE_CHECKING:
    import pandas

_UNPROVED = "* claimed, not certified: no proof stands behind this epsilon"
_CONTENTS = (
    f"{CONTENTS} 1, 2: one folder, as many records, but not the same ones (their fingerprints "
    "differ)."
)
_EMBEDDED = "data 'embedded': generated stand-in images, not real data."


# In the order and under the names of the paper's table (GDD-FL).
_SCORES = {
    "auc": "AUC",
    "precision": "P",
    "recall": "R",
    "f1": "F1",
    "balanced_accuracy": "bal.acc",
    "pr_auc": "PR-AUC",
    "dice": "Dice",
}
_COSTS = (
    Column("mb_up_total", "mb_up_total", "MB up", "MB", "costs", 3),
    Column("mb_down_total", "mb_down_total", "MB down", "MB", "costs", 3),
    Column("wall_seconds", "wall_seconds", "seconds", "s", "costs", 0),
)


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
) -> Comparison:
    """Compare methods.

    Args:
        rows: the methods, as `fedsim.report.rows.rows_of` groups them.
        baseline: name of the row to take differences from, or words of its label and data that no
            other row has; None is the first row.
        reach: adds the megabytes until the score was first this high, between 0 and 1.
        link: adds the seconds that the messages take on such a link.
        per_site: adds the main score on each site's test records.
        columns: what is shown, in this order; None: all. See `fedsim.report.choosing`.
        names: other names for rows, scenarios and titles of columns.
        left_out: runs that are not in it, and why.

    Raises:
        InputError: no rows, `baseline` names none or several, or there is no such column or name.
    """
    if not rows:
        raise InputError(
            "no finished run to compare", hint="type: fedsim compare runs/<scenario> ..."
        )
    have = [
        name
        for name in _SCORES
        if any(run.value(name) is not None for row in rows for run in row.runs)
    ]
    main = "dice" if "dice" in have and "auc" not in have else "auc"
    title = _SCORES[main]
    base = rows[0] if baseline is None else find_row(rows, baseline)
    have += _parts(rows, main)
    found = [
        Column(name, name, _SCORES.get(name) or _part_title(name), "fraction", "scores", 1, 100.0)
        for name in have
    ]
    sites = _sites(rows, main) if per_site else []
    many = len(sites) >= MANY
    for name in sites:
        title_ = _part_title(name)
        found.append(Column(name, name, title_, "fraction", "scores", 1, 100.0, not many))
    have += sites
    if many:
        for title_ in TITLES:
            key = f"{main}@{title_}"
            name = f"{main}_of_sites_{title_.replace(' ', '').replace('%', 'percent')}"
            found.append(Column(key, name, f"@{title_}", "fraction", "scores", 1, 100.0))
    if len(rows) > 1:
        name = f"{main}_difference"
        found.append(Column(DIFFERENCE, name, f"{title} diff", "fraction", "difference", 1, 100.0))
    found += _COSTS
    if reach is not None:
        name = f"mb_to_{main}_{reach:g}"
        found.append(Column(REACH, name, f"MB to {title} {100 * reach:g}", "MB", "costs", 3))
    if link is not None:
        name = f"wire_seconds_{link.mbit_per_second:g}mbit_{link.latency_ms:g}ms"
        found.append(Column(WIRE, name, "wire s", "s", "costs", 2))

    chosen = None if columns is None else chosen_of(found, rows, columns)
    titles = renamed(rows, found, names or {})
    lines, told = [], []
    for row in rows:
        measures = {name: measure([run.value(name) for run in row.runs]) for name in have}
        if main in measures:
            if trouble := trouble_of(row):
                told.append(f"{row.name}: {trouble}; no interval.")
            else:
                interval = bootstrap(row.runs, main)
                measures[main] = measure([run.value(main) for run in row.runs], interval)
        if many:
            measures |= _spread(row, main, sites)
        for cost in _COSTS:
            spent = [fmean(one.summary[cost.key] for one in run.each) for run in row.runs]
            measures[cost.key] = measure(spent)
        if reach is not None:
            measures[REACH] = measure(
                [
                    megabytes_to_reach(one.rounds, main, reach)
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
            measures[DIFFERENCE] = measure([]) if unpaired else difference(row, base, main)
        lines.append(Line(row, measures, sum(run.failed for run in row.runs), unpaired))
    notes = [*_notes(lines, title, reach, link), *told]
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


def _parts(rows: Sequence[Row], main: str) -> list[str]:
    """Names of further scores: Dice of each structure, the main score on external records."""
    names = _names(rows)
    parts = [name for name in names if name.startswith("dice/") and "@" not in name]
    return parts + [name for name in names if name == f"external_{main}"]


def _part_title(name: str) -> str:
    if name.startswith("external_"):
        return "external"
    return name[name.index("@") :] if "@" in name else name.partition("/")[2].replace("_", " ")


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


def _notes(lines: Sequence[Line], title: str, reach: float | None, link: Link | None) -> list[str]:
    """What must be said about the numbers."""
    notes = ["Metrics in per cent on the test split; mean +- sd over seeds; MB = 10^6 bytes."]
    measures = [m for line in lines for m in line.measures.values()]
    if any(m.interval for m in measures):
        of, by = ("volumes", "site") if title == _SCORES["dice"] else ("records", "class")
        notes.append(
            f"{100 * LEVEL:g}%: bootstrap interval over test {of} "
            f"({REPLICATES} resamples, stratified by {by}) for these seeds' models."
        )
    differences = [line.measures[DIFFERENCE] for line in lines if DIFFERENCE in line.measures]
    if any(contains_zero(one) for one in differences):
        notes.append("~ the interval contains 0: these test records do not tell the two apart.")
    if reach is not None:
        notes.append(
            f"MB to {title} {100 * reach:g}: up and down until a scored round first reached it, "
            "mean over the runs that did (how many)."
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
            notes.append(
                f"† some replies are missing: {line.failed} {rounds} failed ({line.row.name})."
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
    claims = [name for name, one in spent.items() if one is not None and not one.certified]
    return notes + ([f"{_UNPROVED} ({', '.join(claims)})."] if claims else [])


def contains_zero(one: Measure) -> bool:
    """Whether the interval of a difference contains 0."""
    return one.interval is not None and one.interval[0] <= 0 <= one.interval[1]
