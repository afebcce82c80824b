"""Robust averaging: another rule in the place of the mean, for clients that may send anything.

The rules, with their papers, are in `fedsim.robust`. Method card: `docs/methods/robust.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from fedsim.method import Arrays, Received
from fedsim.robust import RULES, CentredClipping, Rule
from fedsim.strategies.server_momentum import ServerMomentum
from fedsim.wire import Codec, tensors


class Robust(ServerMomentum):
    """Combine the clients' models by a rule that a few of them cannot move far.

    Parameters of a rule that are left out are the rule's own (null stands for that). All replies of
    a round are in memory.

    Args:
        rule: "median" and "trimmed_mean" of each coordinate; "krum", the client nearest to its
            neighbours; "bulyan", a trimmed mean of clients that Krum chooses; "geometric_median";
            "dos", outlier scores as weights; "norm_clipping" and "centred_clipping" of changes.
        byzantine: f, clients that may send anything (trimmed_mean, krum, bulyan); null: 1.
        chosen: clients that Krum averages, more than 1 is Multi-Krum; null: 1.
        radius: norm that changes are shortened to (norm_clipping, centred_clipping); null: 1.
        iterations: of the geometric median, null: 8; of centred clipping, null: 1.
        smoothing: of the geometric median; null: 1e-6.
        weighting: by "samples" or "uniform", where the rule takes a weighted mean
            (geometric_median, norm_clipping, centred_clipping). Others count clients alike.
        codec, momentum, learning_rate, last_learning_rate: as of `server_momentum`; by default
            there is no momentum.

    Raises:
        ValueError: a parameter that the rule does not have.
    """

    linear = False

    def __init__(
        self,
        rule: Literal[
            "median",
            "trimmed_mean",
            "krum",
            "bulyan",
            "geometric_median",
            "dos",
            "norm_clipping",
            "centred_clipping",
        ] = "median",
        byzantine: NonNegativeInt | None = None,
        chosen: PositiveInt | None = None,
        radius: PositiveFloat | None = None,
        iterations: PositiveInt | None = None,
        smoothing: PositiveFloat | None = None,
        weighting: Literal["samples", "uniform"] = "uniform",
        codec: Codec = "float32",
        momentum: NonNegativeFloat = 0.0,
        learning_rate: PositiveFloat = 1.0,
        last_learning_rate: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(momentum, learning_rate, last_learning_rate, codec, weighting)
        self.rule = rule
        given = {
            "byzantine": byzantine,
            "chosen": chosen,
            "radius": radius,
            "iterations": iterations,
            "smoothing": smoothing,
        }
        said = {name: value for name, value in given.items() if value is not None}
        self._rule = _made(rule, said)

    def check_replies(self, replies: int) -> None:
        """Refuse a number of replies that the rule is undefined for."""
        self._rule.require(replies)

    def combine(self, received: Iterable[Received]) -> Arrays:
        """What the rule makes of what clients sent, float64."""
        replies = list(received)
        weights = np.array([one.weight for one in replies], dtype=np.float64)
        if not self._rule.of_changes:
            return self._rule.combine([_floating(one.arrays) for one in replies], weights)
        assert self._global is not None
        sent = tensors(self._global)
        found = self._rule.combine([one.changes(sent) for one in replies], weights)
        if self._base():  # Clients sent changes, and the model is added afterwards.
            return found
        return {name: value + sent[name] for name, value in found.items()}

    def counted(self) -> Sequence[float] | None:
        """What the rule says of its last result."""
        return None if self._rule.shares is None else self._rule.shares.tolist()

    @property
    def tolerates(self) -> int | None:
        """`byzantine` of the rules that have it."""
        found = getattr(self._rule, "byzantine", None)
        return found if isinstance(found, int) else None

    def doubts(self, clients: int) -> list[str]:
        """Where the proof of the rule does not hold."""
        return [doubt] if (doubt := self._rule.doubt(clients)) else []

    def certificate(self, clients: int, colluders: int) -> float | None:
        """The rule's, where clients count alike."""
        if self.weighting != "uniform":
            return None
        return self._rule.certificate(clients, colluders)

    def state_dict(self) -> dict[str, Any]:
        """The velocity, and the centre of clipping."""
        centre = self._rule.centre if isinstance(self._rule, CentredClipping) else {}
        return super().state_dict() | {"centre": dict(centre)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        if isinstance(self._rule, CentredClipping):
            self._rule.centre = dict(state["centre"])


def _made(name: str, given: dict[str, Any]) -> Rule:
    kind = RULES[name]
    if wrong := [key for key in given if key not in kind.parameters()]:
        having = " and ".join(n for n, other in RULES.items() if wrong[0] in other.parameters())
        raise ValueError(
            f"The parameter {wrong[0]} ({given[wrong[0]]}) has no effect with rule: {name}, only "
            f"with {having}: leave it out, or change rule."
        )
    return kind(**given)


def _floating(arrays: Arrays) -> Arrays:
    return {name: value for name, value in arrays.items() if value.dtype.kind in "fc"}
