"""`fedsim forget`: take a client, or some of its patients, out of a finished run."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import EXIT_DONE, InputError, Problem
from fedsim.lazy import uncollected
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, runs_argument

if TYPE_CHECKING:
    from fedsim.engine.forgetting import Asked, Finished


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "forget",
        _forget,
        "Take a client out of a finished run, by one procedure of unlearning or several, and "
        "measure what is left; or print the table of those that were measured.",
    )
    one.add_argument("run", type=Path, metavar="RUN", help="a finished run folder; with --table, "
                     "a folder of runs")  # fmt: skip
    one.add_argument(
        "overrides", nargs="*", metavar="key=value", help="parameters of a single procedure"
    )
    one.add_argument("--client", metavar="NAME", help="who leaves, or whose patients")
    one.add_argument(
        "--patients", nargs="+", default=[], metavar="NAME|FILE.csv",
        help="forget these patients alone; of a CSV file, its first column",
    )  # fmt: skip
    one.add_argument(
        "--method", nargs="+", default=[], metavar="NAME",
        help="procedures, such as ifu; default: all that this run allows",
    )  # fmt: skip
    one.add_argument(
        "--rounds", type=int, metavar="N",
        help="of training on without them; default: as many as the run had",
    )  # fmt: skip
    runs_argument(one)
    one.add_argument("--dry-run", action="store_true", help="say what would be done, and its cost")
    one.add_argument("--table", action="store_true", help="the table of what was measured before")
    one.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    one.add_argument("-q", "--quiet", action="store_true", help="print the table alone")
    one.add_argument("-v", "--verbose", action="store_true", help="tracebacks")


def _forget(arguments: argparse.Namespace) -> int:
    with uncollected():
        from fedsim.api import forgetting
        from fedsim.engine.criteria import table_of
        from fedsim.engine.forgetting import Finished
        from fedsim.observers.standard import starter
        from fedsim.report.rows import find_runs
        from fedsim.terminal.console import Console

    if arguments.table:
        table = table_of(find_runs([arguments.run], []))
        return _print(table, arguments)
    if arguments.client is None:
        raise InputError("nobody is named", [Problem("--client", "who leaves?")])
    finished = Finished(arguments.run)
    asked = _asked(arguments, finished, forgetting.rounds_of(finished, arguments.rounds))
    console = Console(quiet=arguments.quiet, verbose=arguments.verbose)
    if arguments.dry_run:
        prepared = [finished.prepared(one, starter(console)) for one in asked]
        for one, ready in zip(asked, prepared, strict=True):
            say("\n".join(finished.lines(one, ready)))
        return EXIT_DONE
    runs = console.here / arguments.runs
    table = forgetting.forget_all(finished.path, asked, runs, console)
    return _print(table, arguments)


def _print(table: Any, arguments: argparse.Namespace) -> int:
    """Print a table, and write it where that is asked for."""
    say("\n".join(table.lines()))
    if arguments.markdown is not None:
        from fedsim.folder.runfolder import write_named

        write_named(arguments.markdown, table.markdown().encode())
    return EXIT_DONE


def _asked(arguments: argparse.Namespace, finished: Finished, rounds: int) -> list[Asked]:
    """What is asked for, one procedure after the other."""
    from fedsim.engine.forgetting import Asked
    from fedsim.unlearning.procedures import WITHOUT_HISTORY

    if rounds < 0:
        raise InputError("not understood", [Problem("--rounds", "must not be negative")])
    patients = _patients(arguments.patients)
    ready = list(WITHOUT_HISTORY) if patients else list(finished.methods)
    # What follows --method may be a parameter.
    words = [*arguments.overrides, *(word for word in arguments.method if "=" in word)]
    named = dict.fromkeys(word for word in arguments.method if "=" not in word)
    methods = list(named) or ready
    parameters = _parameters(words)
    if parameters and len(methods) != 1:
        raise InputError(
            f"{words[0]} is of one procedure, and there are {len(methods)}",
            hint="name one with --method",
        )
    what = {"patients": patients} if patients else {}
    return [Asked(arguments.client, name, parameters, rounds, what) for name in methods]


def _parameters(words: Sequence[str]) -> dict[str, Any]:
    """The values of key=value."""
    from fedsim.yaml_lines import Place, read_value

    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise InputError(
                f"{word!r} is no key=value",
                hint="type sigma=0.1, say; a single client leaves at a time",
            )
        value, wrong = read_value(text, Place(word))
        if wrong:
            raise InputError(f"{word!r} is not understood: {wrong[0][1]}")
        found[key.removeprefix("strategy.")] = value
    return found


def _patients(words: Sequence[str]) -> list[str]:
    """Names of patients; of a CSV file, its first column but for a heading."""
    found: list[str] = []
    for word in words:
        if not word.endswith(".csv"):
            if not word.strip():
                raise InputError("--patients: a name is empty")
            found.append(word)
            continue
        try:
            with open(word, newline="", encoding="utf-8-sig") as file:
                rows = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{word} cannot be read: {error}") from error
        headed = rows and rows[0].lower() in ("patient", "patient_id", "case", "id")
        names = rows[1:] if headed else rows
        if not names:
            raise InputError(f"{word} names no patient")
        found += names
    return found
