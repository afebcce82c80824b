"""What a run would cost besides its rounds: memory and disk, and the machine this was taken on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedsim.engine.checkpoint import strategy_state
from fedsim.folder.runfolder import cpu
from fedsim.grid.choosing import RAY_MB
from fedsim.grid.machine import cores, gpus
from fedsim.method.strategy import Strategy

if TYPE_CHECKING:
    from fedsim.engine.loop import Rounds

# Pictures and page of a run without pictures of images, measured: 0.6 to 1.5.
_REPORT_MB = 1.5
# A line of traffic.jsonl.
_LINE_BYTES = 250
_CHECKPOINTS = 2  # that are kept


@dataclass(frozen=True)
class Estimate:
    """What a run would cost, from one trial round with few steps.

    Attributes:
        rounds: rounds of the scenario.
        clients: of the federation.
        mb_up, mb_down: megabytes (10^6 bytes) of all rounds.
        client_seconds: estimated seconds of local work of all clients and rounds.
        server_seconds: estimated seconds of the server's work of all rounds, scoring included.
        workers: clients that run at a time.
        memory_mb: megabytes of all processes together at the peak.
        disk_mb: megabytes of the run folder while the run lasts.
        prepared_mb: megabytes of prepared data in the cache.
        epsilon: what a private run will have spent, or will claim, in words; "" without privacy.
        machine: what the trial ran on.
        history: what the strategy keeps of the run for later, what for -> megabytes, at most.
    """

    rounds: int
    clients: int
    mb_up: float
    mb_down: float
    client_seconds: float
    server_seconds: float
    workers: int
    memory_mb: float
    disk_mb: float
    prepared_mb: float
    epsilon: str
    machine: str
    history: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Estimated duration: client work spread over the workers, then the server's."""
        return self.client_seconds / self.workers + self.server_seconds


def memory_mb(peak_mb: float, workers: int, inline: bool) -> float:
    """Memory of a run whose trial, in one process, took `peak_mb`.

    An upper bound: each of Ray's workers is counted as large as the trial, which also held what
    only the driver holds.
    """
    return peak_mb if inline else peak_mb * (1 + workers) + RAY_MB


def disk_mb(rounds: Rounds, one_shot: bool) -> float:
    """The run folder: models, checkpoints, what one-shot clients sent, the history, pictures.

    Call it after the trial round.
    """
    arrays = _bytes(dict(rounds.arrays))
    states = _bytes([context.state for context in rounds.grid.contexts.values()])
    states += _bytes(strategy_state(rounds.strategy))
    messages = 2 * len(rounds.server.names) * rounds.scenario.rounds
    sent = rounds.ledger.total_megabytes()[0] * 1e6 if one_shot else 0.0
    total = arrays + _CHECKPOINTS * (arrays + states + sent) + sent + messages * _LINE_BYTES
    total += rounds.server.history.bytes(rounds.scenario.rounds)
    # Each checkpoint holds what the strategy keeps; what it had after the trial is in `states`.
    total += _CHECKPOINTS * sum(history_mb(rounds).values()) * 1e6
    return total / 1e6 + _REPORT_MB


def history_mb(rounds: Rounds) -> dict[str, float]:
    """What the strategy keeps of a run for later: what for -> megabytes, at most."""
    if not isinstance(rounds.strategy, Strategy):
        return {}
    found = rounds.strategy.keeps(rounds.buffers.begin(rounds.arrays))
    return {name: size / 1e6 for name, size in found.items()}


def folder_mb(folder: Path) -> float:
    """Megabytes of the files in a folder, and below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def machine() -> str:
    """Processor, cores, and how busy they are."""
    there = gpus()
    devices = f"{there} GPU{'s' * (there > 1)}" if there else "no GPU"
    named = f"{cpu()}, {cores()} core{'s' * (cores() > 1)}, {devices}"
    try:
        return f"{named}, load {os.getloadavg()[0]:.1f}"
    except OSError:  # Not told here.
        return named


def lines(name: str, cost: Estimate, seeds: int) -> list[str]:
    """An estimate for a person."""
    several = f", for each of {seeds} seeds" * (seeds > 1)
    found = [
        f"{name}: {cost.rounds} round(s) of {cost.clients} client(s){several}",
        f"  traffic   about {cost.mb_up:.3f} MB up, {cost.mb_down:.3f} MB down",
    ]
    found += [f"  privacy   {cost.epsilon}"] if cost.epsilon else []
    return [
        *found,
        f"  time      roughly {duration(cost.seconds)}, {cost.workers} client(s) at a time",
        f"  memory    up to {_rounded(cost.memory_mb)} MB, all processes together",
        f"  disk      about {_rounded(cost.disk_mb)} MB for the run folder; the cache has "
        f"{_rounded(cost.prepared_mb)} MB of prepared data",
        *_history_lines(cost.history),
        f"  taken on  {cost.machine} (one round, a few steps of each loop)",
    ]


def _history_lines(history: Mapping[str, float]) -> list[str]:
    """What is kept for later, in a line; none where nothing is."""
    if not history:
        return []
    each = ", ".join(f"{name} {_rounded(size)}" for name, size in history.items())
    return [f"  history   at most, in MB: {each} (each checkpoint holds it; some of it is shared)"]


_UNITS = ((365.25 * 86400, "years"), (86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def duration(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            count = seconds / size
            return f"{count:.2g} {unit}" if count >= 1e6 else f"{count:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _rounded(megabytes: float) -> str:
    """Two digits, or whole numbers."""
    return f"{megabytes:.1f}" if megabytes < 10 else f"{float(f'{megabytes:.2g}'):,.0f}"


def _bytes(value: Any) -> int:
    """Bytes of the arrays and tensors in a value."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(_bytes(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes(inner) for inner in value)
    # Flower's records: arrays have their bytes in `data`, records are mappings.
    data = getattr(value, "data", None)
    if isinstance(data, bytes):
        return len(data)
    values = getattr(value, "values", None)
    return sum(_bytes(inner) for inner in values()) if callable(values) else 0
