"""Flower's own strategies, by path: which are refused, what holds of the others, what they need."""

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

_DECLARED: dict[str, dict[str, Any]] = {
    "FedAvg": {"payload": "arrays", "linear": True},
    "FedMedian": {"linear": False},
    "FedTrimmedAvg": {"linear": False},
    "Krum": {"linear": False},
    "MultiKrum": {"linear": False},
    "Bulyan": {"linear": False},
    "QFedAvg": {"linear": False, "needs_losses": True},
    "FedProx": {"asks_proximal": True},
}
"""Class of Flower's -> what it would declare, and what derives from it (`fedsim.Strategy`)."""


def declared_for(kind: type) -> dict[str, Any]:
    """What holds of a class that derives from one of Flower's strategies; {} for all others."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith(_HOME):
            found |= _DECLARED.get(base.__name__, {})
    return found


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
        strategy: the class; only what its signature names is filled in, and only where it weights
            by losses (`needs_losses`).
        client: the client method's class, or what else `client.name` stands for.
        parameters: of the client method.

    Returns:
        `train_loss_key` and `client_learning_rate`, as far as they are wanted and known (q-FedAvg).
    """
    found: dict[str, Any] = {}
    while isinstance(strategy, functools.partial):
        strategy = strategy.func
    needs = isinstance(strategy, type) and declared_for(strategy).get("needs_losses")
    if not needs or not isinstance(client, type):  # A ClientApp reports what it likes.
        return found
    known = _parameters(strategy)
    if "train_loss_key" in known:
        found["train_loss_key"] = "loss"
    if "client_learning_rate" in known:
        own = _parameters(client).get("learning_rate")
        rate = parameters.get("learning_rate", own.default if own else inspect.Parameter.empty)
        if isinstance(rate, int | float):
            found["client_learning_rate"] = float(rate)
    return found


def asks_proximal(strategy: Callable[..., Any], parameters: Mapping[str, Any]) -> bool:
    """Whether a strategy has clients add a proximal term to their loss (FedProx, mu above 0)."""
    while isinstance(strategy, functools.partial):
        strategy = strategy.func
    if not (isinstance(strategy, type) and declared_for(strategy).get("asks_proximal")):
        return False
    mu = parameters.get("proximal_mu")
    return isinstance(mu, int | float) and mu > 0


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # Not callable, or written in C.
        return {}
