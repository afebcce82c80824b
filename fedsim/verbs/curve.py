"""`fedsim curve`: utility over epsilon; run what is missing of it, then draw it."""

from __future__ import annotations

import argparse
import math
import re
import sys
from typing import TYPE_CHECKING

from fedsim.completion import by_name
from fedsim.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError, Problem
from fedsim.printing import say
from fedsim.verbs import Verbs, require_whole, resource_overrides
from fedsim.verbs.seeds import parts_of, seed_arguments, seeds_of
from fedsim.verbs.sweep import print_failed, print_forecast, require_jobs, sweep_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedsim.console import Console
    from fedsim.report.privacy_curve import Point
    from fedsim.sweeping.epsilons import CurveCell
    from fedsim.sweeping.scheduler import Sweep

_EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
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
    one.add_argument("--metric", metavar="NAME", help="default: auc, or dice where there is none")
    one.add_argument(
        "--name", metavar="NAME", help="folder below DIR/curves; default: the scenarios' names"
    )
    sweep_arguments(one)


def _curve(arguments: argparse.Namespace) -> int:
    require_jobs(arguments)
    sources, overrides, epsilons, seeds = _sort(arguments)
    if arguments.name is not None and not _FOLDER.fullmatch(arguments.name):
        raise InputError(f"--name {arguments.name!r}: expected letters, digits, '_', '.', '+', '-'")
    from fedsim.console import Console
    from fedsim.sweeping.cells import fingerprints, require_cells
    from fedsim.sweeping.epsilons import plan_curve
    from fedsim.sweeping.scheduler import Sweep

    console = Console(quiet=arguments.quiet)
    cells = plan_curve(sources, overrides, epsilons, seeds, resource_overrides(arguments))
    runs = [one.cell for one in cells]
    require_cells(runs)
    data = fingerprints(runs, console.preparing)
    sweep = Sweep(runs, data, arguments.runs, console, arguments.jobs, arguments.verbose)
    if arguments.dry_run:
        print_forecast(sweep)
        require_whole(list(sweep.damaged))
        return EXIT_DONE
    code = sweep.run()
    print_failed(sweep, code)
    if code == EXIT_INTERRUPTED:
        say("error: interrupted; to go on, type the same command again", file=sys.stderr)
    # What is there is drawn, and the picture says what is missing.
    _draw(arguments, _points(cells, sweep), cells, console)
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
    return sources, overrides, epsilons or list(_EPSILONS), seeds or [0]


def _points(cells: Sequence[CurveCell], sweep: Sweep) -> list[Point]:
    """The cells that are done, with what their run folders say."""
    from fedsim.report.privacy_curve import Point
    from fedsim.runfolder import RunFolder

    points = []
    for one, entry in zip(cells, sweep.entries, strict=True):
        if entry.status == "done" and entry.folder is not None:
            data = RunFolder(entry.folder).read_json("run.json")["data"]
            name, seed = one.cell.scenario.name, one.cell.seed
            points.append(Point(name, one.epsilon, seed, one.reference, entry.summary, data))
    return points


def _draw(
    arguments: argparse.Namespace,
    points: Sequence[Point],
    cells: Sequence[CurveCell],
    console: Console,
) -> None:
    """Write curve.csv, and curve.png where a point has an epsilon; print the table."""
    if not points:
        return
    from fedsim.report.privacy_curve import curve_of, table
    from fedsim.report.privacy_picture import picture
    from fedsim.runfolder import write_whole

    curve = curve_of(points, arguments.metric, len(cells))
    console.line()
    console.line(table(curve))
    if all(math.isinf(point.epsilon) for point in points):
        console.line("nothing to draw: no run with an epsilon is finished")
        return
    drawn = picture(curve)
    folder = _folder(arguments, cells)
    try:
        for path, content in (("curve.csv", drawn.csv), ("curve.png", drawn.png)):
            write_whole(folder / path, content)
            console.line(f"written: {folder / path}")
    except OSError as error:
        raise InputError(
            f"cannot write in {folder}: {error.strerror}", hint="choose another: --name NAME"
        ) from error


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
