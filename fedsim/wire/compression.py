"""A vector in fewer bytes: values of fewer bits, the largest values alone, or a sketch of it.

What is made of a vector is a few arrays, by these names:

* `CODES`: the values, as the codec has them;
* `RANGES`: of values in steps, the smallest value and the step of each row, float32 [2, rows];
* `POSITIONS`: of the largest values, where they are.

Rounding to steps is stochastic and unbiased: Suresh et al., "Distributed Mean Estimation with
Limited Communication" (2017), Section 2.2, with the range of each row of a tensor. Sources of the
other parts stand where they are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedsim.scenario.schema import Wire

CODES, RANGES, POSITIONS = "#codes", "#ranges", "#positions"

Rows = Sequence[tuple[int, int]]
"""How a vector is made up: (rows, values of a row) of each tensor, one after another."""

Draws = Callable[[], np.random.Generator]
"""Makes a generator that begins anew at each call."""

_LEVELS = {"uint8": 255, "int4": 15}
_BITS = {"float32": 32, "float16": 16, "uint8": 8, "int4": 4}
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def rows_of(shapes: Sequence[tuple[int, ...]]) -> Rows:
    """The rows of tensors: output channels (the first axis), or the whole of a vector or number.

    Tensors without values have none.
    """
    sizes = [(shape, math.prod(shape)) for shape in shapes]
    return [
        (shape[0], size // shape[0]) if len(shape) > 1 else (1, size)
        for shape, size in sizes
        if size
    ]


@dataclass(frozen=True)
class Compression:
    """How a vector becomes arrays, and comes back.

    Args:
        settings: the scenario's `wire`.
    """

    settings: Wire

    @property
    def lossless(self) -> bool:
        """Whether every value travels, in float32."""
        wire = self.settings
        return wire.codec == "float32" and wire.sparsify is None and wire.sketch is None

    def encode(
        self, vector: NDArray[np.float32], rows: Rows, rounding: np.random.Generator, hashes: Draws
    ) -> dict[str, NDArray[Any]]:
        """The arrays that stand for a vector.

        Args:
            vector: float32 [d], finite, d > 0.
            rows: of it.
            rounding: decides which values are rounded up.
            hashes: of the sketch; both sides make the same draws.
        """
        wire = self.settings
        if wire.sketch is not None:
            counts, columns = wire.sketch.rows, _part(wire.sketch.columns, vector.size)
            table = _sketched(vector, counts, columns, hashes())
            return self._coded(table.reshape(-1), [(counts, columns)], rounding)
        if wire.sparsify is None:
            return self._coded(vector, rows, rounding)
        chosen = _largest(vector, _part(wire.sparsify.topk, vector.size))
        coded = self._coded(vector[chosen], [(1, chosen.size)], rounding)
        return coded | {POSITIONS: _positions(chosen, vector.size)}

    def decode(
        self, arrays: Mapping[str, NDArray[Any]], rows: Rows, hashes: Draws
    ) -> NDArray[np.float32]:
        """The vector that `encode` made arrays of, float32 [d], as far as it is in them.

        Raises:
            ValueError: the arrays are not those of such a vector.
        """
        wire, size = self.settings, sum(count * length for count, length in rows)
        if wire.sketch is not None:
            counts, columns = wire.sketch.rows, _part(wire.sketch.columns, size)
            table = self._values(arrays, [(counts, columns)]).reshape(counts, columns)
            estimate = _estimates(table, size, hashes())
            kept = _largest(estimate, _part(wire.sketch.topk, size))
            return _spread(estimate[kept], kept, size)
        if wire.sparsify is None:
            return self._values(arrays, rows)
        count = _part(wire.sparsify.topk, size)
        chosen = _chosen(arrays.get(POSITIONS), count, size)
        return _spread(self._values(arrays, [(1, count)]), chosen, size)

    def bytes(self, rows: Rows) -> int:
        """How many bytes the arrays have that stand for a vector of such rows."""
        wire, size = self.settings, sum(count * length for count, length in rows)
        if wire.sketch is not None:
            counts, columns = wire.sketch.rows, _part(wire.sketch.columns, size)
            return self._coded_bytes(counts * columns, counts)
        if wire.sparsify is None:
            return self._coded_bytes(size, sum(count for count, _ in rows))
        count = _part(wire.sparsify.topk, size)
        return self._coded_bytes(count, 1) + min(4 * count, -(-size // 8))

    def _coded_bytes(self, values: int, rows: int) -> int:
        codec = self.settings.codec
        return -(-values * _BITS[codec] // 8) + (8 * rows if codec in _LEVELS else 0)

    def _coded(
        self, values: NDArray[np.float32], rows: Rows, rounding: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """Values [n] as the codec has them."""
        codec = self.settings.codec
        if codec == "float32":
            return {CODES: values}
        if codec == "float16":
            return {CODES: np.clip(values, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)}
        levels, start = _LEVELS[codec], 0
        codes, ranges = np.empty(values.size, np.uint8), []
        for count, length in rows:
            part = slice(start, start + count * length)
            found, bounds = _steps(values[part].reshape(count, length), levels, rounding)
            codes[part] = found.reshape(-1)
            ranges.append(bounds)
            start = part.stop
        packed = codes if codec == "uint8" else _nibbles(codes)
        return {CODES: packed, RANGES: np.concatenate(ranges, axis=1)}

    def _values(self, arrays: Mapping[str, NDArray[Any]], rows: Rows) -> NDArray[np.float32]:
        """The values [n] of rows, of what the codec made of them."""
        codec, size = self.settings.codec, sum(count * length for count, length in rows)
        kind = {"float32": np.float32, "float16": np.float16}.get(codec, np.uint8)
        stored = -(-size // 2) if codec == "int4" else size
        codes = _require(arrays, CODES, kind, (stored,))
        if codec not in _LEVELS:
            return codes.astype(np.float32)
        if codec == "int4":
            codes = np.stack([codes & 15, codes >> 4], axis=1).reshape(-1)[:size]
        counts = sum(count for count, _ in rows)
        ranges = _require(arrays, RANGES, np.float32, (2, counts)).astype(np.float64)
        values, start, row = np.empty(size, np.float32), 0, 0
        for count, length in rows:
            part = slice(start, start + count * length)
            low, step = ranges[:, row : row + count, None]
            # A step that was rounded up may lead past the largest number of float32.
            found = np.clip(
                low + step * codes[part].reshape(count, length), -_FLOAT32_MAX, _FLOAT32_MAX
            )
            values[part] = found.reshape(-1)
            start, row = part.stop, row + count
        return values


def _steps(
    values: NDArray[np.float32], levels: int, rounding: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes 0 to `levels` of each row's values [rows, n], and its range [2, rows].

    A value between two steps goes to the upper one with the probability that keeps its mean.
    """
    low, high = values.min(axis=1), values.max(axis=1)
    # In double precision: the difference of two float32 numbers may be too large for a third.
    width = high.astype(np.float64) - low
    step = (width / levels).astype(np.float32)
    # A step that was rounded down would leave the largest value beyond the last level.
    step = np.where(step * np.float64(levels) < width, np.nextafter(step, np.float32(np.inf)), step)
    divisor = np.where(step == 0, 1, step).astype(np.float64)
    places = (values - low.astype(np.float64)[:, None]) / divisor[:, None]
    codes = np.floor(places + rounding.random(values.shape))
    bounds = np.stack([low, step]).astype(np.float32)
    return np.clip(codes, 0, levels).astype(np.uint8), bounds


