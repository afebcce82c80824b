"""What an audit attacks: the claim of a scenario, its mechanism, and its training with a client.

The client whose epsilon is the largest is examined. Its training runs through the engine, alone, as
the only client of its federation, or with others where that is what is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedsim import flower
from fedsim.console import Console
from fedsim.engine import build_strategy, engine, is_one_shot, privacy_plan, with_unit
from fedsim.errors import FedsimError, InputError
from fedsim.federation import Federation, build_federation
from fedsim.grid.base import BaseGrid
from fedsim.grid.worker import device_for
from fedsim.loop import Rounds
from fedsim.models.build import build_model
from fedsim.privacy.accounting import Bound, Entry, epsilon_rdp, epsilon_upper
from fedsim.privacy.attacks import Subject
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.releases import Releases
from fedsim.randomness import Streams, isolated
from fedsim.scenario import Scenario, activate_plugins

# Candidates of membership inference: more of them raise the bound's cap, and its time.
_CANDIDATES = 1000


def audit_subject(scenario: Scenario) -> Subject:
    """What `fedsim audit` examines of a scenario with a `privacy:` block.

    Raises:
        InputError: the block, or the client method, is wrong; see `privacy_plan`.
    """
    activate_plugins(scenario)
    seed = scenario.seeds[0]
    federation = build_federation(scenario, seed)
    scenario = with_unit(scenario, federation)
    plan = privacy_plan(scenario, federation)
    if plan is None:
        raise InputError(f"nothing to audit: {scenario.name} has no privacy block")
    return subject_of(scenario, federation, plan, seed)


def subject_of(scenario: Scenario, federation: Federation, plan: PrivacyPlan, seed: int) -> Subject:
    """The same of what has been prepared."""
    name = _dearest(plan)
    client, bound = plan.clients[name], _claim(plan, name)
    trained = _Trained(scenario, federation, plan, name, seed)
    by_record = plan.unit == "record"
    scored = by_record and not trained.one_shot and federation.task.gives_probabilities
    return Subject(
        name=scenario.name,
        mechanism=client.mechanism,
        claimed_epsilon=bound.epsilon,
        delta=plan.settings.delta,
        accountant={"prv": "PRV upper", "rdp": "RDP"}[bound.accountant],
        certified=plan.certified,
        sample_rate=client.sample_rate,
        steps=client.steps * plan.rounds,
        training=trained if by_record else None,
        score_records=trained.score if scored else None,
        records=len(trained.candidates) if scored else 0,
    )


def _dearest(plan: PrivacyPlan) -> str:
    """The client whose training costs most."""

    def cost(name: str) -> float:
        entry = plan.clients[name].entry
        epsilon = epsilon_rdp([entry], plan.settings.delta)
        return float("inf") if epsilon is None else epsilon

    return max(plan.clients, key=cost)


def _claim(plan: PrivacyPlan, name: str) -> Bound:
    entry = plan.clients[name].entry
    whole = Entry(entry.noise_multiplier, entry.sample_rate, entry.steps * plan.rounds)
    return epsilon_upper([whole], plan.settings.delta)


class _Trained:
    """One client's training, as the scenario has it: `fedsim.privacy.attacks.training.Training`."""

    def __init__(
        self,
        scenario: Scenario,
        federation: Federation,
        plan: PrivacyPlan,
        name: str,
        seed: int,
    ) -> None:
        last = {"evaluation": scenario.evaluation.model_copy(update={"every": scenario.rounds})}
        self._scenario = scenario.model_copy(update=last)
        self._federation, self._plan, self._name, self._seed = federation, plan, name, seed
        strategy = build_strategy(scenario, len(plan.clients), plan)
        self.one_shot = is_one_shot(strategy)
        self.records = len(federation.train[name])
        self.rounds, self.steps = plan.rounds, plan.clients[name].steps
        self.clients = len(plan.clients)
        draws = Streams(seed).numpy("audit candidates")
        records = federation.train[name]
        count = min(_CANDIDATES, len(records))
        self.candidates = np.sort(draws.choice(records, count, replace=False))

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
        own = self._federation.train[self._name]
        if replaced:
            odd = np.arange(1, len(own), 2)
            own = own.copy()
            own[odd] = own[odd - 1]
        own = np.concatenate([own, own[np.arange(more) % len(own)]])[: len(own) + more - fewer]
        others = [name for name in self._plan.clients if name != self._name][: clients - 1]
        records = {self._name: own} | {name: self._federation.train[name] for name in others}
        plans = {
            name: replace(self._plan.clients[name], units=len(positions), watch=watch)
            for name, positions in records.items()
        }
        sent: list[Mapping[str, NDArray]] = []
        self._train(records, replace(self._plan, clients=plans), self._seed, rounds, sent)
        return sent

    def score(self, included: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
        """Train without the candidates that are not included; log-odds of all their labels.

        The rate of sampling stays, so that the claim is that of the whole training.
        """
        out = self.candidates[~included]
        records = np.setdiff1d(self._federation.train[self._name], out)
        client = replace(self._plan.clients[self._name], units=len(records))
        plan = replace(self._plan, clients={self._name: client})
        rounds = self._train({self._name: records}, plan, seed)
        task, device = self._federation.task, device_for(self._scenario)
        with isolated(Streams(seed).sequence("model")):
            model = build_model(self._scenario, task)
        flower.load_state(model, rounds.selected[0])
        view = task.view(self._federation.store, self.candidates)
        found = task.predict(model, view, device).astype(np.float64)
        own = np.clip(found[np.arange(len(found)), view.labels.numpy()], 1e-12, 1 - 1e-12)
        return np.asarray(np.log(own) - np.log1p(-own), dtype=np.float64)

    def _train(
        self,
        records: Mapping[str, np.ndarray],
        plan: PrivacyPlan,
        seed: int,
        rounds: int | None = None,
        sent: list[Mapping[str, NDArray]] | None = None,
    ) -> Rounds:
        """Train on these records of these clients; `sent` takes what left them.

        Where it does, a one-shot strategy's own training is left out.
        """
        federation = replace(
            self._federation,
            train=dict(records),
            val={name: self._federation.val[name] for name in records},
        )
        resources = self._scenario.resources.model_copy(update={"backend": "inline"})
        changes: dict[str, Any] = {"resources": resources}
        if rounds is not None:
            changes["rounds"] = rounds
            last = self._scenario.evaluation.model_copy(update={"every": rounds})
            changes["evaluation"] = last
            plan = replace(plan, rounds=rounds)
        scenario = self._scenario.model_copy(update=changes)
        strategy = build_strategy(scenario, len(records), plan)
        console = Console(quiet=True)
        with engine(scenario, seed, federation, strategy, console, None, privacy=plan) as running:
            if sent is not None:
                _listen(running.grid, sent, only=self.one_shot)
            with contextlib.suppress(_HeardEnoughError):
                running.run()
        return running


class _HeardEnoughError(FedsimError):
    """All that the clients of a one-shot strategy send has been sent."""


def _listen(grid: BaseGrid, sent: list[Mapping[str, NDArray]], only: bool) -> None:
    """Keep what clients reply; with `only`, stop once all have."""
    answered = grid.send_and_receive

    def send_and_receive(messages: Iterable[Message], **options: Any) -> Iterator[Message]:
        for reply in answered(messages, **options):
            sent.append(_content(reply))
            yield reply
        if only:
            raise _HeardEnoughError("all clients have answered")

    grid.send_and_receive = send_and_receive  # type: ignore[method-assign]


def _content(reply: Message) -> dict[str, NDArray]:
    """All values of a reply, by name."""
    content = reply.content
    found = {
        f"{record}/{name}": values
        for record, arrays in content.array_records.items()
        for name, values in flower.tensors(arrays).items()
    }
    for records in (content.metric_records, content.config_records):
        for record, values in records.items():
            found |= {f"{record}/{name}": np.asarray(value) for name, value in values.items()}
    return found
