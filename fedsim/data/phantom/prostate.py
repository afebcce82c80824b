"""Prostate MRI computed from a seed: the embedded stand-in of the prostate data sets.

T2-weighted-looking volumes of four centres with outlines of the zones and of lesions. They are
drawn, not learned or copied: every number was chosen by eye, beside real slices, and checked
against statistics of real centres. The gland is about as bright as what surrounds it, so that
shape, texture and place must tell it apart. No result on them says anything about patients; they
are for running, testing and comparing methods without a download.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data.phantom.gland import STRUCTURES, Gland, draw_gland
from fedsim.data.phantom.lattice import Grid
from fedsim.data.phantom.pelvis import Pelvis, draw_pelvis
from fedsim.data.phantom.scanner import CENTRES, Centre, Shot, expose

__all__ = ["CENTRES", "STRUCTURES", "ProstateVolume", "prostate_phantom"]

FEWEST = 3
"""Cases of a centre, so that it can be split into training, validation and test."""


@dataclass(frozen=True)
class ProstateVolume:
    """One case.

    Attributes:
        image: float32 [D, H, W], at least 0, on the scanner's own scale. Slices go from the feet
            to the head, rows from front to back.
        labels: uint8 [D, H, W], 0 or a position in `STRUCTURES` from 1. A lesion lies in the
            peripheral zone; the gland is everything above 0.
        spacing: distance of neighbouring voxels along D, H and W in mm.
        centre: a key of `CENTRES`.
        case: a name, unique in the data set.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    centre: str
    case: str


def prostate_phantom(
    rng: np.random.Generator, size: int = 96, slices: int = 16, scale: float = 0.25
) -> Iterator[ProstateVolume]:
    """Draw the cases of all centres, one after another.

    Every case has a stream of its own: a larger `scale` adds cases and changes none, and another
    size or number of slices shows the same patients on another grid.

    Args:
        rng: where the cases' streams come from, by `Generator.spawn`. The same seed gives the same
            volumes, but only from a generator that has not been spawned from.
        size: height and width of the slices in voxels, at least 16. The field of view, and so the
            size of a voxel, differs between cases.
        slices: of an average case without a coil, at least 8; the centre with a coil has about
            half as many more.
        scale: part of the 32, 23, 27 and 184 cases, above 0; no centre has fewer than three.

    Yields:
        The volumes, ordered by centre.

    Raises:
        ValueError: an argument is out of range; the message names all of them.
    """
    problems = [
        f"{name} must be a whole number of at least {least}, not {value!r}."
        for name, value, least in (("size", size, 16), ("slices", slices, 8))
        if not isinstance(value, int) or isinstance(value, bool) or value < least
    ]
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        problems.append(f"scale must be a number above 0, not {scale!r}.")
    if problems:
        raise ValueError(" ".join(problems))
    plan = [
        (stream, name, centre, number)
        for of_centre, (name, centre) in zip(rng.spawn(len(CENTRES)), CENTRES.items(), strict=True)
        for number, stream in enumerate(of_centre.spawn(max(FEWEST, round(scale * centre.cases))))
    ]
    return (
        _volume(stream, size, slices, name, centre, number) for stream, name, centre, number in plan
    )


def _volume(
    rng: np.random.Generator, size: int, slices: int, name: str, centre: Centre, number: int
) -> ProstateVolume:
    shot = Shot.draw(rng, centre, slices)
    gland = Gland.draw(rng, centre.coil)
    pelvis = Pelvis.draw(rng, centre.coil, centre.gas)
    thickness, pitch = shot.covered / shot.slices, shot.view / size
    grid = Grid.centred(shot.slices, size, thickness, pitch)
    # Nobody is symmetric: everything is drawn in a frame that is bent a little.
    place = (
        np.broadcast_to(grid.z, (shot.slices, size, size)),
        grid.y + 2.5 * grid.field(rng, 40.0),
        grid.x + 2.5 * grid.field(rng, 40.0),
    )
    signal = draw_pelvis(rng, grid, place, gland, pelvis)
    labels = draw_gland(rng, grid, place, gland, signal)
    coil = (gland.centre[1] + gland.half[1] + pelvis.rectum, 0.0) if centre.coil else None
    image = expose(rng, grid, signal, shot, coil)
    spacing = (thickness, pitch, pitch)
    return ProstateVolume(image, labels, spacing, name, f"{name}-{number:03d}")
