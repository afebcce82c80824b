"""A comparison as files: tidy CSV for programs, LaTeX for papers, Markdown for README files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from fedsim.printing import harmless
from fedsim.report.comparison import DIFFERENCE, Comparison
from fedsim.report.csv_file import csv_bytes
from fedsim.report.rows import Row, Spent
from fedsim.report.table import label, printed

CSV_COLUMNS = (
    *("row", "data", "seeds", "metric", "unit"),
    *("mean", "sd", "low", "high", "n", "runs", "baseline"),
    *("epsilon", "epsilon_claimed", "delta", "privacy_unit", "certified"),
)
"""The header of the CSV: one line for each row and quantity, numbers unscaled and unrounded."""

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
}
_LATEX_PATTERN = re.compile("|".join(map(re.escape, sorted(_LATEX, key=len, reverse=True))))


def csv_text(comparison: Comparison) -> str:
    """Tidy CSV: unknown numbers are empty; scores and differences are fractions of one."""
    rows: list[Sequence[Any]] = [CSV_COLUMNS]
    baseline = comparison.baseline.name if comparison.baseline is not None else ""
    for line in comparison.lines:
        privacy = _privacy(line.row.privacy)
        for column in comparison.columns:
            one = line.measures.get(column.key)
            if one is None:
                continue
            rows.append(
                [
                    *(line.row.label, line.row.data, " ".join(map(str, line.row.seeds))),
                    *(column.name, column.unit, one.mean, one.sd, *(one.interval or ("", ""))),
                    *(one.n, one.runs, baseline if column.key == DIFFERENCE else ""),
                    *privacy,
                ]
            )
    return csv_bytes(rows).decode()


def _privacy(spent: Spent | None) -> tuple[Any, ...]:
    """The entries of a row's privacy; empty ones without a mechanism."""
    if spent is None:
        return ("",) * 5
    proved, claimed = (spent.epsilon, "") if spent.certified else ("", spent.epsilon)
    return proved, claimed, spent.delta, spent.unit, "yes" if spent.certified else "no"


def latex(comparison: Comparison) -> str:
    """A `table` with booktabs' rules; its caption names data, split and seeds."""
    header, *rows = _cells(comparison)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(caption(comparison))}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}",
        r"\toprule",
        " & ".join(map(escape_latex, header)) + r" \\",
        r"\midrule",
        *(
            " & ".join([*map(escape_latex, row[:2]), *map(_latex_number, row[2:])]) + r" \\"
            for row in rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize",
        *(escape_latex(note) + r"\par" for note in _notes(comparison)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def markdown(comparison: Comparison) -> str:
    """A table as GitHub shows it, and below it what must be known to read it."""
    header, *rows = _cells(comparison, plus_minus=" ± ")
    lines = [
        "| " + " | ".join(map(_escape_markdown, header)) + " |",
        "|---|---|" + "---:|" * (len(header) - 2),
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


def _latex_number(text: str) -> str:
    """A cell of numbers: a hyphen is a minus sign before a number and a dash between two."""
    dashed = re.sub(r"(?<=\d)-(?=\d)", "--", escape_latex(text))
    return re.sub(r"(?<![\d-])-(?=\d)", "$-$", dashed)


def _cells(comparison: Comparison, plus_minus: str = "+-") -> list[list[str]]:
    """Header and rows of the whole table."""
    columns = printed(comparison, plus_minus)
    header = ["method", "data", "seeds", *(one.title for one in columns)]
    rows = [
        [label(line), line.row.data, str(len(line.row.runs)), *(one.cells[i] for one in columns)]
        for i, line in enumerate(comparison.lines)
    ]
    return [header, *rows]


def _notes(comparison: Comparison) -> list[str]:
    """The comparison's notes, and about differences what the terminal says in their block."""
    notes = list(comparison.notes)
    if comparison.baseline is not None:
        notes.insert(
            1, f"diff: minus {comparison.baseline.name}: same seeds, same test records, in points."
        )
    for line in comparison.lines:
        if line.unpaired:
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
