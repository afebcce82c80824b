"""`fedsim bench distil`: iterations of distillation beside two that are written by hand.

Both loops by hand follow the papers line by line, one class after another, under a network that is
made anew in each iteration, in contiguous float32 images. `plain` computes the loss as GDD's
equations state it (Tian et al. 2023, Eq. 4 to 6), and lets autograd follow all of it. `frozen` is
how public code of distribution matching (Zhao & Bilen 2023) does it: the network's parameters need
no gradient, and real embeddings are cut off. `fedsim` is what `clients/distill.py` does.

All draw alike, so their losses agree up to rounding. They take turns in one process, of one thread,
and CPU time is counted, which other processes disturb less than they do wall time.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.distillation.encoders import redraw
from fedsim.distillation.matchings import PerturbedMeans
from fedsim.errors import InputError
from fedsim.folder.runfolder import write_whole
from fedsim.grid.machine import cores
from fedsim.method.augment import SiameseAugment, perturb_statistics
from fedsim.method.memory import keep_memory
from fedsim.method.optimisers import SGD
from fedsim.models import ConvNet
from fedsim.randomness import Streams, isolated

CLASSES, IMAGES_PER_CLASS, REAL, DEPTH = 2, 10, 100, 3
RATE, MOMENTUM = 1.0, 0.5
TOLERANCE = 1e-3
"""How far a loss may lie from that of `plain`, relative to it."""


@dataclass(frozen=True)
class Work:
    """What an iteration is made of: two classes of ten synthetic images each, GDD.

    Attributes:
        size: height and width of the images.
        width: of the ConvNet, of three blocks.
        batch: real images of a class.
        iterations: of a turn.
    """

    size: int
    width: int
    batch: int = 64
    iterations: int = 2


WORK = {
    "32": Work(32, 64, iterations=5),
    "64": Work(64, 64, iterations=2),
    "224": Work(224, 64, batch=8, iterations=1),
    "tiny": Work(16, 8, batch=8, iterations=2),
}
"""Name -> what is measured."""


@dataclass
class Course:
    """One loop's way: images that move, and what it draws from.

    Attributes:
        real: [classes * REAL, 3, size, size], class after class.
        images: synthetic ones, moved in place.
        labels: theirs.
        draws: decides everything.
    """

    work: Work
    real: Tensor
    images: Tensor
    labels: Tensor
    draws: torch.Generator

    def members(self) -> dict[int, np.ndarray]:
        """Class -> positions of its real images."""
        return {c: np.arange(c * REAL, (c + 1) * REAL) for c in range(CLASSES)}

    def read(self, positions: np.ndarray) -> Tensor:
        """Real images at positions."""
        return self.real[torch.from_numpy(positions)]


Iteration = Callable[[], float]


@dataclass(frozen=True)
class Turns:
    """One work, measured.

    Attributes:
        work: its name.
        seconds: of CPU, of an iteration: loop -> one value a turn.
        difference: loop -> how far its losses were from `plain`'s, the largest relative difference.
        losses: loop -> the loss of each iteration.
    """

    work: str
    seconds: dict[str, list[float]]
    difference: dict[str, float]
    losses: dict[str, list[float]]

    def ratio(self, one: str, other: str) -> list[float]:
        """How many times as fast one is as the other, in each turn."""
        return [b / a for a, b in zip(self.seconds[one], self.seconds[other], strict=True)]


def distil(works: Sequence[str], turns: int, out: Path) -> str:
    """Measure iterations of GDD as they are shipped, and written by hand.

    Writes `distil.json` to `out` and returns a table. The process keeps its memory from then on, as
    one that distils does.

    Args:
        works: names out of `WORK`.
        turns: how often each loop is measured, after one turn that warms up.

    Raises:
        InputError: no turn.
    """
    if turns < 1:
        raise InputError("a measurement needs at least 1 turn", hint="type: fedsim bench distil")
    load, before = os.getloadavg()[0], torch.get_num_threads()
    torch.set_num_threads(1)
    keep_memory()  # For the loops by hand, too.
    try:
        found = [measure(name, turns) for name in works]
    finally:
        torch.set_num_threads(before)
    about: dict[str, Any] = {
        "machine": {
            "cores": cores(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "load": load,
        },
        "torch": version("torch"),
        "work": {name: asdict(WORK[name]) for name in works},
        "tolerance": TOLERANCE,
        "measured": [asdict(each) for each in found],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "distil.json", json.dumps(about, indent=2).encode())
    return table(found)


def measure(name: str, turns: int) -> Turns:
    """Measure one work; the loops go on from where their last turn ended."""
    with isolated(np.random.SeedSequence(0)):  # torch draws each network before `redraw` does.
        seconds, losses = _taken(WORK[name], turns)
    difference = {
        loop: max(abs(a - b) / abs(b) for a, b in zip(found, losses["plain"], strict=True))
        for loop, found in losses.items()
    }
    return Turns(name, seconds, difference, losses)


def table(measured: Sequence[Turns]) -> str:
    """Medians, smallest and largest of all turns, as Markdown; ratios are taken within a turn."""
    lines = [
        "| px | loop | iterations a second of CPU | times plain | times frozen | "
        f"losses from plain's (at most {TOLERANCE:.0e}) |",
        "|---|---|---|---|---|---|",
    ]
    for one in measured:
        for loop, seconds in one.seconds.items():
            cells = [
                one.work,
                loop,
                _spread([1 / value for value in seconds]),
                _spread(one.ratio(loop, "plain")),
                _spread(one.ratio(loop, "frozen")),
                f"{one.difference[loop]:.1e}"
                + ("" if one.difference[loop] <= TOLERANCE else ": too far"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _taken(work: Work, turns: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of CPU and losses of each loop, see `Turns`."""
    makers = {"plain": _plain, "frozen": _frozen, "fedsim": _fedsim}
    loops = {loop: make(_course(work)) for loop, make in makers.items()}
    seconds: dict[str, list[float]] = {loop: [] for loop in loops}
    losses: dict[str, list[float]] = {loop: [] for loop in loops}
    for turn in range(turns + 1):
        for loop, iterate in loops.items():
            begun = time.process_time()
            count = work.iterations if turn else 1
            losses[loop] += [iterate() for _ in range(count)]
            if turn:
                seconds[loop].append((time.process_time() - begun) / count)
    return seconds, losses


