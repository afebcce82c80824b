"""Which outlined slices a query is answered from, and what several answers come to.

The rules are those of the evaluation of UniverSeg on prostate MRI: support slices near the query in
slice number are drawn more often, several draws are averaged, and intensities lie between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

DARKEST, BRIGHTEST = 0.5, 99.5
"""Percentiles of a volume that become 0 and 1."""


def slice_weights(slices: ArrayLike, query: int) -> NDArray[np.float64]:
    """How much each support slice counts: w = 1 / (|its number - the query's| + 1).

    Numbers are counted from the feet in each volume, whatever its number of slices.

    Args:
        slices: numbers of the support slices, [n].
        query: number of the query's slice.

    Returns:
        float64 [n], above 0, at most 1.
    """
    return 1 / (np.abs(np.asarray(slices, np.float64) - query) + 1)


def draw_support(
    weights: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw support slices without replacement, each next one in proportion to its weight.

    Args:
        weights: of all slices there are, above 0, [n], n at least 1.
        count: how many are wanted, at least 1.
        rng: asked only where there are more than that.

    Returns:
        Positions, int64, ascending: `count` different ones, or all where there are no more.
    """
    if len(weights) <= count:
        return np.arange(len(weights))
    chosen = rng.choice(len(weights), count, replace=False, p=weights / weights.sum())
    return np.sort(chosen).astype(np.int64)


def support_sets(
    slices: Sequence[int] | NDArray[np.int64],
    query: int | None,
    *,
    count: int,
    draws: int,
    seed: int,
) -> list[NDArray[np.int64]]:
    """The support sets whose answers are averaged for a query.

    They depend on the seed and on slice numbers alone: a case is answered alike whatever other
    cases there are. Where no more than `count` slices are there, all are the one set.

    Args:
        slices: numbers of the support slices, [n], n at least 1.
        query: number of the query's slice; None: not known, all count alike.
        count: slices in a set, at least 1.
        draws: how many sets, at least 1.
        seed: of the client, at least 0.

    Returns:
        Positions in `slices`, int64, of each set.
    """
    if len(slices) <= count:
        return [np.arange(len(slices))]
    known = query is not None
    weights = slice_weights(slices, query) if query is not None else np.ones(len(slices))
    return [
        draw_support(weights, count, np.random.default_rng([seed, int(known), query or 0, number]))
        for number in range(draws)
    ]


def unit_range(volume: NDArray[np.floating]) -> NDArray[np.float32]:
    """Intensities of a volume from 0 to 1: its percentiles 0.5 and 99.5 become these.

    Returns:
        float32 of the same shape; 0 where all voxels are alike.
    """
    low, high = np.percentile(volume, (DARKEST, BRIGHTEST))
    if not high > low:
        return np.zeros(volume.shape, np.float32)
    return np.clip((volume - low) / (high - low), 0, 1).astype(np.float32)
