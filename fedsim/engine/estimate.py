"""What a run would cost: measured by one round in this process, every loop cut after few steps."""

from __future__ import annotations

import math
from pathlib import Path

from fedsim.engine.assembly import assembled, worker_count
from fedsim.engine.costing import Estimate, disk_mb, folder_mb, history_mb, machine, memory_mb
from fedsim.engine.loop import Rounds
from fedsim.engine.prepare import Prepared, prepare
from fedsim.engine.wording import epsilon_at_the_end
from fedsim.grid.choosing import choose, settled
from fedsim.grid.machine import available_mb
from fedsim.grid.progress import Steps
from fedsim.observers.base import End, Run
from fedsim.observers.telling import Observers
from fedsim.scenario import Scenario
from fedsim.terminal.console import Console


def estimate(scenario: Scenario, seed: int, console: Console, steps: int = 2) -> Estimate:
    """Measure what a run would cost: one round in this process, every loop cut after `steps`.

    Raises:
        InputError: as a run of the scenario would.
        ClientError, RunError: the round failed.
    """
    prepared = prepare(scenario, seed, console.line, console.preparing)
    for note in prepared.federation.notes(counts=prepared.privacy is None):
        console.line(f"data: {note}")
    observers, nowhere = Observers([console]), Path()
    planned, names = prepared.scenario.rounds, tuple(prepared.names)
    observers.begin(Run("", scenario.name, seed, nowhere, names, planned))
    try:
        with assembled(prepared, observers, step_limit=steps) as rounds:
            nothing, scoring = rounds.trial()
            if nothing:
                console.line(f"NOTHING LEARNED: {nothing}; a run of such rounds learns nothing")
            return _costs(prepared, rounds, scoring)
    finally:
        observers.end(End("done", nowhere))


def _costs(prepared: Prepared, rounds: Rounds, scoring: float) -> Estimate:
    """What all rounds cost, if each is like the trial; `scoring` takes so many seconds each."""
    scenario, planned, clients = prepared.scenario, prepared.scenario.rounds, len(prepared.names)
    up, down = rounds.ledger.total_megabytes()
    server = rounds.server.steps
    assert isinstance(server, Steps)
    client_seconds = sum(rounds.grid.estimated_seconds.values()) * planned
    fit, peak = worker_count(scenario, clients), rounds.peak_rss_mb()
    choice = settled(scenario, fit) or choose(
        client_seconds, clients * planned, fit, process_mb=peak, free_mb=available_mb()
    )
    scored = math.ceil(planned / scenario.evaluation.every) + 1
    return Estimate(
        rounds=planned,
        clients=clients,
        mb_up=up * planned,
        mb_down=down * planned,
        client_seconds=client_seconds,
        server_seconds=server.estimated_seconds * planned + scoring * scored,
        workers=choice.workers,
        memory_mb=memory_mb(peak, choice.workers, choice.backend == "inline"),
        disk_mb=disk_mb(rounds, prepared.one_shot),
        prepared_mb=folder_mb(prepared.federation.store.folder),
        epsilon="" if prepared.privacy is None else epsilon_at_the_end(prepared.privacy),
        machine=machine(),
        history=history_mb(rounds),
    )
