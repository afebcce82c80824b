"""The proximal term: who asks clients for it, and whether they add it."""

from __future__ import annotations

from typing import Any

from fedsim.method.capabilities import class_of
from fedsim.method.flower_strategies import asks_proximal
from fedsim.registry import Registry
from fedsim.scenario.checks.keys import dotted
from fedsim.yaml_lines import Document, KeyPath

_CLOCK = ("federation", "clock", "proximal")


def no_proximal_term(
    document: Document,
    registry: Registry,
    found: dict[str, tuple[str, Any]],
    client: KeyPath = ("client",),
) -> str:
    """Why clients would leave out a proximal term that they are asked for; "" where they add it.

    Of a Flower ClientApp nobody knows whether it adds that of Flower's own FedProx: it may run.

    Args:
        found: group -> the name and the class of the plugin that a scenario names.
        client: where the client method is written.
    """
    from fedsim.scenario.fitting import without_proximal_term

    clock, block = document.get(_CLOCK), document.get(("strategy",))
    (name, strategy), (_, method) = (
        found.get(group, ("", None)) for group in ("strategies", "clients")
    )
    if method is None:
        return ""
    if clock is not None:
        asks, instead = dotted(_CLOCK), f"{dotted(_CLOCK)}=null"
    elif class_of(method) and isinstance(block, dict) and asks_proximal(strategy, block):
        asks, instead = f"strategy {name!r}", "strategy=fedavg"
    else:
        return ""
    why = without_proximal_term(registry, found, dotted(client))
    return f"{asks} asks for a proximal term, and {why}; or type {instead}" if why else ""
