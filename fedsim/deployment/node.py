"""A node: one client of a scenario, with its own records, in a process of its own for each message.

It answers as a simulated client would, by the same code (`fedsim.grid.worker`). What differs is
what a simulation need not care for: it reads its own data, its noise comes from its own operating
system, and it does not rely on the server to keep to what was promised.
"""

from __future__ import annotations

import functools
import logging
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from fedsim.deployment.budget import Budget
from fedsim.deployment.exported import Facts, exported_scenario
from fedsim.deployment.greeting import HELLO, PROMISE, Greeting, addressed
from fedsim.deployment.settings import RUN_DEFAULTS, NodeSettings
from fedsim.engine.assembly import buffers_of
from fedsim.engine.privacy import plan_of_units
from fedsim.engine.strategies import build_strategy
from fedsim.errors import FedsimError, InputError
from fedsim.federation.building import build_federation
from fedsim.federation.opening import dataset_of, open_store, task_of
from fedsim.grid.worker import Job, Worker, device_for, units_of
from fedsim.method.exchanges import EVALUATE, trains
from fedsim.models.build import build_model, first_arrays
from fedsim.privacy.noise import KEY_BYTES, Noise
from fedsim.privacy.plan import PrivacyPlan
from fedsim.randomness import Streams, isolated
from fedsim.scenario import Scenario
from fedsim.scenario.schema import Privacy
from fedsim.tasks.task import Task
from fedsim.tasks.words import some
from fedsim.wire import flower
from fedsim.wire.sharing import sharing_of

_log = logging.getLogger(__name__)

_TRAININGS = "fedsim.trainings"
"""The record of a node's state that counts how often it trained in the run."""

_SLACK = 1.001  # of a promised epsilon: the search for the noise ends within a thousandth of it


class NodeApp(ClientApp):
    """Answers a server's messages for the client that the node is.

    What is wrong with the node's configuration, or asked too much of it, is answered by an error in
    one line, which the server tells. Of anything else that is raised only the type leaves the node:
    the text may quote records, or files that are named by patients. All of it is in the node's log.

    Args:
        folder: of the app's package.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __call__(self, message: Message, context: Context) -> Message:
        """The answer to a message, or the error."""
        before = flower.shallow(context.state)
        try:
            seed = int(context.run_config.get("seed", RUN_DEFAULTS["seed"]))
            node = _node(self._folder, seed, tuple(sorted(context.node_config.items())))
            return node.answer(message, context)
        except BaseException as error:
            # What the client wrote before it failed is lost, as it is in a simulation.
            context.state = before
            if isinstance(error, FedsimError):
                return flower.error_reply(message, " ".join(str(error).split()))
            if not isinstance(error, Exception):  # Flower ends the process so.
                raise
            _log.error("client failed", exc_info=error)
            reason = f"it raised {type(error).__name__}; the node's log has the rest"
            return flower.error_reply(message, reason)


@functools.lru_cache(maxsize=4)
def _node(folder: Path, seed: int, configuration: tuple[tuple[str, Any], ...]) -> Node:
    """The node, kept where a process lives for several messages, as in Flower's simulation."""
    return Node.of(folder, seed, dict(configuration))


