"""What is done to a volume before it is stored: intensities, spacing, field of view, slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Spacing = tuple[float, float, float]

PERCENTILES = (1.0, 99.0)
"""Where intensities are clipped."""


@dataclass(frozen=True)
class Preparation:
    """The steps of `prepare_volume`; a data set's options name them.

    Attributes:
        size: height and width of the slices afterwards.
        slices: how many there are afterwards; None keeps those there are.
        field_of_view: share of the longer in-plane side that is scaled to `size`; None scales
            nothing.
        spacing: voxels are resampled to these distances in mm; None keeps them.
        clip: whether intensities are clipped at `PERCENTILES` before they are normalised.
    """

    size: int
    slices: int | None = None
    field_of_view: float | None = None
    spacing: Spacing | None = None
    clip: bool = True


def prepare_volume(
    image: NDArray[np.float32], label: NDArray[np.uint8], spacing: Spacing, how: Preparation
) -> tuple[NDArray[np.float32], NDArray[np.uint8], Spacing]:
    """Prepare one volume and its outlines.

    1. Intensities: clipped at two percentiles of the volume, then mean 0 and standard deviation 1
       over the volume.
    2. Spacing: image and outlines resampled to the distances wanted.
    3. In plane: the middle square with a share of the longer side is scaled to `size`; or, without
       scaling, rows and columns are cut off or added on both sides.
    4. Slices: cut off or added on both sides.

    Images are resampled linearly, averaging where voxels become fewer; outlines take the nearest
    voxel. What is added has intensity 0, the volume's mean, and is background.

    Args:
        image: [D, H, W], finite.
        label: [D, H, W].
        spacing: along D, H and W in mm.

    Returns:
        image, label and spacing.
    """
    image = normalise(image, how.clip)
    even, window = grids(image.shape, spacing, how)
    if how.spacing is not None:
        image, label = resample(image, even), _take_nearest(label, even)
        spacing = how.spacing
    depth, square, _ = window
    image, label = (fit(array, window) for array in (image, label))
    if square != how.size:
        shape = (depth, how.size, how.size)
        image, label = resample(image, shape), _take_nearest(label, shape)
        scale = square / how.size
        spacing = (spacing[0], spacing[1] * scale, spacing[2] * scale)
    return np.ascontiguousarray(image), np.ascontiguousarray(label), spacing


def grids(
    shape: tuple[int, ...], spacing: Spacing, how: Preparation
) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """How many voxels a volume of a shape has after step 2 of `prepare_volume`, and after step 3
    and 4 before anything is scaled to `size`."""
    if how.spacing is not None:
        shape = tuple(
            max(1, round(count * old / new))
            for count, old, new in zip(shape, spacing, how.spacing, strict=True)
        )
    depth, *plane = shape
    if how.slices is not None:
        depth = how.slices
    square = how.size
    if how.field_of_view is not None:
        square = max(1, round(how.field_of_view * max(plane)))
    return shape, (depth, square, square)


def normalise(image: NDArray[np.float32], clip: bool) -> NDArray[np.float32]:
    """Mean 0 and standard deviation 1 over the volume; a constant volume becomes 0."""
    values = image.astype(np.float64)
    if clip:
        low, high = np.percentile(values, PERCENTILES)
        np.clip(values, low, high, out=values)
    values -= values.mean()
    values /= values.std() or 1.0
    return values.astype(np.float32)


def fit(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cut off or add (zeros) around the middle, so that the array has this shape.

    Uneven halves fall as in MONAI's CenterSpatialCrop and SpatialPad.
    """
    places = [_overlap(have, want) for have, want in zip(array.shape, shape, strict=True)]
    fitted = np.zeros(shape, array.dtype)
    fitted[tuple(there for _, there in places)] = array[tuple(here for here, _ in places)]
    return fitted


def unfit(array: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    """Put what `fit` made of an array of this shape back in its place; `fill` where it cut off."""
    places = [_overlap(have, want) for have, want in zip(shape, array.shape, strict=True)]
    whole = np.full(shape, fill, array.dtype)
    whole[tuple(here for here, _ in places)] = array[tuple(there for _, there in places)]
    return whole


def _overlap(have: int, want: int) -> tuple[slice, slice]:
    """Which part of an axis stays when it is cut or lengthened, and where that lies afterwards."""
    count = min(have, want)
    first, front = max(0, have // 2 - want // 2), (want - count) // 2
    return slice(first, first + count), slice(front, front + count)


def resample(image: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Sample linearly on another number of voxels over the same extent."""
    for axis, count in enumerate(shape):
        if count != image.shape[axis]:
            weights = _linear(image.shape[axis], count).astype(np.float32)
            image = np.moveaxis(np.tensordot(weights, image, axes=(1, axis)), 0, axis)
    return image


def _linear(have: int, want: int) -> NDArray[np.float64]:
    """Weights [want, have] of a triangle as wide as the larger kind of voxel; rows sum to 1."""
    scale = have / want
    places = (np.arange(want) + 0.5) * scale - 0.5
    far = np.abs(places[:, None] - np.arange(have)) / max(1.0, scale)
    weights = np.maximum(1 - far, 0)
    # Beyond the outermost voxel's centre there is only that voxel.
    sums: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return sums


def _take_nearest(label: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Sample the nearest voxel on another number of voxels over the same extent."""
    for axis, count in enumerate(shape):
        have = label.shape[axis]
        places = ((np.arange(count) + 0.5) * (have / count)).astype(np.int64)
        label = label.take(np.minimum(places, have - 1), axis=axis)
    return label
