"""The Pareto front of utility, privacy and communication."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """What a method reaches, and what it costs.

    Attributes:
        utility: the merit of its score: the more, the better; None: unknown, such a method
            dominates nobody.
        megabytes: all that it sends; the less, the better.
        epsilon: proved, the less, the better; infinite without privacy and where nothing is proved.
        about: what epsilon holds for: its unit and delta.
    """

    utility: float | None
    megabytes: float
    epsilon: float = math.inf
    about: tuple[object, ...] = ()


def dominates(one: Candidate, other: Candidate) -> bool:
    """Whether one is at least as good in all three respects, and better in one.

    Finite epsilons of another unit, or at another delta, cannot be compared: then it is not.
    """
    if one.utility is None or other.utility is None:
        return False
    private = math.isfinite(one.epsilon) and math.isfinite(other.epsilon)
    if private and one.about != other.about:
        return False
    ours = (one.utility, -one.megabytes, -one.epsilon)
    theirs = (other.utility, -other.megabytes, -other.epsilon)
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def front(candidates: Sequence[Candidate]) -> list[bool]:
    """Which of them no other one dominates; a method without a utility is not among them."""
    return [
        one.utility is not None and not any(dominates(other, one) for other in candidates)
        for one in candidates
    ]
