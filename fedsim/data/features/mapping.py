"""The public map: centre, whiten and shorten features by what public images have taught.

Nothing of the clients' records goes into it, so it costs no privacy, and whoever has the public
images has the map. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PREFIX = "public_map."
"""What the names of a map's arrays begin with in a model file."""

_ENOUGH = 2
"""So many public images a feature estimate their covariance; with fewer its small directions are
noise, which whitening would blow up."""
_FLOORS = (1e-12, 1e-4)
"""The smallest variance, over the largest, that whitening divides by: with enough images, and with
too few."""


@dataclass(frozen=True, eq=False)
class PublicMap:
    """x -> unit((x - mean) projection).

    Attributes:
        mean: float64 [d].
        projection: float64 [d, k]; None leaves the directions as they are (k = d).
    """

    mean: Floats
    projection: Floats | None = None

    @property
    def length(self) -> int:
        """Numbers in a mapped vector."""
        return len(self.mean) if self.projection is None else self.projection.shape[1]

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map features [n, d] to vectors of length 1, float32 [n, k]; a zero vector stays zero."""
        moved = features.astype(np.float64) - self.mean
        if self.projection is not None:
            moved = moved @ self.projection
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        # Rounding to float32 must not take a vector beyond length 1 by more than rounding.
        return (moved / np.maximum(lengths, 1e-12)).astype(np.float32)


def fit_map(
    public: NDArray[np.floating] | None,
    length: int,
    *,
    whiten: float,
    dimensions: int | None,
    projection: Literal["pca", "random"],
    seed: int = 0,
) -> PublicMap:
    """The map that public features [m, d] teach.

    With `projection: pca` the directions are the principal components of the public features, the
    strongest first, each divided by its standard deviation to the power `whiten`. With `random`
    they are orthonormal and drawn from `seed`; nothing is whitened.

    Args:
        public: features of public images; None for none: nothing is centred or whitened.
        length: d.
        whiten: between 0 (not at all) and 1 (all directions vary alike).
        dimensions: k, at most d; None keeps all.
        projection: where the directions come from.
        seed: of a random projection; public, too.

    Raises:
        ValueError: the parameters ask for what there are no public images for, or contradict one
            another; says which.
    """
    if dimensions is not None and dimensions > length:
        raise ValueError(f"dimensions is {dimensions}, but the network gives {length} numbers")
    if projection == "random":
        if whiten:
            raise ValueError("projection: random has random directions: whiten must be 0")
        if dimensions is None:
            raise ValueError("projection: random needs dimensions: how many directions to draw")
    elif public is None and (whiten or dimensions is not None):
        raise ValueError("whiten and dimensions by pca learn from public images: there are none")
    mean = np.zeros(length) if public is None else public.astype(np.float64).mean(0)
    if projection == "random":
        assert dimensions is not None
        drawn = np.random.default_rng(seed).standard_normal((length, dimensions))
        return PublicMap(mean, _signed(np.linalg.qr(drawn)[0]))
    if public is None or (not whiten and dimensions is None):
        return PublicMap(mean)
    if len(public) < 2:
        raise ValueError(f"{len(public)} public images have no directions: take at least 2")
    variances, directions = np.linalg.eigh(np.cov(public.astype(np.float64).T).reshape(length, -1))
    order = np.argsort(variances)[::-1][:dimensions]
    variances, directions = variances[order], _signed(directions[:, order])
    floor = _FLOORS[len(public) < _ENOUGH * length]
    largest = max(float(variances[0]), 1e-300)
    shares = np.maximum(variances / largest, floor)
    return PublicMap(mean, directions * shares ** (-whiten / 2))


def _signed(directions: Floats) -> Floats:
    """The same directions [d, k], each with its largest entry positive: a library may choose."""
    largest = np.abs(directions).argmax(axis=0)
    return directions * np.sign(directions[largest, np.arange(directions.shape[1])])


def map_of(arrays: Mapping[str, Any]) -> PublicMap:
    """The map that a model file holds beside its weights, see `map_arrays`.

    Raises:
        ValueError: the file does not hold it.
    """
    found = {name.removeprefix(PREFIX): np.asarray(array) for name, array in arrays.items()}
    if found.get("mean", np.zeros(())).ndim != 1:
        raise ValueError("it does not hold the map of the features that it was trained on")
    return PublicMap(found["mean"], found.get("projection"))


def map_arrays(map_: PublicMap) -> dict[str, np.ndarray]:
    """The arrays of a map, for a model file: float64, as the library writes them, row by row."""
    arrays = {"mean": map_.mean, "projection": map_.projection}
    return {f"{PREFIX}{k}": np.ascontiguousarray(v) for k, v in arrays.items() if v is not None}
