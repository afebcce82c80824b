"""A worker: runs clients in one process, one message after another.

It keeps allocated models and open data maps warm between messages. No contents stay: a model is
loaded anew each time, and what a client remembers lives in its `Context.state`, which the driver
owns.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedsim.client import Site, Task, as_client_app
from fedsim.data.store import Store
from fedsim.data.views import View
from fedsim.models.build import build_model, first_arrays
from fedsim.progress import Steps, open_board
from fedsim.randomness import Streams, isolated
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario, activate_plugins


@dataclass(frozen=True)
class Job:
    """All that a worker must know of a run; travels to it once.

    Attributes:
        scenario: the resolved scenario.
        seed: the run's seed.
        store: folder of the data store, opened as a memory map by each worker.
        task: shape of the data.
        train, val: client name -> positions in the store, int64, in client order.
        board: path of the progress file, or None.
        step_limit: stop every loop of local work after this many steps (trials), or None.
    """

    scenario: Scenario
    seed: int
    store: Path
    task: Task
    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    board: str | None = None
    step_limit: int | None = None

    @property
    def names(self) -> list[str]:
        """Client names in client order."""
        return list(self.train)


class Worker:
    """Runs the clients of one job in this process."""

    def __init__(self, job: Job, tick: Callable[[], None] | None = None) -> None:
        self.job = job
        self._tick = tick
        self._board = open_board(job.board, len(job.train))
        self._round = 0
        self._steps: Steps | None = None
        activate_plugins(job.scenario)

    @cached_property
    def _store(self) -> Store:
        return Store.open(self.job.store)

    @cached_property
    def _device(self) -> torch.device:
        return device_for(self.job.scenario)

    @cached_property
    def _app(self) -> ClientApp:
        block = self.job.scenario.client
        found = default_registry().resolve("clients", block.name)
        if isinstance(found, ClientApp):
            return found
        return as_client_app(construct(found, block.parameters), self._site)

    @cached_property
    def _model(self) -> torch.nn.Module:
        # Draws of its own: whether a client is a worker's first must not show in its randomness.
        with isolated(Streams(self.job.seed).sequence("model")):
            return build_model(self.job.scenario, self.job.task).to(self._device)

    def warm(self) -> None:
        """Import and build now what the first message would otherwise wait for."""
        _ = self._store, self._app, self._model

    def _site(self, message: Message, context: Context) -> Site:
        client = int(context.node_config["partition-id"])
        name = self.job.names[client]
        self._steps = Steps(client, board=self._board, limit=self.job.step_limit, tick=self._tick)
        return Site(
            client=client,
            name=name,
            round=self._round,
            task=self.job.task,
            train=View(self._store, self.job.train[name]),
            val=View(self._store, self.job.val[name]),
            state=context.state,
            device=self._device,
            new_model=self._warm_model,
            first_arrays=lambda: first_arrays(self.job.scenario, self.job.task, self.job.seed),
            steps=self._steps,
            _streams=Streams(self.job.seed),
        )

    def _warm_model(self) -> torch.nn.Module:
        self._model.train().requires_grad_(True)
        self._model.zero_grad(set_to_none=True)
        return self._model

    def run(self, message: Message, context: Context, round: int) -> tuple[Message, Context, Spent]:
        """Let the client that `context` names answer one message; raises what the client raises."""
        threads = torch.get_num_threads()
        wanted = self.job.scenario.resources.threads
        self._round, self._steps = round, None
        if threads != wanted:
            torch.set_num_threads(wanted)
        client = int(context.node_config["partition-id"])
        try:
            # Module initialisation, dropout and foreign code draw from global generators.
            with isolated(Streams(self.job.seed).sequence("client-global", round, client)):
                reply = self._app(message, context)
        finally:
            if threads != wanted:
                torch.set_num_threads(threads)
        # `_steps` is set by `_site`, which a foreign ClientApp does not call.
        steps: Steps | None = self._steps
        return reply, context, Spent(steps.estimated_seconds if steps else 0.0, peak_rss_mb())


@dataclass(frozen=True)
class Spent:
    """What one message cost: seconds that a full answer would take, peak memory in MB."""

    estimated_seconds: float
    peak_rss_mb: float


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def device_for(scenario: Scenario) -> torch.device:
    """The device a scenario's `resources.gpus` asks for."""
    return torch.device("cuda" if scenario.resources.gpus > 0 else "cpu")
