"""Attacks within the spread of what is known: LIE, Min-Max, Min-Sum.

Baruch et al., "A Little Is Enough: Circumventing Defenses For Distributed Learning", NeurIPS 2019,
arXiv:1902.06156; Shejwalkar and Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning
Attacks and Defenses for Federated Learning", NDSS 2021. All colluders send the same vector.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np

from fedsim.adversaries import vectors
from fedsim.adversaries.base import Forgery, ModelPoisoning, Scene
from fedsim.method.received import Arrays
from fedsim.robust.distances import squared_distances

Direction = Literal["sd", "unit", "sign"]


def lie_z(clients: int, colluders: int) -> float:
    """How many standard deviations hide among the honest (Baruch et al. 2019, Algorithm 3).

    z = Phi^-1((n - f - s) / (n - f)), s = floor(n / 2 + 1) - f: so many honest clients lie farther
    out that a majority is nearer to them than to the mean.

    Args:
        clients: n.
        colluders: f, 1 <= f < n / 2.

    Returns:
        z; 0 or below where no perturbation hides.

    Raises:
        ValueError: f is not between 1 and n / 2.
    """
    if not 1 <= colluders < clients / 2:
        raise ValueError(f"{colluders} of {clients} clients: expected at least 1, and below half")
    needed = clients // 2 + 1 - colluders
    share = (clients - colluders - needed) / (clients - colluders)
    return NormalDist().inv_cdf(share) if share > 0 else -math.inf


class Lie(ModelPoisoning):
    """Send the mean of what is known, moved by z standard deviations of each coordinate.

    It is not feasible where no z above 0 hides: then the mean itself is sent.

    Args:
        z: standard deviations; null: the largest that hides, by the numbers of clients and
            colluders that answered.
        sign: the side that the mean is moved to; "plus" as in the public code.
    """

    can_know = ("own", "updates")
    least = 2

    def __init__(self, z: float | None = None, sign: Literal["plus", "minus"] = "plus") -> None:
        self.z = z
        self.sign = sign

    def forge(self, scene: Scene) -> Forgery:
        """See the class."""
        f, z = len(scene.own), self.z
        if z is None:
            z = lie_z(scene.clients, f) if f < scene.clients / 2 else -math.inf
        feasible = z > 0 or self.z is not None
        z = z if feasible else 0.0
        found = lie(scene.known, z if self.sign == "plus" else -z)
        return Forgery([found] * f, feasible, {"z": z})


def lie(known: Sequence[Arrays], z: float) -> Arrays:
    """mean + z * standard deviation, coordinate by coordinate (unbiased; at least two rows)."""
    return vectors.moved(vectors.mean(known), z, vectors.deviation(known))


class _Bounded(ModelPoisoning):
    """Move the mean of what is known against a direction, as far as a bound on distances allows.

    m = mean - gamma * direction. The largest gamma is the root of quadratic equations, where the
    paper searches by halves. It is not feasible where the direction is 0: the mean is sent.

    Args:
        direction: standard deviations of the coordinates, the mean at length 1, or its signs.
    """

    can_know = ("own", "updates")
    least = 2

    def __init__(self, direction: Direction = "sd") -> None:
        self.direction: Direction = direction

    def forge(self, scene: Scene) -> Forgery:
        """See the class."""
        found, gamma = self.vector(scene.known)
        return Forgery([found] * len(scene.own), gamma > 0, {"gamma": gamma})

    def vector(self, known: Sequence[Arrays]) -> tuple[Arrays, float]:
        """What is sent, and gamma; of at least two rows."""
        middle, along = vectors.mean(known), direction(known, self.direction)
        size = vectors.square(along)
        gamma = self.gamma(known, middle, along, size) if size else 0.0
        return vectors.moved(middle, -gamma, along), gamma

    @abstractmethod
    def gamma(self, known: Sequence[Arrays], middle: Arrays, along: Arrays, size: float) -> float:
        """The largest gamma that the bound allows; `size` is the square of `along`, above 0."""


class MinMax(_Bounded):
    """Stay as near to every known update as the two that are farthest apart are to each other.

    The largest gamma with max_i |m - U_i|^2 <= max_ij |U_i - U_j|^2.
    """

    def gamma(self, known: Sequence[Arrays], middle: Arrays, along: Arrays, size: float) -> float:
        """The smallest of the larger roots, one for each known update."""
        bound = vectors.farthest_pair(known)
        roots = []
        for one in known:
            apart = vectors.moved(middle, -1.0, one)
            half = vectors.dot(along, apart)
            left = max(0.0, bound - vectors.square(apart))
            roots.append((half + math.sqrt(half**2 + size * left)) / size)
        return max(0.0, min(roots))


class MinSum(_Bounded):
    """Keep the sum of squared distances to all known updates below the largest among them.

    The largest gamma with sum_i |m - U_i|^2 <= max_i sum_j |U_i - U_j|^2.
    """

    def gamma(self, known: Sequence[Arrays], middle: Arrays, along: Arrays, size: float) -> float:
        """The linear terms add up to 0."""
        bound = float(squared_distances(known).sum(axis=1).max())
        spread = sum(vectors.apart(middle, one) for one in known)
        return math.sqrt(max(0.0, bound - spread) / (len(known) * size))


def direction(known: Sequence[Arrays], kind: Direction) -> Arrays:
    """What the mean is moved against: see `MinMax`; 0 where it is not defined."""
    if kind == "sd":
        return vectors.deviation(known)
    middle = vectors.mean(known)
    if kind == "sign":
        return {name: np.sign(value) for name, value in middle.items()}
    length = math.sqrt(vectors.square(middle))
    return vectors.scaled(1 / length, middle) if length else middle
