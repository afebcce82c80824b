"""`fedsim bench scale`: what a round costs by how many clients there are, and how many join it.

Each run is a process of its own, of one round in one process. Its cost is taken to be

    fixed + clients * each + asked * each asked

with factors of at least 0 that fit all runs best, relative to what each took. The largest
federation is predicted from the smaller ones, beside what it took, to say how good that is, and one
of ten times as many clients from all of them.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.errors import InputError, RunError
from fedsim.folder.runfolder import write_whole

_SCENARIO = """\
# Federated averaging of a small model over clients with one or two small images.
name: scale
data:
  name: isic2020
  size: 8
  embedded: {{images: {images}, sites: 1, views: 1}}
  split: {{val: 0.05, test: 0.1}}
federation:
  clients: {clients}
  participation: {participation}
  partition: {{name: shards, shards_per_client: 1}}
model: {{name: cnn, width: 8}}
strategy: {{name: fedavg}}
client: {{name: supervised, steps: 1, batch_size: 4}}
resources: {{backend: inline}}
"""
_SHARES = (1.0, 0.01)  # of the clients that join
_TINY = (4, 8, 16)
_FEWEST_IMAGES = 200

QUANTITIES = {
    "cpu_seconds": "CPU of the run, s",
    "round_seconds": "the round, s",
    "peak_mb": "peak memory, MB",
    "checkpoint_kb": "checkpoint, kB",
    "lines_kb": "lines of a round, kB",
    "run_json_kb": "run.json, kB",
}
"""What is measured, and how a table heads it. kB are 10^3 bytes, MB 10^6."""


@dataclass(frozen=True)
class Cost:
    """What one run of one round took.

    Attributes:
        clients: how many there are.
        asked: how many of them joined the round.
        values: `QUANTITIES` -> number.
    """

    clients: int
    asked: int
    values: dict[str, float]


@dataclass(frozen=True)
class Model:
    """A quantity as `fixed + clients * each + asked * each_asked`."""

    fixed: float
    each: float
    each_asked: float

    def of(self, clients: int, asked: int) -> float:
        """The quantity for so many clients, and so many that join."""
        return self.fixed + clients * self.each + asked * self.each_asked


def scale(clients: Sequence[int] | None, out: Path, *, tiny: bool = False) -> str:
    """Measure runs of one round, with all clients and with a hundredth of them.

    Writes `scale.json` to `out` and returns tables.

    Args:
        clients: numbers of clients; None: 10, 100, 1,000 and 10,000.
        tiny: a few clients, to see that it works; its numbers say nothing.

    Raises:
        InputError: fewer than three numbers of clients.
        RunError: a run failed.
    """
    numbers = sorted(set(clients or (_TINY if tiny else (10, 100, 1000, 10_000))))
    if len(numbers) < 3 or numbers[0] < 1:
        raise InputError(
            "a cost model needs at least three numbers of clients, 1 or more",
            hint="type: fedsim bench scale --clients 10 100 1000",
        )
    load = os.getloadavg()[0]
    costs = [
        _measured(number, share)
        for number in numbers
        for share in sorted({max(share, 1 / number) for share in _SHARES})
    ]
    found = forecast(costs)
    about = {"cores": os.cpu_count(), "platform": platform.platform(), "load": load}
    told = about | {"runs": [asdict(cost) for cost in costs], **found}
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "scale.json", (json.dumps(told, indent=2) + "\n").encode())
    return table(costs, found)


def fitted(costs: Sequence[Cost], quantity: str) -> Model:
    """The cost model of a quantity that fits the runs best, relative to what each took."""
    from scipy.optimize import nnls  # It takes as long as many a command.

    taken = np.array([cost.values[quantity] for cost in costs])
    factors = np.array([[1.0, cost.clients, cost.asked] for cost in costs])
    weights = 1 / np.maximum(taken, 1e-9)
    # Columns of one size: numbers of clients lie far apart.
    size = factors.max(axis=0)
    found, _ = nnls(factors / size * weights[:, None], taken * weights)
    return Model(*(float(value) for value in found / size))


def forecast(costs: Sequence[Cost]) -> dict[str, Any]:
    """Cost models of all quantities, how far off they are, and what they say of ten times more.

    Returns:
        `model`: quantity -> its factors, of all runs; `largest`: each run of the largest
        federation, with what the smaller ones predict (`predicted`) and how far that is from what
        it took (`error`, relative); `ten_times`: `clients`, `asked` and the quantities.
    """
    most = max(cost.clients for cost in costs)
    smaller = [cost for cost in costs if cost.clients < most]
    models = {name: fitted(costs, name) for name in QUANTITIES}
    before = {name: fitted(smaller, name) for name in QUANTITIES}
    largest, more = [], []
    for cost in costs:
        if cost.clients < most:
            continue
        predicted = {name: before[name].of(cost.clients, cost.asked) for name in QUANTITIES}
        error = {n: predicted[n] / cost.values[n] - 1 for n in QUANTITIES if cost.values[n]}
        largest.append(asdict(cost) | {"predicted": predicted, "error": error})
        clients, asked = 10 * cost.clients, 10 * cost.asked
        values = {name: model.of(clients, asked) for name, model in models.items()}
        more.append({"clients": clients, "asked": asked, "values": values})
    told = {name: asdict(model) for name, model in models.items()}
    return {"model": told, "largest": largest, "ten_times": more}


def table(costs: Sequence[Cost], found: dict[str, Any]) -> str:
    """What was measured, what the smaller runs predict of the largest, and of ten times more."""
    largest = []
    for one in found["largest"]:
        told = {
            name: f"{_number(one['predicted'][name])} ({one['error'].get(name, 0):+.0%})"
            for name in QUANTITIES
        }
        largest.append((one["clients"], one["asked"], told))
    more = [(one["clients"], one["asked"], _numbers(one["values"])) for one in found["ten_times"]]
    return "\n".join(
        [
            *_lines([(cost.clients, cost.asked, _numbers(cost.values)) for cost in costs]),
            *("", "The largest federation as the smaller ones predict it, and the error:", ""),
            *_lines(largest),
            *("", "Ten times as many, predicted from all runs:", ""),
            *_lines(more),
        ]
    )


def _lines(rows: Sequence[tuple[int, int, dict[str, str]]]) -> list[str]:
    """A Markdown table of runs."""
    heads = ("clients", "join", *QUANTITIES.values())
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for clients, asked, cells in rows:
        told = " | ".join(cells[name] for name in QUANTITIES)
        lines.append(f"| {clients:,} | {asked:,} | {told} |")
    return lines


def _numbers(values: dict[str, float]) -> dict[str, str]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _measured(clients: int, share: float) -> Cost:
    """One round of one run, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fedsim-bench-") as folder:
        place = Path(folder)
        scenario = place / "scale.yaml"
        # One image a client, with those that validation and test take, and some to spare.
        images = max(_FEWEST_IMAGES, round(1.3 * clients))
        text = _SCENARIO.format(clients=clients, images=images, participation=share)
        scenario.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "fedsim"]
        _done([*command, "data", "prepare", str(scenario)], clients)
        before = _cpu()
        _done([*command, "run", str(scenario), "--runs", str(place), "--quiet"], clients)
        spent = _cpu() - before
        run = place / "scale" / "latest"
        row = json.loads((run / "rounds.jsonl").read_text(encoding="utf-8"))
        (checkpoint,) = (run / "checkpoint").glob("round-*")
        lines = sum((run / name).stat().st_size for name in ("rounds.jsonl", "traffic.jsonl"))
        values = {
            "cpu_seconds": spent,
            "round_seconds": row["seconds"],
            "peak_mb": row["peak_rss_mb"],
            # It holds the round's lines, too, which are told beside it.
            "checkpoint_kb": (checkpoint.stat().st_size - lines) / 1e3,
            "lines_kb": lines / 1e3,
            "run_json_kb": (run / "run.json").stat().st_size / 1e3,
        }
        return Cost(clients, len(row["clients"]), values)


def _cpu() -> float:
    """CPU seconds of the processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _done(command: Sequence[str], clients: int) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"a run of {clients} clients failed:\n{done.stderr}")
