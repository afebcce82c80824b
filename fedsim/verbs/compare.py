"""`fedsim compare`: the table of several runs."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from pathlib import Path

from fedsim.errors import EXIT_DONE, InputError, Problem
from fedsim.printing import say
from fedsim.verbs import Verbs, require_whole

_FILES = ("csv", "latex", "markdown")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("compare", _compare, "Print the table of several runs.")
    one.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run, or a folder of runs such as runs/<scenario> or a sweep's",
    )
    one.add_argument(
        "--baseline", metavar="LABEL", help="row to take differences from; default: the first"
    )
    one.add_argument(
        "--reach", type=float, metavar="X", help="MB until the test AUC was first X, such as 0.75"
    )
    one.add_argument(
        "--bandwidth", type=float, metavar="MBIT", help="seconds on the wire at MBIT per second"
    )
    one.add_argument(
        "--latency", type=float, metavar="MS", help="milliseconds a message, with --bandwidth"
    )
    one.add_argument("--sites", action="store_true", help="the score on each site's test records")
    one.add_argument(
        "--paths", action="store_true", help="show absolute paths whole, not only how they end"
    )
    one.add_argument("--csv", type=Path, metavar="FILE", help="write tidy CSV, unrounded")
    one.add_argument("--latex", type=Path, metavar="FILE", help="write a LaTeX table (booktabs)")
    one.add_argument("--markdown", type=Path, metavar="FILE", help="write a Markdown table")


def _compare(arguments: argparse.Namespace) -> int:
    _require_sound(arguments)
    from fedsim.report import export
    from fedsim.report.compare import compare, find_runs, rows_of, text
    from fedsim.report.costs import Link
    from fedsim.runfolder import write_named

    damaged: list[Problem] = []
    found = find_runs(arguments.runs, damaged)
    with_traffic = arguments.bandwidth is not None
    rows, left_out = rows_of(found, damaged, traffic=with_traffic, paths=arguments.paths)
    if not rows:
        require_whole(damaged)
    link = None
    if arguments.bandwidth is not None:
        link = Link(arguments.bandwidth, arguments.latency or 0.0)
    comparison = compare(
        rows,
        baseline=arguments.baseline,
        reach=arguments.reach,
        link=link,
        per_site=arguments.sites,
    )
    say(text(comparison, shutil.get_terminal_size((120, 24)).columns))
    for line in left_out:
        say(line, file=sys.stderr)
    formats = {"csv": export.csv_text, "latex": export.latex, "markdown": export.markdown}
    for name in _FILES:
        path = getattr(arguments, name)
        if path is None:
            continue
        try:
            write_named(path, formats[name](comparison).encode())
        except OSError as error:
            raise InputError(f"--{name} {path}: cannot be written: {error.strerror}") from error
        say(f"written: {path}")
    require_whole(damaged)
    return EXIT_DONE


def _require_sound(arguments: argparse.Namespace) -> None:
    """Raise InputError unless the options make sense."""
    problems = []
    places = [(f"--{name}", path) for name in _FILES if (path := getattr(arguments, name))]
    for i, (name, path) in enumerate(places):
        for other, before in places[:i]:
            if os.path.realpath(path) == os.path.realpath(before) and not path.is_char_device():
                problems.append(Problem(name, f"{path} is the file of {other}, too"))
    reach, bandwidth, latency = arguments.reach, arguments.bandwidth, arguments.latency
    if reach is not None and not 0 < reach <= 1:
        percent = f" (did you mean {reach / 100:g}?)" if 1 < reach <= 100 else ""
        problems.append(Problem("--reach", f"must lie above 0 and not above 1{percent}"))
    if bandwidth is not None and not (math.isfinite(bandwidth) and bandwidth > 0):
        problems.append(Problem("--bandwidth", "must be above 0, in Mbit a second"))
    if latency is not None and not (math.isfinite(latency) and latency >= 0):
        problems.append(Problem("--latency", "must not be negative, in milliseconds"))
    if latency is not None and bandwidth is None:
        problems.append(Problem("--latency", "needs --bandwidth, too"))
    for name in _FILES:
        path = getattr(arguments, name)
        if path is not None and path.is_dir():
            problems.append(Problem(f"--{name}", f"{path} is a folder; name a file"))
    if problems:
        raise InputError("the options do not fit", problems, hint="type: fedsim compare --help")
