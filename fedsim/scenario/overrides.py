"""Not all clients are alike: what `federation.overrides` says of single clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import InputError, Problem, nearest

if TYPE_CHECKING:
    from fedsim.scenario.schema import Appearance, Scenario

PATH = ("federation", "overrides")


def merged(general: Mapping[str, Any], own: Mapping[str, Any] | None) -> dict[str, Any]:
    """One client's block: what it writes over the scenario's; another name replaces the whole."""
    if own is None:
        return dict(general)
    written = {key: value for key, value in own.items() if key != "name" or value is not None}
    if written.get("name", general.get("name")) != general.get("name"):
        return written
    return {**general, **written}


def client_block(scenario: Scenario, name: str | None) -> tuple[str, dict[str, Any]]:
    """The client method of a client and its parameters; None: of those without an override."""
    general = {"name": scenario.client.name, **scenario.client.parameters}
    override = scenario.federation.overrides.get(name) if name is not None else None
    own = override.client if override is not None else None
    written = None if own is None else {"name": own.name, **own.parameters}
    block = merged(general, written)
    return block.pop("name"), block


def with_colluders(scenario: Scenario, names: Sequence[str]) -> Scenario:
    """The scenario as workers need it: colluders by name, and with overrides of their own."""
    from fedsim.scenario.schema import Override

    if scenario.adversary is None:
        return scenario
    adversary = scenario.adversary.model_copy(update={"clients": tuple(names), "count": None})
    own = {name: Override() for name in names} | scenario.federation.overrides
    federation = scenario.federation.model_copy(update={"overrides": own})
    return scenario.model_copy(update={"adversary": adversary, "federation": federation})


def own_plugins(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Group and name of each plugin that overrides name."""
    for name, override in scenario.federation.overrides.items():
        if override.client is not None:
            yield "clients", client_block(scenario, name)[0]
        if override.wrapper is not None:
            yield "wrappers", override.wrapper.name


def own_appearances(scenario: Scenario) -> dict[str, Appearance]:
    """Client name -> its appearance, where an override has one.

    Raises:
        InputError: `federation.appearance` has another one of the same client.
    """
    each = scenario.federation.overrides.items()
    found = {name: one.appearance for name, one in each if one.appearance is not None}
    if twice := sorted(set(found) & set(scenario.federation.appearance)):
        place = scenario.place(*PATH, twice[0], "appearance")
        message = f"{'.'.join(PATH)}.{twice[0]}.appearance: federation.appearance has one, too"
        raise InputError("a client has two appearances", [Problem(place, message)])
    return found


def require_clients(scenario: Scenario, names: Sequence[str]) -> None:
    """Raise InputError where overrides name clients that there are not, all at once."""
    problems = [
        Problem(
            scenario.place(*PATH, name),
            f"{'.'.join(PATH)}: there is no client {name!r}{nearest(name, names)}",
        )
        for name in scenario.federation.overrides
        if name not in names
    ]
    if problems:
        raise InputError("overrides of clients that do not exist", problems)


def describe_overrides(
    scenario: Scenario, forget: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """The `overrides` entry of run.json; None where all clients are alike."""
    overrides = scenario.federation.overrides
    if not overrides:
        return None
    return {
        name: one.model_dump(exclude_none=True) | {"records_to_forget": len(forget.get(name, ()))}
        for name, one in overrides.items()
    }


def override_lines(scenario: Scenario, forget: Mapping[str, np.ndarray]) -> list[str]:
    """What is different at single clients, a line each."""
    lines = []
    for name, one in scenario.federation.overrides.items():
        parts = []
        if one.client is not None:
            method, _ = client_block(scenario, name)
            settings = (f"{key} {value}" for key, value in one.client.parameters.items())
            parts.append(f"client {method} ({', '.join(settings) or 'its defaults'})")
        if one.wrapper is not None:
            parts.append(f"wrapped in {one.wrapper.name}")
        if one.appearance is not None:
            parts.append("another appearance")
        if name in forget:
            parts.append(f"{len(forget[name])} training records to forget")
        lines.append(f"NOT LIKE THE OTHERS {name}: {', '.join(parts) or 'nothing'}")
    return lines
