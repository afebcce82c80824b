"""Read a CSV file that a person wrote, and say exactly what is wrong with it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.errors import InputError, Problem


@dataclass(frozen=True)
class Row:
    """One row: its values by column name, without surrounding blanks, and where it stands."""

    values: dict[str, str]
    where: str

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def get(self, column: str) -> str:
        """The value, or "" when the table has no such column."""
        return self.values.get(column, "")


def read_table(file: Path, columns: Sequence[str], *, unique: str, hint: str = "") -> list[Row]:
    """Read a comma-separated table with a header line, as UTF-8.

    Args:
        file: the CSV file.
        columns: columns it must have; others are allowed.
        unique: the column in which every value must be there and differ from all others.
        hint: what to type next when the columns are wrong.

    Raises:
        InputError: no such file, not UTF-8 text, columns missing, rows of the wrong length, no
            rows, or values of `unique` missing or repeated. Names all of the rows at fault.
    """
    try:
        # utf-8-sig: spreadsheet programs put a byte-order mark in front.
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, line) for line in reader if line]
    except FileNotFoundError:
        raise InputError(
            f"{file.name} is missing",
            [Problem(str(file.parent), f"has no file {file.name}; expected {', '.join(columns)}")],
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{file.name} cannot be read", [Problem(str(file), str(error))], "save it as UTF-8 CSV"
        ) from error
    missing = [name for name in columns if name not in header]
    if missing:
        found = ", ".join(header) or "none"
        message = f"columns missing: {', '.join(missing)}; columns found: {found}"
        raise InputError(f"{file.name} has the wrong columns", [Problem(str(file), message)], hint)
    problems = [
        Problem(f"{file}:{number}", f"has {len(line)} values for {len(header)} columns")
        for number, line in lines
        if len(line) != len(header)
    ]
    rows = [
        Row(dict(zip(header, map(str.strip, line), strict=False)), f"{file}:{number}")
        for number, line in lines
        if len(line) == len(header)
    ]
    if not lines:
        problems.append(Problem(str(file), "has a header but no rows"))
    first: dict[str, str] = {}
    for row in rows:
        value = row[unique]
        if not value:
            problems.append(Problem(row.where, f"{unique} is empty"))
        elif value in first:
            problems.append(Problem(row.where, f"{unique} {value!r} is already at {first[value]}"))
        else:
            first[value] = row.where
    if problems:
        raise InputError(f"{file.name} has wrong rows", problems)
    return rows


def codes(
    rows: Iterable[Row], column: str, code: Callable[[str], int | None], valid: str
) -> list[int]:
    """Turn a column into integer codes.

    Args:
        code: the code of a value, or None when the value is unknown.
        valid: the values allowed, for the message.

    Raises:
        InputError: names every row whose value is unknown.
    """
    coded = [(row, code(row[column])) for row in rows]
    problems = [
        Problem(row.where, f"{column} is {row[column]!r}, not one of {valid}")
        for row, found in coded
        if found is None
    ]
    if problems:
        raise InputError(f"unknown values in column {column!r}", problems)
    return [found for _, found in coded if found is not None]
