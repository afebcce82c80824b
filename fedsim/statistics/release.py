"""What one unit of privacy contributes to a release of sums: one row, of bounded norm.

A record's vector is divided by `norm` and shortened to u with |u| <= 1. Its row has the packed u u'
(or the squares of u), whose norm is |u|^2 <= 1, and, in the place of its class, tau (u, a), whose
norm is at most tau root(1 + a^2). So with second moments no row is longer than

    S = root(1 + tau^2 (1 + a^2)),

and without them, with tau = 1, than root(1 + a^2). Multiplied by C / S it is no longer than the
clipping norm C, whatever the record. A patient's row is the mean of its records' rows, which is no
longer. The counts of the classes come out of the constant a. The sum of x x' of all records has no
constant in it: its row would be the sum of the class sums, and n is public.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.statistics.sums import Floats, Layout, Sums, pack


@dataclass(frozen=True)
class Weights:
    """How the noise of a release is shared out between its sums.

    Attributes:
        products: tau, weight of the class sums beside the second moments.
        intercept: a, the constant beside each vector whose class sums are the counts.
        norm: vectors are shortened to this Euclidean norm.

    Raises:
        ValueError: a number below 1e-6 or above 1e6.
    """

    products: float = 2.0
    intercept: float = 0.25
    norm: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 1e-6 <= value <= 1e6:
                raise ValueError(f"{name} must be between 1e-6 and 1e6, not {value}.")

    def sensitivity(self, layout: Layout) -> float:
        """S, the largest norm of a row before it is scaled to the clipping norm."""
        beside = math.sqrt(1 + self.intercept**2)
        return beside if layout.second == "none" else math.hypot(1.0, self.products * beside)

    def rows(
        self, layout: Layout, vectors: Floats, labels: NDArray[np.int64], bound: float
    ) -> Floats:
        """The row of each record [n, numbers], no longer than `bound`.

        A vector that is not finite makes a row that is not, which a mechanism counts as zero.
        """
        rows: list[Floats] = []
        with np.errstate(invalid="ignore", over="ignore"):
            unit = _shortened(vectors / self.norm)
            if layout.second == "diagonal":
                rows.append(np.square(unit))
            elif layout.second == "full":
                rows.append(pack(unit[:, :, None] * unit[:, None, :]))
            if rows and layout.by_class:
                rows[0] = _placed(rows[0], labels, layout.classes)
            tau = 1.0 if layout.second == "none" else self.products
            rows.append(_placed(tau * unit, labels, layout.classes))
            constant = np.full((len(unit), 1), tau * self.intercept)
            rows.append(_placed(constant, labels, layout.classes))
            found: Floats = np.concatenate(rows, axis=1) * (bound / self.sensitivity(layout))
        return found

    def read(
        self, layout: Layout, released: Floats, bound: float, deviation: float, total: float
    ) -> Sums:
        """The sums that a noisy sum of rows [numbers] says, in the units of the vectors.

        Args:
            layout: of the rows.
            released: their sum with noise.
            bound: their largest norm.
            deviation: standard deviation of the noise on each number of the sum.
            total: public number of units.
        """
        factor = self.sensitivity(layout) / bound
        tau = 1.0 if layout.second == "none" else self.products
        units = {
            "second": factor * self.norm**2,
            "sums": factor * self.norm / tau,
            "counts": factor / (tau * self.intercept),
        }
        parts = layout.split(released)
        return Sums(
            layout,
            {name: part * units[name] for name, part in parts.items()},
            {name: deviation * units[name] for name in parts},
            total,
        )


def contributions(
    weights: Weights,
    layout: Layout,
    vectors: Floats,
    labels: NDArray[np.int64],
    places: NDArray[np.int64],
    bound: float,
    size: int,
) -> Contributions:
    """The rows of a sample's units, made part by part: all at once may be gigabytes.

    Args:
        weights: how noise is shared out.
        layout: of the rows.
        vectors: [n, k] of the sample's records, ordered by unit.
        labels: [n] of the same.
        places: the unit of each record, from 0, ascending, none left out.
        bound: the largest norm of a row.
        size: records of a part, more where a unit has more.
    """
    return Contributions(weights, layout, vectors, labels, places, bound, size)


@dataclass(frozen=True)
class Contributions:
    """Parts [b, numbers] of a sample, float64; they can be iterated again. See `contributions`."""

    weights: Weights
    layout: Layout
    vectors: Floats
    labels: NDArray[np.int64]
    places: NDArray[np.int64]
    bound: float
    size: int

    def __iter__(self) -> Iterator[Tensor]:
        if not len(self.places):
            yield torch.zeros(0, self.layout.numbers, dtype=torch.float64)
            return
        ends = [*np.flatnonzero(np.diff(self.places)) + 1, len(self.places)]
        start = 0
        for position, end in enumerate(ends):
            last = position == len(ends) - 1
            if last or ends[position + 1] - start > self.size:
                yield self._part(start, int(end))
                start = int(end)

    def _part(self, start: int, end: int) -> Tensor:
        chosen = slice(start, end)
        rows = self.weights.rows(self.layout, self.vectors[chosen], self.labels[chosen], self.bound)
        units = self.places[chosen] - self.places[start]
        counts = np.bincount(units)
        if len(counts) == len(rows):
            return torch.from_numpy(rows)
        sums = np.zeros((len(counts), rows.shape[1]))
        np.add.at(sums, units, rows)
        return torch.from_numpy(sums / counts[:, None])


def _shortened(vectors: Floats) -> Floats:
    """Vectors [n, k] of norm 1 at most."""
    # The largest coordinate first: squares of large numbers overflow.
    largest = np.abs(vectors).max(axis=1, initial=0.0)
    scaled = vectors / np.maximum(largest, 1.0)[:, None]
    lengths = np.linalg.norm(scaled, axis=1)
    found: Floats = scaled / np.where(largest > 1, lengths, np.maximum(lengths, 1.0))[:, None]
    return found


def _placed(rows: Floats, labels: NDArray[np.int64], classes: int) -> Floats:
    """Rows [n, m] -> [n, classes * m], each in the place of its class."""
    placed = np.zeros((len(rows), classes, rows.shape[1]))
    placed[np.arange(len(rows)), labels] = rows
    return placed.reshape(len(rows), -1)
