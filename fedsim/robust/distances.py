"""How far clients' arrays are from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.method.received import Arrays, flat

Row = Mapping[str, NDArray[Any]]
"""What a client sent, by name; it may be `Computed`."""

_BLOCK = 1 << 16  # coordinates of all clients that are float64 at a time


def blocks(rows: Sequence[Row]) -> Iterator[NDArray[np.float64]]:
    """Some coordinates of all clients at a time, float64 [clients, at most 65,536]."""
    for name in rows[0]:
        yield from blocks_of(name, rows)


def blocks_of(name: str, rows: Sequence[Row]) -> Iterator[NDArray[np.float64]]:
    """The same, of one array."""
    each = [flat(row, name) for row in rows]
    for start in range(0, each[0].size, _BLOCK):
        yield np.stack([one[start : start + _BLOCK] for one in each]).astype(np.float64)


def by_coordinate(
    rows: Sequence[Row],
    rule: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Arrays:
    """What a rule makes of each coordinate.

    Args:
        rows: what each client sent, real arrays of the same names and shapes.
        rule: some coordinates of all clients [clients, m] -> of the result [m], float64.
    """
    found: Arrays = {}
    for name, first in rows[0].items():
        values, start = np.empty(first.size), 0
        for part in blocks_of(name, rows):
            values[start : start + part.shape[1]] = rule(part)
            start += part.shape[1]
        found[name] = values.reshape(first.shape)
    return found


def squared_distances(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Squared Euclidean distances between clients.

    The sum of squared differences is taken: |x|^2 + |y|^2 - 2 xy loses all digits where two
    updates are nearly alike, which is what an attacker sends.

    Args:
        rows: what each client sent, real arrays of the same names and shapes.

    Returns:
        float64 [clients, clients], symmetric, 0 on the diagonal.
    """
    found = np.zeros((len(rows), len(rows)))
    for part in blocks(rows):
        for one in range(len(rows) - 1):
            apart = part[one + 1 :] - part[one]
            found[one, one + 1 :] += np.einsum("ij,ij->i", apart, apart)
    return found + found.T


def norms(rows: Sequence[Row]) -> NDArray[np.float64]:
    """The Euclidean norm of each client's arrays, float64 [clients]."""
    found = np.zeros(len(rows))
    for part in blocks(rows):
        found += np.einsum("ij,ij->i", part, part)
    return np.sqrt(found)


def cosine_distances(rows: Sequence[Row]) -> NDArray[np.float64]:
    """1 - cosine between clients, float64 [clients, clients]; 1 to a client that sent zeros."""
    products = np.zeros((len(rows), len(rows)))
    for part in blocks(rows):
        products += part @ part.T
    lengths = norms(rows)
    both = np.outer(lengths, lengths)
    found: NDArray[np.float64] = 1 - np.divide(
        products, both, out=np.zeros_like(both), where=both > 0
    )
    return found
