"""Measurements of fedsim itself, each run in a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.errors import RunError
from fedsim.folder.runfolder import write_whole
from fedsim.report.csv_file import csv_bytes

# A model of 4.7 MB, and hardly any work: what grows here is what the engine keeps.
_SCENARIO = """\
# Federated averaging with nothing to do, to measure what the engine itself needs.
name: memory
rounds: {rounds}
data:
  name: ham10000
  size: 16
  embedded: {{images: {images}, sites: 1}}
federation:
  clients: {clients}
  partition: iid
model: {{name: convnet, width: 256}}
strategy: {{name: fedavg}}
client: {{name: supervised, steps: 1, batch_size: 4}}
evaluation: {{every: {rounds}}}
resources: {{backend: ray, workers: 2}}
"""


@dataclass(frozen=True)
class Memory:
    """Peak memory after each round of one run, in MB (10^6 bytes): server and workers together."""

    clients: int
    megabytes: tuple[float, ...]
    model_megabytes: float


def memory(clients: Sequence[int], rounds: int, long: int, out: Path) -> str:
    """Measure peak memory over numbers of clients, and over many rounds.

    Writes `memory.csv` and `memory.png` to `out` and returns a table.

    Args:
        clients: numbers of clients, each for `rounds` rounds.
        long: rounds of a further run of 10 clients; 0 for none.

    Raises:
        RunError: a run failed.
    """
    runs = [_measure(number, rounds) for number in clients]
    runs += [_measure(10, long)] if long else []
    out.mkdir(parents=True, exist_ok=True)
    rows = [(run.clients, n, mb) for run in runs for n, mb in enumerate(run.megabytes, 1)]
    write_whole(out / "memory.csv", csv_bytes([("clients", "round", "peak_rss_mb"), *rows]))
    _draw(runs, out / "memory.png")
    lines = [
        "| clients | rounds | all updates of a round, MB | peak after round 1, MB | "
        "after round 2, MB | after the last, MB |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        peaks = [run.megabytes[0], run.megabytes[min(1, len(run.megabytes) - 1)], run.megabytes[-1]]
        lines.append(
            f"| {run.clients} | {len(run.megabytes)} | {run.clients * run.model_megabytes:.0f} | "
            + " | ".join(f"{peak:.0f}" for peak in peaks)
            + " |"
        )
    return "\n".join(lines)


def _measure(clients: int, rounds: int) -> Memory:
    with tempfile.TemporaryDirectory(prefix="fedsim-bench-") as folder:
        place = Path(folder)
        images = max(400, 8 * clients)
        scenario = place / "memory.yaml"
        scenario.write_text(_SCENARIO.format(clients=clients, rounds=rounds, images=images))
        command = [sys.executable, "-m", "fedsim", "run", str(scenario), "--runs", str(place)]
        done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"a run of {clients} clients failed:\n{done.stderr}")
        run = place / "memory" / "latest"
        rows = [json.loads(line) for line in (run / "rounds.jsonl").open()]
        model = (run / "model.safetensors").stat().st_size / 1e6
        return Memory(clients, tuple(row["peak_rss_mb"] for row in rows), model)


def _draw(runs: Sequence[Memory], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for run in runs:
        numbers = range(1, len(run.megabytes) + 1)
        label = f"{run.clients} clients, {len(numbers)} rounds"
        axes.plot(numbers, run.megabytes, marker=".", label=label)
    axes.set(xlabel="round", ylabel="peak memory of server and 2 workers (MB)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_whole(path, buffer.getvalue())
