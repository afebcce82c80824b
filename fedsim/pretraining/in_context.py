"""In-context pretraining: a network learns to outline what its support set outlines.

Butoi et al., "UniverSeg" (2023) train on many data sets and many tasks, so that the network learns
to follow the support set and not to know an organ. Here the data are generated: zones of the
prostate, halves of the hippocampus, and shapes that are drawn anew for each step. It is a stand-in
for the published network, and has seen no patient.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedsim.data.features.extracting import one_thread
from fedsim.data.phantom.hippocampus import hippocampus_stand_in
from fedsim.data.volumes.dataset import VolumeCase
from fedsim.data.volumes.prostate import prostate_cases
from fedsim.errors import InputError, RunError
from fedsim.losses.segmentation import soft_dice
from fedsim.method.optimisers import Adam
from fedsim.method.schedules import cosine
from fedsim.models.cross_network import CrossNetwork
from fedsim.pretraining.keeping import Stateful, checkpoint_of, finish, finished, keep, take_up
from fedsim.randomness import Streams, isolated
from fedsim.tasks.segmentation.support import unit_range
from fedsim.trained.about import PURPOSE

STEPS = 100
"""Steps of an epoch."""
OTHER_PATIENTS = 1_000_000
"""Added to the seed of the generated volumes: those of scenarios have small seeds."""
FIELD_OF_VIEW = 0.7
"""The share of a generated slice of the prostate that is kept."""

Cases = list[tuple[NDArray[np.float32], NDArray[np.uint8]]]


@dataclass(frozen=True)
class InContextPretraining:
    """What decides the weights.

    Attributes:
        channels: of the network's levels, two or more.
        size: height and width of the slices, px, a multiple of 2 for each level but one.
        cases: generated volumes of the prostate, about; and half as many of the hippocampus.
        epochs: of 100 steps each.
        batch_size: queries of a step, each with a support set and a task of its own.
        support: slices in a support set, at most.
        learning_rate: of Adam, above 0; it falls to 0 by half a cosine.
        seed: of volumes, first weights, tasks and batches, at least 0.

    Raises:
        InputError: a value is out of its range; names all of them.
    """

    channels: tuple[int, ...] = (16, 16, 16, 16)
    size: int = 48
    cases: int = 60
    epochs: int = 15
    batch_size: int = 4
    support: int = 8
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        step = 2 ** (len(self.channels) - 1)
        ranges = {
            "channels": len(self.channels) >= 2 and min(self.channels, default=0) >= 1,
            "size": self.size >= 16 and self.size % step == 0,
            "count": self.cases >= 8,
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 1,
            "support": self.support >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "seed": self.seed >= 0,
        }
        told = asdict(self) | {"count": self.cases}
        if wrong := [f"{name} is {told[name]}" for name, fits in ranges.items() if not fits]:
            raise InputError(
                f"in-context pretraining cannot go on like this: {', '.join(wrong)}",
                hint="expected channels of at least two levels, slices of at least 16 px that can "
                f"be halved {len(self.channels) - 1} times, 8 volumes, and numbers above 0",
            )


def pretrain_in_context(
    settings: InContextPretraining,
    out: Path,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Train a network of UniverSeg's architecture on generated volumes and write it to a file.

    The same settings give the same bytes on one machine, also after an interruption: each finished
    epoch is kept in `<out>.unfinished`, and the same call goes on from there.

    Args:
        settings: all that decides the weights.
        out: the `.safetensors` file, with the names of the published weights. What is there already
            is left as it is if it was made of the same settings.
        progress: called with steps done, steps in all, and what is done.
        say: is told of each finished epoch, and of what is gone on from.

    Returns:
        The file's metadata.

    Raises:
        InputError: the file is there and is another.
        RunError: the loss is no number.
    """
    tell = say or (lambda text: None)
    about = _about(settings)
    if (found := finished(out, about)) is not None:
        tell(f"{out} is there already")
        return found
    streams, checkpoint, loss = Streams(settings.seed), checkpoint_of(out), math.nan
    with one_thread():
        with isolated(streams.sequence("model")):
            network = CrossNetwork(settings.channels)
        optimiser = Adam(network.parameters(), lr=settings.learning_rate)
        parts: dict[str, Stateful] = {"model": network, "optimiser": optimiser}
        first = take_up(checkpoint, about, parts)
        if first:
            tell(f"goes on after epoch {first} of {settings.epochs}")
        tasks = Tasks.generated(settings)
        for epoch in range(first, settings.epochs):
            rng, total = streams.numpy("batches", round=epoch), 0.0
            for step in range(STEPS):
                done = epoch * STEPS + step
                rate = cosine(done, settings.epochs * STEPS, settings.learning_rate, 0.0)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                total += _step(network, optimiser, *tasks.batch(settings, rng))
                if progress is not None:
                    progress(done + 1, settings.epochs * STEPS, "pretraining, steps")
            loss = total / STEPS
            tell(f"epoch {epoch + 1}/{settings.epochs} | loss {loss:.4f}")
            if epoch + 1 < settings.epochs:
                keep(checkpoint, about, epoch + 1, parts)
    return finish(out, about, network.state_dict(), loss)


