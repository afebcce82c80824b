"""Which sums are taken of feature vectors, and taking them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Second = Literal["none", "full", "diagonal"]
"""Sums of second moments: none, of the matrix x x', or of its diagonal."""


def packed_size(size: int) -> int:
    """Numbers in the upper triangle, diagonal included, of a matrix [size, size]."""
    return size * (size + 1) // 2


def pack(matrices: Floats) -> Floats:
    """The upper triangles of symmetric matrices, off-diagonal values times the root of 2.

    The Euclidean norm of what is packed is the Frobenius norm of the matrix.

    Args:
        matrices: [..., k, k], symmetric.

    Returns:
        [..., k (k + 1) / 2], row by row.
    """
    rows, columns = np.triu_indices(matrices.shape[-1])
    packed: Floats = matrices[..., rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2))
    return packed


def unpack(packed: Floats) -> Floats:
    """The symmetric matrices [..., k, k] that `pack` packed.

    Raises:
        ValueError: the last axis has no k (k + 1) / 2 numbers.
    """
    count = packed.shape[-1]
    size = (math.isqrt(8 * count + 1) - 1) // 2
    if packed_size(size) != count:
        raise ValueError(f"No symmetric matrix has an upper triangle of {count} numbers.")
    rows, columns = np.triu_indices(size)
    matrices = np.empty((*packed.shape[:-1], size, size))
    matrices[..., rows, columns] = packed * np.where(rows == columns, 1.0, math.sqrt(0.5))
    matrices[..., columns, rows] = matrices[..., rows, columns]
    return matrices


def semidefinite(matrix: Floats) -> Floats:
    """The nearest positive semidefinite matrix [k, k] under the Frobenius norm."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values[0] >= 0:
        return matrix
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


@dataclass(frozen=True)
class Layout:
    """Which sums are taken of n vectors x, float [k], with labels.

    Attributes:
        size: k.
        classes: how many there are.
        second: which second moments; the matrix is packed, see `pack`.
        by_class: second moments are of each class, and not of all records together.
    """

    size: int
    classes: int
    second: Second = "none"
    by_class: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each sum: "second", where there is one, "sums" of x, "counts"."""
        found: dict[str, tuple[int, ...]] = {}
        if self.second != "none":
            width = packed_size(self.size) if self.second == "full" else self.size
            found["second"] = (self.classes, width) if self.by_class else (width,)
        return found | {"sums": (self.classes, self.size), "counts": (self.classes,)}

    @property
    def numbers(self) -> int:
        """Numbers in all sums together."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def split(self, flat: Floats) -> dict[str, Floats]:
        """All sums one after another [numbers] -> each by its name."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def sums_of(self, vectors: Floats, labels: NDArray[np.int64]) -> Sums:
        """The sums of some records.

        Args:
            vectors: [n, k], n >= 0.
            labels: [n], 0 <= label < classes.
        """
        values: dict[str, Floats] = {}
        if self.second != "none":
            groups = [labels == c for c in range(self.classes)] if self.by_class else [slice(None)]
            each = np.stack([self._moment(vectors[chosen]) for chosen in groups])
            values["second"] = each if self.by_class else each[0]
        targets = np.eye(self.classes)[labels]
        values["sums"], values["counts"] = targets.T @ vectors, targets.sum(axis=0)
        return Sums(self, values, dict.fromkeys(values, 0.0), float(len(vectors)))

    def _moment(self, vectors: Floats) -> Floats:
        if self.second == "diagonal":
            return np.asarray(np.square(vectors).sum(axis=0))
        return pack(vectors.T @ vectors)


@dataclass(frozen=True)
class Sums:
    """Sums of the vectors of some records.

    Attributes:
        layout: which.
        values: name -> float64, of the layout's shapes.
        noise: name -> standard deviation of the noise on every number of that sum; 0 for none.
        total: n, how many records they are of, or units of privacy; public.
    """

    layout: Layout
    values: Mapping[str, Floats]
    noise: Mapping[str, float]
    total: float

    @classmethod
    def added(cls, parts: Sequence[Sums]) -> Sums:
        """The sums of several disjoint sets of records, one at least; their noise is independent.

        Raises:
            ValueError: their layouts differ.
        """
        first = parts[0]
        if wrong := [one.layout for one in parts if one.layout != first.layout]:
            raise ValueError(f"Sums of {wrong[0]} cannot be added to those of {first.layout}.")
        names = list(first.values)
        return cls(
            first.layout,
            {name: np.sum([one.values[name] for one in parts], axis=0) for name in names},
            {name: math.hypot(*(one.noise[name] for one in parts)) for name in names},
            math.fsum(one.total for one in parts),
        )

    @property
    def counts(self) -> Floats:
        """Records of each class [classes]; what noise made negative is 0."""
        return np.maximum(self.values["counts"], 0.0)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which classes can be learned [classes]: their count is above 0, and above its noise."""
        counts = self.values["counts"]
        return np.asarray((counts >= 0.5) & (counts > self.noise["counts"]))

    @property
    def gram(self) -> Floats:
        """The sum of x x' over all records [k, k], as it came: noise may make it indefinite."""
        second = self.values["second"]
        return unpack(second.sum(axis=0) if self.layout.by_class else second)
