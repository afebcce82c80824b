"""FedAvg as one writes it by hand: what rounds are measured beside (`speed`).

Clients draw the batches that fedsim's own draw, from the same first weights.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.randomness import Streams

if TYPE_CHECKING:
    from fedsim.data.volumes.views import VolumeView

Weights = dict[str, np.ndarray]


class Trains(Protocol):
    """A client: how many records it has, and how it trains a model in place."""

    @property
    def records(self) -> int:
        """What its weights count in the mean."""
        ...

    def train(self, model: nn.Module, draws: torch.Generator) -> None:
        """Train for one round."""
        ...


@dataclass(frozen=True)
class SendsBack:
    """A client that does nothing."""

    records: int

    def train(self, model: nn.Module, draws: torch.Generator) -> None:
        """Leave the model as it is."""


@dataclass(frozen=True)
class Classifies:
    """SGD on batches of images that are converted one by one.

    Attributes:
        pixels: uint8 [n, H, W, 3].
        labels: int64 [n].
        batch: images in a step.
        rate: of learning.
    """

    pixels: np.ndarray
    labels: Tensor
    batch: int
    rate: float

    @property
    def records(self) -> int:
        """Images."""
        return len(self.labels)

    def train(self, model: nn.Module, draws: torch.Generator) -> None:
        """Pass over the images once."""
        from fedsim.wire.codecs import normalise

        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        for chosen in torch.randperm(self.records, generator=draws).split(self.batch):
            images = normalise(self.pixels[chosen.numpy()])
            loss = F.cross_entropy(model(images), self.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@dataclass(frozen=True)
class Segments:
    """SGD on random patches with MONAI's sum of Dice and cross-entropy.

    Attributes:
        view: the client's cases.
        patch: (H, W).
        batch: patches in a step.
        steps: of a round.
        rate: of learning.
        clip: largest norm of a gradient; None: any.
        foreground: share of the patches that hold labelled voxels.
    """

    view: VolumeView
    patch: tuple[int, ...]
    batch: int
    steps: int
    rate: float
    clip: float | None
    foreground: float

    @property
    def records(self) -> int:
        """Cases."""
        return len(self.view)

    def train(self, model: nn.Module, draws: torch.Generator) -> None:
        """Take a round's steps."""
        from monai.losses import DiceCELoss

        criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        for _ in range(self.steps):
            images, labels = self.view.patches(self.batch, self.patch, draws, self.foreground)
            loss = criterion(model(images), labels[:, None])
            optimizer.zero_grad()
            loss.backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            optimizer.step()


@dataclass(frozen=True)
class Federated:
    """What a loop needs.

    Attributes:
        make: makes the model.
        first: its first weights.
        clients: who trains.
        rounds: how many there are.
        seed: of the order of batches.
    """

    make: Callable[[], nn.Module]
    first: Weights
    clients: Sequence[Trains]
    rounds: int
    seed: int = 0


def federated(scenario: Path) -> Federated:
    """The work of a scenario file of `fedsim.engine.speed`."""
    from fedsim.engine.prepare import prepare
    from fedsim.models.build import build_model, first_arrays
    from fedsim.scenario import load
    from fedsim.wire import tensors

    prepared = prepare(load(scenario), 0)
    given = prepared.scenario.client.parameters
    views = [prepared.federation.client_view(name) for name in prepared.names]
    clients: Sequence[Trains]
    if prepared.task.made_for == "volumes":
        from fedsim.clients.segmentation import Segmentation

        made = Segmentation(**given)
        patch = prepared.task.input_shape[1:]
        steps = made.batch_size, made.steps, made.learning_rate, made.clip, made.foreground
        clients = [Segments(view, patch, *steps) for view in views]
    elif "batch_size" in given:
        batch, rate = given["batch_size"], given["learning_rate"]
        clients = [Classifies(view.pixels(), view.labels, batch, rate) for view in views]
    else:
        clients = [SendsBack(len(view)) for view in views]
    return Federated(
        partial(build_model, prepared.scenario, prepared.task),
        dict(tensors(first_arrays(prepared.scenario, prepared.task, 0))),
        clients,
        prepared.scenario.rounds,
    )


def train_client(
    model: nn.Module, work: Federated, weights: Weights, client: int, number: int
) -> Weights:
    """The weights of one client after a round that began with `weights`."""
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    model.train()
    draws = Streams(work.seed).torch("batches", number, client)
    work.clients[client].train(model, draws)
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


# --- A loop --------------------------------------------------------------------------------------


def loops(scenario: Path, processes: int, threads: int) -> tuple[Weights, list[float]]:
    """The raw loop, in one process or shared out over several.

    Returns:
        The last weights, and the seconds of each round.
    """
    work = federated(scenario)
    everybody = range(len(work.clients))
    records = sum(client.records for client in work.clients)
    weights, seconds = work.first, []
    with _pool(processes, threads, scenario, work) as part:
        for number in range(1, work.rounds + 1):
            begun = time.perf_counter()
            shares = [(weights, list(everybody[p::processes]), number) for p in range(processes)]
            sums = part(shares)
            weights = {
                n: np.sum([s[n] for s in sums], axis=0) / np.float32(records) for n in weights
            }
            seconds.append(time.perf_counter() - begun)
    return weights, seconds


_Part = tuple[Weights, list[int], int]
_here: list[tuple[nn.Module, Federated]] = []


@contextlib.contextmanager
def _pool(
    processes: int, threads: int, scenario: Path, work: Federated
) -> Iterator[Callable[[Sequence[_Part]], list[Weights]]]:
    """What trains each part: this process or, of several parts, a process for each."""
    if processes == 1:
        _begin(threads, work)
        yield lambda parts: [_train_part(part) for part in parts]
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _begin_from, (threads, scenario)) as pool:
        yield lambda parts: pool.map(_train_part, parts, chunksize=1)


def _begin_from(threads: int, scenario: Path) -> None:
    _begin(threads, federated(scenario))


def _begin(threads: int, work: Federated) -> None:
    torch.set_num_threads(threads)
    _here[:] = [(work.make(), work)]


def _train_part(part: _Part) -> Weights:
    """The trained weights of some clients, added up with how many records each has."""
    model, work = _here[0]
    weights, clients, number = part
    total: Weights = {name: np.zeros_like(value) for name, value in weights.items()}
    for client in clients:
        trained = train_client(model, work, weights, client, number)
        for name, value in trained.items():
            total[name] += work.clients[client].records * value
    return total
