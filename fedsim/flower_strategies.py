"""Flower's own strategies, by path: which are refused, and what is filled in for the others."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

_HOME = "flwr.serverapp.strategy."

_REFUSED = {
    "fedxgb_": (
        "it joins boosted trees, and the clients of fedsim train networks; type "
        "strategy.name=fedavg to average these"
    ),
    "dp_": (
        "its noise is not in fedsim's privacy ledger, and who repeats the run can take it off "
        "again; for noise that is accounted type strategy.name=fedavg strategy.weighting=uniform "
        "'privacy={unit: client, noise_multiplier: 1.0, max_grad_norm: 1.0}'"
    ),
}
"""Beginning of a module of Flower's strategies -> why what is in it is refused."""


def refusal(strategy: object) -> str:
    """Why a strategy, or the class of one, cannot be used here; "" if it can."""
    while isinstance(strategy, functools.partial):
        strategy = strategy.func
    kind = strategy if isinstance(strategy, type) else type(strategy)
    for base in kind.__mro__:
        module = base.__module__.removeprefix(_HOME)
        for start, why in _REFUSED.items():
            if base.__module__.startswith(_HOME) and module.startswith(start):
                return f"{base.__name__} cannot be used: {why}"
    return ""


def filled_in(
    strategy: Callable[..., Any], client: object, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """What a strategy must be told of fedsim's clients, unless the scenario says so itself.

    Args:
        strategy: the class; only what its signature names is filled in.
        client: the client method's class, or what else `client.name` stands for.
        parameters: of the client method.

    Returns:
        `train_loss_key` and `client_learning_rate`, as far as they are wanted and known (q-FedAvg).
    """
    known = _parameters(strategy)
    found: dict[str, Any] = {}
    if not isinstance(client, type):  # A ClientApp reports what it likes.
        return found
    if "train_loss_key" in known:
        found["train_loss_key"] = "loss"
    if "client_learning_rate" in known:
        own = _parameters(client).get("learning_rate")
        rate = parameters.get("learning_rate", own.default if own else inspect.Parameter.empty)
        if isinstance(rate, int | float):
            found["client_learning_rate"] = float(rate)
    return found


def wants_losses(strategy: object) -> bool:
    """Whether a strategy weights clients by the training losses that they report."""
    return hasattr(strategy, "train_loss_key")


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # Not callable, or written in C.
        return {}
