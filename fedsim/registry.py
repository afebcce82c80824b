"""Plugins: strategies, clients, data sets, models and partitions, by name or by dotted path.

A name comes from an entry point of group `fedsim.<group>`, the built-ins' as well as those of any
installed distribution. A dotted path ("package.module:Class" or "package.module.Class") needs no
registration. A plugin is imported when it is asked for, not before.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any

from fedsim.errors import InputError, nearest
from fedsim.raising import reraise_interruption
from fedsim.scenario.parameters import check_parameters, construct, describe

__all__ = [
    "GROUPS",
    "PluginInfo",
    "Registry",
    "check_parameters",
    "construct",
    "default_registry",
]

GROUPS = {
    "strategies": "strategy",
    "clients": "client",
    "wrappers": "wrapper",
    "adversaries": "adversary",
    "datasets": "data set",
    "models": "model",
    "partitions": "partition",
    "observers": "observer",
}
"""Group -> what one of its plugins is called in a sentence."""

KINDS = {
    "strategy": "strategies",
    "client": "clients",
    "dataset": "datasets",
    "model": "models",
    "partition": "partitions",
}
"""What one types for a kind of plugin that `fedsim new` and `check-plugin` know -> its group."""

_HINT = "type 'fedsim plugins' for the names, or write a dotted path: package.module:Class"


@dataclass(frozen=True)
class PluginInfo:
    """One registered plugin.

    Attributes:
        group: one of `GROUPS`.
        name: what a scenario writes.
        distribution, version: who registered it.
        value: where it is, "package.module:Object".
    """

    group: str
    name: str
    distribution: str
    version: str
    value: str
    _entry: EntryPoint = field(repr=False, compare=False)

    @functools.cached_property
    def summary(self) -> str:
        """First line of the plugin's docstring; why it failed if it cannot be imported."""
        try:
            found = _load(self._entry.module, self._entry.attr, _title(self.group, self._entry))
        except InputError as error:
            return error.headline
        # Not `inspect.getdoc`: a base class's docstring would describe another thing.
        text = vars(found).get("__doc__") if hasattr(found, "__dict__") else None
        return (text or "").strip().partition("\n")[0]


class Registry:
    """All plugins that are installed or can be imported."""

    def __init__(self) -> None:
        self._entries: dict[str, list[EntryPoint]] = {}

    @functools.cached_property
    def _installed(self) -> Any:  # EntryPoints, or a type that Python 3.12 has no more
        """The entry points of all distributions: read once, for each reading takes 30 ms."""
        return entry_points()

    def names(self, group: str) -> list[str]:
        """The registered names of a group, sorted."""
        return sorted({entry.name for entry in self._group(group)})

    def plugins(self) -> list[PluginInfo]:
        """All registered plugins by group and name; none is imported until its summary is read."""
        return [
            PluginInfo(group, entry.name, *_distribution(entry), entry.value, entry)
            for group in GROUPS
            for entry in self._group(group)
        ]

    def resolve(self, group: str, name: str) -> Any:
        """The class, function or object a scenario names.

        Args:
            group: one of `GROUPS`.
            name: a registered name or a dotted path.

        Raises:
            InputError: the name is unknown, registered by two distributions, or what it stands for
                cannot be imported.
        """
        found = [entry for entry in self._group(group) if entry.name == name]
        if len(found) > 1:
            owners = " and ".join(f"{' '.join(_distribution(e))} ({e.value})" for e in found)
            raise InputError(
                f"the {GROUPS[group]} {name!r} is registered twice, by {owners}",
                hint="uninstall one, or write the dotted path of the one you mean",
            )
        if found:
            return _load(found[0].module, found[0].attr, _title(group, found[0]))
        if "." not in name and ":" not in name:
            raise InputError(
                f"there is no {GROUPS[group]} {name!r}{nearest(name, self.names(group))}",
                hint=_HINT,
            )
        module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
        parts = [*module.split("."), *attribute.split(".")]
        if not all(part.isidentifier() for part in parts):
            raise InputError(
                f"{name!r} is neither a {GROUPS[group]}'s name nor a dotted path", hint=_HINT
            )
        return _load(module, attribute, f"{GROUPS[group]} {name!r}")

    def build(
        self, group: str, name: str, parameters: Mapping[str, Any], /, **supplied: Any
    ) -> Any:
        """The plugin constructed with `parameters` and what fedsim supplies; see `construct`.

        Raises:
            InputError: as `resolve` and `construct` do.
        """
        return construct(self.resolve(group, name), parameters, **supplied)

    def _group(self, group: str) -> list[EntryPoint]:
        if group not in self._entries:
            if group not in GROUPS:
                raise ValueError(
                    f"There is no group of plugins {group!r}; there are {list(GROUPS)}."
                )
            # A distribution that is found twice on the path (a checkout and its wheel) counts once.
            unique = {
                (entry.name, entry.value, _distribution(entry)[0]): entry
                for entry in self._installed.select(group=f"fedsim.{group}")
            }
            self._entries[group] = [unique[key] for key in sorted(unique)]
        return self._entries[group]


@functools.cache
def default_registry() -> Registry:
    """The registry of this process."""
    return Registry()


def _distribution(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that registered an entry point."""
    return _named(entry.dist) if entry.dist else ("unknown", "")


@functools.cache
def _named(distribution: Distribution) -> tuple[str, str]:
    """Its name and version: each of them parses its metadata whenever it is asked for."""
    return distribution.name, distribution.version


def _title(group: str, entry: EntryPoint) -> str:
    owner = " ".join(_distribution(entry)).strip()
    return f"{GROUPS[group]} {entry.name!r} ({entry.value}, from {owner})"


def _load(module: str, attribute: str, title: str) -> Any:
    """Import `module` and return its `attribute` ("Class" or "Class.member").

    Raises:
        InputError: the import fails, in the plugin's own code or on the way there, or the attribute
            does not exist or is a module. `title` names the plugin in the message.
    """
    try:
        found: Any = importlib.import_module(module)
    except BaseException as error:
        reraise_interruption(error)
        raise InputError(f"{title} cannot be imported: {describe(error)}") from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            near = difflib.get_close_matches(part, dir(found), n=1)
            likely = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"{title}: {module} has no {part!r}{likely}") from error
        except BaseException as error:  # a module that imports on access
            reraise_interruption(error)
            raise InputError(f"{title} cannot be imported: {describe(error)}") from error
    if inspect.ismodule(found):
        raise InputError(f"{title} is a module, not a class or function in it")
    return found
