"""The scenario's strategy, and its clients' method: made, and refused where they cannot run."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim.errors import InputError, Problem
from fedsim.federation.clients import make_client
from fedsim.folder.history import FOLDER, LEVELS, NONE, History
from fedsim.method.capabilities import capabilities
from fedsim.method.flower_strategies import filled_in, refusal
from fedsim.method.strategy import Strategy
from fedsim.privacy.client_level import ClientLevel, require_client_level
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.secure_sum import require_sum
from fedsim.raising import plugin_code
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario
from fedsim.scenario.checks import refused_for_clients
from fedsim.scenario.overrides import client_block
from fedsim.scenario.parameters import shown


def build_strategy(
    scenario: Scenario, clients: int, privacy: PrivacyPlan | None = None
) -> FlowerStrategy:
    """Construct the scenario's strategy for this many clients.

    Flower's own strategies get the scenario's participation as `fraction_train`, and all clients
    for evaluation only where the scenario asks for it, unless its parameters say otherwise.
    """
    block = scenario.strategy
    factory = default_registry().resolve("strategies", block.name)
    parameters = dict(block.parameters)
    known = inspect.signature(factory).parameters
    ours = isinstance(factory, type) and issubclass(factory, Strategy)
    if not ours and isinstance(factory, type) and issubclass(factory, FlowerStrategy):
        fallback = {
            "fraction_train": scenario.federation.participation,
            "fraction_evaluate": 1.0 if scenario.evaluation.on_clients else 0.0,
            "min_train_nodes": 1,
            "min_evaluate_nodes": 1,
            "min_available_nodes": 1,
        }
        accepts_all = any(p.kind is p.VAR_KEYWORD for p in known.values())
        fallback = {k: v for k, v in fallback.items() if accepts_all or k in known}
        parameters = fallback | _of_clients(scenario, factory) | parameters
    with contextlib.nullcontext() if ours else quiet_flower():
        strategy = construct(factory, parameters)
    if not isinstance(strategy, FlowerStrategy):
        raise InputError(
            f"strategy.name: {block.name!r} makes a {type(strategy).__name__}, not a strategy",
            hint="a strategy derives from fedsim.Strategy or flwr.serverapp.strategy.Strategy",
        )
    if why := refusal(strategy):
        raise InputError(f"strategy.name: {why}")
    if privacy is not None and capabilities(strategy).needs_losses:
        raise InputError(
            f"strategy {block.name!r} weights clients by their training losses, which are computed "
            "from the records without noise: private clients do not send them",
            hint="type strategy.name=fedavg",
        )
    if isinstance(strategy, Strategy) and strategy.history not in LEVELS:
        raise InputError(
            f"strategy.name: {block.name!r} has history {shown(strategy.history)}; expected one of "
            f"{', '.join(LEVELS)}"
        )
    if is_one_shot(strategy) and scenario.rounds != 1:
        raise InputError(
            f"strategy {block.name!r} is one-shot: clients send once, so there is one round, not "
            f"{scenario.rounds}",
            hint="type rounds=1",
        )
    share = scenario.federation.participation
    for key, why in refused_for_clients(strategy, clients, share, parameters):
        place = scenario.place("strategy", key) if key else scenario.place("strategy")
        raise InputError(
            f"strategy {block.name!r} does not go with {clients} client(s)",
            [Problem(place, f"{f'strategy.{key}' if key else 'strategy'}: {why}")],
        )
    for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
        asked = getattr(strategy, name, 0)
        if isinstance(asked, int) and asked > clients:
            raise InputError(
                f"strategy.{name} asks for {asked} clients, but there are {clients}",
                hint=f"type strategy.{name}={clients}, or federation.clients={asked}",
            )
    if privacy is not None and privacy.settings.unit == "client":
        require_client_level(strategy, scenario.faults)
        assert isinstance(strategy, Strategy)
        return ClientLevel(strategy, next(iter(privacy.clients.values())).mechanism)
    if privacy is not None and privacy.shares_noise:
        require_sum(block.name, strategy)
    return strategy


@contextlib.contextmanager
def quiet_flower() -> Iterator[None]:
    """Keep Flower's own strategies from logging what the console says, too."""
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def is_one_shot(strategy: FlowerStrategy) -> bool:
    """Whether the strategy says that clients send once."""
    return capabilities(strategy).one_shot


def history_of(strategy: FlowerStrategy, folder: Path) -> History:
    """The history that a strategy asks for, below a folder."""
    keeps = strategy.history if isinstance(strategy, Strategy) else "none"
    return NONE if keeps == "none" else History(keeps, folder / FOLDER)


def trainings(scenario: Scenario) -> int:
    """In how many exchanges of the run a client trains, at most: what its noise is planned for.

    Raises:
        InputError: the strategy makes its exchanges itself and does not say how many train.
    """
    block = scenario.strategy
    factory = default_registry().resolve("strategies", block.name)
    if not (isinstance(factory, type) and issubclass(factory, Strategy)):
        return scenario.rounds
    strategy = construct(factory, block.parameters)
    with plugin_code(f"strategy {block.name!r} failed in exchanges"):
        found: Any = strategy.exchanges(scenario.rounds)
    if isinstance(found, int) and not isinstance(found, bool) and found >= 1:
        return found
    raise InputError(
        f"strategy {block.name!r} makes the exchanges of a round itself and says of "
        f"{scenario.rounds} round(s) that clients train in {shown(found)} exchanges: noise is "
        "planned for a number that is at least 1",
        hint="let its method exchanges(rounds) return the largest number, or remove the privacy "
        "block",
    )


def _of_clients(scenario: Scenario, factory: Callable[..., Any]) -> dict[str, Any]:
    """What a strategy must be told of the clients, and the scenario does not say itself.

    Raises:
        InputError: it takes one value, and clients have several.
    """
    found: dict[str, Any] = {}
    for name in (None, *scenario.federation.overrides):
        method, parameters = client_block(scenario, name)
        own = filled_in(factory, default_registry().resolve("clients", method), parameters)
        own = {k: v for k, v in own.items() if k not in scenario.strategy.parameters}
        for key, value in own.items():
            if found.setdefault(key, value) != value:
                raise InputError(
                    f"strategy {scenario.strategy.name!r} takes one {key} for all clients, but "
                    f"{name} has {shown(value)}, and others {shown(found[key])}",
                    hint=f"set strategy.{key}, or give all clients the same",
                )
    return found


def disclosed_by_client(scenario: Scenario) -> tuple[str, ...]:
    """What the client method's replies carry of the records themselves.

    Raises:
        InputError: `client.name` is neither a client method nor a Flower ClientApp.
    """
    each = [_discloses(scenario, name) for name in (None, *scenario.federation.overrides)]
    return tuple(dict.fromkeys(one for some in each for one in some))


def _discloses(scenario: Scenario, own: str | None) -> tuple[str, ...]:
    """What one client's replies carry; None: of those without an override."""
    client = make_client(scenario, own)
    if isinstance(client, ClientApp):
        return ()
    # What is said is said of answers without noise.
    if scenario.privacy is not None and capabilities(client).sends_release:
        return ()
    name = client_block(scenario, own)[0]
    with plugin_code(f"client {name!r} failed in discloses"):
        carried = client.discloses
    if not isinstance(carried, tuple | list) or not all(isinstance(one, str) for one in carried):
        raise InputError(
            f"client.name: {name!r} has discloses {shown(carried)}, which is no tuple of texts",
            hint='type discloses = ("what the replies carry",), or leave it out',
        )
    return tuple(" ".join(one.split()) for one in carried)
