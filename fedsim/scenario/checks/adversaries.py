"""Adversaries: how many collude, what they need, and whether privacy holds beside them."""

from __future__ import annotations

from typing import Any, get_args

from fedsim.method.capabilities import class_of
from fedsim.scenario.checks.keys import CLIENTS, Problems, dotted
from fedsim.yaml_lines import Document, KeyPath


def check_minority(document: Document) -> Problems:
    """Colluders, where there are too many of them."""
    clients = document.get(CLIENTS)
    many, path = colluders(document)
    if clients is None or not many or not (why := no_minority(many, clients)):
        return []
    return [(document.place(path), f"{dotted(path)}: {why}")]


def colluders(document: Document) -> tuple[int, KeyPath]:
    """How many clients collude, and the key that says it; 0 where nobody does."""
    named, counted = (document.get(("adversary", key)) for key in ("clients", "count"))
    if isinstance(counted, int):
        return counted, ("adversary", "count")
    return len(named) if isinstance(named, list) else 0, ("adversary", "clients")


def strangers(document: Document) -> bool:
    """Whether `adversary.clients` names somebody who, as far as is known, does not exist."""
    named, count = document.get(("adversary", "clients")), document.get(CLIENTS)
    if not isinstance(named, list) or not isinstance(count, int):
        return False
    return not {one for one in named if isinstance(one, str)} <= {
        f"client-{number}" for number in range(count)
    }


def no_minority(colluders: int, clients: int) -> str:
    """Why so many clients cannot collude against the others; "" where they can."""
    if 2 * colluders < clients:
        return ""
    most = (clients - 1) // 2
    if not most:
        return f"{colluders} of {clients} clients: an attack needs at least 3 clients"
    return (
        f"{colluders} of {clients} clients: a majority can be held by nothing; at most {most} can "
        "collude"
    )


def check_adversary(document: Document, found: dict[str, tuple[str, Any]]) -> Problems:
    """What an adversary needs: models that travel, a rule to try, updates enough to know."""
    from fedsim.adversaries import DataPoisoning, Knows, ModelPoisoning
    from fedsim.scenario.fitting import without_travelling_model

    name, factory = found.get("adversaries", ("", None))
    kind = class_of(factory)
    if kind is None:
        return []
    path, knows = ("adversary",), document.get(("adversary", "knows"))
    if not issubclass(kind, DataPoisoning | ModelPoisoning):
        why = "derive it from fedsim.adversaries.DataPoisoning or ModelPoisoning"
        return [(document.place((*path, "name")), f"adversary.name: {name!r} is none: {why}")]
    if issubclass(kind, DataPoisoning):
        if knows is None:
            return []
        message = f"adversary.knows: has no effect with {name!r}, which changes data: leave it out"
        return [(document.place((*path, "knows")), message)]
    problems: Problems = []
    if knows in get_args(Knows) and knows not in kind.can_know:
        message = f"adversary.knows: {name!r} has a use for {' or '.join(kind.can_know)} only"
        problems.append((document.place((*path, "knows")), message))
    if why := without_travelling_model(found):
        why = why.partition("; ")[0]
        message = f"adversary.name: {name!r} changes what clients send of a model, and {why}"
        hint = "label_flip and backdoor change data, and go with any strategy"
        problems.append((document.place((*path, "name")), f"{message}; {hint}"))
    knows = knows or kind.can_know[0]
    many, said_by = colluders(document)
    if knows == "own" and 0 < many < kind.least and not strangers(document):
        more = ", or adversary.knows=updates" if "updates" in kind.can_know else ""
        message = (
            f"{dotted(said_by)}: {name!r} needs what {kind.least} colluders trained, and there is "
            f"{many}: give more of them{more}"
        )
        problems.append((document.place(said_by), message))
    if knows == "aggregator" and not problems:
        strategy, rule = found.get("strategies", ("", None))
        if not callable(getattr(class_of(rule), "combine", None)):
            message = (
                f"adversary.knows: {name!r} tries the rule of the server, and strategy "
                f"{strategy!r} has none that can be tried (a method combine), as fedavg, "
                "server_momentum and robust have"
            )
            problems.append((document.place((*path, "name")), message))
    return problems


def check_honesty(document: Document, found: dict[str, tuple[str, Any]]) -> Problems:
    """Colluders with whom epsilon, as it is computed, would not hold for the honest clients."""
    from fedsim.adversaries import ModelPoisoning

    name, factory = found.get("adversaries", ("", None))
    kind = class_of(factory)
    if kind is None or not document.get(("privacy",)):
        return []
    path: KeyPath = ("privacy", "trust")
    if document.get(path) == "secure_sum":
        why = (
            "secure_sum takes for granted that all clients are honest, and with an adversary "
            "some are not: who knows its own share of the noise can take it off the sum; type "
            "privacy.trust=own_noise"
        )
        return [(document.place(path), f"{dotted(path)}: {why}")]
    if document.get(("privacy", "unit")) != "client" or not issubclass(kind, ModelPoisoning):
        return []
    path = ("adversary", "knows")
    if (document.get(path) or kind.can_know[0]) != "updates":
        return []
    instead = "type adversary.knows=own" if "own" in kind.can_know else "choose another adversary"
    why = (
        f"with privacy.unit=client {name!r} cannot know what all clients trained: an honest "
        "client's update would be in its own and in those of all colluders, and the noise covers "
        f"one; {instead}"
    )
    return [(document.place(path), f"{dotted(path)}: {why}")]
