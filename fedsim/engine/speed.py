"""How long a round takes: fedsim's ways of running it beside a loop that is written by hand.

All rows do the same work from the same first weights, with the same batches, and each in a process
of its own. They take turns, so that a machine that slows down slows all of them down.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from flwr.app import MetricRecord, RecordDict
from torch import Tensor, nn

from fedsim.data.dataset import Dataset, Embedded, Manifest
from fedsim.engine.by_hand import Weights
from fedsim.errors import InputError, RunError
from fedsim.folder.runfolder import write_whole
from fedsim.grid.machine import cores
from fedsim.method.client import Client, Site
from fedsim.method.updates import load_received, update
from fedsim.terminal.printing import say

_RATE, _BATCH, _IMAGES, _TEST = 0.01, 32, 64, 256


@dataclass(frozen=True)
class Work:
    """What a round is made of.

    Attributes:
        clients: that take part.
        model: the scenario's `model` block.
        size: height and width of the images.
        batch: images in a step.
        images: of each client.
        trains: whether clients train, or send back what came.
        volumes: whether clients segment slices of volumes; a client is a centre of the stand-in
            then, and `images` says how many steps of `batch` patches it takes.
    """

    clients: int
    model: str
    size: int = 32
    batch: int = _BATCH
    images: int = _IMAGES
    trains: bool = True
    volumes: bool = False


_CNN = "{name: fedsim.engine.speed:PooledCNN}"
_SMALL = "{name: cnn, width: 8}"
WORK = {
    "cnn-10": Work(10, _CNN),
    "cnn-100": Work(100, _CNN),
    "cnn-1000": Work(1000, _CNN),
    "small-100": Work(100, _SMALL, size=16, batch=8),
    "resnet18-10": Work(10, "{name: resnet18}"),
    "unet-4": Work(4, "{name: unet}", size=64, batch=8, images=64, volumes=True),
    "transport-100": Work(100, "{name: resnet18}", size=16, images=2, trains=False),
    "tiny": Work(3, "{name: cnn, width: 8}", size=8),
    "tiny-transport": Work(3, "{name: cnn, width: 8}", size=8, images=2, trains=False),
    "tiny-unet": Work(
        *(4, "{name: unet, channels: [4, 8]}"), size=32, batch=2, images=4, volumes=True
    ),
}
"""Name -> what is measured."""

ROWS: dict[str, tuple[str, ...]] = {
    "raw-1x2": ("raw", "1", "2"),
    "raw-2x1": ("raw", "2", "1"),
    "inline-1": ("fedsim", "resources.backend=inline"),
    "inline-2": ("fedsim", "resources.backend=inline", "resources.threads=2"),
    "fast-1": ("fedsim", "resources.backend=inline", "resources.fast=true"),
    "fast-2": (
        *("fedsim", "resources.backend=inline", "resources.fast=true"),
        "resources.threads=2",
    ),
    "ray": ("fedsim", "resources.backend=ray", "resources.workers=2"),
    "ray-fast": ("fedsim", "resources.backend=ray", "resources.workers=2", "resources.fast=true"),
    "flower": ("flower",),
    "pfl-1x2": ("pfl", "2"),
}
"""Name -> who runs, and how: processes x threads of a loop, threads, words of a scenario."""
RAW = ("raw-1x2", "raw-2x1")
# What a row needs beside fedsim.
_NEEDS = {"flower": "ray", "ray": "ray", "ray-fast": "ray", "pfl-1x2": "pfl"}

_SCENARIO = """\
# Federated averaging of small clients, to measure what a round takes.
name: speed
rounds: {rounds}
data:
  name: fedsim.engine.speed:Blobs
  size: {size}
  embedded: {{images: {images}}}
  split: {{val: 0.0, test: {test:.12f}}}
federation: {{clients: {clients}, partition: iid}}
model: {model}
strategy: {{name: fedavg}}
client: {client}
evaluation: {{every: {rounds}}}
"""

_VOLUMES = """\
# Federated averaging of four centres that segment, to measure what a round takes.
name: speed
rounds: {rounds}
data: {{name: promise12, size: {size}, embedded: {{scale: 0.25}}}}
federation: {{partition: {{name: natural}}}}
model: {model}
strategy: {{name: fedavg}}
client:
  name: segmentation
  steps: {steps}
  batch_size: {batch}
  learning_rate: {rate}
  last_learning_rate: {rate}
  momentum: 0.0
  weight_decay: 0.0
