"""`fedsim curve`: utility over epsilon; run what is missing of it, then draw it."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError, Problem
from fedsim.terminal.completion import by_name
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, require_whole, resource_overrides
from fedsim.verbs.seeds import parts_of, seed_arguments, seeds_of
from fedsim.verbs.sweep import interrupted, print_failed, print_forecast, sweep_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedsim.api.studies import CurveResult
    from fedsim.sweeping.epsilons import CurveCell
    from fedsim.sweeping.scheduler import Sweep
    from fedsim.terminal.console import Console

_OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*\s*=")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "curve",
        _curve,
        "Draw utility over epsilon; runs that are finished count, what is missing is run.",
    )
    words = one.add_argument(
        "overrides",
        nargs="*",
        metavar="NAME|FILE|key=value",
        help="scenarios (one without a privacy block is a line for all epsilons) and overrides",
    )
    by_name(words)
    one.add_argument(
        "--epsilons",
        nargs="+",
        metavar="E",
        help="such as 0.5 2 8 inf (inf: without privacy); default: 0.5 1 2 4 8",
    )
    seed_arguments(one, "the seed 0")
    one.add_argument("--metric", metavar="NAME", help="default: the task's headline, such as auc")
    one.add_argument(
        "--name", metavar="NAME", help="folder below DIR/curves; default: the scenarios' names"
    )
    sweep_arguments(one)


def _curve(arguments: argparse.Namespace) -> int:
    sources, overrides, epsilons, seeds = _sort(arguments)
    if arguments.name is not None and not _FOLDER.fullmatch(arguments.name):
        raise InputError(f"--name {arguments.name!r}: expected letters, digits, '_', '.', '+', '-'")
    from fedsim.api.studies import EPSILONS, drawn_curve, prepared_curve
    from fedsim.terminal.console import Console

    console = Console(quiet=arguments.quiet)
    cells, sweep = prepared_curve(
        sources,
        overrides,
        epsilons or EPSILONS,
        seeds,
        resource_overrides(arguments),
        arguments.runs,
        console,
        jobs=arguments.jobs,
        verbose=arguments.verbose,
    )
    if arguments.dry_run:
        print_forecast(sweep)
        require_whole(list(sweep.damaged))
        return EXIT_DONE
    code = sweep.run()
    print_failed(sweep, code)
    if code == EXIT_INTERRUPTED:
        say(interrupted(sweep), file=sys.stderr)
    # What is there is drawn, and the picture says what is missing.
    _tell(drawn_curve(cells, sweep, arguments.runs, arguments.metric, arguments.name), console)
    _write_page(arguments, cells, sweep, console)
    if code != EXIT_INTERRUPTED:
        require_whole(list(sweep.damaged))
    return code


def _sort(
    arguments: argparse.Namespace,
) -> tuple[list[str], list[str], list[float], list[int]]:
    """Scenarios, overrides, epsilons and seeds; the options also take words that follow them."""
    words = list(arguments.overrides)
    problems = []
    epsilons: list[float] = []
    for part, word in parts_of(arguments.epsilons):
        try:
            epsilons.append(float(part))
        except ValueError:
            words += [word] if word not in words else []
    if arguments.epsilons and not epsilons:
        what = f"{arguments.epsilons[0]!r}: expected numbers or inf, such as: 0.5 1 2 inf"
        problems.append(Problem("--epsilons", what))
    if problems:
        raise InputError("the options do not fit", problems, hint="type: fedsim curve --help")
    seeds, more = seeds_of(arguments)
    words += [word for word in more if word not in words]
    overrides = [word for word in words if _OVERRIDE.match(word)]
    sources = [word for word in words if not _OVERRIDE.match(word)]
    if not sources:
        raise InputError("which scenarios?", hint="type: fedsim ls")
    return sources, overrides, epsilons, seeds or [0]


def _tell(drawn: CurveResult, console: Console) -> None:
    """Print the table, and what was written."""
    if drawn.curve is None:
        return
    console.line()
    console.line(str(drawn))
    if drawn.folder is None:
        console.line("nothing to draw: no run with an epsilon is finished")
        return
    for name in ("curve.csv", "curve.png"):
        console.line(f"written: {drawn.folder / name}")


def _folder(arguments: argparse.Namespace, cells: Sequence[CurveCell]) -> Path:
    """Where the files of the curve lie."""
    from fedsim.files import file_name

    name = arguments.name or "+".join(dict.fromkeys(one.cell.scenario.name for one in cells))
    folder: Path = arguments.runs / "curves" / file_name(name)
    return folder


def _write_page(
    arguments: argparse.Namespace, cells: Sequence[CurveCell], sweep: Sweep, console: Console
) -> None:
    """Write the page of the finished runs, if there are several, and name it."""
    finished = sweep.finished()
    if len(finished) < 2:
        return
    from fedsim.report.lists import write_list
    from fedsim.report.overview import place_for, title_for, write_overview

    folder = _folder(arguments, cells)
    write_list(folder, [one.path for one in finished])
    page = place_for([folder])
    if write_overview(finished, page, title=title_for([folder]), damaged=[], replace=True):
        console.line(f"page: {page}")
