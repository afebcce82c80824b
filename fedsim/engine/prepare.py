"""What a run is made of, made once: `prepare` gives the `Prepared` that everything else reads.

A run, a resumed run, an estimate, a check and an audit all begin here, so that what one of them
refuses, all of them refuse, with the same words and in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim.adapters import require_used
from fedsim.adversaries.conspiracy import Conspiracy, conspiracy
from fedsim.engine.colluders import require_trial
from fedsim.engine.inspection import require_inspectable
from fedsim.engine.privacy import privacy_plan, with_unit
from fedsim.engine.strategies import build_strategy, disclosed_by_client, is_one_shot
from fedsim.engine.timing import require_clock
from fedsim.errors import InputError, Problem
from fedsim.federation.building import build_federation
from fedsim.federation.clients import make_client
from fedsim.federation.holdings import Federation
from fedsim.grid.machine import require_resources
from fedsim.grid.mode import Mode, mode_of
from fedsim.method.client import Client
from fedsim.method.strategy import makes_exchanges
from fedsim.models.build import Pretrained, build_model, first_weights, unfit
from fedsim.models.conditioning import require_conditioned
from fedsim.pretrained.loading import file_of
from fedsim.privacy.plan import PrivacyPlan
from fedsim.raising import one_line, plugin_code
from fedsim.randomness import Streams, isolated
from fedsim.scenario import Scenario, activate_plugins
from fedsim.scenario.overrides import client_block
from fedsim.scenario.parameters import blamed
from fedsim.tasks.task import Task
from fedsim.wire import flower

if TYPE_CHECKING:
    from fedsim.privacy.attacks import Subject
    from fedsim.privacy.verdict import Level


@dataclass(frozen=True)
class Prepared:
    """All that a run is made of.

    Attributes:
        scenario: what is run; its privacy block has the unit that the data call for.
        seed: of the run.
        federation: the data, the split, who holds what, and the task.
        privacy: what the clients release; None in a run without a mechanism.
        strategy: the server's method, which one run uses up: `again` makes another.
        disclosed: what the clients' replies carry of the records themselves, in words.
        unit_from: who chose the unit of privacy, "scenario" or "data"; None without privacy.
        attack: what is attacked when the run is done, and how; None: nothing is.
        pretrained: where the first weights are from; None where the seed gives them.
        conspiracy: who colludes, and how; None where nobody does.
    """

    scenario: Scenario
    seed: int
    federation: Federation
    privacy: PrivacyPlan | None
    strategy: FlowerStrategy
    disclosed: tuple[str, ...] = ()
    unit_from: str | None = None
    attack: tuple[Subject, Level] | None = None
    pretrained: Pretrained | None = None
    conspiracy: Conspiracy | None = None

    @property
    def task(self) -> Task:
        """What is to be learned."""
        return self.federation.task

    @property
    def names(self) -> list[str]:
        """The clients' names, in client order."""
        return list(self.federation.train)

    @property
    def streams(self) -> Streams:
        """The run's random streams."""
        return Streams(self.seed)

    @property
    def one_shot(self) -> bool:
        """Whether the clients send once."""
        return is_one_shot(self.strategy)

    @cached_property
    def mode(self) -> Mode:
        """How the clients compute."""
        return mode_of(
            self.scenario,
            self.task,
            private=self.privacy is not None and self.privacy.settings.unit != "client",
            several=self.one_shot or makes_exchanges(self.strategy),
        )

    @property
    def has_secret_noise(self) -> bool:
        """Whether the noise comes from a key that the run keeps until it is done."""
        return self.scenario.privacy is not None and self.scenario.privacy.noise == "secret"

    @property
    def budget(self) -> float | None:
        """The epsilon that the run keeps to, or was planned for; None for none."""
        settings = self.scenario.privacy
        return None if settings is None else settings.max_epsilon or settings.target_epsilon

    def again(
        self,
        train: Mapping[str, np.ndarray] | None = None,
        *,
        seed: int | None = None,
        privacy: PrivacyPlan | None = None,
        **changes: Any,
    ) -> Prepared:
        """The same for another run, with a strategy of its own, and without an adversary.

        Args:
            train: client name -> its training records, where these are others.
            seed: another seed, of all but the partition.
            privacy: another plan.
            changes: top-level keys of the scenario and their values.
        """
        federation = self.federation
        if train is not None:
            val = {name: federation.val[name] for name in train}
            federation = replace(federation, train=dict(train), val=val)
        scenario = self.scenario.model_copy(update=changes | {"adversary": None})
        if train is not None:
            # A clock may know each client by its name, and these need not be all.
            untimed = scenario.federation.model_copy(update={"clock": None})
            scenario = scenario.model_copy(update={"federation": untimed})
        plan = self.privacy if privacy is None else privacy
        return replace(
            self,
            scenario=scenario,
            seed=self.seed if seed is None else seed,
            federation=federation,
            privacy=plan,
            strategy=build_strategy(scenario, len(federation.train), plan),
            conspiracy=None,
        )