def _nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two codes below 16 in each byte, the first in its lower half."""
    pairs = np.pad(codes, (0, codes.size % 2)).reshape(-1, 2)
    return np.asarray(pairs[:, 0] | pairs[:, 1] << 4, dtype=np.uint8)


def _part(share: float, size: int) -> int:
    """How many of `size` values a share is; at least one. 1 % of 300 is 3, rounding aside."""
    return max(1, math.ceil(share * size - 1e-9))


def _largest(vector: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The positions, ascending, of the values that are farthest from 0.

    Aji and Heafield, "Sparse Communication for Distributed Gradient Descent" (2017): of all tensors
    together.
    """
    if count >= vector.size:
        return np.arange(vector.size)
    order = np.argpartition(np.abs(vector), vector.size - count)
    return np.sort(order[vector.size - count :])


def _positions(chosen: NDArray[np.int64], size: int) -> NDArray[Any]:
    """Positions as numbers (uint32) or as one bit for each value (uint8): whichever is less."""
    if 4 * chosen.size <= -(-size // 8):
        return chosen.astype(np.uint32)
    marks = np.zeros(size, np.bool_)
    marks[chosen] = True
    return np.packbits(marks)


def _chosen(positions: NDArray[Any] | None, count: int, size: int) -> NDArray[np.int64]:
    """What `_positions` stored.

    Raises:
        ValueError: it did not.
    """
    if positions is not None and positions.dtype == np.uint32:
        found = positions.astype(np.int64)
    elif positions is not None and positions.dtype == np.uint8 and positions.ndim == 1:
        found = np.flatnonzero(np.unpackbits(positions)[:size])
    else:
        found = np.zeros(0, np.int64)
    rises = found.ndim == 1 and bool((np.diff(found) > 0).all())
    if found.size != count or not rises or not 0 <= found[0] <= found[-1] < size:
        raise ValueError(f"{POSITIONS!r} are not {count} positions of {size} values.")
    return found


def _spread(values: NDArray[Any], where: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """A vector [size] with these values there, and 0 elsewhere."""
    vector = np.zeros(size, np.float32)
    vector[where] = values
    return vector


def _hashed(size: int, columns: int, draws: np.random.Generator) -> tuple[NDArray[Any], ...]:
    """For each value a column of one row of a sketch, and a sign."""
    return draws.integers(0, columns, size), draws.integers(0, 2, size) * 2.0 - 1.0


def _sketched(
    vector: NDArray[np.float32], rows: int, columns: int, draws: np.random.Generator
) -> NDArray[np.float32]:
    """A count sketch [rows, columns]: each row holds signed sums of values.

    Charikar, Chen and Farach-Colton, "Finding Frequent Items in Data Streams" (2002); of updates:
    Rothchild et al., "FetchSGD" (2020).
    """
    table = np.empty((rows, columns))
    for row in range(rows):
        column, sign = _hashed(vector.size, columns, draws)
        table[row] = np.bincount(column, sign * vector, columns)
    return np.clip(table, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)


def _estimates(
    table: NDArray[np.float32], size: int, draws: np.random.Generator
) -> NDArray[np.float32]:
    """The values [size] that a sketch stands for: the median of what its rows say of each."""
    told = np.empty((len(table), size), np.float32)
    for row, sums in enumerate(table):
        column, sign = _hashed(size, table.shape[1], draws)
        told[row] = sign * sums[column]
    return np.asarray(np.median(told, axis=0), dtype=np.float32)


def _require(
    arrays: Mapping[str, NDArray[Any]], name: str, kind: type, shape: tuple[int, ...]
) -> NDArray[Any]:
    """One of the arrays; ValueError where it is missing or another."""
    found = arrays.get(name)
    if found is None or found.dtype != kind or found.shape != shape:
        what = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise ValueError(f"{name!r} is {what}, not {np.dtype(kind)} {list(shape)}.")
    return found
