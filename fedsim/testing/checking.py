"""What a check is, which there are for a kind of plugin, and which kind a plugin is of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import InputError, RunError
from fedsim.registry import GROUPS, KINDS, default_registry
from fedsim.testing.verdicts import ON_RAY, CheckFailed

if TYPE_CHECKING:
    from fedsim.testing.bench import Bench


@dataclass(frozen=True)
class Check:
    """One check of one plugin; calling it raises `CheckFailed` or `NotApplicable`.

    All checks of a plugin share a bench, so that what one has run is not run again.

    Attributes:
        name: what is checked, a few words.
    """

    name: str
    _bench: Bench = field(repr=False)
    _function: Callable[[Any], str] = field(repr=False)

    def __call__(self) -> str:
        """What was found, in a few words; `InputError` where the plugin cannot even be made."""
        try:
            return self._function(self._bench)
        except RunError as error:
            raise CheckFailed(str(error)) from error

    def __str__(self) -> str:
        return self.name


def checks(
    group: str,
    name: str,
    overrides: Sequence[str] = (),
    *,
    plugins: Sequence[str | Path] = (),
    ray: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> list[Check]:
    """The checks of a plugin, in the order in which one reads them; nothing is run yet.

    Args:
        group: one of `fedsim.registry.GROUPS`.
        name: of the plugin, registered or a dotted path.
        overrides: "key.sub=value" of the small scenario that the checks run.
        plugins: folders with modules that the path is looked up in.
        ray: also run on Ray.
        parameters: of the plugin's constructor.
    """
    from fedsim.testing import clients, datasets, models, partitions, strategies
    from fedsim.testing.bench import Bench

    rooms = {
        "strategies": strategies,
        "clients": clients,
        "datasets": datasets,
        "models": models,
        "partitions": partitions,
    }
    found: dict[str, Callable[[Any], str]] = dict(rooms[group].CHECKS)
    if not ray:
        found.pop(ON_RAY, None)
    bench = Bench(group, name, dict(parameters or {}), list(overrides), list(map(str, plugins)))
    return [Check(title, bench, function) for title, function in found.items()]


def kind_of(name: str) -> str:
    """The group that a plugin belongs to: by its registered name, or by what its path stands for.

    Raises:
        InputError: there is none, there are several, or the class does not say.
    """
    registry = default_registry()
    if "." not in name and ":" not in name:
        groups = [group for group in KINDS.values() if name in registry.names(group)]
        if len(groups) == 1:
            return groups[0]
        if groups:
            which = " and ".join(f"a {GROUPS[group]}" for group in groups)
            typed = [kind for kind, group in KINDS.items() if group in groups]
            hint = f"type --kind {' or '.join(typed)}"
            raise InputError(f"{name!r} is {which}", hint=hint)
        from fedsim.errors import nearest

        for group in ("wrappers", "observers", "adversaries"):
            if name in registry.names(group):
                raise _unchecked(name, GROUPS[group])
        known = sorted({one for group in KINDS.values() for one in registry.names(group)})
        raise InputError(
            f"there is no plugin {name!r}{nearest(name, known)}",
            hint="type 'fedsim plugins' for the names, or write a dotted path: "
            "package.module:Class --plugins DIR",
        )
    found = registry.resolve("strategies", name)
    if what := _what(found):
        raise _unchecked(name, what)
    for group in KINDS.values():
        if _is_of(found, group):
            return group
    raise InputError(
        f"{name!r} does not say which kind of plugin it is",
        hint="type --kind strategy, client, dataset, model or partition",
    )


def _what(found: Any) -> str:
    """Of a wrapper, an observer or an adversary what it is; "" of anything else."""
    from fedsim.adversaries import Adversary
    from fedsim.method.wrapper import Wrapper
    from fedsim.observers.base import Observer

    kinds = ((Wrapper, "wrapper"), (Observer, "observer"), (Adversary, "adversary"))
    is_class = inspect.isclass(found)
    return next((what for base, what in kinds if is_class and issubclass(found, base)), "")


def _unchecked(name: str, what: str) -> InputError:
    """That there are no checks of a kind of plugin, and what to type instead."""
    how = {
        "wrapper": "fedsim check SCENARIO 'federation.overrides={CLIENT: {wrapper: {name: NAME}}}'",
        "observer": "fedsim run SCENARIO --observe NAME",
        "adversary": "fedsim check SCENARIO 'adversary={name: NAME, count: 1}'",
    }
    kind = {"wrapper": "a wrapper", "observer": "an observer", "adversary": "an adversary"}[what]
    return InputError(f"{name!r} is {kind}, which has no checks", hint=f"type: {how[what]}")


def _is_of(found: Any, group: str) -> bool:
    """Whether a class derives from the base of a group's plugins, or has their method."""
    from flwr.clientapp import ClientApp
    from flwr.serverapp.strategy import Strategy as FlowerStrategy
    from torch import nn

    from fedsim.method.client import Client

    bases: dict[str, type] = {
        "strategies": FlowerStrategy,
        "clients": Client,
        "models": nn.Module,
    }
    methods = {"datasets": "manifest", "partitions": "assign"}
    if group == "clients" and isinstance(found, ClientApp):
        return True
    if group in bases:
        return isinstance(found, type) and issubclass(found, bases[group])
    return isinstance(found, type) and callable(getattr(found, methods[group], None))
