"""`fedsim curve`: utility over epsilon or megabytes; run what is missing of it, then draw it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError, Problem
from fedsim.terminal.completion import by_name
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, require_whole, resource_overrides
from fedsim.verbs.cells import (
    cell_arguments,
    interrupted,
    name_argument,
    print_failed,
    print_forecast,
    require_name,
    sources_and_words,
)
from fedsim.verbs.seeds import parts_of, seed_arguments, seeds_of

if TYPE_CHECKING:
    from fedsim.api.studies import Cells, CurveResult
    from fedsim.sweeping.scheduler import Sweep
    from fedsim.terminal.console import Console


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "curve",
        _curve,
        "Draw utility over epsilon, or over megabytes; only what is missing of its runs is run.",
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
    one.add_argument(
        "--over",
        choices=("epsilon", "megabytes"),
        default="epsilon",
        help="what the curve is over; default: epsilon",
    )
    one.add_argument(
        "--wires",
        nargs="+",
        metavar="W",
        help="over megabytes: none, float16, uint8, int4, or a block such as "
        "'{sparsify: {topk: 0.01}, error_feedback: true}'; default: these and "
        "'{codec: uint8, down: uint8}'",
    )
    seed_arguments(one, "the seed 0")
    one.add_argument("--metric", metavar="NAME", help="default: the task's headline, such as auc")
    name_argument(one, "curves", "the scenarios' names")
    cell_arguments(one)


def _curve(arguments: argparse.Namespace) -> int:
    sources, overrides, levels, seeds = _sort(arguments)
    require_name(arguments)
    from fedsim.api.studies import drawn_curve, prepared_curve
    from fedsim.terminal.console import Console

    console = Console(quiet=arguments.quiet)
    cells, sweep = prepared_curve(
        sources,
        overrides,
        levels,
        seeds,
        resource_overrides(arguments),
        arguments.runs,
        console,
        over=arguments.over,
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
) -> tuple[list[str], list[str], list[float] | list[str], list[int]]:
    """Scenarios, overrides, levels and seeds; the options also take words that follow them."""
    words = list(arguments.overrides)
    option, other = ("epsilons", "wires") if arguments.over == "epsilon" else ("wires", "epsilons")
    if getattr(arguments, other):
        what = f"has no effect on a curve over {arguments.over}; leave it out"
        problems = [Problem(f"--{other}", what)]
        raise InputError("the options do not fit", problems, hint="type: fedsim curve --help")
    levels, more = (_epsilons if option == "epsilons" else _wires)(arguments)
    words += [word for word in dict.fromkeys(more) if word not in words]
    seeds, more = seeds_of(arguments)
    words += [word for word in more if word not in words]
    sources, overrides = sources_and_words(words)
    if not sources:
        raise InputError("which scenarios?", hint="type: fedsim ls")
    return sources, overrides, levels, seeds or [0]


def _epsilons(arguments: argparse.Namespace) -> tuple[list[float], list[str]]:
    """The budgets, and the words behind them that belong elsewhere."""
    from fedsim.api.studies import EPSILONS

    epsilons: list[float] = []
    words: list[str] = []
    for part, word in parts_of(arguments.epsilons):
        try:
            epsilons.append(float(part))
        except ValueError:
            words.append(word)
    if arguments.epsilons and not epsilons:
        what = f"{arguments.epsilons[0]!r}: expected numbers or inf, such as: 0.5 1 2 inf"
        problems = [Problem("--epsilons", what)]
        raise InputError("the options do not fit", problems, hint="type: fedsim curve --help")
    return epsilons or list(EPSILONS), words


def _wires(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The ways to compress what travels, and the words behind them that belong elsewhere."""
    from fedsim.sweeping.wires import CODECS, NONE, WIRES, is_wire

    given = arguments.wires or []
    wires = [word for word in given if is_wire(word)]
    if given and not wires:
        known = ", ".join([NONE, *CODECS])
        what = f"{given[0]!r}: expected {known}, or a block such as '{WIRES[-1]}'"
        problems = [Problem("--wires", what)]
        raise InputError("the options do not fit", problems, hint="type: fedsim curve --help")
    return wires or list(WIRES), [word for word in given if not is_wire(word)]


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


def _write_page(
    arguments: argparse.Namespace, cells: Cells, sweep: Sweep, console: Console
) -> None:
    """Write the page of the finished runs, if there are several, and name it."""
    finished = sweep.finished()
    if len(finished) < 2:
        return
    from fedsim.api.studies import curve_folder
    from fedsim.report.lists import write_list
    from fedsim.report.overview import place_for, title_for, write_overview

    folder = curve_folder(cells, arguments.runs, arguments.name)
    write_list(folder, [one.path for one in finished])
    page = place_for([folder])
    if write_overview(finished, page, title=title_for([folder]), damaged=[], replace=True):
        console.line(f"page: {page}")
