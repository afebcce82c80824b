"""`fedsim audit`: attack a privacy claim."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import InputError
from fedsim.verbs import Verbs, load_scenario

if TYPE_CHECKING:
    from fedsim.scenario import Scenario

_LEVELS = ("mechanism", "run", "lira")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "audit",
        _audit,
        "Attack a scenario's or a run's privacy, and hold the lower bound on epsilon against its "
        "claim; exit code 3 where the bound is higher.",
    )
    one.add_argument("name", metavar="NAME|RUN", help="a scenario, its file, or a run folder")
    one.add_argument("overrides", nargs="*", metavar="key.sub=value", help="such as rounds=3")
    one.add_argument(
        "--level",
        choices=_LEVELS,
        default="mechanism",
        help="mechanism: one release, the worst records, no training (default); run: one training "
        "with canaries; lira: membership inference with shadow models",
    )
    one.add_argument("--seed", type=int, metavar="K", help="of the attack and the training")
    one.add_argument("-v", "--verbose", action="store_true", help="tracebacks")


def _audit(arguments: argparse.Namespace) -> int:
    scenario = _scenario(arguments)
    if scenario.privacy is None:
        raise InputError(
            f"nothing to audit: {scenario.name} has no privacy block, so it claims no epsilon",
            hint="`fedsim ls dpsgd` lists scenarios that have one",
        )
    from fedsim.auditing import audit_subject
    from fedsim.console import Console
    from fedsim.privacy.verdict import audit

    console = Console(verbose=arguments.verbose)
    subject = audit_subject(scenario)
    claim = "none" if subject.claimed_epsilon is None else f"{subject.claimed_epsilon:.2f}"
    console.line(
        f"{subject.name}: claims epsilon {claim} (delta {subject.delta:g}, {subject.accountant}) "
        f"for {subject.steps} steps at sampling rate {subject.sample_rate:.4g}"
        + ("" if subject.certified else ", without a guarantee")
    )
    verdict = audit(
        subject, arguments.level, scenario.seeds[0], say=console.line, watch=_Watch(console)
    )
    console.line(verdict.line())
    return verdict.exit_code


def _scenario(arguments: argparse.Namespace) -> Scenario:
    """The scenario that is named, or the one of the run folder that is."""
    path = Path(arguments.name)
    if not path.is_dir():
        return load_scenario(arguments)
    from fedsim.identity import edited, refuse
    from fedsim.runfolder import RunFolder, damaged
    from fedsim.scenario import load

    record = RunFolder.open(path).read_json("run.json")
    if not isinstance(record.get("seed"), int):
        raise damaged(path / "run.json", "it names no seed")
    refuse(path, edited(path, record))
    if arguments.overrides:
        raise InputError(
            f"{path} is a run and keeps its scenario; {arguments.overrides[0]!r} would change it",
            hint=f"audit the scenario: fedsim audit {path / 'scenario.yaml'} "
            + " ".join(arguments.overrides),
        )
    if arguments.seed not in (None, record["seed"]):
        raise InputError(f"{path} is a run of seed {record['seed']}")
    return load(path / "scenario.yaml", seed=record["seed"])


class _Watch:
    """Prints how many of the models are done."""

    def __init__(self, console: Any) -> None:
        self._console = console

    def __call__(self, items: Sequence[Any]) -> Iterable[Any]:
        for number, item in enumerate(items, 1):
            yield item
            self._console.line(f"  model {number} of {len(items)}")
