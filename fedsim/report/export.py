"""A comparison as files: tidy CSV for programs, LaTeX for papers, Markdown for README files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from fedsim.report.columns import DIFFERENCE
from fedsim.report.comparison import Comparison
from fedsim.report.csv_file import csv_bytes
from fedsim.report.rows import Row, Spent
from fedsim.report.table import label, printed
from fedsim.terminal.printing import harmless

CSV_COLUMNS = (
    *("row", "data", "seeds", "metric", "unit"),
    *("mean", "sd", "low", "high", "n", "runs", "baseline"),
    *("epsilon", "epsilon_claimed", "delta", "privacy_unit", "certified"),
)
"""The header of the CSV: one line for each row and quantity, numbers unscaled and unrounded."""

MOST_ROWS = 30
"""Rows of a LaTeX table that is not divided over pages."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"$\sim$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"\textbar{}",
    '"': "''",
    "†": r"$\dagger$",
    "+-": r"$\pm$",
    "10^6": "$10^6$",
}
_LATEX_PATTERN = re.compile("|".join(map(re.escape, sorted(_LATEX, key=len, reverse=True))))


def csv_text(comparison: Comparison) -> str:
    """Tidy CSV: unknown numbers are empty; scores and differences are as computed."""
    return csv_bytes([CSV_COLUMNS, *tidy(comparison)]).decode()


def tidy(comparison: Comparison) -> list[list[Any]]:
    """A line for each row and quantity, under `CSV_COLUMNS`; what is unknown is None or ""."""
    rows: list[list[Any]] = []
    baseline = comparison.baseline.name if comparison.baseline is not None else ""
    for line in comparison.lines:
        privacy = _privacy(line.row.privacy)
        for column in comparison.columns:
            one = line.measures.get(column.key)
            if one is None or not comparison.shows(column.name):
                continue
            rows.append(
                [
                    *(line.row.label, line.row.data, " ".join(map(str, line.row.seeds))),
                    *(column.name, column.unit, one.mean, one.sd, *(one.interval or ("", ""))),
                    *(one.n, one.runs, baseline if column.key == DIFFERENCE else ""),
                    *privacy,
                ]
            )
    return rows


def record(comparison: Comparison) -> dict[str, Any]:
    """Plain values for JSON, numbers unrounded, what is unknown is None."""
    baseline = comparison.baseline
    return {
        "baseline": baseline.name if baseline is not None else None,
        "rows": [
            {
                "row": line.row.name,
                "scenario": line.row.runs[0].scenario,
                "data": line.row.data,
                "seeds": line.row.seeds,
                "runs": [str(one.folder.path) for run in line.row.runs for one in run.each],
                "failed": line.failed,
                "unpaired": line.unpaired or None,
                "privacy": asdict(line.row.privacy) if line.row.privacy else None,
                "measures": {
                    column.name: {"unit": column.unit, **asdict(line.measures[column.key])}
                    for column in comparison.columns
                    if column.key in line.measures and comparison.shows(column.name)
                },
            }
            for line in comparison.lines
        ],
        "notes": comparison.notes,
        "left_out": list(comparison.left_out),
    }


def _privacy(spent: Spent | None) -> tuple[Any, ...]:
    """The entries of a row's privacy; empty ones without a mechanism."""
    if spent is None:
        return ("",) * 5
    proved, claimed = (spent.epsilon, "") if spent.certified else ("", spent.epsilon)
    return proved, claimed, spent.delta, spent.unit_told, "yes" if spent.certified else "no"


