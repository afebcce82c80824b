"""Random fields in three dimensions, soft solids, and painting with them.

Everything is in millimetres in the patient's frame, which has its origin in the middle of the
image: z towards the head, y towards the back, x towards the patient's left. A field is drawn on a
lattice that does not depend on the image grid, so that another grid shows the same patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.data.phantom.canvas import Floats

REACH = (50.0, 105.0, 105.0)
"""How far from the origin, along z, y and x, fields are drawn."""


@dataclass(frozen=True)
class Grid:
    """The centres of the voxels.

    Attributes:
        z, y, x: float64 [D, 1, 1], [1, H, 1] and [1, 1, W].
        pitch: length of an in-plane side of a voxel.
    """

    z: Floats
    y: Floats
    x: Floats
    pitch: float

    @classmethod
    def centred(cls, slices: int, size: int, thickness: float, pitch: float) -> Grid:
        """A grid with the origin in its middle."""

        def axis(count: int, spacing: float) -> Floats:
            places: Floats = (np.arange(count, dtype=np.float64) - (count - 1) / 2) * spacing
            return places

        in_plane = axis(size, pitch)
        return cls(
            axis(slices, thickness)[:, None, None],
            in_plane[None, :, None],
            in_plane[None, None, :],
            pitch,
        )

    def box(self, middle: Floats, half: Floats) -> tuple[slice, slice, slice]:
        """The voxels whose position along each axis is within half of the middle (z, y, x)."""
        found = []
        for axis, centre, length in zip((self.z, self.y, self.x), middle, half, strict=True):
            first, last = np.searchsorted(axis.ravel(), (centre - length, centre + length))
            found.append(slice(int(first), int(last)))
        return found[0], found[1], found[2]

    def crop(self, box: tuple[slice, slice, slice]) -> Grid:
        """The grid of a box's voxels, in which fields and solids are the same."""
        return Grid(self.z[box[0]], self.y[:, box[1]], self.x[:, :, box[2]], self.pitch)

    def field(self, rng: np.random.Generator, *lengths: float) -> Floats:
        """A random field [D, H, W] of mean 0 and variance 1 in every voxel.

        lengths: over how much it varies, in-plane, and along z when that is another number.
        """
        in_plane, along = lengths[0], lengths[-1]
        weights = [
            _spline(axis.ravel(), length, reach)
            for axis, length, reach in zip(
                (self.z, self.y, self.x), (along, in_plane, in_plane), REACH, strict=True
            )
        ]
        nodes = rng.standard_normal([weight.shape[1] for weight in weights])
        planes = np.tensordot(weights[0], nodes, axes=1)
        values: Floats = weights[1] @ planes @ weights[2].T
        return values

    def inside(self, depth: Floats, softness: float = 0.0) -> Floats:
        """How much of each voxel lies in a solid, from 0 to 1, by its depth in mm (< 0 outside).

        softness: how blurred the solid's own border is, in mm; the voxels' size adds to it.
        """
        ramp = depth * (0.25 / (0.35 * self.pitch + softness))
        ramp += 0.5
        return np.clip(ramp, 0, 1, out=ramp)


def paint(signal: Floats, cover: Floats, value: Floats | float) -> None:
    """Lay a tissue over a picture, in place."""
    signal += cover * (value - signal)


def lines(field: Floats, width: float) -> Floats:
    """Thin sheets where a field of variance 1 crosses zero, from 0 to 1."""
    sheets: Floats = np.exp(-((field / width) ** 2))
    return sheets


def _spline(axis: Floats, length: float, reach: float) -> Floats:
    """Cubic B-spline weights [len(axis), nodes]; rows have length 1, so that variances are 1."""
    count = int(np.ceil(reach / length)) + 2
    far = np.abs(axis[:, None] / length - np.arange(-count, count + 1))
    near = 2 / 3 - far**2 + far**3 / 2
    weights: Floats = np.where(far < 1, near, np.maximum(2 - far, 0) ** 3 / 6)
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    return weights
