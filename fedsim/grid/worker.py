"""A worker: runs clients in one process, one message after another.

It keeps allocated models and open data maps warm between messages. No contents stay: a model is
loaded anew each time, and what a client remembers lives in its `Context.state`, which the driver
owns.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from fedsim.federation.clients import make_client
from fedsim.grid.machine import on_gpu
from fedsim.grid.mode import Mode
from fedsim.grid.progress import Steps, open_board
from fedsim.method.capabilities import capabilities
from fedsim.method.client import Client, Site, Task, as_client_app
from fedsim.method.exchanges import ANEW, WITHOUT_FORGOTTEN
from fedsim.method.memory import keep_memory
from fedsim.models.build import build_model, first_arrays
from fedsim.privacy.noise import Noise
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.releases import Releases
from fedsim.randomness import Streams, isolated
from fedsim.registry import default_registry
from fedsim.scenario import Scenario, activate_plugins
from fedsim.scenario.schema import Privacy
from fedsim.wire.buffers import HELD, LOCAL, Roles, receive, withhold
from fedsim.wire.payload import Payload

_NO_RECORDS = np.zeros(0, np.int64)
_BUILDING = threading.Lock()
"""Held while a model is made: its draws come from global generators, and workers may be threads."""


def _begin_anew(state: RecordDict) -> None:
    """Drop what a client's method kept; what is the model's own stays."""
    for name in [name for name in state if name not in (HELD, LOCAL)]:
        del state[name]


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
        forget: client name -> positions of the records that it is asked to forget.
        mode: how clients compute, and who trains together.
        fingerprint: of the records of the store.
        folders: what must be beside each other for the store to be opened.
        unlabelled: client name -> positions of training records whose labels are hidden; {}: no
            labels are.
        privacy: what clients release in a private run; else None.
        noise: of the run, in a private run; else None.
        roles: what the tensors of the model's state are.
        stays: the first arrays of what of the model does not travel.
        device: where the clients compute, "cpu" or "cuda": settled where the run begins, for all.
    """

    scenario: Scenario
    seed: int
    store: Path
    task: Task
    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    board: str | None = None
    step_limit: int | None = None
    privacy: PrivacyPlan | None = None
    noise: Noise | None = None
    roles: Roles = field(default_factory=Roles)
    stays: ArrayRecord = field(default_factory=ArrayRecord)
    forget: dict[str, np.ndarray] = field(default_factory=dict)
    mode: Mode = field(default_factory=Mode)
    device: str = "cpu"
    fingerprint: str = ""
    folders: tuple[Path, ...] = ()
    unlabelled: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def payload(self) -> Payload:
        """What is done to what messages carry, at both ends."""
        wire, changes = self.scenario.wire, tuple[str, ...]()
        if wire is not None:
            strategy = default_registry().resolve("strategies", self.scenario.strategy.name)
            changes = capabilities(strategy).changes
        return Payload(wire, self.roles, self.seed, changes)

    @property
    def names(self) -> list[str]:
        """Client names in client order."""
        return list(self.train)


