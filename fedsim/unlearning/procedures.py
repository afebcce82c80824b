"""Procedures by name: the strategies whose names begin with `unlearn_`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from fedsim.errors import InputError
from fedsim.registry import construct, default_registry
from fedsim.unlearning.memories import Memory

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


@runtime_checkable
class Procedure(Protocol):
    """What a strategy has that takes a client out: `fedsim.strategies.unlearning.Unlearning`."""

    takes_records: ClassVar[bool]
    train_rounds: int
    client: str | None

    @property
    def unlearn_rounds(self) -> int:
        """Rounds of the procedure itself."""

    def unlearning_asks(self, left: int) -> int:
        """How many clients are asked in these rounds, all together; `left`: those that stay."""

    def memories(self, leavers: Sequence[int], clients: int) -> list[Memory]:
        """What must be kept of the training."""


@dataclass(frozen=True)
class Departure:
    """Who leaves a training when it is done, and what is tried then.

    Attributes:
        client: who leaves.
        methods: procedure -> its parameters, in the order in which they are tried.
        rounds: rounds of retraining of each; None: as many as the training had.
    """

    client: str
    methods: Mapping[str, Mapping[str, Any]]
    rounds: int | None


WITHOUT_HISTORY = ("scratch", "finetune")
"""The procedures that every finished run allows."""
