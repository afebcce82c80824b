"""`fedsim report`: the pictures and the page of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedsim.errors import EXIT_DONE, InputError, Problem, problems_of
from fedsim.printing import say
from fedsim.verbs import Verbs, require_whole


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("report", _report, "Make the pictures and the page of runs.")
    one.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run, or runs/<scenario>")
    one.add_argument(
        "--paths", action="store_true", help="show absolute paths whole, not only how they end"
    )


def _report(arguments: argparse.Namespace) -> int:
    from fedsim.report.page import write_page
    from fedsim.report.record import read_record
    from fedsim.report.rows import find_runs

    problems: list[Problem] = []
    for folder in find_runs(arguments.runs, problems):
        try:
            record = read_record(folder.path)
        except InputError as error:
            # The other runs still get their pages.
            problems += problems_of(error)
            continue
        say(str(write_page(record, paths=arguments.paths)))
        for line in record.missing:
            say(f"  not in the folder: {line}")
    require_whole(problems)
    return EXIT_DONE