class Worker:
    """Runs the clients of one job in this process.

    Args:
        job: what they do.
        tick: called after each step.
        threads: that a client computes with; None: as many as the scenario says.
    """

    def __init__(
        self, job: Job, tick: Callable[[], None] | None = None, threads: int | None = None
    ) -> None:
        self.job = job
        self._tick = tick
        self._threads = threads or job.scenario.resources.threads
        self._board = open_board(job.board, len(job.train))
        self._round, self._exchange = 0, 0
        self._steps: Steps | None = None
        self._releases: Releases | None = None
        self._trainable: list[bool] = []
        self._first_buffers: dict[str, torch.Tensor] = {}
        self._own_apps: dict[str, ClientApp] = {}
        activate_plugins(job.scenario)
        self._payload = job.payload
        if job.mode.fast:
            keep_memory()

    @cached_property
    def _store(self) -> Any:
        return self.job.task.open_store(self.job.store)

    @cached_property
    def _device(self) -> torch.device:
        return prepared_device(self.job.device)

    @cached_property
    def _streams(self) -> Streams:
        """The clients' own randomness: augmentations, patches, dropout."""
        noise = self.job.noise
        # What is drawn for a record may hang on what others are. That is no harm as long as nobody
        # knows the draws, and everybody knows the seed.
        if noise is not None and noise.kind == "secret":
            return Streams(noise.derive("streams").number())
        return Streams(self.job.seed)

    @cached_property
    def _app(self) -> ClientApp:
        return self._made_for(None)

    @cached_property
    def _own_method(self) -> Client | ClientApp:
        """The scenario's client method."""
        return make_client(self.job.scenario, None)

    def _made_for(self, name: str | None) -> ClientApp:
        """The client method of a client; None: the scenario's own."""
        found = self._own_method if name is None else make_client(self.job.scenario, name)
        return found if isinstance(found, ClientApp) else as_client_app(found, self._site)

    def forget_method(self) -> None:
        """Make the client methods anew for the next message: nothing on their objects survives."""
        for name in ("_app", "_own_method"):
            self.__dict__.pop(name, None)
        self._own_apps.clear()

    def _app_of(self, client: int) -> ClientApp:
        name = self.job.names[client]
        if name not in self.job.scenario.federation.overrides:
            return self._app
        if name not in self._own_apps:
            self._own_apps[name] = self._made_for(name)
        return self._own_apps[name]

    @cached_property
    def _model(self) -> torch.nn.Module:
        # Draws of its own: whether a client is a worker's first must not show in its randomness.
        with _BUILDING, isolated(Streams(self.job.seed).sequence("model")):
            model = build_model(self.job.scenario, self.job.task).to(self._device)
        self.job.mode.arrange(model)
        self._trainable = [parameter.requires_grad for parameter in model.parameters()]
        self._first_buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        return model

    def warm(self) -> None:
        """Import and build now what the first message would otherwise wait for."""
        _ = self._store, self._app, self._model
        if self.job.scenario.faults.client_timeout is not None:
            # torch's first optimiser imports hundreds of modules: on a busy machine that took
            # longer than a client's time limit. A plugin may use it, fedsim's methods do not.
            torch.optim.SGD([torch.zeros(1)])

    @property
    def _method(self) -> str:
        """The client method, for messages."""
        found = default_registry().resolve("clients", self.job.scenario.client.name)
        return found.__name__ if isinstance(found, type) else type(found).__name__

    def _site(self, message: Message, context: Context) -> Site:
        client = int(context.node_config["partition-id"])
        name = self.job.names[client]
        self._steps = Steps(client, board=self._board, limit=self.job.step_limit, tick=self._tick)
        task = self.job.task
        held, forget = self.job.train[name], self.job.forget.get(name, _NO_RECORDS)
        config = message.content.config_records.get("config") or ConfigRecord()
        if config.get(WITHOUT_FORGOTTEN):
            held = held[~np.isin(held, forget)]
        if config.get(ANEW):
            _begin_anew(context.state)
        train = task.view(self._store, held, name)
        if message.metadata.message_type.partition(".")[0] == MessageType.TRAIN:
            self._releases = self._releases_of(client, train)
        return Site(
            client=client,
            name=name,
            round=self._round,
            rounds=self.job.scenario.rounds,
            task=task,
            train=train,
            forget=task.view(self._store, forget, name),
            val=task.view(self._store, self.job.val[name], name),
            unlabelled=self._unlabelled(name),
            state=context.state,
            device=self._device,
            new_model=self._warm_model,
            first_arrays=self._first_arrays,
            steps=self._steps,
            releases=self._watched(),
            exchange=self._exchange,
            fast=self.job.mode.fast,
            precision=self.job.mode.precision,
            _streams=self._streams,
        )

    def _first_arrays(self) -> ArrayRecord:
        """The server's first arrays, made anew."""
        with _BUILDING:
            return first_arrays(self.job.scenario, self.job.task, self.job.seed)

    def _unlabelled(self, name: str) -> Any:
        """A client's records whose labels are hidden; None where no labels are."""
        if name not in self.job.unlabelled:
            return None
        return self.job.task.unlabelled_view(self._store, self.job.unlabelled[name], name)

    def _releases_of(self, client: int, view: Any) -> Releases | None:
        plan, noise = self.job.privacy, self.job.noise
        if plan is None:
            return None
        assert noise is not None
        return Releases(
            plan.settings,
            plan.clients[self.job.names[client]],
            units_of(view, plan.settings),
            noise.derive("client", self._round, self._exchange, client),
            f"{self._method}.train",
        )

    def _watched(self) -> Releases | None:
        """The round's releases; in an audit, what it watches them through."""
        if self._releases is None or self._releases.plan.watch is None:
            return self._releases
        watched: Releases = self._releases.plan.watch(self._releases)
        return watched

    def _warm_model(self) -> torch.nn.Module:
        self._model.train()
        for parameter, trainable in zip(self._model.parameters(), self._trainable, strict=True):
            parameter.requires_grad_(trainable)
        # Counters, and buffers outside of the state, do not travel: the last client's stay here.
        for name, buffer in self._model.named_buffers():
            buffer.detach().copy_(self._first_buffers[name])
        self._model.zero_grad(set_to_none=True)
        return self._model

    def run_stacked(
        self, messages: Sequence[Message], contexts: Sequence[Context], round: int, exchange: int
    ) -> list[tuple[Message, Context, Spent]] | None:
        """Let several clients answer training messages in one call; None: they must train alone.

        What they have of the process's global generators is left alone: who may be stacked draws
        nothing from them.
        """
        method, roles, stays = self._own_method, self.job.roles, self.job.stays
        assert isinstance(method, Client)
        self._round, self._exchange, self._releases = round, exchange, None
        contents, sites = [message.content for message in messages], []
        received = [self._payload.opened(content) for content in contents]
        for message, context in zip(messages, contexts, strict=True):
            receive(roles, message.content, context.state, stays)
            sites.append(self._site(message, context))
        with _computing_with(self._threads):
            found = method.train_stacked(contents, sites)
        if found is None:
            return None
        answers = []
        for message, context, site, content, start in zip(
            messages, contexts, sites, found, received, strict=True
        ):
            withhold(roles, content, context.state, stays)
            self._compress(content, start, context)
            assert isinstance(site.steps, Steps)
            spent = Spent(site.steps.estimated_seconds, peak_rss_mb())
            answers.append((Message(content=content, reply_to=message), context, spent))
        return answers

    def run(
        self,
        message: Message,
        context: Context,
        round: int,
        exchange: int = 0,
        *,
        beside: bool = False,
    ) -> tuple[Message, Context, Spent]:
        """Let the client that `context` names answer one message; raises what the client raises.

        Args:
            message, context: the client's.
            round, exchange: the current ones.
            beside: whether others work in threads beside it: then the process's global generators
                are left alone, of which the client draws nothing.
        """
        self._round, self._exchange = round, exchange
        self._steps, self._releases = None, None
        client, process = int(context.node_config["partition-id"]), os.getpid()
        streams = self._streams.sequence("client-global", round, client, exchange)
        received = self._payload.opened(message.content)
        receive(self.job.roles, message.content, context.state, self.job.stays)
        trains = message.metadata.message_type.partition(".")[0] == MessageType.TRAIN
        try:
            # Module initialisation, dropout and foreign code draw from global generators.
            draws = contextlib.nullcontext() if beside else isolated(streams)
            with _computing_with(self._threads), draws:
                reply = self._app_of(client)(message, context)
            if reply.has_content():
                kept = context.state if trains else None
                # An exchange of an author's own kind may ask for something else than a model.
                needed = message.metadata.message_type == MessageType.TRAIN
                withhold(self.job.roles, reply.content, kept, self.job.stays, needed=needed)
                if trains:
                    self._compress(reply.content, received, context)
            if trains:
                self._require_planned_releases()
        finally:
            if os.getpid() != process:
                # The client forked, and this is the copy: two would write into one run folder.
                os._exit(1)
            if self._releases is not None:
                self._releases.closed = True
        # `_steps` is set by `_site`, which a foreign ClientApp does not call.
        steps: Steps | None = self._steps
        return reply, context, Spent(steps.estimated_seconds if steps else 0.0, peak_rss_mb())

    def _compress(
        self, content: RecordDict, received: dict[str, np.ndarray] | None, context: Context
    ) -> None:
        """Compress the model of an answer to training: after all noise, and last of all."""
        client = int(context.node_config["partition-id"])
        rounding = self._streams.numpy("wire", self._round, client, self._exchange)
        self._payload.compress(content, received, context.state, self._round, rounding)

    def _require_planned_releases(self) -> None:
        """Raise where a private client released something else than it was charged for."""
        if self._releases is not None:
            self._releases.finish(complete=self.job.step_limit is None)
        elif self.job.privacy is not None:
            raise RuntimeError(f"{self._method} answered without asking for its site")


@contextlib.contextmanager
def _computing_with(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads meanwhile."""
    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def units_of(view: Any, settings: Privacy) -> np.ndarray:
    """The unit of privacy that each record belongs to, int64 [n], numbered from 0."""
    if settings.unit == "patient":
        return np.unique(view.groups, return_inverse=True)[1].astype(np.int64)
    return np.arange(len(view), dtype=np.int64)


@dataclass(frozen=True)
class Spent:
    """What one message cost: seconds that a full answer would take, peak memory in MB."""

    estimated_seconds: float
    peak_rss_mb: float


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB elsewhere.
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def device_for(scenario: Scenario) -> torch.device:
    """The device that a scenario's `resources.gpus` comes to on this machine."""
    return prepared_device("cuda" if on_gpu(scenario.resources) else "cpu")


def prepared_device(name: str) -> torch.device:
    """A device that computes the same bits each time."""
    if name == "cuda":
        # Otherwise cuDNN takes whatever algorithm is fastest, of which some add in any order.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return torch.device(name)
