"""`fedsim run`: run a scenario, or go on with a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedsim.errors import EXIT_DONE, InputError
from fedsim.lazy import uncollected
from fedsim.terminal.printing import say
from fedsim.verbs import (
    Verbs,
    load_scenario,
    resource_arguments,
    resource_overrides,
    scenario_arguments,
)


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("run", _run, "Run a scenario.")
    scenario_arguments(one, required=False)
    resource_arguments(one)
    one.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    one.add_argument(
        "--dry-run", action="store_true", help="print traffic, epsilon, rough time, memory, disk"
    )
    one.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run folder")
    one.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.resume is not None:
        return _resume(arguments)
    with uncollected():
        scenario = load_scenario(arguments)
        from fedsim import api
        from fedsim.engine import costing
        from fedsim.report.text import page_lines
        from fedsim.terminal.console import Console

    console = Console(quiet=arguments.quiet, verbose=arguments.verbose)
    if arguments.dry_run:
        cost = api.estimate(scenario, scenario.seeds[0], console)
        say("\n".join(costing.lines(scenario.name, cost, len(scenario.seeds))))
        return EXIT_DONE
    for seed in scenario.seeds:
        result = api.execute(scenario, seed, console.here / arguments.runs, console)
        for line in page_lines(result.folder, console.here):
            console.line(line)
    return EXIT_DONE


def _resume(arguments: argparse.Namespace) -> int:
    from fedsim.folder.identity import run_record
    from fedsim.folder.runfolder import RunFolder

    words = [word for word in [arguments.name, *arguments.overrides] if word is not None]
    names = [word for word in words if "=" not in word]
    resources = [word for word in words if "=" in word] + resource_overrides(arguments)
    record = run_record(RunFolder.open(arguments.resume))
    if names not in ([], [record["scenario"]]):
        raise InputError(
            f"{arguments.resume} is a run of {record['scenario']}, not of {' '.join(names)}",
            hint=f"type: fedsim run --resume {arguments.resume}",
        )
    if arguments.seed not in (None, record["seed"]):
        raise InputError(f"{arguments.resume} is a run of seed {record['seed']}")
    from fedsim import api
    from fedsim.report.text import page_lines
    from fedsim.terminal.console import Console

    console = Console(quiet=arguments.quiet, verbose=arguments.verbose)
    result = api.resume(arguments.resume, resources, console)
    for line in page_lines(result.folder, console.here):
        console.line(line)
    return EXIT_DONE
