"""`fedsim run`: run a scenario, or go on with a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE, InputError
from fedsim.lazy import uncollected
from fedsim.terminal.printing import say
from fedsim.verbs import (
    Verbs,
    load_scenario,
    quiet_argument,
    resource_arguments,
    resource_overrides,
    runs_argument,
    scenario_arguments,
)

if TYPE_CHECKING:
    from fedsim.scenario import Scenario
    from fedsim.terminal.console import Console


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("run", _run, "Run a scenario.")
    scenario_arguments(one, required=False)
    resource_arguments(one)
    runs_argument(one)
    one.add_argument(
        "--dry-run", action="store_true", help="print traffic, epsilon, rough time, memory, disk"
    )
    one.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run folder")
    quiet_argument(one)


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
    runs = console.here / arguments.runs
    for seed in scenario.seeds:
        result = api.execute(scenario, seed, runs, console)
        for line in page_lines(result.folder, console.here):
            console.line(line)
        _depart(scenario, result.folder, runs, console)
    return EXIT_DONE


def _depart(scenario: Scenario, folder: Path, runs: Path, console: Console) -> None:
    """Take out of a finished run who leaves it then, where somebody does, and print the table."""
    from fedsim.engine.forgetting import asked_of, departure_of

    departure = departure_of(scenario)
    if departure is None:
        return
    from fedsim.api.forgetting import forget_all

    table = forget_all(folder, asked_of(departure, scenario.rounds), runs, console)
    for line in table.lines():
        console.line(line)


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
