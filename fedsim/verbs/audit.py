"""`fedsim audit`: attack a privacy claim."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedsim.terminal.completion import by_name
from fedsim.verbs import Verbs, json_argument, load_scenario, print_json

_LEVELS = ("mechanism", "run", "lira")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "audit",
        _audit,
        "Attack a scenario's or a run's privacy, and hold the lower bound on epsilon against its "
        "claim; exit code 3 where the bound is higher.",
    )
    what = "a scenario, its file, or a run folder"
    by_name(one.add_argument("name", metavar="NAME|RUN", help=what))
    one.add_argument("overrides", nargs="*", metavar="key.sub=value", help="such as rounds=3")
    one.add_argument(
        "--level",
        choices=_LEVELS,
        default="mechanism",
        help="mechanism: one release, the worst records, no training (default); run: one training "
        "with canaries; lira: membership inference with shadow models",
    )
    one.add_argument("--seed", type=int, metavar="K", help="of the attack and the training")
    json_argument(one)
    one.add_argument("-v", "--verbose", action="store_true", help="tracebacks")


def _audit(arguments: argparse.Namespace) -> int:
    if not Path(arguments.name).is_dir() and "=" in arguments.name:
        load_scenario(arguments)  # Says that the name comes first.
    from fedsim.api.studies import audited_scenario, verdict_of
    from fedsim.terminal.console import Console

    scenario = audited_scenario(arguments.name, arguments.overrides, arguments.seed)
    console = Console(verbose=arguments.verbose, stderr=arguments.json)
    verdict = verdict_of(scenario, arguments.level, None, console)
    if arguments.json:
        print_json({"scenario": scenario.name, "seed": scenario.seeds[0], **verdict.record()})
    else:
        console.line(verdict.line())
    return verdict.exit_code