@dataclass(frozen=True)
class Node:
    """A client of a scenario, with its own records.

    Attributes:
        settings: what the node was told.
        job: what a worker must know: only this client has records in it.
        source: "path" where its records are from a folder, "embedded" for the generated stand-in.
    """

    settings: NodeSettings
    job: Job
    source: str

    @classmethod
    def of(cls, folder: Path, seed: int, configuration: Mapping[str, Any]) -> Node:
        """Read the app and the node's data.

        Raises:
            InputError: the configuration, the app or the data cannot be used.
        """
        facts, settings = Facts.read(folder), NodeSettings.of(configuration)
        if settings.client >= len(facts.clients):
            raise InputError(
                f"client={settings.client}, but the app has {len(facts.clients)} clients, from 0"
            )
        if facts.root and settings.root is None:
            raise InputError(
                "the app was exported with data from a folder, and this node names none",
                hint="start it with --node-config 'data-root=\"DIR\" ...'",
            )
        scenario = exported_scenario(folder, settings.root)
        try:
            store, task, train, val, forget = _own(scenario, seed, facts, settings)
        except InputError as error:
            _log.error(str(error))
            raise InputError(
                f"the node's data cannot be used: {error.headline}; the node's log has the rest"
            ) from error
        facts.require_alike(task)
        nothing = np.zeros(0, np.int64)
        name = facts.clients[settings.client]
        job = Job(
            scenario,
            seed,
            store.folder,
            task,
            dict.fromkeys(facts.clients, nothing) | {name: train},
            dict.fromkeys(facts.clients, nothing) | {name: val},
            forget={name: forget},
            device=str(device_for(scenario)),
        )
        return cls(settings, job, str(store.source))

    @property
    def name(self) -> str:
        """Of the client that the node is."""
        return self.job.names[self.settings.client]

    @functools.cached_property
    def _units(self) -> int:
        """Records, or patients, that a private run protects here; 0 where the unit is no such."""
        settings = self.job.scenario.privacy
        if settings is None or settings.unit == "client":
            return 0
        view = self._view
        return int(units_of(view, settings).max(initial=-1)) + 1

    @functools.cached_property
    def _view(self) -> Any:
        store = self.job.task.open_store(self.job.store)
        return self.job.task.view(store, self.job.train[self.name], self.name)

    def answer(self, message: Message, context: Context) -> Message:
        """The answer to a message.

        Raises:
            InputError: it is asked for what the node does not give.
        """
        if message.metadata.message_type == HELLO:
            return Message(self._greeting().content(), reply_to=message)
        round, exchange = addressed(message)
        plan = None
        if trains(message):
            plan = self._promised(message, context)
        else:
            self._require_bare(message)
        job = self._whole_job(plan)
        own = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config={"partition-id": self.settings.client},
            state=context.state,
            run_config={},
        )
        reply, own, _ = Worker(job).run(message, own, round, exchange)
        context.state = own.state
        return reply

    def _greeting(self) -> Greeting:
        groups = getattr(self._view, "groups", np.zeros(0, np.int64))
        return Greeting(
            client=self.settings.client,
            source=self.source,
            records=len(self.job.train[self.name]),
            held_out=len(self.job.val[self.name]),
            units=self._units,
            most_records=int(np.unique(groups, return_counts=True)[1].max(initial=0)),
        )

    def _whole_job(self, plan: PrivacyPlan | None) -> Job:
        """The job with what the model is made of, and with noise that nobody else can draw."""
        scenario, task = self.job.scenario, self.job.task
        with isolated(Streams(self.job.seed).sequence("model")):
            model = build_model(scenario, task)
        strategy = build_strategy(scenario, len(self.job.names))
        buffers = buffers_of(model, strategy, scenario.privacy, sharing_of(scenario, model))
        if buffers.roles.stays:
            buffers.begin(first_arrays(scenario, task, self.job.seed))
        at_client = plan is not None and plan.unit != "client"
        # A key of its own for each answer: whoever asks twice gets two independent releases.
        noise = Noise.secret(secrets.token_bytes(KEY_BYTES), b"node") if at_client else None
        return replace(
            self.job,
            privacy=plan if at_client else None,
            noise=noise,
            roles=buffers.roles,
            stays=buffers.stays,
        )

    def _promised(self, message: Message, context: Context) -> PrivacyPlan | None:
        """What the answer to a training message will release, charged; None without a mechanism.

        Raises:
            InputError: it would break what the app's scenario promises, or the node's own limit.
        """
        promise, limit = message.content.pop(PROMISE, None), self.settings.limit
        settings = self.job.scenario.privacy
        if settings is None or settings.unit == "client":
            if limit is not None:
                why = (
                    "the run has no privacy mechanism"
                    if settings is None
                    else "the server adds the noise, which no node can check"
                )
                raise InputError(f"this node has an epsilon-limit, and {why}: it sends nothing")
            return None
        found = promise.get("noise-multiplier") if isinstance(promise, ConfigRecord) else None
        if not (isinstance(found, float) and math.isfinite(found)):
            raise InputError(
                "the server asks for a private answer, but does not say with what noise"
            )
        done = _trained(context)
        plan = self._plan(settings, found)
        _require_promise(settings, plan, done)
        if limit is not None:
            budget = Budget(self.settings.file, limit, self.settings.delta)
            budget.charge(plan, self.name, f"{self.job.scenario.name}, run {context.run_id}")
        context.state[_TRAININGS] = ConfigRecord({"count": done + 1})
        return plan

    def _require_bare(self, message: Message) -> None:
        """Refuse what no mechanism covers: by another type a client's training could be asked for.

        The simulator asks for nothing of the kind, but a node does not know who asks.
        """
        scenario, asked = self.job.scenario, message.metadata.message_type
        if self.settings.limit is not None:
            raise InputError(
                f"this node has an epsilon-limit, and answers no {asked}: what it sends would be "
                "without noise"
            )
        allowed = scenario.evaluation.on_clients and asked == EVALUATE
        if scenario.privacy is not None and not allowed:
            raise InputError(
                f"a node of a private run answers no {asked}: what it sends would be without noise"
            )

    def _plan(self, settings: Privacy, noise_multiplier: float) -> PrivacyPlan:
        """What the node releases with this noise, by its own count of units."""
        if not self._units:
            raise InputError("this node has no training records: there is nothing to sample")
        own = settings.model_copy(
            update={
                "target_epsilon": None,
                "noise_multiplier": noise_multiplier,
                "max_epsilon": None,
            }
        )
        scenario = self.job.scenario.model_copy(update={"privacy": own})
        return plan_of_units(scenario, {self.name: self._units})


