"""How fast private training is: samples per second without privacy, by Opacus, and by fedsim."""

from __future__ import annotations

import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.errors import InputError
from fedsim.folder.runfolder import write_whole
from fedsim.models import ResNet18, SmallCNN
from fedsim.models.classifier import Classifier
from fedsim.models.resnet9 import ResNet9
from fedsim.privacy.mechanisms import DPSGD, State
from fedsim.privacy.noise import Noise
from fedsim.privacy.per_sample import PerSampleGradients
from fedsim.randomness import isolated

MODELS: dict[str, Callable[..., Classifier]] = {
    "cnn": SmallCNN,
    "resnet9": ResNet9,
    "resnet18": ResNet18,
}
SIZE, BATCH, BATCHES = 32, 64, 4
MECHANISM = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, expected_batch=BATCH)
RATE = 0.01

Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Speed:
    """Speeds of one model.

    Attributes:
        model: its name.
        parameters: trainable parameters.
        threads: that torch computed with.
        samples_per_second: of `plain` (SGD), `opacus` and `fedsim`, one value a repetition; those
            of one repetition were measured right after each other.
        difference: by precision, that of the sums of clipped gradients of a few records by Opacus
            and by fedsim: the largest over the largest value of the sum.
    """

    model: str
    parameters: int
    threads: int
    samples_per_second: dict[str, list[float]]
    difference: dict[str, float]

    def ratio(self, one: str, other: str) -> list[float]:
        """How many times as fast one is as the other, smallest, median and largest."""
        speeds = (self.samples_per_second[name] for name in (one, other))
        ratios = [a / b for a, b in zip(*speeds, strict=True)]
        return [min(ratios), statistics.median(ratios), max(ratios)]


def privacy(
    models: Sequence[str], threads: Sequence[int], seconds: float, repetitions: int, out: Path
) -> str:
    """Measure a step of training on 64 images of 32 px by plain SGD, by Opacus and by fedsim.

    Opacus as in its tutorial: `PrivacyEngine.make_private`, hooks, `DPOptimizer`. fedsim:
    `PerSampleGradients` and `DPSGD`. All take the same batches. Writes `privacy.json` to `out` and
    returns a table.

    Args:
        models: names out of `MODELS`.
        threads: numbers of threads, one after the other.
        seconds: for which each is measured in each repetition; one step at least.
        repetitions: how often.

    Raises:
        InputError: no thread or no repetition.
    """
    if min([*threads, repetitions]) < 1:
        raise InputError(
            "--threads and --repetitions must be at least 1", hint="type: fedsim bench privacy"
        )
    before = torch.get_num_threads()
    found = []
    try:
        for number in threads:
            torch.set_num_threads(number)
            found += [measure(name, seconds, repetitions) for name in models]
    finally:
        torch.set_num_threads(before)
    about: dict[str, Any] = {name: version(name) for name in ("torch", "opacus")}
    about |= {"batch": BATCH, "image_size": SIZE, "seconds": seconds}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about | {"speeds": [asdict(speed) for speed in found]}, indent=2)
    write_whole(out / "privacy.json", text.encode())
    return table(found)


def table(speeds: Sequence[Speed]) -> str:
    """Medians, and smallest to largest of all repetitions, as Markdown."""
    lines = [
        "| model | parameters | threads | plain SGD, samples/s | Opacus | fedsim | "
        "fedsim / Opacus | fedsim / plain | difference of clipped sums, float32 | float64 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for speed in speeds:
        cells = [speed.model, f"{speed.parameters:,}", str(speed.threads)]
        for values in speed.samples_per_second.values():
            middle = statistics.median(values)
            cells.append(f"{middle:.1f} ({min(values):.1f}-{max(values):.1f})")
        for other in ("opacus", "plain"):
            low, middle, high = speed.ratio("fedsim", other)
            cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
        cells += [f"{difference:.1e}" for difference in speed.difference.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(name: str, seconds: float, repetitions: int) -> Speed:
    """Measure one model; the three take turns, so that a busy machine slows all of them down."""
    with isolated(np.random.SeedSequence(0)), warnings.catch_warnings():
        # Opacus remarks on noise without a cryptographic generator, torch on its hooks.
        warnings.simplefilter("ignore")
        model = MODELS[name](num_classes=2, in_channels=3, image_size=SIZE)
        images = torch.randn(BATCHES, BATCH, 3, SIZE, SIZE)
        labels = torch.randint(0, 2, (BATCHES, BATCH))
        difference = {
            "float32": clipped_difference(model, images[0, :8], labels[0, :8]),
            "float64": clipped_difference(
                copy.deepcopy(model).double(), images[0, :8].double(), labels[0, :8]
            ),
        }
        with PerSampleGradients(ours := copy.deepcopy(model)) as per_sample:
            steps = {
                "plain": _plain(copy.deepcopy(model)),
                "opacus": _opacus(copy.deepcopy(model)),
                "fedsim": _fedsim(ours, per_sample),
            }
            for step in steps.values():
                step(images[0], labels[0])
            speeds: dict[str, list[float]] = {method: [] for method in steps}
            for _ in range(repetitions):
                for method, step in steps.items():
                    speeds[method].append(_speed(step, images, labels, seconds))
    parameters = sum(p.numel() for p in model.parameters())
    return Speed(name, parameters, torch.get_num_threads(), speeds, difference)


def clipped_difference(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Largest difference of two sums of clipped gradients, Opacus' and fedsim's, see `Speed`."""
    wrapped, optimizer = _wrapped(copy.deepcopy(model))
    F.cross_entropy(wrapped(images), labels).backward()
    optimizer.clip_and_accumulate()
    theirs = torch.cat([p.summed_grad.flatten() for p in optimizer.params])
    silent = DPSGD(noise_multiplier=0.0, max_grad_norm=MECHANISM.max_grad_norm, expected_batch=1.0)
    with PerSampleGradients(model) as per_sample:
        gradients = per_sample.gradients(images, labels, _loss)
        ours = silent.aggregate(gradients, State(), Noise.seeded(b"bench"))[0].update
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _speed(step: Step, images: Tensor, labels: Tensor, seconds: float) -> float:
    """Samples per second of at least one step."""
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < seconds:
        step(images[done % BATCHES], labels[done % BATCHES])
        done += 1
    return done * BATCH / (time.perf_counter() - started)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _plain(model: nn.Module) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def _wrapped(model: nn.Module) -> tuple[nn.Module, Any]:
    """Model and optimiser as `PrivacyEngine.make_private` returns them."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    made: Any = PrivacyEngine().make_private(
        module=model.train(),
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
        data_loader=DataLoader(TensorDataset(torch.zeros(BATCH, 1)), batch_size=BATCH),
        noise_multiplier=MECHANISM.noise_multiplier,
        max_grad_norm=MECHANISM.max_grad_norm,
        poisson_sampling=False,
    )
    private, optimizer, _ = made
    return private, optimizer


def _opacus(model: nn.Module) -> Step:
    private, optimizer = _wrapped(model)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(private(images), labels).backward()
        optimizer.step()

    return step


def _fedsim(model: nn.Module, per_sample: PerSampleGradients) -> Step:
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=RATE)
    noise = Noise.seeded(b"bench")
    state = State()

    def step(images: Tensor, labels: Tensor) -> None:
        nonlocal state
        gradients = per_sample.gradients(images, labels, _loss)
        released, _ = MECHANISM.aggregate(gradients, state, noise)
        state = MECHANISM.remember(state, released)
        for parameter, part in zip(parameters, released.update.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step()

    return step
