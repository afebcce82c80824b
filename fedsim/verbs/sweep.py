"""`fedsim sweep`: run the product of scenarios, values and seeds; run what is missing of it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError, nearest
from fedsim.files import seen_from
from fedsim.terminal.completion import by_name
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, require_whole, resource_overrides
from fedsim.verbs.cells import (
    cell_arguments,
    interrupted,
    print_failed,
    print_forecast,
    sources_and_words,
)
from fedsim.verbs.compare import matrix_argument, matrix_text, require_matrix
from fedsim.verbs.seeds import note, seed_arguments, seeds_of

if TYPE_CHECKING:
    from fedsim.sweeping.scheduler import Sweep
    from fedsim.sweeping.slurm import Slurm
    from fedsim.terminal.console import Console


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "sweep",
        _sweep,
        "Run scenarios with every combination of values and seeds; what is finished is not run "
        "again, what was interrupted goes on.",
    )
    words = one.add_argument(
        "overrides",
        nargs="*",
        metavar="NAME|FILE|key=v1,v2",
        help="scenarios, and values to combine, such as strategy.codec=float32,uint8",
    )
    by_name(words)
    seed_arguments(one, "the files'")
    cell_arguments(one)
    one.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="where cells run: on this machine, or as jobs of Slurm, one a cell; default: local",
    )
    one.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of sbatch, such as time=04:00:00; may be given several times",
    )
    matrix_argument(one)


def _sweep(arguments: argparse.Namespace) -> int:
    sources, axes, seeds = _sort(arguments)
    from fedsim.api.studies import prepared_sweep, require_jobs
    from fedsim.terminal.console import Console

    require_jobs(arguments.jobs)
    if problems := require_matrix(arguments):
        raise InputError("the options do not fit", problems, hint="type: fedsim sweep --help")
    if arguments.matrix is not None:
        _require_axes(arguments.matrix, axes, len(sources))
    slurm = _queue(arguments)
    if told := note(arguments, seeds):
        # A number alone was a seed here once: quiet or not, nobody should run others unawares.
        say(told, file=sys.stderr)
    console = Console(quiet=arguments.quiet)
    sweep = prepared_sweep(
        sources,
        axes,
        seeds,
        resource_overrides(arguments),
        arguments.runs,
        console,
        jobs=arguments.jobs,
        verbose=arguments.verbose,
        slurm=slurm,
    )
    if arguments.dry_run:
        print_forecast(sweep)
        require_whole(list(sweep.damaged))
        return EXIT_DONE
    code = sweep.run()
    print_failed(sweep, code)
    if code == EXIT_INTERRUPTED:
        say(interrupted(sweep), file=sys.stderr)
    elif sweep.finished() and not arguments.quiet:
        _print_table(sweep, console, arguments.matrix, arguments.tests)
    if code != EXIT_INTERRUPTED and len(sweep.finished()) > 1:
        _write_page(sweep, console)
    if code != EXIT_INTERRUPTED:
        require_whole(list(sweep.damaged))
    return code


def _queue(arguments: argparse.Namespace) -> Slurm | None:
    """The queue that --launcher names; None: the cells run on this machine."""
    if arguments.launcher == "local":
        if arguments.slurm:
            raise InputError("--slurm goes with --launcher slurm")
        return None
    if arguments.jobs is not None:
        raise InputError("--jobs is of this machine; how many jobs run at a time, Slurm decides")
    from fedsim.sweeping.slurm import Slurm

    return Slurm(arguments.slurm)


def _sort(arguments: argparse.Namespace) -> tuple[list[str], list[str], list[int]]:
    """Scenarios, axes and seeds; --seeds takes all words after it, so some belong elsewhere."""
    seeds, more = seeds_of(arguments)
    words = [*arguments.overrides, *more]
    sources, axes = sources_and_words(words)
    if not sources:
        raise InputError("which scenarios?", hint="type: fedsim ls")
    return sources, axes, seeds


def _require_axes(keys: Sequence[str], axes: Sequence[str], scenarios: int) -> None:
    """Refuse a matrix of which the sweep has no rows or no columns, before its hours are spent."""
    from fedsim.report.matrix import require_two

    require_two(*keys)
    varied = [axis.partition("=")[0] for axis in axes]
    for key in (key for named in keys for key in named.split(",")):
        # Several scenarios may differ in any key.
        if scenarios == 1 and not any(f"{one}.".startswith(f"{key}.") for one in varied):
            raise InputError(
                f"--matrix: the sweep does not vary {key}{nearest(key, varied)}",
                hint=f"give its values: {key}=v1,v2",
            )


def _write_page(sweep: Sweep, console: Console) -> None:
    """Write the page of the finished cells beside the sweep's record, and name it."""
    from fedsim.report.overview import place_for, title_for, write_overview

    page, title = place_for([sweep.record]), title_for([sweep.record])
    damaged = list(sweep.damaged)
    if write_overview(sweep.finished(), page, title=title, damaged=damaged, replace=True):
        console.line(f"page: {seen_from(Path.cwd(), page)}")


def _print_table(sweep: Sweep, console: Console, keys: Sequence[str] | None, tests: bool) -> None:
    from fedsim.report.compare import find_runs, rows_of, table

    folders = [folder.path for folder in sweep.finished()]
    rows, _ = rows_of(find_runs(folders))
    console.line()
    if keys is None:
        console.line(table(rows))
    else:
        from fedsim.report.comparison import compare
        from fedsim.report.matrix import matrix

        console.line(matrix_text(matrix(compare(rows, intervals=False), *keys), tests))
    names = sorted({folder.parent for folder in folders})
    # The folders of runs say the same in few words, where they hold nothing else that is done.
    try:
        every = [one for one in find_runs(names) if one.read_json("run.json")["status"] == "done"]
    except InputError:  # One of the other runs is damaged.
        every = []
    short = {one.path.resolve() for one in every} == {folder.resolve() for folder in folders}
    console.line()
    here = Path.cwd()
    told = [str(seen_from(here, path)) for path in (names if short else folders)]
    shown = [] if keys is None else ["--matrix", *keys, "--figure", "matrix.png"]
    shown += ["--tests"] * tests
    console.line(shlex.join(["fedsim", "compare", *told, *shown]))