def _trained(context: Context) -> int:
    """How often the node has trained in this run."""
    found = context.state.config_records.get(_TRAININGS, ConfigRecord()).get("count", 0)
    return found if isinstance(found, int) else 0


def _require_promise(settings: Privacy, plan: PrivacyPlan, done: int) -> None:
    """Refuse an answer with less noise, or one more of them, than the app's scenario promises."""
    if done >= plan.planned:
        raise InputError(
            f"the server asks for training number {done + 1}, and the scenario has {plan.planned}"
        )
    fixed, target = settings.noise_multiplier, settings.target_epsilon
    if fixed is not None and not plan.noise_multiplier >= fixed:
        raise InputError(
            f"the server asks for a noise multiplier of {plan.noise_multiplier:.4g}, less than the "
            f"scenario's {fixed:.4g}"
        )
    for most, often in ((target, plan.planned), (settings.max_epsilon, done + 1)):
        costs = None if most is None else plan.bound(often).epsilon
        if most is not None and (costs is None or costs > most * _SLACK):
            raise InputError(
                f"with the noise that the server asks for, {often} training(s) would cost this "
                f"node more than the scenario's epsilon of {most:g}"
            )


_Own = tuple[Any, Task, np.ndarray, np.ndarray, np.ndarray]


def _own(scenario: Scenario, seed: int, facts: Facts, settings: NodeSettings) -> _Own:
    """The node's data: store, task, and positions to train on, to evaluate on, and to forget."""
    name = facts.clients[settings.client]
    if settings.whole:
        return _whole(scenario, facts, name)
    federation = build_federation(scenario, seed)
    if tuple(federation.train) != facts.clients:
        raise InputError(
            f"by the data here the clients are {some(list(federation.train))}, and by the app they "
            f"are {some(list(facts.clients))}",
            hint='give the node the data that the app was exported with, or data="whole"',
        )
    forget = federation.forget.get(name, np.zeros(0, np.int64))
    return federation.store, federation.task, federation.train[name], federation.val[name], forget


def _whole(scenario: Scenario, facts: Facts, name: str) -> _Own:
    """A folder of the node's own: split as the scenario says, and never shared out.

    Nobody else scores a model on its records, so the test split is held out with the validation
    split.
    """
    if any(one.forget is not None for one in scenario.federation.overrides.values()):
        raise InputError(
            'federation.overrides asks clients to forget records, which data="whole" has not'
        )
    store = open_store(scenario)
    kind = task_of(dataset_of(scenario), scenario)
    split = kind.split(scenario, store, np.arange(len(store.sites)))
    held_out = np.sort(np.concatenate([split["val"], split["test"]]))
    task = kind.of(scenario, store, list(facts.clients))
    return store, task, split["train"], held_out, np.zeros(0, np.int64)