def _spread(values: Sequence[float]) -> str:
    middle, low, high = (f(values) for f in (statistics.median, min, max))
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _course(work: Work) -> Course:
    """The same first images and draws each time."""
    streams = Streams(0)
    shape = (3, work.size, work.size)
    real = torch.randn(CLASSES * REAL, *shape, generator=streams.torch("real"))
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES_PER_CLASS)
    images = torch.randn(len(labels), *shape, generator=streams.torch("synthetic"))
    draws = streams.torch("distil")
    return Course(work, real, images.requires_grad_(True), labels, draws)


# --- By hand -------------------------------------------------------------------------------------


def _plain(course: Course) -> Iteration:
    """As the equations are printed."""

    def loss_of(encoder: nn.Module, real: Tensor, perturbed: Tensor, synthetic: Tensor) -> Tensor:
        plain = encoder(real).mean(dim=0) - encoder(synthetic).mean(dim=0)
        moved = encoder(perturbed).mean(dim=0) - encoder(synthetic).mean(dim=0)
        return plain.square().sum() + moved.square().sum()

    return _by_hand(course, loss_of, frozen=False)


def _frozen(course: Course) -> Iteration:
    """As public code does it: what needs no gradient gets none, and synthetic images one pass."""

    def loss_of(encoder: nn.Module, real: Tensor, perturbed: Tensor, synthetic: Tensor) -> Tensor:
        here = encoder(synthetic).mean(dim=0)
        with torch.no_grad():
            targets = [encoder(real).mean(dim=0), encoder(perturbed).mean(dim=0)]
        return torch.stack([(target - here).square().sum() for target in targets]).sum()

    return _by_hand(course, loss_of, frozen=True)


def _by_hand(course: Course, loss_of: Callable[..., Tensor], *, frozen: bool) -> Iteration:
    augment = SiameseAugment()
    images, draws = course.images, course.draws
    optimizer = SGD([images], lr=RATE, momentum=MOMENTUM)

    def iterate() -> float:
        encoder = _network(course.work.width)
        redraw(encoder, draws)
        encoder.requires_grad_(not frozen)
        loss = torch.zeros(())
        for label, positions in course.members().items():
            transform = augment.draw(draws)
            chosen = torch.randperm(len(positions), generator=draws)[: course.work.batch]
            real = perturbed = course.read(positions[chosen.numpy()])
            if torch.rand((), generator=draws) < PerturbedMeans.perturb_probability:
                perturbed = perturb_statistics(real, *torch.randn(2, len(real), 3, generator=draws))
            synthetic = images[course.labels == label]
            shown = [transform(each) for each in (real, perturbed, synthetic)]
            loss = loss + loss_of(encoder, *shown)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return iterate


def _network(width: int) -> nn.Module:
    """The ConvNet's encoder out of PyTorch's own layers."""
    layers: list[nn.Module] = []
    for block in range(DEPTH):
        layers.append(nn.Conv2d(width if block else 3, width, 3, padding=1))
        layers += [nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten())


# --- As shipped ----------------------------------------------------------------------------------


def _fedsim(course: Course) -> Iteration:
    """An iteration of `clients/distill.py`."""
    work, images, draws = course.work, course.images, course.draws
    matching = PerturbedMeans()
    network = matching.network(ConvNet(CLASSES, 3, work.size, work.width, DEPTH))
    optimizer = SGD([images], lr=RATE, momentum=MOMENTUM)
    members = course.members()

    def iterate() -> float:
        redraw(network, draws)
        matches = matching.matches(
            images,
            course.labels,
            members,
            course.read,
            network,
            draws,
            batch_size=work.batch,
            augment="siamese",
        )
        loss = matching.loss(network, matches)
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=[images])
        optimizer.step()
        return loss.item()

    return iterate
