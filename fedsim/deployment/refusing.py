"""What only a simulation can do: an export refuses it, all of it at once."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.engine.strategies import disclosed_by_client
from fedsim.errors import InputError, Problem
from fedsim.method.capabilities import capabilities
from fedsim.pretrained.catalogue import CATALOGUE, SHIPPED, package_of
from fedsim.registry import default_registry
from fedsim.scenario import Scenario


def require_deployable(scenario: Scenario) -> None:
    """Refuse a scenario that real nodes cannot run, or must not.

    Raises:
        InputError: with all that is in the way.
    """
    problems = [
        Problem("", text)
        for part in (_of_methods, _of_privacy, _of_adversary, _of_faults, _of_clock, _of_files)
        for text in part(scenario)
    ]
    if problems:
        raise InputError(
            f"{scenario.name} cannot be deployed as it is",
            problems,
            hint="change these keys; `fedsim run` simulates it as it is",
        )


def _of_methods(scenario: Scenario) -> Iterator[str]:
    """Methods for which the server would have to see what only a simulator sees."""
    strategy = scenario.strategy.name
    if capabilities(default_registry().resolve("strategies", strategy)).local:
        yield (
            f"strategy.name: {strategy!r} keeps a model at each client, which no server can score"
        )
    if scenario.federation.local is not None:
        yield (
            "federation.local: what stays at a client the server never has, and cannot score; type "
            "federation.local=null"
        )
    simulated = capabilities(default_registry().resolve("clients", scenario.client.name)).simulates
    if simulated:
        yield f"client.name: {scenario.client.name!r} simulates {simulated}"
    for sent in disclosed_by_client(scenario):
        yield f"client.name: {scenario.client.name!r} would send the server {sent}"
    for name, override in scenario.federation.overrides.items():
        if override.wrapper is not None:
            yield (
                f"federation.overrides.{name}.wrapper: {override.wrapper.name!r} simulates a "
                "client that is not like the others"
            )
    for key in ("labelled", "labelled_groups"):
        if getattr(scenario.federation, key) is not None:
            yield f"federation.{key}: hides labels that nodes have; type federation.{key}=null"
    for name in scenario.federation.appearance:
        yield f"federation.appearance.{name}: simulates another scanner"
    for name, override in scenario.federation.overrides.items():
        if override.appearance is not None:
            yield f"federation.overrides.{name}.appearance: simulates another scanner"


def _of_privacy(scenario: Scenario) -> Iterator[str]:
    """Claims that a deployment would not bear out, and attacks on the clients' records."""
    settings = scenario.privacy
    if settings is None:
        return
    if settings.trust == "secure_sum":
        yield (
            "privacy.trust: secure_sum takes for granted that clients mask their sums, and no such "
            "protocol runs: the server would see answers with too little noise; type "
            "privacy.trust=own_noise"
        )
    if settings.audit:
        yield "privacy.audit: an audit needs the clients' records; type privacy.audit=false"


def _of_faults(scenario: Scenario) -> Iterator[str]:
    """Faults that are drawn."""
    faults = scenario.faults
    for key, value, usual in (
        ("dropout", faults.dropout, 0.0),
        ("delay", faults.delay, 0.0),
        ("deadline", faults.deadline, None),
    ):
        if value != usual:
            word = "null" if usual is None else f"{usual:g}"
            yield f"faults.{key}: {value:g} is simulated; type faults.{key}={word}"


def _of_clock(scenario: Scenario) -> Iterator[str]:
    """Time that is simulated."""
    if scenario.federation.clock is not None:
        yield "federation.clock: simulates how fast nodes are; type federation.clock=null"


def _of_adversary(scenario: Scenario) -> Iterator[str]:
    """Attackers, who stand between clients and server."""
    if scenario.adversary is not None:
        yield "adversary: simulates clients that collude; type adversary=null"


def _of_files(scenario: Scenario) -> Iterator[str]:
    """Files and folders of this machine, which the nodes do not have."""
    if scenario.plugins:
        yield (
            f"plugins: {', '.join(scenario.plugins)} is here alone; install your methods as a "
            "package on the server and on all nodes, and name them as it does"
        )
    features = scenario.data.features
    weights = [("model.init", scenario.model.init)]
    if features is not None:
        weights += [("data.features.weights", features.weights)]
        if features.public_root is not None:
            yield "data.features.public_root: a folder of this machine"
    for key, named in weights:
        if named is None or named in CATALOGUE or named in SHIPPED:
            continue
        if package_of(named) is None:
            yield f"{key}: a file of this machine; name weights of `fedsim weights ls`"
    external = scenario.evaluation.external
    if external is not None and external.root is not None:
        yield "evaluation.external.root: a folder of this machine; score the model there afterwards"
