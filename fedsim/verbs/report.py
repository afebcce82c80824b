"""`fedsim report`: the pictures and the page of each run, and one page for many runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedsim.errors import EXIT_DONE, InputError, Problem, problems_of
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, require_whole


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "report", _report, "Make the pictures and the page of runs; of several, one more for all."
    )
    one.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run, a folder of runs such as runs/<scenario>, a sweep's runs/sweeps/<time>.json, "
        "a curve's runs/curves/<name>",
    )
    one.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page for all; default: index.html in the folder that was named",
    )
    one.add_argument(
        "--together", action="store_true", help="write only the page for all, none of each run"
    )
    one.add_argument(
        "--baseline",
        metavar="LABEL",
        help="row that the page for all takes differences from at first; default: the first",
    )
    one.add_argument(
        "--paths", action="store_true", help="show absolute paths whole, not only how they end"
    )


def _report(arguments: argparse.Namespace) -> int:
    from fedsim.report.overview import place_for, title_for, write_overview
    from fedsim.report.page import write_page
    from fedsim.report.record import read_record
    from fedsim.report.rows import find_runs

    problems: list[Problem] = []
    named: list[Path] = arguments.runs
    folders = find_runs(named, problems)
    # Before the pages of each: whether all may stand on one page is known in seconds.
    out, wrong = arguments.out, list(problems)
    together = len(folders) > 1 or arguments.together or out is not None
    if arguments.together and out is None and len(named) == 1 and (named[0] / "run.json").is_file():
        raise InputError(
            f"{named[0]} is one run: there is nothing to put together",
            hint=f"its own page: fedsim report {named[0]}; elsewhere: --out FILE",
        )
    written = False
    if together:
        written = write_overview(
            folders,
            out or place_for(named),
            title=title_for(named),
            damaged=wrong,
            baseline=arguments.baseline,
            paths=arguments.paths,
            replace=out is not None,
        )
    for folder in [] if arguments.together else folders:
        try:
            record = read_record(folder.path)
        except InputError as error:
            # The other runs still get their pages.
            problems += problems_of(error)
            continue
        say(str(write_page(record, paths=arguments.paths)))
        for line in record.missing:
            say(f"  not in the folder: {line}")
    if written:
        say(f"page: {out or place_for(named)}")
    elif together:
        say("no page for all: no run is finished and whole")
    # Each run's own page has been refused with more words than the comparison has for it.
    require_whole(wrong if arguments.together else problems)
    return EXIT_DONE
