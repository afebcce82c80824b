"""What an audit attacks: the claim of a scenario, its mechanism, and its training with a client.

The client whose epsilon is the largest is examined. Its training runs through the engine, alone, as
the only client of its federation.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedsim import flower
from fedsim.client import Task
from fedsim.console import Console
from fedsim.engine import build_strategy, engine, is_one_shot, privacy_plan, with_unit
from fedsim.errors import InputError
from fedsim.federation import Federation, build_federation
from fedsim.grid.worker import device_for
from fedsim.loop import Rounds
from fedsim.models.build import build_model
from fedsim.privacy.accounting import Bound, Entry, epsilon_rdp, epsilon_upper
from fedsim.privacy.attacks import Subject
from fedsim.privacy.mechanisms import Mechanism
from fedsim.privacy.plan import PrivacyPlan
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
    scored = by_record and not trained.one_shot and type(federation.task) is Task
    return Subject(
        name=scenario.name,
        mechanism=client.mechanism,
        claimed_epsilon=bound.epsilon,
        delta=plan.settings.delta,
        accountant={"prv": "PRV upper", "rdp": "RDP"}[bound.accountant],
        certified=plan.certified,
        sample_rate=client.sample_rate,
        steps=client.steps * plan.rounds,
        train_with=trained.with_mechanism if by_record else None,
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
    """One client's training, as the scenario has it, without any other client."""

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
        draws = Streams(seed).numpy("audit candidates")
        records = federation.train[name]
        count = min(_CANDIDATES, len(records))
        self.candidates = np.sort(draws.choice(records, count, replace=False))

    def with_mechanism(self, mechanism: Mechanism) -> None:
        """Train with this mechanism in place of the client's own."""
        client = replace(self._plan.clients[self._name], mechanism=mechanism)
        plan = replace(self._plan, clients={self._name: client})
        self._run(self._federation.train[self._name], plan, self._seed)

    def score(self, included: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
        """Train without the candidates that are not included; log-odds of all their labels.

        The rate of sampling stays, so that the claim is that of the whole training.
        """
        out = self.candidates[~included]
        records = np.setdiff1d(self._federation.train[self._name], out)
        client = replace(self._plan.clients[self._name], units=len(records))
        plan = replace(self._plan, clients={self._name: client})
        rounds = self._run(records, plan, seed)
        task, device = self._federation.task, device_for(self._scenario)
        with isolated(Streams(seed).sequence("model")):
            model = build_model(self._scenario, task)
        flower.load_state(model, rounds.selected[0])
        view = task.view(self._federation.store, self.candidates)
        found = task.predict(model, view, device).astype(np.float64)
        own = np.clip(found[np.arange(len(found)), view.labels.numpy()], 1e-12, 1 - 1e-12)
        return np.asarray(np.log(own) - np.log1p(-own), dtype=np.float64)

    def _run(self, records: np.ndarray, plan: PrivacyPlan, seed: int) -> Rounds:
        alone = replace(
            self._federation,
            train={self._name: records},
            val={self._name: self._federation.val[self._name]},
        )
        resources = self._scenario.resources.model_copy(update={"backend": "inline"})
        scenario = self._scenario.model_copy(update={"resources": resources})
        strategy = build_strategy(scenario, 1, plan)
        console = Console(quiet=True)
        with engine(scenario, seed, alone, strategy, console, None, privacy=plan) as rounds:
            rounds.run()
        return rounds
