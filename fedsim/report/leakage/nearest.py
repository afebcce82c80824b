"""Nearest real images of synthetic ones: pure functions of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

_BLOCK_VALUES = 2**24
"""Pixel values that a block of images may have, so that it takes 64 MB whatever the image size."""
_NORMAL_975 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


class Images(Protocol):
    """Images [n, C, H, W], uint8 or floats from 0 to 1, read where indexed: an array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Nearest:
    """The nearest reference image of each of n query images, by two measures.

    Attributes:
        rmse: root mean squared difference of all values of the two images on the scale 0 to 1;
            float64 [n].
        rmse_index: the reference image of that, int64 [n].
        correlation: Pearson's, of all values of the two images; 0 where one of them is constant;
            float64 [n], the highest.
        correlation_index: the reference image of that, int64 [n].
    """

    rmse: NDArray[np.float64]
    rmse_index: NDArray[np.int64]
    correlation: NDArray[np.float64]
    correlation_index: NDArray[np.int64]


def nearest_images(
    queries: Images,
    references: Images,
    *,
    query_groups: NDArray[np.int64] | None = None,
    reference_groups: NDArray[np.int64] | None = None,
    device: torch.device | None = None,
) -> Nearest:
    """Find each query's nearest reference by pixel RMSE and by Pearson correlation.

    The search takes float32 products of blocks of images; the values of the pairs it finds are
    then computed from the differences, in float64, so that a copy has exactly RMSE 0. Among equals
    the first is found.

    Args:
        queries: images [n, C, H, W].
        references: images [m, C, H, W] of the same shape.
        query_groups, reference_groups: int64 [n] and [m]; a reference of the query's own group is
            not a candidate, such as the image itself or another image of the same patient.
        device: where to search; by default the CPU.

    Raises:
        ValueError: shapes differ, values lie outside 0 to 1, or a query has no candidate.
    """
    count, shape = len(queries), queries[:1].shape[1:]
    if len(references) and references[:1].shape[1:] != shape:
        raise ValueError(
            f"Images of shape {shape} cannot be compared with images of shape "
            f"{references[:1].shape[1:]}."
        )
    if (query_groups is None) != (reference_groups is None):
        raise ValueError("Groups must be given of the queries and of the references, or of none.")
    device = device or torch.device("cpu")
    rows = max(1, _BLOCK_VALUES // max(1, int(np.prod(shape))))
    # Row 0: squared distances; row 1: negative correlations. Both are to become small.
    best = torch.full((2, count), torch.inf)
    index = torch.full((2, count), -1, dtype=torch.int64)
    # Making numbers of pixels takes longer than their products, hence more queries at a time.
    for first in range(0, count, 2 * rows):
        here = slice(first, first + 2 * rows)
        asked = _Block(queries[here], device)
        for start in range(0, len(references), rows):
            costs = asked.costs(_Block(references[start : start + rows], device))
            if query_groups is not None and reference_groups is not None:
                own = query_groups[here, None] == reference_groups[None, start : start + rows]
                costs[:, torch.from_numpy(own).to(device)] = torch.inf
            cost, found = (result.cpu() for result in costs.min(dim=2))
            better = cost < best[:, here]
            best[:, here] = torch.where(better, cost, best[:, here])
            index[:, here] = torch.where(better, found + start, index[:, here])
    if (index < 0).any():
        raise ValueError(
            f"{int((index < 0).any(dim=0).sum())} of {count} images have no other image to be "
            "compared with."
        )
    by_rmse, by_correlation = index.numpy()
    rmse, correlation = np.zeros(count), np.zeros(count)
    rows = max(1, rows // 8)  # of float64, and several of them
    for first in range(0, count, rows):
        here = slice(first, first + rows)
        images = queries[here]
        rmse[here] = rmse_of_pairs(images, references[by_rmse[here]])
        correlation[here] = correlation_of_pairs(images, references[by_correlation[here]])
    return Nearest(rmse, by_rmse, correlation, by_correlation)


def rmse_of_pairs(first: np.ndarray, second: np.ndarray) -> NDArray[np.float64]:
    """Root mean squared difference of each of n pairs of images [n, C, H, W], from 0 to 1."""
    difference = _unit(first).astype(np.float64) - _unit(second)
    return np.sqrt(np.square(difference).mean(axis=1))


def correlation_of_pairs(first: np.ndarray, second: np.ndarray) -> NDArray[np.float64]:
    """Pearson correlation of each of n pairs of images [n, C, H, W]; 0 where one is constant."""
    sides = [_unit(images).astype(np.float64) for images in (first, second)]
    flat = (np.ptp(sides[0], axis=1) == 0) | (np.ptp(sides[1], axis=1) == 0)
    sides = [rows - rows.mean(axis=1, keepdims=True) for rows in sides]
    norms = np.linalg.norm(sides[0], axis=1) * np.linalg.norm(sides[1], axis=1)
    products = (sides[0] * sides[1]).sum(axis=1)
    return np.clip(np.where(flat, 0, products / np.where(flat, 1, norms)), -1, 1)


def match_strata(
    first: NDArray[np.int64], second: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw equally many records of each stratum from two sets, as many as the smaller one has.

    Args:
        first, second: int64 codes of the strata of the two sets' records.
        rng: draws, without replacement.

    Returns:
        Positions in the first and in the second set, int64, ascending, of equal number.
    """
    chosen: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for stratum in np.intersect1d(first, second):
        sides = [np.flatnonzero(codes == stratum) for codes in (first, second)]
        size = min(map(len, sides))
        for kept, side in zip(chosen, sides, strict=True):
            kept.append(rng.permutation(side)[:size])
    empty = [np.zeros(0, dtype=np.int64)]
    one, other = (np.sort(np.concatenate(empty + kept)) for kept in chosen)
    return one, other


def effective_number(clusters: NDArray[np.int64]) -> float:
    """How many independent observations weigh as much as these, which agree within a cluster.

    Kish's effective sample size n² / Σ m², with m observations in a cluster: n where all clusters
    differ, 1 where there is one.
    """
    sizes = np.unique(clusters, return_counts=True)[1]
    return float(sizes.sum() ** 2 / np.square(sizes).sum()) if len(sizes) else 0.0


def wilson_interval(share: float, number: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share seen in `number` > 0 independent observations."""
    z2 = _NORMAL_975**2
    middle = (share + z2 / (2 * number)) / (1 + z2 / number)
    spread = share * (1 - share) / number + z2 / (4 * number**2)
    half = _NORMAL_975 * np.sqrt(spread) / (1 + z2 / number)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


class _Block:
    """Some images as rows of float32 values around 0, with what correlations need."""

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        # Around 0 the squares are small, which costs the differences of squares fewer digits.
        self.values = torch.from_numpy(_unit(images) - np.float32(0.5)).to(device)
        self.squares = self.values.square().sum(dim=1)
        self.means = self.values.mean(dim=1)
        spread = (self.values - self.means[:, None]).norm(dim=1)
        # A constant image correlates with nothing; its spread is what rounding left.
        flat = self.values.amax(dim=1) == self.values.amin(dim=1)
        self.scales = torch.where(flat, 0.0, 1 / spread)

    def costs(self, other: _Block) -> torch.Tensor:
        """Squared distances and negative correlations of all pairs, [2, n, m]."""
        products = self.values @ other.values.T
        distances = self.squares[:, None] + other.squares - 2 * products
        products -= self.values.shape[1] * self.means[:, None] * other.means
        return torch.stack((distances, -products * self.scales[:, None] * other.scales))


def _unit(images: np.ndarray) -> NDArray[np.float32]:
    """Images [n, C, H, W] as rows of values from 0 to 1."""
    rows = images.reshape(len(images), -1)
    if images.dtype == np.uint8:
        return np.divide(rows, np.float32(255), dtype=np.float32)
    if rows.size and not (rows.min() >= 0 and rows.max() <= 1):
        raise ValueError(
            "Images to compare must be uint8 or have values from 0 to 1, but theirs go from "
            f"{rows.min()} to {rows.max()}."
        )
    return rows.astype(np.float32)
