"""What an audit attacks: the claim of a scenario, its mechanism, and its training with a client.

The client whose epsilon is the largest is examined. Its training runs through the engine, alone, as
the only client of its federation, or with others where that is what is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedsim.engine.assembly import assembled
from fedsim.engine.loop import Rounds
from fedsim.engine.prepare import Prepared, prepare
from fedsim.errors import FedsimError, InputError
from fedsim.federation.clients import make_client
from fedsim.grid.worker import device_for
from fedsim.method.client import Client
from fedsim.models.build import build_model
from fedsim.observers.base import Exchange, Observer, Reply
from fedsim.observers.telling import Observers
from fedsim.privacy.accounting import ACCOUNTANT_NAMES, Bound, Entry, epsilon_rdp, epsilon_upper
from fedsim.privacy.attacks import Subject
from fedsim.privacy.mechanisms import Mechanism, NoiseShare
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.releases import Releases
from fedsim.randomness import Streams, isolated
from fedsim.scenario import Scenario
from fedsim.wire import flower

# Candidates of membership inference: more of them raise the bound's cap, and its time.
_CANDIDATES = 1000


def audit_subject(scenario: Scenario) -> Subject:
    """What `fedsim audit` examines of a scenario with a `privacy:` block.

    Raises:
        InputError: the scenario cannot run, see `fedsim.engine.prepare`, or has no such block.
    """
    return subject_of(prepare(scenario, scenario.seeds[0]))


def subject_of(prepared: Prepared) -> Subject:
    """The same of what has been prepared."""
    plan = prepared.privacy
    if plan is None:
        raise InputError(f"nothing to audit: {prepared.scenario.name} has no privacy block")
    name = _of_largest_epsilon(plan)
    client, bound = plan.clients[name], _claim(plan, name)
    trained = _Trained(prepared, plan, name)
    by_record = plan.unit == "record"
    alone = by_record and not plan.shares_noise
    scored = alone and not prepared.one_shot and prepared.task.gives_probabilities
    return Subject(
        name=prepared.scenario.name,
        mechanism=released(client.mechanism),
        claimed_epsilon=bound.epsilon,
        delta=plan.settings.delta,
        accountant=ACCOUNTANT_NAMES[bound.accountant],
        certified=plan.certified,
        sample_rate=client.sample_rate,
        steps=client.steps * plan.planned,
        training=trained if alone and plan.trainings is None else None,
        score_records=trained.score if scored else None,
        records=len(trained.candidates) if scored else 0,
        rows=_rows(prepared, name, client.mechanism.max_grad_norm),
    )


def released(mechanism: Mechanism) -> Mechanism:
    """The mechanism whose releases the claim is about: where clients share noise, their sum."""
    return mechanism.summed if isinstance(mechanism, NoiseShare) else mechanism


def _rows(prepared: Prepared, name: str, bound: float) -> Mapping[str, Tensor]:
    """What the worst units contribute at a client, where its method says so."""
    method = make_client(prepared.scenario, name)
    return method.worst_rows(bound) if isinstance(method, Client) else {}


def _of_largest_epsilon(plan: PrivacyPlan) -> str:
    """The client whose training costs most."""

    def cost(name: str) -> float:
        entry = plan.clients[name].entry
        epsilon = epsilon_rdp([entry], plan.settings.delta)
        return float("inf") if epsilon is None else epsilon

    return max(plan.clients, key=cost)


def _claim(plan: PrivacyPlan, name: str) -> Bound:
    entry = plan.clients[name].entry
    whole = Entry(entry.noise_multiplier, entry.sample_rate, entry.steps * plan.planned)
    return epsilon_upper([whole], plan.settings.delta)


class _Trained:
    """One client's training, as the scenario has it: `fedsim.privacy.attacks.training.Training`."""

    def __init__(self, prepared: Prepared, plan: PrivacyPlan, name: str) -> None:
        self._prepared, self._plan, self._name = prepared, plan, name
        self.one_shot = prepared.one_shot
        self.records = len(self._records)
        self.rounds, self.steps = plan.rounds, plan.clients[name].steps
        self.clients = len(plan.clients)
        draws = prepared.streams.numpy("audit candidates")
        count = min(_CANDIDATES, self.records)
        self.candidates = np.sort(draws.choice(self._records, count, replace=False))

    @property
    def _records(self) -> NDArray[np.int64]:
        """The client's training records."""
        return self._prepared.federation.train[self._name]

    def run(
        self,
        watch: Callable[[Releases], Releases],
        *,
        rounds: int | None = None,
        more: int = 0,
        fewer: int = 0,
        replaced: bool = False,
        clients: int = 1,
    ) -> list[Mapping[str, NDArray]]:
        """Train, see `Training.run`."""
        own, train = self._records, self._prepared.federation.train
        if replaced:
            odd = np.arange(1, len(own), 2)
            own = own.copy()
            own[odd] = own[odd - 1]
        own = np.concatenate([own, own[np.arange(more) % len(own)]])[: len(own) + more - fewer]
        others = [name for name in self._plan.clients if name != self._name][: clients - 1]
        records = {self._name: own} | {name: train[name] for name in others}
        plans = {
            name: replace(self._plan.clients[name], units=len(positions), watch=watch)
            for name, positions in records.items()
        }
        collector = _Collector(only=self.one_shot)
        self._train(records, replace(self._plan, clients=plans), rounds=rounds, collector=collector)
        return collector.sent

    def score(self, included: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
        """Train without the candidates that are not included; log-odds of all their labels.

        The rate of sampling stays, so that the claim is that of the whole training.
        """
        out = self.candidates[~included]
        records = np.setdiff1d(self._records, out)
        client = replace(self._plan.clients[self._name], units=len(records))
        plan = replace(self._plan, clients={self._name: client})
        rounds = self._train({self._name: records}, plan, seed=seed)
        prepared, task = self._prepared, self._prepared.task
        with isolated(Streams(seed).sequence("model")):
            model = build_model(prepared.scenario, task)
        flower.load_state(model, rounds.selected[0])
        view = task.view(prepared.federation.store, self.candidates)
        found = task.predict(model, view, device_for(prepared.scenario)).astype(np.float64)
        own = np.clip(found[np.arange(len(found)), view.labels.numpy()], 1e-12, 1 - 1e-12)
        return np.asarray(np.log(own) - np.log1p(-own), dtype=np.float64)

    def _train(
        self,
        records: Mapping[str, np.ndarray],
        plan: PrivacyPlan,
        *,
        seed: int | None = None,
        rounds: int | None = None,
        collector: _Collector | None = None,
    ) -> Rounds:
        """Train on these records of these clients; `collector` takes what left them."""
        scenario = self._prepared.scenario
        many = scenario.rounds if rounds is None else rounds
        changes: dict[str, Any] = {
            "rounds": many,
            "evaluation": scenario.evaluation.model_copy(update={"every": many}),
            "resources": scenario.resources.model_copy(update={"backend": "inline"}),
        }
        plan = plan if rounds is None else replace(plan, rounds=rounds)
        again = self._prepared.again(records, seed=seed, privacy=plan, **changes)
        observers = Observers([] if collector is None else [collector])
        with assembled(again, observers) as running, contextlib.suppress(_AllAnsweredError):
            running.run()
        return running


class _AllAnsweredError(FedsimError):
    """All that the clients of a one-shot strategy send has been sent."""


class _Collector(Observer):
    """Keeps what clients reply.

    Args:
        only: stop once all that were asked have answered; the strategy's own training is left out.
    """

    essential = True

    def __init__(self, only: bool) -> None:
        self._only, self._awaited = only, 0
        self.sent: list[Mapping[str, NDArray]] = []

    def exchange(self, exchange: Exchange) -> None:
        """Note how many will answer."""
        self._awaited = len(self.sent) + len(exchange.clients)

    def reply(self, reply: Reply) -> None:
        """Keep a reply."""
        self.sent.append(reply.values())
        if self._only and len(self.sent) == self._awaited:
            raise _AllAnsweredError("all clients have answered")
