"""The client methods of a scenario: made, poisoned where they collude, and wrapped."""

from __future__ import annotations

from flwr.clientapp import ClientApp

from fedsim.adversaries import DataPoisoning
from fedsim.errors import InputError
from fedsim.method.client import Client
from fedsim.method.wrapper import Wrapper
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario
from fedsim.scenario.overrides import PATH, client_block


def make_client(scenario: Scenario, name: str | None) -> Client | ClientApp:
    """The client method of a client, with what is wrapped around it.

    Args:
        scenario: a loaded one.
        name: of the client; None: of those without an override.

    Raises:
        InputError: the name stands for no client method, or no wrapper.
    """
    method, parameters = client_block(scenario, name)
    found = default_registry().resolve("clients", method)
    client = found if isinstance(found, ClientApp) else construct(found, parameters)
    if not isinstance(client, Client | ClientApp):
        raise InputError(
            f"client.name: {method!r} makes a {type(client).__name__}, not a client method",
            hint="a client method derives from fedsim.Client; a flwr ClientApp may be named too",
        )
    client = _poisoned(scenario, name, client, method)
    override = scenario.federation.overrides.get(name) if name is not None else None
    if override is None or override.wrapper is None:
        return client
    block = override.wrapper
    where = f"{'.'.join(PATH)}.{name}.wrapper.name"
    if isinstance(client, ClientApp):
        raise InputError(f"{where}: {method!r} is a Flower ClientApp, which cannot be wrapped")
    wrapper = construct(
        default_registry().resolve("wrappers", block.name), block.parameters, inner=client
    )
    if not isinstance(wrapper, Wrapper):
        raise InputError(
            f"{where}: {block.name!r} makes a {type(wrapper).__name__}, not a wrapper",
            hint="a wrapper derives from fedsim.Wrapper",
        )
    return wrapper


def _poisoned(
    scenario: Scenario, name: str | None, client: Client | ClientApp, method: str
) -> Client | ClientApp:
    """The client method on poisoned records, where the client colludes in that."""
    block = scenario.adversary
    if block is None or block.clients is None or name not in block.clients:
        return client
    adversary = construct(default_registry().resolve("adversaries", block.name), block.parameters)
    if not isinstance(adversary, DataPoisoning):
        return client
    if isinstance(client, ClientApp):
        raise InputError(
            f"adversary.name: {method!r} is a Flower ClientApp, whose data cannot be poisoned"
        )
    from fedsim.adversaries.poisoned import Poisoned

    return Poisoned(client, adversary)
