"""The name of a new plugin: what it may be, and what is made of it."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass

from fedsim.errors import InputError
from fedsim.registry import GROUPS, KINDS, default_registry

_LONGEST = 40


@dataclass(frozen=True)
class Names:
    """A plugin's names.

    Attributes:
        kind: one of `fedsim.registry.KINDS`.
        name: of the plugin, its package and its folder: lower case, digits and _.
    """

    kind: str
    name: str

    @property
    def group(self) -> str:
        """The group of plugins."""
        return KINDS[self.kind]

    @property
    def class_name(self) -> str:
        """The class: `shy_mean` is `ShyMean`."""
        return "".join(part[:1].upper() + part[1:] for part in self.name.split("_"))

    @property
    def distribution(self) -> str:
        """The package as pip knows it."""
        return self.name.replace("_", "-")

    @property
    def path(self) -> str:
        """The dotted path of the class."""
        return f"{self.name}.{self.kind}:{self.class_name}"


def checked(kind: str, name: str) -> Names:
    """The names of a new plugin.

    Raises:
        InputError: a package cannot be called so, or something is called so already.
    """
    if why := _refused(name):
        better = _better(name)
        hint = f"type: fedsim new {kind} {better}" if better else "choose another name"
        raise InputError(f"a {GROUPS[KINDS[kind]]} cannot be called {name!r}: {why}", hint=hint)
    names = Names(kind, name)
    registry = default_registry()
    for plugin in registry.plugins():
        if plugin.group == names.group and plugin.name == name:
            raise InputError(
                f"there is a {GROUPS[names.group]} {name!r} already, of {plugin.distribution}",
                hint="choose another name: two plugins with one name are an error",
            )
    if _importable(name):
        raise InputError(
            f"there is a Python module {name!r} already: a scenario would find that one",
            hint="choose another name",
        )
    return names


def _refused(name: str) -> str:
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        return "it is a word of Python"
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        return "a package's name has lower-case letters, digits and single _, first a letter"
    if len(name) > _LONGEST:
        return f"it is longer than {_LONGEST} characters"
    if name == "tests":
        return "the package's tests are in a folder of that name"
    return ""


def _better(name: str) -> str:
    """The nearest name that can be; "" if there is none."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    better = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_0123456789")[:_LONGEST].strip("_")
    if not better:
        return ""
    better = better if not _refused(better) else f"my_{better}"
    return "" if _refused(better) else better


def _importable(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
