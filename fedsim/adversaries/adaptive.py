"""An attacker that tries the defence it faces, and sends what moves it most.

After Shejwalkar and Houmansadr, NDSS 2021 (attacks with knowledge of the aggregator), with the very
rule of the scenario in the place of one that is derived for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from fedsim.adversaries import vectors
from fedsim.adversaries.base import Forgery, ModelPoisoning, Scene
from fedsim.adversaries.statistical import Direction, direction
from fedsim.method.received import Arrays

_DIRECTIONS: tuple[Direction, ...] = ("unit", "sign", "sd")


class Adaptive(ModelPoisoning):
    """Search the perturbation that moves the aggregate most against the honest one.

    Colluders send mean - gamma * direction, for the directions of Min-Max and a range of gamma.
    Each is handed to the scenario's own rule with all other updates. It is accepted if its senders
    count at least half of what they would in a mean, or with what they trained honestly. Of those
    accepted, the one is sent with which the aggregate lies farthest back along the honest mean
    change. Where none is accepted, or none moves it back, the attack is not feasible: the mean is
    sent.

    Args:
        most: the longest perturbation that is tried, in lengths of the honest mean change. Of a
            mean, nothing else bounds it.
        tries: lengths for each direction: half of them a factor of 2 apart, half around the best.
    """

    can_know = ("aggregator",)
    least = 2

    def __init__(
        self, most: PositiveFloat = 10.0, tries: Annotated[int, Field(ge=4, le=64)] = 16
    ) -> None:
        self.most = most
        self.tries = tries

    def forge(self, scene: Scene) -> Forgery:
        """See the class."""
        defence = _Defence(scene)
        found, moved = defence.middle, 0.0
        told = {"length": 0.0, "moved": 0.0}
        for kind in _DIRECTIONS if defence.length else ():
            along = direction(scene.known, kind)
            size = math.sqrt(vectors.square(along))
            if not size:
                continue
            unit = vectors.scaled(1 / size, along)
            length, value = self._search(partial(defence.moved_by, unit), defence.length)
            if value > moved:
                found, moved = vectors.moved(defence.middle, -length, unit), value
                told = {"length": length, "moved": value}
        return Forgery([found] * len(scene.own), moved > 0, told)

    def _search(self, value: Callable[[float], float], length: float) -> tuple[float, float]:
        """The best length of a perturbation, and its value: a grid, then closer around the best."""
        half = self.tries // 2
        tried = [self.most * length / 2**k for k in range(half)]
        values = {one: value(one) for one in tried}
        for k in range((self.tries - half) // 2):
            best = max(values, key=lambda one: (values[one], one))
            factor = 2 ** (0.5 ** (k + 1))
            for one in (best * factor, best / factor):
                if one <= self.most * length:
                    values[one] = value(one)
        best = max(values, key=lambda one: (values[one], one))
        return best, values[best]


@dataclass
class _Defence:
    """The rule, and what it makes of all honest updates."""

    scene: Scene

    def __post_init__(self) -> None:
        assert self.scene.trial is not None
        self._try = self.scene.trial
        self.middle = vectors.mean(self.scene.known)
        self.length = math.sqrt(vectors.square(self.middle))
        self._honest, shares = self._try(self.scene.own)
        plain = len(self.scene.own) / self.scene.clients
        self._needed = min(plain, self._counted(shares) or plain) / 2

    def moved_by(self, unit: Arrays, length: float) -> float:
        """How far a perturbation takes the aggregate back; minus infinity where it is found out."""
        sent = [vectors.moved(self.middle, -length, unit)] * len(self.scene.own)
        found, shares = self._try(sent)
        if shares is not None and self._counted(shares) < self._needed:
            return -math.inf
        back: Arrays = vectors.moved(self._honest, -1.0, found)
        return vectors.dot(back, self.middle) / self.length

    def _counted(self, shares: NDArray[np.float64] | None) -> float:
        """What the colluders count together; 0 where the rule does not say."""
        return 0.0 if shares is None else float(shares[list(self.scene.colluders)].sum())