def prepare(
    scenario: Scenario,
    seed: int,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    federation: Federation | None = None,
) -> Prepared:
    """Make all that a run is made of, and refuse what cannot run.

    Args:
        scenario: what to run.
        seed: of the run.
        say: is told when weights are fetched, and when a search for the noise begins.
        progress: is told how many images are decoded, and of how many.
        federation: the scenario's data, where they are shared out already.

    Raises:
        InputError: the machine, the data, the model, its weights, the privacy block, the client
            method, the strategy or the adversary do not go with the scenario.
    """
    require_resources(scenario)
    activate_plugins(scenario)
    for source in _weights_of(scenario):
        file_of(source, say)  # Before data are prepared, which takes longer.
    disclosed = disclosed_by_client(scenario)
    if federation is None:
        federation = build_federation(scenario, seed, progress)
    settled = with_unit(scenario, federation)
    pretrained = check_model(settled, federation.task)
    check_clients(settled, federation)
    privacy = privacy_plan(settled, federation, say)
    strategy = build_strategy(settled, len(federation.train), privacy)
    by_data = scenario.privacy is not None and scenario.privacy.unit is None
    unit_from = None if privacy is None else "data" if by_data else "scenario"
    colluders = conspiracy(settled, list(federation.train), seed, federation.task)
    require_inspectable(settled, privacy)
    require_trial(colluders, strategy)
    made = Prepared(
        settled,
        seed,
        federation,
        privacy,
        strategy,
        disclosed,
        unit_from,
        pretrained=pretrained,
        conspiracy=colluders,
    )
    require_clock(made)
    return replace(made, attack=_attack(made))


def _weights_of(scenario: Scenario) -> list[str]:
    """Sources of the pretrained weights that a scenario needs."""
    found = [] if scenario.model.init is None else [scenario.model.init]
    if scenario.data.features is not None:
        from fedsim.data.features.network import weights_source

        source = weights_source(scenario.data.features)
        found += [] if source is None else [source]
    return found


def _attack(prepared: Prepared) -> tuple[Subject, Level] | None:
    """What is to be attacked when the run ends, and how; InputError where it cannot be."""
    if prepared.privacy is None or not prepared.privacy.settings.audit:
        return None
    from fedsim.engine.auditing import subject_of
    from fedsim.privacy.verdict import require_level

    asked = prepared.privacy.settings.audit
    level: Level = "mechanism" if asked is True else asked
    subject = subject_of(prepared)
    require_level(subject, level)
    return subject, level


def check_model(scenario: Scenario, task: Task) -> Pretrained | None:
    """Refuse (InputError) a model in which rounding decides, or that cannot travel or begin.

    Before anything starts. Returns where its first weights are from, unless the seed gives them.
    """
    with isolated(Streams(0).sequence("model")):
        model = build_model(scenario, task)
        require_conditioned(model, task.input_shape)
        with unfit(scenario):
            require_used(model, task.input_shape)
    pretrained = None
    if scenario.model.init is not None:
        _, pretrained = first_weights(scenario, task, 0)
    try:
        flower.pack_state(model.state_dict())
    except (MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"model.name: {scenario.model.name!r} has a state that cannot travel: "
            f"{one_line(error)}",
            hint="a model's state is dense tensors whose shapes are known, of types that NumPy has",
        ) from error
    return pretrained


def check_clients(scenario: Scenario, federation: Federation) -> None:
    """Refuse (InputError) client methods that do not go with the model, the task or the clients."""
    names = list(federation.train)
    model = None
    for own in (None, *scenario.federation.overrides):
        client = make_client(scenario, own)
        if not isinstance(client, Client):
            continue
        if model is None:
            with isolated(Streams(0).sequence("model")):
                model = build_model(scenario, federation.task)
        name, parameters = client_block(scenario, own)
        path = ("client",) if own is None else ("federation", "overrides", own, "client")
        with plugin_code(f"client {name!r} failed in check_fits"):
            try:
                client.check_fits(model, federation.task, names)
            except ValueError as error:
                key, why = blamed(error, parameters)
                path = (*path, key) if key else path
                raise InputError(
                    f"client {name!r} does not go with this scenario",
                    [Problem(scenario.place(*path), f"{'.'.join(path)}: {why}")],
                    hint="change it, then type `fedsim check`",
                ) from error
