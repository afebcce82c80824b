"""Procedures by name: the strategies whose names begin with `unlearn_`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fedsim.errors import InputError
from fedsim.registry import construct, default_registry

PREFIX = "unlearn_"

Kind = TypeVar("Kind")


def procedure_name(name: str) -> str:
    """The strategy that a short name stands for: `ifu` is `unlearn_ifu`; dotted paths stay."""
    if "." in name or ":" in name:
        return name
    return f"{PREFIX}{name.removeprefix(PREFIX)}"


def short_name(name: str) -> str:
    """The opposite: what a person calls a procedure."""
    return name.removeprefix(PREFIX)


def make_procedure(name: str, base: type[Kind], parameters: Mapping[str, Any]) -> Kind:
    """A procedure of this name.

    Args:
        name: of the strategy, with or without `unlearn_`, or a dotted path.
        base: what procedures derive from.
        parameters: of its constructor, as a scenario writes them.

    Raises:
        InputError: there is no such procedure, or its parameters are wrong.
    """
    kind = default_registry().resolve("strategies", procedure_name(name))
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise InputError(
            f"{name!r} is no procedure of unlearning",
            hint=f"a procedure derives from {base.__module__}.{base.__name__}",
        )
    found: Kind = construct(kind, dict(parameters))
    return found