def latex(comparison: Comparison) -> str:
    """A table with booktabs' rules; its caption names data, split and seeds.

    One of many rows is a `longtable`, which goes on over pages with its header.
    """
    header, *rows = _cells(comparison)
    left = 1 + (len(header) > 1 and printed(comparison)[0].name == "data")
    columns = f"{{{'l' * left}{'r' * (len(header) - left)}}}"
    titles = _latex_row(map(escape_latex, header))
    body = [
        _latex_row([*map(escape_latex, row[:left]), *map(_latex_number, row[left:])])
        for row in rows
    ]
    notes = [escape_latex(note) + r"\par" for note in _notes(comparison)]
    about = rf"\caption{{{escape_latex(caption(comparison))}}}"
    if len(rows) > MOST_ROWS:
        lines = [
            r"% needs \usepackage{booktabs,longtable}",
            rf"\begin{{longtable}}{columns}",
            about + r" \\",
            *(r"\toprule", titles, r"\midrule", r"\endfirsthead"),
            *(r"\toprule", titles, r"\midrule", r"\endhead"),
            *(r"\bottomrule", r"\endfoot"),
            *body,
            r"\end{longtable}",
            r"{\footnotesize",
            *notes,
            "}",
        ]
    else:
        lines = [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            about,
            rf"\begin{{tabular}}{columns}",
            *(r"\toprule", titles, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            r"\par\smallskip\footnotesize",
            *notes,
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def markdown(comparison: Comparison) -> str:
    """A table as GitHub shows it, and below it what must be known to read it."""
    header, *rows = _cells(comparison, plus_minus=" ± ")
    lines = [
        "| " + " | ".join(map(_escape_markdown, header)) + " |",
        "|---|" + "".join("---|" if one.name == "data" else "---:|" for one in printed(comparison)),
        *(
            "| " + " | ".join([_code(row[0]), *map(_escape_markdown, row[1:])]) + " |"
            for row in rows
        ),
        "",
        *(
            f"- {_escape_markdown(note.replace('+-', '±'))}"
            for note in [caption(comparison), *_notes(comparison)]
        ),
    ]
    return "\n".join(lines) + "\n"


def caption(comparison: Comparison) -> str:
    """Which data, split and seeds the numbers are from."""
    rows = [line.row for line in comparison.lines]
    data = "; ".join(dict.fromkeys(map(_data, rows)))
    seeds: dict[str, list[str]] = {}
    for row in rows:
        seeds.setdefault(", ".join(map(str, row.seeds)), []).append(row.name)
    if len(seeds) == 1:
        told = f"Seeds: {next(iter(seeds))}."
    else:
        told = "Seeds: " + "; ".join(f"{k} ({', '.join(names)})" for k, names in seeds.items())
        told += "."
    return f"Data: {data}. {told}"


def escape_latex(text: str) -> str:
    """Plain text as LaTeX shows it, with signs for plus-minus, dagger and "~"."""
    return _LATEX_PATTERN.sub(lambda found: _LATEX[found.group()], _in_a_line(text))


def _latex_row(cells: Iterable[str]) -> str:
    """A row; what ends the row before would take a bracket or a star at its start for its own."""
    text = " & ".join(cells)
    return ("{}" if text.startswith(("[", "*")) else "") + text + r" \\"


def _latex_number(text: str) -> str:
    """A cell of numbers: a hyphen is a minus sign before a number and a dash between two."""
    dashed = re.sub(r"(?<=\d)-(?=\d)", "--", escape_latex(text))
    return re.sub(r"(?<![\d-])-(?=\d)", "$-$", dashed)


def _cells(comparison: Comparison, plus_minus: str = "+-") -> list[list[str]]:
    """Header and rows of the whole table."""
    columns = printed(comparison, plus_minus)
    header = [comparison.titles.get("method", "method"), *(one.title for one in columns)]
    rows = [
        [label(line), *(one.cells[i] for one in columns)] for i, line in enumerate(comparison.lines)
    ]
    return [header, *rows]


def _notes(comparison: Comparison) -> list[str]:
    """The comparison's notes, and about differences what the terminal says in their block."""
    notes = list(comparison.notes)
    difference = next((one for one in comparison.columns if one.key == DIFFERENCE), None)
    shown = difference is not None and comparison.shows(difference.name)
    if comparison.baseline is not None and shown:
        notes.insert(1, f"diff: {comparison.about_differences}.")
    for line in comparison.lines:
        if line.unpaired and shown:
            notes.append(f"{line.row.name}: no difference, {line.unpaired}.")
    return notes


def _data(row: Row) -> str:
    """Name, sizes and split of a row's data."""
    data, split = row.runs[0].data, row.runs[0].config["data"].get("split") or {}
    stand_in = data["source"] == "embedded"
    name = f"embedded stand-in for {data['name']} (generated images)" if stand_in else data["name"]
    sizes: Iterable[str] = (f"{count} {part}" for part, count in data.get("sizes", {}).items())
    facts: Sequence[str] = [
        *sizes,
        *([f"split seed {split['seed']}"] if "seed" in split else []),
    ]
    return f"{name} ({', '.join(facts)})" if facts else str(name)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_<|~])", r"\\\1", _in_a_line(text))


def _in_a_line(text: str) -> str:
    """Text that ends no row of a table, and that no terminal obeys."""
    return " ".join(harmless(text).split("\n"))


def _code(text: str) -> str:
    """Text in code type, which shows everything as it is but must not end the cell."""
    return "`" + _in_a_line(text).replace("`", "'").replace("|", r"\|") + "`"
