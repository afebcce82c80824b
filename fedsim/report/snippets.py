"""What a notebook shows of results: pieces of HTML with nothing in them that is loaded or runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.report.table import label, printed
from fedsim.report.text import typed
from fedsim.terminal.printing import harmless

if TYPE_CHECKING:
    from fedsim.report.comparison import Comparison


def comparison_html(comparison: Comparison) -> str:
    """The table of a comparison, and what must be known to read it."""
    columns = printed(comparison, " ± ")
    header = [comparison.titles.get("method", "method"), *(one.title for one in columns)]
    rows = [
        [label(line), *(one.cells[number] for one in columns)]
        for number, line in enumerate(comparison.lines)
    ]
    return table(header, rows) + _notes([*comparison.notes, *comparison.left_out])


def result_html(folder: Path, seed: int, summary: Mapping[str, Any]) -> str:
    """A finished run in a few lines."""
    stand_in = summary.get("data_source") == "embedded"
    rows = [(name, _number(value)) for name, value in summary.get("metrics", {}).items()]
    rows += [("MB up", _number(summary.get("mb_up_total")))]
    rows += [("MB down", _number(summary.get("mb_down_total")))]
    if summary.get("unit") is not None:
        epsilon = summary.get("epsilon")
        claimed = summary.get("epsilon_claimed")
        told = "-" if epsilon is None else f"{epsilon:.3g}"
        told = told if claimed is None else f"claimed, not certified: {claimed:.3g}"
        trusts = ", secure sum" if summary.get("trust") == "secure_sum" else ""
        rows.append(
            (
                f"epsilon, for every {summary['unit']}",
                f"{told} (delta {summary['delta']:g}{trusts})",
            )
        )
    rows.append(("seconds", _number(summary.get("wall_seconds"))))
    notes = ["generated stand-in images, not real data"] if stand_in else []
    return table([f"{folder.parent.name}, seed {seed}", ""], rows) + _notes([*notes, str(folder)])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts; the first cell of a row is its header."""
    head = "".join(f"<th>{_text(one)}</th>" for one in header)
    body = "".join(
        f'<tr><th style="text-align: left">{_text(first)}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in others)
        + "</tr>\n"
        for first, *others in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def _text(text: str) -> str:
    """Text for HTML, with its control characters written out."""
    return escape(harmless(text))


def _notes(notes: Iterable[str]) -> str:
    return "".join(f"<div><small>{_text(note)}</small></div>\n" for note in notes)


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else typed(value)
