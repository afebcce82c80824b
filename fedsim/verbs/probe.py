"""`fedsim probe`: how good frozen features are, by simple classifiers on all records at once."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE
from fedsim.terminal.printing import say
from fedsim.verbs import (
    Verbs,
    json_argument,
    load_scenario,
    print_json,
    scenario_arguments,
)

if TYPE_CHECKING:
    from fedsim.federation.holdings import Federation
    from fedsim.pretraining.probes import Probe
    from fedsim.tasks.facts import TaskFacts

_WHAT = (
    "centralised upper reference: the clients' vectors are pooled, which a federation does not do"
)


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "probe",
        _probe,
        "Probe the frozen features of a scenario with data.features: nearest neighbours and "
        "logistic regression on the pooled training split, scored on the test split.",
    )
    scenario_arguments(one)
    json_argument(one)


def _probe(arguments: argparse.Namespace) -> int:
    scenario = load_scenario(arguments)
    from fedsim.federation.building import build_federation
    from fedsim.pretraining import probe
    from fedsim.scenario import activate_plugins
    from fedsim.terminal.console import Console

    activate_plugins(scenario)
    console = Console(stderr=arguments.json)
    seed = scenario.seeds[0]
    federation = build_federation(scenario, seed, console.preparing)
    probes = probe(federation)
    if arguments.json:
        print_json(
            {
                "scenario": scenario.name,
                "seed": seed,
                "what": _WHAT,
                "features": getattr(federation.task, "made_by", {}),
                "sizes": {name: len(part) for name, part in federation.split.items()},
                "external": None if federation.external is None else len(federation.external[1]),
                "probes": [asdict(one) for one in probes],
            }
        )
        return EXIT_DONE
    for note in federation.store.notes:
        say(note)
    say("\n".join(_table(federation, probes)))
    say(_WHAT)
    return EXIT_DONE


def _table(federation: Federation, probes: list[Probe]) -> list[str]:
    """A row for each probe and each set of records that it was scored on."""
    facts = federation.task.facts
    rows = [("probe", "scored on", *(facts.title(name) for name in facts.in_tables))]
    sizes = {"test": len(federation.split["test"])}
    if federation.external is not None:
        sizes["external"] = len(federation.external[1])
    for one in probes:
        for where, count in sizes.items():
            scores = one.test if where == "test" else one.external or {}
            told = [_told(facts, name, scores.get(name)) for name in facts.in_tables]
            rows.append((one.name, f"{where} ({count})", *told))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    trained = len(federation.split["train"])
    return [*lines, *(f"{one.name}: {one.about}; {trained} training records" for one in probes)]


def _told(facts: TaskFacts, name: str, value: float | None) -> str:
    return "-" if value is None else facts.text(name, value)