def _about(settings: InContextPretraining) -> dict[str, str]:
    """What the file says of itself, but for what comes out; it names no path."""
    told = asdict(settings)
    return {
        "format": "pt",
        "contents": "network",
        "architecture": "in_context",
        "architecture_arguments": json.dumps({"channels": list(told.pop("channels"))}),
        "method": "in_context",
        "images": "stand-in",
        "tasks": "prostate zones, hippocampus halves, drawn shapes; never the whole prostate",
        "intended_use": PURPOSE,
        **{key: str(value) for key, value in told.items()},
    }


def _step(
    network: CrossNetwork,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    masks: Tensor,
) -> float:
    """Learn from queries and their support sets; the loss, one minus Dice plus cross-entropy.

    Args:
        network, optimiser: changed in place.
        images, masks: [B, 1 + S, 1, H, W], the query first.
    """
    logits = network(images[:, 0], images[:, 1:], masks[:, 1:])
    truth = masks[:, 0]
    entropy = F.binary_cross_entropy_with_logits(logits, truth)
    loss = 1 - soft_dice(logits.sigmoid(), truth, batch=False).mean() + entropy
    if not torch.isfinite(loss):
        raise RunError("the loss is no number: type a smaller --learning-rate")
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


@dataclass(frozen=True)
class Tasks:
    """Volumes and what can be asked of them.

    Attributes:
        sources: cases of one kind, and the sets of label values that are outlined together.
    """

    sources: tuple[tuple[Cases, tuple[tuple[int, ...], ...]], ...]

    @classmethod
    def generated(cls, settings: InContextPretraining) -> Tasks:
        """Volumes of the prostate and of the hippocampus; the whole prostate is no task."""
        seed, size = settings.seed + OTHER_PATIENTS, settings.size
        # The phantom has 266 cases at scale 1.
        prostate = prostate_cases(
            size,
            outlines="zones",
            field_of_view=FIELD_OF_VIEW,
            mean_slices=12,
            scale=settings.cases / 266,
            seed=seed,
        )
        brain = hippocampus_stand_in(cases=max(4, settings.cases // 2), seed=seed)
        return cls(
            (
                (_seen(prostate.cases, size), ((1,), (2,))),
                (_seen(brain.cases, size), ((1,), (2,), (1, 2))),
            )
        )

    def batch(
        self, settings: InContextPretraining, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Queries with their support sets: images and masks, [B, 1 + S, 1, H, W]."""
        count = 1 + int(rng.integers(1, settings.support + 1))
        drawn = [self._one(count, settings.size, rng) for _ in range(settings.batch_size)]
        images, masks = (
            torch.from_numpy(np.stack(part).astype(np.float32))[:, :, None]
            for part in zip(*drawn, strict=True)
        )
        return images, masks

    def _one(
        self, count: int, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """So many slices of one task, images and masks [n, H, W]; those after the first, the
        query, are of other cases."""
        kind = int(rng.integers(len(self.sources) + 1))
        if kind == len(self.sources):
            images, masks = _shapes(count, size, rng)
        else:
            cases, tasks = self.sources[kind]
            asked = tasks[int(rng.integers(len(tasks)))]
            query = int(rng.integers(len(cases)))
            # None of the query's own case is in its support: it would show the answer.
            others = (query + 1 + rng.integers(len(cases) - 1, size=count - 1)) % len(cases)
            drawn = [query, *others.tolist()]
            pairs = [_slice(cases[at], asked, rng, outlined=n == 0) for n, at in enumerate(drawn)]
            images, masks = (np.stack(part) for part in zip(*pairs, strict=True))
        return _changed(images, masks, rng)


def _seen(cases: Iterable[VolumeCase], size: int) -> Cases:
    """The middle of each slice, from 0 to 1, padded where it is smaller."""
    found: Cases = []
    for case in cases:
        image, label = unit_range(case.image), case.label
        for axis in (1, 2):
            room = image.shape[axis] - size
            if room > 0:
                inner = slice(room // 2, room // 2 + size)
                cut = (slice(None), inner) if axis == 1 else (slice(None), slice(None), inner)
                image, label = image[cut], label[cut]
            elif room < 0:
                pad = [(0, 0)] * 3
                pad[axis] = (-room // 2, -room - (-room // 2))
                image, label = np.pad(image, pad), np.pad(label, pad)
        found.append((image, label))
    return found


def _slice(
    case: tuple[NDArray[np.float32], NDArray[np.uint8]],
    asked: tuple[int, ...],
    rng: np.random.Generator,
    *,
    outlined: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A slice of a case and its mask; three of four hold the structure, or all that must."""
    image, label = case
    masks = np.isin(label, asked)
    there = np.flatnonzero(masks.any((1, 2)))
    any_slice = len(there) == 0 or (not outlined and rng.random() < 0.25)
    at = int(rng.integers(len(label))) if any_slice else int(rng.choice(there))
    return image[at], masks[at].astype(np.float32)


def _shapes(
    count: int, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slices with several ellipses of their own brightness each, of which one is asked for."""
    kinds = int(rng.integers(2, 5))
    bright = rng.permutation(np.linspace(0.15, 0.9, kinds + 1))
    radii = rng.uniform(0.08, 0.25, (kinds, 2)) * size
    middles = rng.uniform(0.25, 0.75, (kinds, 2)) * size
    y, x = np.indices((size, size))
    images, masks = [], []
    for _ in range(count):
        image, asked = np.full((size, size), bright[0]), np.zeros((size, size), bool)
        for kind in range(kinds):
            row, column = middles[kind] + rng.normal(0, 0.06 * size, 2)
            high, wide = radii[kind] * rng.uniform(0.7, 1.3, 2)
            inside = ((y - row) / high) ** 2 + ((x - column) / wide) ** 2 <= 1
            image[inside] = bright[kind + 1]
            asked = inside if kind == kinds - 1 else asked
        images.append(np.clip(image + rng.normal(0, 0.06, image.shape), 0, 1))
        masks.append(asked)
    return np.stack(images).astype(np.float32), np.stack(masks).astype(np.float32)


def _changed(
    images: NDArray[np.float32], masks: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The same task in another look: of all slices alike, and a little of each by itself."""
    for axis in (1, 2):
        if rng.random() < 0.3:
            images, masks = np.flip(images, axis), np.flip(masks, axis)
    if rng.random() < 0.2:
        images = 1 - images
    images = images ** np.exp(rng.normal(0, 0.3))
    own = rng.normal(0, 0.1, (2, len(images), 1, 1))
    noise = rng.normal(0, 0.03, images.shape)
    return np.clip(images * (1 + own[0]) + 0.5 * own[1] + noise, 0, 1), masks
