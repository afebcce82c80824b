"""Read a table that a person wrote, and say exactly what is wrong with it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.data.columns import alike, as_patient, meant, plain
from fedsim.errors import InputError, Problem, nearest
from fedsim.files import require_regular

SUFFIXES = (".csv", ".tsv")
"""Of the files that are read as tables."""

SPREADSHEETS = (".xlsx", ".xls", ".ods", ".parquet")
"""Of tables that are not read."""

ONE_SITE = "site-0"
"""The name of the only site of data that says nothing about sites."""

DELIMITERS = ",;\t|"

_NOBODY = frozenset({"nan", "na", "n/a", "none", "null", "unknown", "?", "-", "missing"})
"""What programs and people write where there is nothing to write."""

_SPLITS = frozenset({"split", "fold", "subset", "partition", "phase"})
"""Columns by which people say what is for training and what for the test."""


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


def read_table(
    file: Path,
    columns: Sequence[str],
    *,
    unique: str,
    optional: Sequence[str] = (),
    hint: str = "",
    called: Mapping[str, str] | None = None,
) -> list[Row]:
    """Read a table with a header line, as UTF-8 (or UTF-16 with a byte-order mark).

    Values are separated by a comma, semicolon, tab or |, whichever makes the columns be there. The
    case of the columns named here does not matter; a column that only looks like one of `optional`
    (`patient_id` for `group`) is an error, for to pass it over would part what belongs together.

    Args:
        file: the file.
        columns: columns it must have; others are allowed.
        unique: the column in which every value must be there and differ from all others.
        optional: columns it may have.
        hint: what to type next when the columns are wrong.
        called: what the table calls some of the columns: {"group": "Patient"}.

    Raises:
        InputError: no such file, not text, columns missing, doubled or misnamed, rows of the wrong
            length, no rows, or values of `unique` missing or repeated. Names all of the rows at
            fault.
    """
    called = called or {}
    header, lines = _lines(file, columns, called)
    known = [*columns, *optional]
    names = _names(header, known, called)
    wrong = _missing(names, [name for name in columns if name not in called])
    wrong += [
        f"data.columns.{name}: there is no column {title!r}{nearest(title, filter(None, header))}"
        for name, title in called.items()
        if name not in names
    ]
    wrong += [
        f"column {called.get(name, name)!r} is there {names.count(name)} times"
        for name in known
        if names.count(name) > 1
    ]
    if wrong:
        problems = [Problem(str(file), message) for message in wrong]
        raise InputError(f"{file.name} has the wrong columns", problems, hint)
    problems = [
        Problem(f"{file}:{number}", f"has {len(line)} values for {len(header)} columns")
        for number, line in lines
        if len(line) != len(header)
    ]
    rows = [
        Row(dict(zip(names, map(str.strip, line), strict=False)), f"{file}:{number}")
        for number, line in lines
        if len(line) == len(header)
    ]
    if not lines:
        problems.append(Problem(str(file), "has a header but no rows"))
    first: dict[str, str] = {}
    for row in rows:
        value = row[unique]
        if [plain(row.get(name)) for name in columns] == list(columns):
            problems.append(Problem(row.where, "repeats the header"))
        elif not value:
            problems.append(Problem(row.where, f"{unique} is empty"))
        elif "\0" in value:
            problems.append(Problem(row.where, f"{unique} {value!r} holds a NUL character"))
        elif value in first:
            problems.append(Problem(row.where, f"{unique} {value!r} is already at {first[value]}"))
        else:
            first[value] = row.where
    if problems:
        raise InputError(f"{file.name} has wrong rows", problems)
    _refuse_misnamed(file, rows, [name for name in names if name not in known], names, optional)
    return rows


def check_called(called: Mapping[str, str] | None, known: Sequence[str]) -> dict[str, str]:
    """What a table calls its columns, as a data set's option `columns`; ValueError if wrong."""
    called = dict(called or {})
    for name, title in called.items():
        if name not in known:
            raise ValueError(
                f"columns names {name!r}, which is none of {', '.join(known)}. Write "
                "{group: Patient}: fedsim's name first, then the table's."
            )
        if not plain(title):
            raise ValueError(f"columns says nothing of what the table calls {name!r}.")
    if len({plain(title) for title in called.values()}) < len(called):
        raise ValueError(f"columns takes one column for two: {called}.")
    return called


