"""A tiny segmentation problem in memory, and rounds of it without an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor, nn

from fedsim.grid.progress import Steps
from fedsim.method.client import Client, Site
from fedsim.models.unet import UNet
from fedsim.randomness import Streams, isolated
from fedsim.tasks.segmentation.label_views import LabelScheme, label_scheme
from fedsim.tasks.segmentation.task import SegmentationTask
from fedsim.wire.flower import pack_state

PATCH = (16, 16)
STRUCTURES = ("ball", "box")
VIEWS = {"north": ["ball"], "south": ["box"]}


class Shapes:
    """Volumes with a bright ball and a dark box in noise; what `hide` hides is background."""

    def __init__(
        self,
        count: int,
        seed: int = 0,
        shape: tuple[int, int, int] = (6, 16, 16),
        hide: Callable[[np.ndarray], np.ndarray] | None = None,
        sites: int = 1,
    ) -> None:
        draws = np.random.default_rng(seed)
        self.ids = [f"case-{number}" for number in range(count)]
        self.site_names = [f"site-{number}" for number in range(sites)]
        self.sites = np.arange(count, dtype=np.int64) % sites
        self.spacing = np.tile([3.0, 0.5, 0.5], (count, 1))
        self._images, self._labels = [], []
        for _ in range(count):
            labels = np.zeros(shape, dtype=np.int64)
            z, y, x = np.indices(shape)
            row, column = draws.integers(5, shape[1] - 5), draws.integers(4, shape[2] // 2 - 2)
            ball = ((y - row) ** 2 + (x - column) ** 2 <= 9) & (z > 0)
            labels[ball] = 1
            top = draws.integers(1, shape[1] - 6)
            labels[1:-1, top : top + 5, shape[2] - 6 : shape[2] - 2] = 2
            levels = np.array([0.0, 1.5, -1.5])
            self._images.append(levels[labels] + 0.3 * draws.standard_normal(shape))
            self._labels.append(labels if hide is None else hide(labels))

    def __len__(self) -> int:
        return len(self.ids)

    def volume(self, position: int) -> tuple[Tensor, Tensor]:
        image = torch.tensor(self._images[position], dtype=torch.float32)
        return image[None], torch.tensor(self._labels[position])

    def patches(
        self,
        count: int,
        size: tuple[int, ...],
        generator: torch.Generator,
        foreground: float,
        *,
        case: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for number in range(count):
            drawn = int(torch.randint(len(self), (), generator=generator))
            image, truth = self.volume(drawn if case is None else case)
            inner = 1 if number < foreground * count else 0
            depth = len(truth) - 2 * inner
            where = inner + int(torch.randint(depth, (), generator=generator))
            images.append(image if len(size) == 3 else image[:, where])
            labels.append(truth if len(size) == 3 else truth[where])
        return torch.stack(images), torch.stack(labels)


def scheme(views: Mapping[str, Sequence[str]] = VIEWS) -> LabelScheme:
    return label_scheme(STRUCTURES, views)


def small_unet(task: SegmentationTask, seed: int = 0) -> nn.Module:
    with isolated(np.random.SeedSequence(seed)):
        return UNet(**task.model_arguments, channels=(8, 16))


def site(
    task: SegmentationTask,
    client: int = 0,
    round: int = 1,
    rounds: int = 4,
    cases: int = 4,
    state: RecordDict | None = None,
    model: nn.Module | None = None,
    seed: int = 0,
) -> Site:
    """A site of the task's client with this number; all share one warm model, as in a worker."""
    name = list(task.scheme.views)[client]
    net = small_unet(task) if model is None else model
    first = pack_state(net.state_dict())
    own: Any = Shapes(cases, seed=client, hide=task.scheme.views[name].hide)

    def warm() -> nn.Module:
        net.train().requires_grad_(True)
        return net

    return Site(
        client=client,
        name=name,
        round=round,
        rounds=rounds,
        task=task,  # type: ignore[arg-type]
        train=own,
        val=own,
        state=RecordDict() if state is None else state,
        device=torch.device("cpu"),
        new_model=warm,
        first_arrays=lambda: first,
        steps=Steps(client),
        _streams=Streams(seed),
    )


def message(arrays: ArrayRecord, **config: Any) -> RecordDict:
    return RecordDict({"arrays": arrays, "config": ConfigRecord(config)})


def run_rounds(
    client: Client,
    strategy: Any,
    task: SegmentationTask,
    rounds: int,
    first: ArrayRecord | None = None,
    states: list[RecordDict] | None = None,
    start: int = 1,
    end: int | None = None,
) -> tuple[ArrayRecord, list[dict[str, Any]]]:
    """Rounds `start` to `end` of `rounds`: the global arrays, and each round's mean metrics."""
    model = small_unet(task)
    arrays = pack_state(model.state_dict()) if first is None else first
    states = [RecordDict() for _ in task.scheme.views] if states is None else states
    strategy.server = SimpleNamespace(rounds=rounds)
    reported = []
    for number in range(start, (end or rounds) + 1):
        content = strategy.content(number, arrays, ConfigRecord())
        replies = [
            SimpleNamespace(
                content=client.train(
                    content, site(task, k, number, rounds, state=states[k], model=model)
                )
            )
            for k in range(len(states))
        ]
        arrays, metrics = strategy.aggregate_train(number, iter(replies))
        reported.append(dict(metrics))
    return arrays, reported