evaluation: {{every: {rounds}}}
"""

_TRAINS = (
    "{{name: supervised, batch_size: {batch}, learning_rate: {rate}, momentum: 0.0, "
    "class_balanced: false}}"
)
_SENDS_BACK = "{name: fedsim.engine.speed:SendsBack}"


class SendsBack(Client):
    """A client that sends back the model that came: what is left of a round is its transport."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Fill a model with the weights that came, and answer with them."""
        model = site.new_model()
        load_received(model, content)
        metrics = MetricRecord({"num-examples": len(site.train)})
        return RecordDict({"arrays": update(model, content), "metrics": metrics})


class Blobs(Dataset):
    """Noise with a bright blob, left or right: images that take no time to make."""

    classes = ("left", "right")
    layout = ""

    @staticmethod
    def embedded(size: int, images: int = 100, seed: int = 0) -> Embedded:
        """Make `images` of `size` x `size` pixels."""
        draws = np.random.default_rng(seed)
        labels = np.arange(images) % 2
        pixels = draws.integers(0, 128, (images, size, size, 3), dtype=np.uint8)
        half = size // 2
        pixels[labels == 0, half // 2 : -(half // 2), :half] += 90
        pixels[labels == 1, half // 2 : -(half // 2), half:] += 90
        groups = [f"{number}" for number in range(images)]
        return Embedded(pixels, labels.astype(np.int64), groups, ["one"] * images, Blobs.classes)

    def manifest(self, root: Path) -> Manifest:
        """There is none: the images are made."""
        raise InputError("fedsim.engine.speed:Blobs has no folder", hint="leave data.root out")


class PooledCNN(nn.Module):
    """Three convolutions with pooling by maxima, two linear layers: 99,456 parameters at 32 px."""

    made_for: ClassVar[str] = "images"
    head: ClassVar[str] = "layers.12"

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inner, outer in ((in_channels, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        flat = 64 * (image_size // 8) ** 2
        layers += [nn.Flatten(), nn.Linear(flat, 42), nn.ReLU(), nn.Linear(42, num_classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, in_channels, image_size, image_size]."""
        logits: Tensor = self.layers(images)
        return logits


@dataclass(frozen=True)
class Timed:
    """One row's rounds in one repetition.

    Attributes:
        row: its name.
        seconds: of each round but the first, which warms up, and the last, which is scored.
        difference: of the weights from the raw loop's: the largest, over the array's largest value.
        together: how clients trained together, of a fast mode; "".
        load: of the machine before, the mean number of processes at work over a minute.
    """

    row: str
    seconds: tuple[float, ...]
    difference: float
    together: str
    load: float

    @property
    def median(self) -> float:
        """Seconds of a round."""
        return statistics.median(self.seconds)


def engine(
    work: Sequence[str],
    rows: Sequence[str],
    rounds: int,
    turns: int,
    out: Path,
    name: str = "engine",
) -> str:
    """Measure rounds of `work` in all `rows`, which take turns.

    Writes `<name>.json` to `out` and returns a table. Rows of what is not installed are left out.

    Args:
        work: names out of `WORK`.
        rows: names out of `ROWS`; one of `RAW` must be among them.
        rounds: of each run; the first warms up, and the last one is scored.
        turns: how often each row is measured.
        name: of the file.

    Raises:
        InputError: too few rounds or turns, or no raw loop.
        RunError: a run failed.
    """
    if rounds < 3 or turns < 1 or not set(rows) & set(RAW):
        raise InputError(
            "a measurement needs 3 rounds, 1 turn and a raw loop among its rows",
            hint=f"type: fedsim bench engine --rounds 3 --rows {RAW[0]} fast-2",
        )
    rows = [row for row in rows if find_spec(_NEEDS.get(row, "fedsim")) is not None]
    found: dict[str, list[list[Timed]]] = {}
    for one in work:
        found[one] = [_turn(WORK[one], rows, rounds) for _ in range(turns)]
    about: dict[str, Any] = {
        "machine": {
            "cores": cores(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "rounds": rounds,
        "versions": {package: version(package) for package in ("torch", "flwr")},
        "work": {one: asdict(WORK[one]) for one in work},
        "measured": {
            one: [[asdict(timed) for timed in turn] for turn in each] for one, each in found.items()
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"{name}.json", json.dumps(about, indent=2).encode())
    return "\n\n".join(f"{one}\n\n{table(each)}" for one, each in found.items())


def table(turns: Sequence[Sequence[Timed]]) -> str:
    """Medians and spread of all repetitions, as Markdown; ratios are taken within each."""
    lines = [
        "| row | round, s | over the best raw loop | weights differ by | together | load |",
        "|---|---|---|---|---|---|",
    ]
    for place, first in enumerate(turns[0]):
        mine = [turn[place] for turn in turns]
        best = [min(one.median for one in turn if one.row in RAW) for turn in turns]
        ratios = [one.median / other for one, other in zip(mine, best, strict=True)]
        cells = [
            first.row,
            _spread([one.median for one in mine], "{:.3f}"),
            _spread(ratios, "{:.2f}"),
            f"{max(one.difference for one in mine):.1e}",
            first.together or "-",
            _spread([one.load for one in mine], "{:.1f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], form: str) -> str:
    middle, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({low}-{high})"


def _turn(work: Work, rows: Sequence[str], rounds: int) -> list[Timed]:
    """One repetition of all rows."""
    with tempfile.TemporaryDirectory(prefix="fedsim-bench-") as folder:
        place = Path(folder)
        scenario = place / "speed.yaml"
        scenario.write_text(text(work, rounds))
        done = {row: _measured(scenario, row, place) for row in rows}
        reference = next(done[row][0] for row in RAW if row in done)
        return [
            Timed(row, tuple(about["seconds"][1:-1]), _apart(weights, reference), **about["more"])
            for row, (weights, about) in done.items()
        ]


def text(work: Work, rounds: int) -> str:
    """The scenario that does this work."""
    if work.volumes:
        steps = work.images // work.batch
        return _VOLUMES.format(rounds=rounds, rate=_RATE, steps=steps, **asdict(work))
    images = work.images * work.clients + _TEST
    client = _TRAINS.format(batch=work.batch, rate=_RATE) if work.trains else _SENDS_BACK
    given = asdict(work) | {"images": images, "client": client}
    return _SCENARIO.format(rounds=rounds, test=_TEST / images, **given)


def _measured(scenario: Path, row: str, place: Path) -> tuple[Weights, dict[str, Any]]:
    """The weights that a row ends with, and what it tells: in a process of its own."""
    load = os.getloadavg()[0]
    file = place / f"{row}.npz"
    command = [sys.executable, "-m", "fedsim.engine.speed", str(scenario), row, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"row {row} failed:\n{done.stderr}")
    about = json.loads(done.stdout.splitlines()[-1])
    about["more"]["load"] = load
    with np.load(file) as weights:
        return dict(weights), about


def _apart(weights: Weights, reference: Weights) -> float:
    """The largest difference of a parameter, over the largest value of the reference's."""
    return max(
        float(np.abs(weights[name] - value).max() / (np.abs(value).max() or 1.0))
        for name, value in reference.items()
    )


# --- In a process of its own ---------------------------------------------------------------------


def _run(scenario: Path, row: str, file: Path) -> None:
    """Run a row's rounds; write its weights to `file`, and print what is to be told."""
    from fedsim.engine import by_hand, peers

    kind, *words = ROWS[row]
    with contextlib.redirect_stdout(sys.stderr):
        if kind == "fedsim":
            weights, seconds, together = _fedsim(scenario, words)
        elif kind == "flower":
            (weights, seconds), together = peers.flower(scenario), ""
        elif kind == "pfl":
            (weights, seconds), together = peers.pfl(scenario, *map(int, words)), ""
        else:
            (weights, seconds), together = by_hand.loops(scenario, *map(int, words)), ""
    np.savez(file, **weights)  # type: ignore[arg-type]
    say(json.dumps({"seconds": seconds, "more": {"together": together}}))


def _fedsim(scenario: Path, words: Sequence[str]) -> tuple[Weights, list[float], str]:
    from safetensors.numpy import load_file

    from fedsim.api import run

    result = run(scenario, *words, runs=scenario.parent / "runs")
    about = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))
    seconds = [row["seconds"] for row in result.rounds]
    weights = load_file(result.folder / "model.safetensors")
    return weights, seconds, about["computing"]["together"] or ""


if __name__ == "__main__":
    # Under its own name: what it makes is unpickled in other processes.
    from fedsim.engine import speed

    speed._run(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
