"""Arithmetic on changes: arrays by name as one vector, float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.method.received import Arrays
from fedsim.robust.distances import squared_distances


def mean(rows: Sequence[Arrays]) -> Arrays:
    """The mean vector."""
    return {name: _total([row[name] for row in rows]) / len(rows) for name in rows[0]}


def deviation(rows: Sequence[Arrays]) -> Arrays:
    """The standard deviation of each coordinate, unbiased; of at least two rows."""
    middle = mean(rows)
    return {
        name: np.sqrt(_total([np.square(row[name] - centre) for row in rows]) / (len(rows) - 1))
        for name, centre in middle.items()
    }


def _total(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum, one after another: no stack of all is made."""
    found = np.zeros(values[0].shape)
    for value in values:
        found += value
    return found


def dot(one: Arrays, other: Arrays) -> float:
    """The inner product."""
    return sum(float(np.vdot(value, other[name])) for name, value in one.items())


def square(one: Arrays) -> float:
    """The squared Euclidean norm."""
    return dot(one, one)


def moved(start: Arrays, scale: float, along: Arrays) -> Arrays:
    """start + scale * along."""
    return {name: value + scale * along[name] for name, value in start.items()}


def scaled(scale: float, one: Arrays) -> Arrays:
    """scale * one."""
    return {name: scale * value for name, value in one.items()}


def apart(one: Arrays, other: Arrays) -> float:
    """The squared Euclidean distance, by differences."""
    return square(moved(one, -1.0, other))


def farthest_pair(rows: Sequence[Arrays]) -> float:
    """The largest squared distance between two of at least two rows."""
    return float(squared_distances(rows).max())


def nearest_pair(rows: Sequence[Arrays]) -> float:
    """The smallest squared distance between two of at least two rows."""
    found = squared_distances(rows)
    return float(found[np.triu_indices(len(rows), 1)].min())
