"""What a private run releases: the unit that its data call for, and the plan of its noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from fedsim.engine.strategies import trainings
from fedsim.errors import InputError
from fedsim.federation.clients import make_client
from fedsim.federation.holdings import Federation
from fedsim.files import cache_folder
from fedsim.grid.worker import units_of
from fedsim.method.capabilities import capabilities
from fedsim.method.client import Client
from fedsim.method.wrapper import Wrapper
from fedsim.models.build import build_model
from fedsim.privacy.client_level import require_still_buffers
from fedsim.privacy.plan import PrivacyPlan, plan_client_privacy, plan_privacy
from fedsim.privacy.secure_sum import (
    require_alike,
    require_released_sums,
    require_shared_noise,
)
from fedsim.randomness import Streams, isolated
from fedsim.scenario import Scenario
from fedsim.scenario.overrides import client_block
from fedsim.scenario.schema import Privacy


def with_unit(scenario: Scenario, federation: Federation) -> Scenario:
    """The scenario with the unit of privacy that its data call for, where it names none.

    Where several records are of one patient, whoever is in the data is there with all of them.
    """
    settings = scenario.privacy
    if settings is None or settings.unit is not None:
        return scenario
    repeats = settings.shared_patients or _most_records(federation) > 1
    unit = "patient" if repeats else "record"
    if unit == "patient" and settings.audit in ("run", "lira"):
        raise InputError(
            f"privacy.audit={settings.audit} needs unit: record, but the data have several records "
            "of one patient or lesion, so the unit is the patient",
            hint="type privacy.unit=record, or privacy.audit=mechanism",
        )
    return scenario.model_copy(update={"privacy": settings.model_copy(update={"unit": unit})})


def _most_records(federation: Federation) -> int:
    """Training records of the patient or lesion that has most, at all clients together."""
    groups = _groups(federation)
    return int(np.unique(groups, return_counts=True)[1].max(initial=0))


def _groups(federation: Federation) -> np.ndarray:
    """The patient or lesion of every training record, int64."""
    where = np.concatenate([np.zeros(0, np.int64), *federation.train.values()])
    return np.asarray(federation.store.groups[where], dtype=np.int64)


def privacy_plan(
    scenario: Scenario, federation: Federation, say: Callable[[str], None] | None = None
) -> PrivacyPlan | None:
    """What the clients release in a private run; None for a run without a mechanism.

    `say` is told when a search for the noise begins.

    Raises:
        InputError: the client method has no private form, or the scenario asks for what cannot be.
    """
    scenario = with_unit(scenario, federation)
    settings = scenario.privacy
    if settings is None:
        return None
    shared = settings.trust == "secure_sum"
    if shared:
        require_shared_noise(settings, scenario.federation.participation, scenario.faults)
        require_alike(scenario)
    if settings.unit == "client":
        with isolated(Streams(0).sequence("model")):
            require_still_buffers(build_model(scenario, federation.task), federation.task)
        return plan_client_privacy(
            settings, scenario.rounds, list(federation.train), cache=cache_folder(), say=say
        )
    methods = _methods(scenario, federation.train)
    _require_own_records(settings, federation)
    _require_patients(settings, federation)
    trainings(scenario)
    within = list(map(_within, methods.values()))
    if shared:
        named = [client_block(scenario, name)[0] for name in methods]
        require_released_sums(named, methods.values())
    plain = any(getattr(client, "augment", None) in (None, "none") for client in within)
    if settings.augmentations > 1 and plain:
        raise InputError(
            "privacy.augmentations: copies of a record that are all alike cost time for nothing",
            hint="type client.augment=siamese, or privacy.augmentations=1",
        )
    if settings.filter is not None and any(capabilities(one).sends_release for one in within):
        raise InputError(
            f"privacy.filter leaves records out, but {scenario.client.name!r} sends sums over all "
            "of them",
            hint="type privacy.filter=null",
        )
    units = {
        name: int(units_of(federation.client_view(name), settings).max(initial=-1)) + 1
        for name in federation.train
    }
    for client in _different(scenario, methods).values():
        with isolated(Streams(0).sequence("model")):
            client.check_private(build_model(scenario, federation.task), federation.task)
    return plan_of_units(
        scenario,
        units,
        together=len(np.unique(_groups(federation))),
        most_records=_most_records(federation) if settings.unit == "record" else 1,
        say=say,
    )


def plan_of_units(
    scenario: Scenario,
    units: Mapping[str, int],
    *,
    together: int | None = None,
    most_records: int = 1,
    say: Callable[[str], None] | None = None,
) -> PrivacyPlan:
    """The plan of clients that hold so many units each; their records need not be here.

    Args:
        scenario: its privacy block has a unit, and not the client.
        units: client name -> records, or patients, that it holds.
        together, most_records: see `fedsim.privacy.plan.plan_privacy`.
        say: is told when a search for the noise begins.

    Raises:
        InputError: a client method has no private form, or the scenario asks for what cannot be.
    """
    settings = scenario.privacy
    assert settings is not None
    methods, often = _methods(scenario, units), trainings(scenario)
    try:
        plan = plan_privacy(
            settings,
            often,
            units,
            {name: one.private_steps for name, one in methods.items()},
            full_batch=[
                name for name, one in methods.items() if capabilities(_within(one)).full_batch
            ],
            together=together,
            most_records=most_records,
            cache=cache_folder(),
            say=say,
        )
    except ValueError as error:
        different = _different(scenario, methods)
        names = dict.fromkeys(client_block(scenario, name)[0] for name in different)
        told = " or ".join(map(repr, names))
        raise InputError(f"client {told} cannot be private: {error}", hint=_HINT) from error
    return (
        plan if often == scenario.rounds else replace(plan, rounds=scenario.rounds, trainings=often)
    )


_HINT = "remove the privacy block, or choose another client method: fedsim plugins"


def _methods(scenario: Scenario, names: Iterable[str]) -> dict[str, Client]:
    """The client method of each client; InputError where one cannot be private."""
    methods: dict[str, Client] = {}
    for name in names:
        made = make_client(scenario, name)
        if not isinstance(made, Client):
            raise InputError(
                f"client.name: {client_block(scenario, name)[0]!r} is a Flower ClientApp, which "
                "fedsim cannot make private",
                hint=_HINT,
            )
        methods[name] = made
    return methods


def _within(client: Client) -> Client:
    """The method inside a wrapper."""
    return client.method if isinstance(client, Wrapper) else client


def _different(scenario: Scenario, methods: Mapping[str, Client]) -> dict[str | None, Client]:
    """Those without an override are alike: one of them is looked at."""
    overrides = scenario.federation.overrides
    return {name if name in overrides else None: one for name, one in methods.items()}


def _require_own_records(settings: Privacy, federation: Federation) -> None:
    """Refuse partitions with which no client's epsilon is that of a record, or there is none."""
    if empty := [name for name, where in federation.train.items() if not len(where)]:
        raise InputError(
            f"privacy: client {empty[0]!r} has no training records: there is nothing to sample",
            hint="choose another federation.partition, or fewer federation.clients",
        )
    where = np.concatenate(list(federation.train.values()))
    twice = len(where) - len(np.unique(where))
    if twice and not settings.shared_patients:
        raise InputError(
            f"privacy: {twice} training records are with several clients, or twice with one: what "
            "they pay is not the epsilon of one client",
            hint="type privacy.unit=patient privacy.shared_patients=true, or choose another "
            "federation.partition",
        )


def _require_patients(settings: Privacy, federation: Federation) -> None:
    """Refuse claims about patients that the data, or the partition, do not bear out."""
    if settings.unit != "patient":
        return
    if _most_records(federation) < 2:
        raise InputError(
            "privacy.unit: the data do not say which records are of one patient or lesion",
            hint="type privacy.unit=record",
        )
    at_each = sum(len(set(federation.store.groups[w])) for w in federation.train.values())
    if at_each > len(np.unique(_groups(federation))) and not settings.shared_patients:
        raise InputError(
            "privacy.shared_patients: there are patients with records at several clients",
            hint="type privacy.shared_patients=true",
        )