def columns_in(file: Path) -> dict[str, list[str]]:
    """All columns of a table with their values; raises InputError for what is no table."""
    header, lines = _lines(file, ())
    rows = [line for _, line in lines if len(line) == len(header)]
    return {name: [row[i].strip() for row in rows] for i, name in enumerate(header) if name}


def other_columns(
    rows: Sequence[Row], known: Sequence[str], called: Mapping[str, str]
) -> dict[str, list[str]]:
    """The values of all columns but the known ones, by the name that the table gives them."""
    names = [name for name in (rows[0].values if rows else ()) if name and name not in known]
    return {called.get(name, name): [row[name] for row in rows] for name in names}


def missing_columns(
    file: Path, columns: Sequence[str], called: Mapping[str, str] | None = None
) -> str:
    """Why a file is no table with these columns, or ""."""
    called = called or {}
    try:
        header, _ = _lines(file, columns, called)
    except InputError as error:
        return "; ".join(filter(None, [*(one.message for one in error.problems), error.hint]))
    wanted = [plain(called.get(name, name)) for name in columns]
    return "; ".join(_missing([plain(name) for name in header], wanted))


def tables_in(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """Names of the tables in a folder, sorted; names with a leading dot are none."""
    return sorted(
        file.name
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    )


def find_table(
    root: Path,
    columns: Sequence[str],
    optional: Sequence[str],
    layout: str,
    called: Mapping[str, str] | None = None,
) -> tuple[str, str] | None:
    """The only table in a folder that has these columns; None where there is no table at all.

    Others are passed over where they have nothing to do with the records: no column of these, or of
    the optional ones, by whatever name.

    Returns:
        Its name, and which others were not read ("" where there are none).

    Raises:
        InputError: several tables may be it, or none of those that are there is.
    """
    names, sheets = tables_in(root), tables_in(root, SPREADSHEETS)
    if not names and not sheets:
        return None
    why = {name: missing_columns(root / name, columns, called) for name in names}
    right = [name for name in names if not why[name]]
    related = [
        name for name in names if name in right or about_records(root / name, columns, optional)
    ]
    if len(right) == 1 and related == right:
        others = [name for name in (*names, *sheets) if name != right[0]]
        return right[0], f"read {right[0]}, not {', '.join(others)}" if others else ""
    if right:
        message = (
            f"has {len(related)} .csv files with such columns (several tables: "
            f"{', '.join(related)}; data.csv=NAME takes one)"
        )
        raise InputError("which table lists the records?", [Problem(str(root), message)])
    problems = [Problem(str(root / name), why[name]) for name in names]
    problems += [
        Problem(str(root / name), f"is not read: save it as CSV ({layout})") for name in sheets
    ]
    raise InputError(
        "no table has the columns that are needed",
        problems,
        f"expected: {layout}. Say what the table calls them, as in "
        f"data.columns='{{{columns[0]}: File}}', or move what is no such table elsewhere (folders "
        "of images are then read as classes)",
    )


def about_records(file: Path, columns: Sequence[str], optional: Sequence[str]) -> bool:
    """Whether a table seems to be about records."""
    try:
        header, _ = _lines(file, columns)
    except InputError:
        return False
    return any(
        plain(name) in columns or ((match := meant(name, optional)) is not None and match[1])
        for name in header
    )


def coded(
    rows: Iterable[Row], column: str, code: Callable[[str], int | None], valid: str
) -> tuple[list[Row], list[int], list[Problem]]:
    """Turn a column into integer codes.

    Args:
        code: the code of a value, or None when the value is unknown.
        valid: the values allowed, for the message.

    Returns:
        The rows whose value is known, their codes, and what is wrong with the other rows.
    """
    good: list[Row] = []
    codes: list[int] = []
    bad: list[Problem] = []
    for row in rows:
        value = row[column]
        found = code(value) if value else None
        if found is None:
            wrong = f"{column} is {value!r}, not one of {valid}" if value else f"{column} is empty"
            bad.append(Problem(row.where, wrong))
        else:
            good.append(row)
            codes.append(found)
    return good, codes, bad


def belonging(rows: Sequence[Row]) -> tuple[list[str], list[str], list[str]]:
    """What the columns group and site say, for each row, and notes on what is odd about them."""
    groups = [row.get("group") for row in rows]
    sites = [row.get("site") or ONE_SITE for row in rows]
    notes = []
    unnamed = sum(not row.get("site") for row in rows)
    if 0 < unnamed < len(rows):
        notes.append(f"{unnamed} of {len(rows)} records have no site: theirs is called {ONE_SITE}")
    if rows and (own := [name for name in rows[0].values if plain(name) in _SPLITS]):
        notes.append(
            f"not read: column {', '.join(own)}; data.split decides what is for training and test"
        )
    return groups, sites, notes


def alike_sites(sites: Iterable[str]) -> list[str]:
    """Notes on sites whose names a reader cannot tell apart."""
    return [
        f"sites differ in case only and stay apart: {', '.join(names[:4])}"
        for names in alike(sites)
    ]


def one_name_each(groups: Sequence[str]) -> tuple[list[str], list[str]]:
    """The patient of each record by one name, and notes on what is odd about them.

    Names that only differ in case, zeros or signs are one: a patient must not part by a slip of
    typing, nor by a program that reads 007 and writes 7.0.
    """
    notes = []
    same = {name: names[0] for names in alike(filter(None, groups), as_patient) for name in names}
    if same:
        shown = ", ".join(list(same)[:4])
        notes.append(
            f"{len(same)} groups differ in case, zeros or signs only and are taken as one each: "
            f"{shown}"
        )
    empty = list(groups).count("")
    if empty == len(groups):
        notes.append(
            "nothing is known of patients: several records of one may be on both sides of the "
            "split, which makes scores too good (a column group names them)"
        )
    elif empty:
        notes.append(f"{empty} of {len(groups)} records have no group: each is one of its own")
    if blanks := sorted({group for group in groups if plain(group) in _NOBODY}):
        count = sum(group in blanks for group in groups)
        notes.append(
            f"{count} records have the group {', '.join(blanks)} and are kept together as one "
            "patient: leave it empty where the patient is not known"
        )
    return [same.get(group, group) for group in groups], notes


def refuse_one_file_twice(rows: Sequence[Row], column: str, name: str) -> None:
    """Raise InputError where two rows name one file by two spellings, as `x` and `./x`."""
    first: dict[str, Row] = {}
    problems = []
    for row in rows:
        other = first.setdefault(os.path.normpath(row[column]), row)
        if other is not row:
            problems.append(
                Problem(
                    row.where, f"{row[column]!r} is the file {other[column]!r} of {other.where}"
                )
            )
    if problems:
        raise InputError(f"{name} names a file twice", problems, "keep one of the rows")


def _names(header: Sequence[str], known: Sequence[str], called: Mapping[str, str]) -> list[str]:
    """The columns by fedsim's names, where it has some, else as they are written.

    Where the table calls another column `group`, its own `group` is not fedsim's.
    """
    by_title = {plain(title): name for name, title in called.items()}
    names = []
    for title in header:
        name = plain(title)
        if name in by_title:
            names.append(by_title[name])
        elif name in known:
            names.append(f"{title} (not read)" if name in called else name)
        else:
            names.append(title)
    return names


def _lines(
    file: Path, columns: Sequence[str], called: Mapping[str, str] | None = None
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows that are not blank, each with the number of its line."""
    called = called or {}
    wanted = {plain(called.get(name, name)) for name in (*columns, *called)}
    try:
        require_regular(file)
        content = file.read_bytes()
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        # utf-8-sig: spreadsheet programs put a byte-order mark in front.
        text = content.decode("utf-16" if wide else "utf-8-sig")
        headers = {
            delimiter: next(_parsed(text, delimiter, strict=False), (0, []))[1]
            for delimiter in DELIMITERS
        }

        def fits(delimiter: str) -> tuple[int, int]:
            names = [plain(name) for name in headers[delimiter]]
            return sum(name in names for name in wanted), len(names)

        lines = list(_parsed(text, max(DELIMITERS, key=fits), strict=True))
    except FileNotFoundError:
        raise InputError(
            f"{file.name} is missing",
            [Problem(str(file.parent), f"has no file {file.name}; expected {', '.join(columns)}")],
        ) from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        what = "" if wide else ": a spreadsheet program may have saved it in an older encoding"
        raise InputError(
            f"{file.name} cannot be read",
            [Problem(f"{file}:{line}", f"is not {'UTF-16' if wide else 'UTF-8'} text{what}")],
            'save it as UTF-8 CSV (in Excel: "CSV UTF-8")',
        ) from error
    except (OSError, csv.Error) as error:
        raise InputError(
            f"{file.name} cannot be read", [Problem(str(file), str(error))], "save it as UTF-8 CSV"
        ) from error
    header = [name.strip().strip("\ufeff") for name in lines[0][1]] if lines else []
    return header, lines[1:]


def _parsed(text: str, delimiter: str, *, strict: bool) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, each with its number."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
    first = True
    for line in reader:
        if not any(cell.strip() for cell in line):
            continue
        # The line with which spreadsheet programs name the delimiter.
        named = delimiter.join(line).strip().lower()
        if not (first and named in [f"sep={one}" for one in DELIMITERS]):
            yield reader.line_num, line
        first = False


def _missing(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    missing = [name for name in columns if name not in names]
    if not missing:
        return []
    found = ", ".join(filter(None, names)) or "none"
    return [f"columns missing: {', '.join(missing)}; columns found: {found}"]


def _refuse_misnamed(
    file: Path,
    rows: Sequence[Row],
    others: Sequence[str],
    names: Sequence[str],
    optional: Sequence[str],
) -> None:
    """Raise InputError for columns that look like optional ones and would be passed over."""
    problems = []
    for other in dict.fromkeys(others):
        match = meant(other, optional)
        if match is None:
            continue
        column, sure = match
        values = [row[other] for row in rows]
        repeated = len(set(filter(None, values))) < sum(map(bool, values))
        if column not in names:
            if sure or repeated:
                problems.append(
                    Problem(
                        f"{file}: column {other!r}",
                        f"looks like the column {column!r}, which is what fedsim reads: write "
                        f"{column!r} in the header, or data.columns={{{column}: {other}}} (or, if "
                        "it is something else, another name)",
                    )
                )
        elif column == "group" and (apart := _parted(rows, other)):
            problems.append(
                Problem(
                    f"{file}: column {other!r}",
                    f"is {apart!r} in several groups of the column 'group': records that belong "
                    f"together would part. Write its values as 'group', or rename or remove it",
                )
            )
    if problems:
        raise InputError(f"{file.name} has columns that would be passed over", problems)


def _parted(rows: Sequence[Row], other: str) -> str:
    """A value of a column that stands in several groups, or ""."""
    seen: dict[str, str] = {}
    for row in rows:
        if row[other] and seen.setdefault(row[other], row["group"] or row.where) != (
            row["group"] or row.where
        ):
            return row[other]
    return ""
