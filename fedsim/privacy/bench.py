"""What private training costs: time and memory without privacy, by Opacus, and by fedsim."""

from __future__ import annotations

import copy
import json
import multiprocessing
import resource
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
from fedsim.losses import dice_cross_entropy
from fedsim.models import ResNet18, SmallCNN
from fedsim.models.resnet9 import ResNet9
from fedsim.models.unet import UNet
from fedsim.privacy.mechanisms import DPSGD, State
from fedsim.privacy.noise import Noise
from fedsim.privacy.per_sample import Loss, PerSampleGradients
from fedsim.privacy.training import Sample
from fedsim.randomness import isolated

SIZE, BATCH, LARGE, BATCHES, TOGETHER = 32, 64, 256, 4, 64
RATE, NORM = 0.01, 1.0
# Opacus holds a batch's per-sample gradients at once, and copies of them: more is not tried.
OPACUS_BYTES = 4e9

Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Work:
    """A model, and what it is trained on.

    Attributes:
        make: options of the network -> the network, with two classes and images of one size.
        image: [channels, height, width].
        targets: of a record.
        loss: of each record.
    """

    make: Callable[..., nn.Module]
    image: tuple[int, int, int]
    targets: tuple[int, ...]
    loss: Loss

    def records(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Images [*shape, *image] of noise, and classes at random [*shape, *targets]."""
        return torch.randn(*shape, *self.image), torch.randint(0, 2, (*shape, *self.targets))


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _classifier(network: Callable[..., nn.Module]) -> Work:
    def make(**options: Any) -> nn.Module:
        return network(num_classes=2, in_channels=3, image_size=SIZE, **options)

    return Work(make, (3, SIZE, SIZE), (), _cross_entropies)


def _unet(**options: Any) -> nn.Module:
    return UNet(2, 1, (2 * SIZE, 2 * SIZE), **options)


MODELS = {
    "cnn": _classifier(SmallCNN),
    "resnet9": _classifier(ResNet9),
    "resnet18": _classifier(ResNet18),
    "unet": Work(
        _unet,
        (1, 2 * SIZE, 2 * SIZE),
        (2 * SIZE, 2 * SIZE),
        lambda logits, labels: dice_cross_entropy(logits, labels, each=True),
    ),
}


@dataclass(frozen=True)
class Cost:
    """What a step of one model costs.

    Attributes:
        model: its name.
        parameters: trainable parameters.
        threads: that torch computed with.
        batch: records in a step.
        milliseconds: of CPU time, by `plain` (SGD), `opacus` and `fedsim`, for a record, one value
            a repetition; those of one repetition were measured right after each other. Without
            `opacus` where its gradients would take more than `OPACUS_BYTES`.
        difference: by precision, that of the sums of clipped gradients of a few records by Opacus
            and by fedsim: the largest over the largest value of the sum.
        peak_mb: by `plain` and `fedsim`, the peak memory of a process that makes two steps of
            `LARGE` records, in 10^6 bytes.
    """

    model: str
    parameters: int
    threads: int
    batch: int
    milliseconds: dict[str, list[float]]
    difference: dict[str, float]
    peak_mb: dict[str, float]

    def ratios(self, one: str, other: str) -> list[float]:
        """How many times the time of another one takes, in each repetition."""
        times = (self.milliseconds[name] for name in (one, other))
        return [a / b for a, b in zip(*times, strict=True)]


def privacy(
    models: Sequence[str],
    threads: Sequence[int],
    batches: Sequence[int],
    seconds: float,
    repetitions: int,
    out: Path,
) -> str:
    """Measure a step of training by plain SGD, by Opacus and by fedsim.

    Opacus as in its tutorial: `PrivacyEngine.make_private`, hooks, `DPOptimizer`. fedsim as
    `fit_private` computes: `PerSampleGradients.contributions` of 64 records at a time, and `DPSGD`.
    All take the same records. Times are of the CPU, which other work on the machine changes less
    than it changes the clock. Writes `privacy.json` to `out` and returns a table.

    Args:
        models: names out of `MODELS`.
        threads: numbers of threads, one after the other.
        batches: records in a step, one after the other.
        seconds: for which each is measured in each repetition; one step at least.
        repetitions: how often.

    Raises:
        InputError: no thread, no record or no repetition.
    """
    if min([*threads, *batches, repetitions]) < 1:
        raise InputError(
            "--threads, --batch and --repetitions must be at least 1",
            hint="type: fedsim bench privacy",
        )
    before = torch.get_num_threads()
    found = []
    try:
        for number in threads:
            torch.set_num_threads(number)
            for name in models:
                peaks = {method: peak(name, method) for method in ("plain", "fedsim")}
                found += [measure(name, size, seconds, repetitions, peaks) for size in batches]
    finally:
        torch.set_num_threads(before)
    about: dict[str, Any] = {name: version(name) for name in ("torch", "opacus")}
    about |= {"image_size": SIZE, "large_batch": LARGE, "seconds": seconds}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about | {"costs": [asdict(cost) for cost in found]}, indent=2)
    write_whole(out / "privacy.json", text.encode())
    return table(found)


def table(costs: Sequence[Cost]) -> str:
    """Medians, and smallest to largest of all repetitions, as Markdown."""
    lines = [
        "| model | parameters | threads | batch | plain SGD, CPU ms a record | Opacus | fedsim | "
        "fedsim / Opacus | fedsim / plain | "
        f"plain, MB at batch {LARGE} | fedsim | fedsim / plain | "
        "difference of clipped sums, float32 | float64 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        cells = [cost.model, f"{cost.parameters:,}", str(cost.threads), str(cost.batch)]
        for method in ("plain", "opacus", "fedsim"):
            cells.append(_middle(cost.milliseconds.get(method)))
        for other in ("opacus", "plain"):
            known = other in cost.milliseconds
            cells.append(_middle(cost.ratios("fedsim", other) if known else None))
        cells += [f"{megabytes:.0f}" for megabytes in cost.peak_mb.values()]
        cells.append(f"{cost.peak_mb['fedsim'] / cost.peak_mb['plain']:.2f}")
        cells += [f"{difference:.1e}" for difference in cost.difference.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _middle(values: Sequence[float] | None) -> str:
    """Median, smallest and largest."""
    if values is None:
        return "-"
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def measure(
    name: str, batch: int, seconds: float, repetitions: int, peak_mb: dict[str, float]
) -> Cost:
    """Measure one model; the three take turns, so that a busy machine slows all of them down."""
    work = MODELS[name]
    with isolated(np.random.SeedSequence(0)), warnings.catch_warnings():
        # Opacus remarks on noise without a cryptographic generator, torch on its hooks.
        warnings.simplefilter("ignore")
        model = work.make()
        parameters = sum(p.numel() for p in model.parameters())
        images, targets = work.records(BATCHES, batch)
        difference = {
            "float32": clipped_difference(work, model, images[0, :8], targets[0, :8]),
            "float64": clipped_difference(
                work, copy.deepcopy(model).double(), images[0, :8].double(), targets[0, :8]
            ),
        }
        with PerSampleGradients(ours := copy.deepcopy(model)) as per_sample:
            steps = {"plain": _plain(work, copy.deepcopy(model))}
            if 4 * batch * parameters <= OPACUS_BYTES:
                steps["opacus"] = _opacus(work, copy.deepcopy(model), batch)
            steps["fedsim"] = _fedsim(work, ours, per_sample, batch)
            for step in steps.values():
                step(images[0], targets[0])
            times: dict[str, list[float]] = {method: [] for method in steps}
            for _ in range(repetitions):
                for method, step in steps.items():
                    times[method].append(_milliseconds(step, images, targets, seconds))
    return Cost(name, parameters, torch.get_num_threads(), batch, times, difference, peak_mb)


def clipped_difference(work: Work, model: nn.Module, images: Tensor, targets: Tensor) -> float:
    """Largest difference of two sums of clipped gradients, Opacus' and fedsim's, see `Cost`."""
    wrapped, optimizer = _wrapped(copy.deepcopy(model), BATCH)
    work.loss(wrapped(images), targets).mean().backward()
    optimizer.clip_and_accumulate()
    theirs = torch.cat([p.summed_grad.flatten() for p in optimizer.params])
    silent = DPSGD(noise_multiplier=0.0, max_grad_norm=NORM, expected_batch=1.0)
    with PerSampleGradients(model) as per_sample:
        gradients = per_sample.contributions(images, targets, work.loss)
        ours = silent.aggregate(gradients, State(), Noise.seeded(b"bench"))[0].update
    return float((ours - theirs).abs().max() / theirs.abs().max())


def peak(name: str, method: str) -> float:
    """Peak memory of a process of its own, see `Cost`."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        return pool.apply(_peak, (name, method))


def _peak(name: str, method: str) -> float:
    work = MODELS[name]
    model = work.make()
    images, targets = work.records(LARGE)
    if method == "plain":
        step = _plain(work, model)
    else:
        step = _fedsim(work, model, PerSampleGradients(model), LARGE)
    for _ in range(2):
        step(images, targets)
    status = Path("/proc/self/status")
    if status.exists():
        # Linux: the peak of this program alone; what a parent took counts in `ru_maxrss`, too.
        lines = (line.split() for line in status.read_text().splitlines())
        return next(int(words[1]) * 1024 / 1e6 for words in lines if words[0] == "VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _milliseconds(step: Step, images: Tensor, targets: Tensor, seconds: float) -> float:
    """CPU time a record, of at least one step."""
    done, started, begun = 0, time.perf_counter(), time.process_time()
    while not done or time.perf_counter() - started < seconds:
        step(images[done % BATCHES], targets[done % BATCHES])
        done += 1
    return 1000 * (time.process_time() - begun) / (done * images.shape[1])


def _plain(work: Work, model: nn.Module) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step(images: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        work.loss(model(images), targets).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _wrapped(model: nn.Module, batch: int) -> tuple[nn.Module, Any]:
    """Model and optimiser as `PrivacyEngine.make_private` returns them."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    made: Any = PrivacyEngine().make_private(
        module=model.train(),
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
        data_loader=DataLoader(TensorDataset(torch.zeros(batch, 1)), batch_size=batch),
        noise_multiplier=1.0,
        max_grad_norm=NORM,
        poisson_sampling=False,
    )
    private, optimizer, _ = made
    return private, optimizer


def _opacus(work: Work, model: nn.Module, batch: int) -> Step:
    private, optimizer = _wrapped(model, batch)

    def step(images: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        work.loss(private(images), targets).mean().backward()
        optimizer.step()

    return step


def _fedsim(work: Work, model: nn.Module, per_sample: PerSampleGradients, batch: int) -> Step:
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=RATE)
    mechanism = DPSGD(noise_multiplier=1.0, max_grad_norm=NORM, expected_batch=batch)
    noise = Noise.seeded(b"bench")
    state = State()

    def step(images: Tensor, targets: Tensor) -> None:
        nonlocal state
        sample = Sample(
            per_sample,
            images,
            targets,
            np.arange(len(images)),
            work.loss,
            copies=1,
            size=TOGETHER,
            device=images.device,
            augment=None,
            width=sum(sizes),
        )
        released, _ = mechanism.aggregate(sample.parts(mechanism.passes), state, noise)
        state = mechanism.remember(state, released)
        for parameter, part in zip(parameters, released.update.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step()

    return step
