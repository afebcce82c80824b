"""Which columns of a comparison are shown, and what they and the rows are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedsim.errors import InputError, Problem, nearest
from fedsim.report.columns import ABOUT, PRIVACY, Column

if TYPE_CHECKING:
    from fedsim.report.rows import Row


def chosen_of(
    columns: Sequence[Column], rows: Sequence[Row], asked: Sequence[str]
) -> tuple[str, ...]:
    """Names of the columns that were asked for, each once, in this order.

    A column is asked for by its name in the CSV, or by its title in any case: `auc`, `MB up`,
    `mb_up_total`; `data`, `seeds`, and of private rows `epsilon`, `delta`, `unit`, `certified`.

    Raises:
        InputError: with all that are no columns.
    """
    private = PRIVACY if any(row.privacy for row in rows) else ()
    known = {_key(name): name for name in (*ABOUT, *private)}
    for column in columns:
        for word in (column.title, column.key, column.name):
            known[_key(word)] = column.name
    unknown = [word for word in asked if _key(word) not in known]
    if unknown or not asked:
        raise InputError(
            "--columns: there is no such column",
            [Problem(repr(word), nearest(word, known).strip(" ()")) for word in unknown],
            hint=f"these are there: {', '.join(dict.fromkeys(known.values()))}",
        )
    return tuple(dict.fromkeys(known[_key(word)] for word in asked))


def _key(word: str) -> str:
    return word.strip().lower().replace(" ", "_")


def renamed(
    rows: Sequence[Row], columns: Sequence[Column], names: Mapping[str, str]
) -> dict[str, str]:
    """Give rows other names; the titles of columns that get others.

    A name is a row's label as a whole, or a scenario's, which is then replaced in the labels of all
    its rows; or the title of a column.

    Raises:
        InputError: names that are none of these, or that make two rows one.
    """
    titles = {column.title for column in columns} | {*ABOUT, *PRIVACY, "method"}
    labels = {row.label for row in rows} | {row.name for row in rows}
    scenarios = {row.runs[0].scenario for row in rows}
    unknown = [name for name in names if name not in titles | labels | scenarios]
    if unknown:
        raise InputError(
            "--names: there is no such row and no such column",
            [Problem(repr(name), nearest(name, labels).strip(" ()")) for name in unknown],
            hint="type a row's label, a scenario's name or a column's title as the table has it",
        )
    for row in rows:
        if name := names.get(row.label, names.get(row.name)):
            row.label = row.name = name
        elif name := names.get(row.runs[0].scenario):
            scenario = row.runs[0].scenario
            row.label = name + row.label.removeprefix(scenario)
            row.name = name + row.name.removeprefix(scenario)
    twice = sorted({row.name for row in rows if [one.name for one in rows].count(row.name) > 1})
    if twice:
        raise InputError(f"--names: several rows would be called {twice[0]!r}")
    return {title: name for title, name in names.items() if title in titles}
