"""Averages of low-rank changes: the mean of the products, and not the product of the means.

torch computes, with the server's number of threads (`resources.server_threads`); NumPy takes as
many as there are, and its last bits may change with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_A, _B = ".lora_a.weight", ".lora_b.weight"


def factor_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """The names of A and B of each layer of which both are there, in the order of `names`."""
    there = dict.fromkeys(names)
    pairs = ((name, name.removesuffix(_A) + _B) for name in there if name.endswith(_A))
    return [(a, b) for a, b in pairs if b in there]


def product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """B A as a matrix, float64 [out, in] or, of a convolution, [out, in * k * k].

    Args:
        a: [r, in] or [r, in, k, k].
        b: [out, r] or [out, r, 1, 1].
    """
    found = _double(b).flatten(1) @ _double(a).flatten(1)
    return np.asarray(found.numpy())


def factored(change: NDArray[Any], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A and B whose product B A is the nearest to a matrix of all of this rank.

    By the singular value decomposition U diag(s) V' (Eckart & Young, 1936), of the `rank` largest
    values: B is U diag(s) and A is V'. Rows of A have length 1, about as long as those that LoRA
    begins with. So a direction that has not been used, of s = 0, can still be trained, which it
    could not were A zero there, too. Signs are such that in each row of A the first of the largest
    entries, by absolute value, is positive.

    Args:
        change: [out, in].
        rank: r, at most the smaller side.

    Returns:
        A, [r, in], and B, [out, r].
    """
    parts = torch.linalg.svd(_double(change), full_matrices=False)
    u, values, v = (part.numpy() for part in parts)
    u, values, v = u[:, :rank], values[:rank], v[:rank]
    largest = v[np.arange(rank), np.abs(v).argmax(axis=1)]
    signs = np.where(largest < 0, -1.0, 1.0)
    return signs[:, None] * v, u * (signs * values)


def _double(values: NDArray[Any]) -> torch.Tensor:
    # A copy: arrays of a message are read-only, which torch does not know.
    return torch.from_numpy(values.astype(np.float64))
