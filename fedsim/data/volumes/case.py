"""One case of a manifest: its image and outlines read, checked against each other, prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.data.volumes.dataset import Mask
from fedsim.data.volumes.preparing import Preparation, Spacing, prepare_volume
from fedsim.data.volumes.reading import (
    SeveralChannels,
    Unreadable,
    Volume,
    canonical_turn,
    read_volume,
    turn_onto,
)
from fedsim.errors import Problem

_SHOWN = 5  # foreign values listed

ONE_VOXEL = 1.001
"""How far, in voxels along each axis of an image, its mask may lie away; a little for rounding."""

TOLERANCE = 1e-3
"""How far a label value may lie from a whole number."""


@dataclass(frozen=True)
class Prepared:
    """What of a case is stored: image float32 and label uint8 [D, H, W], spacing in mm.

    `outlined` are the label values above 0 that its masks had before anything was cut off.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    spacing: Spacing
    outlined: frozenset[int] = frozenset()


class BrokenCase(Exception):
    """A case cannot be used; `problems` name its files."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


def read_case(
    image: Path,
    masks: Sequence[Mask],
    structures: Sequence[str],
    how: Preparation,
    *,
    channel: int | None,
    canonical: bool,
) -> Prepared:
    """Read and prepare a case.

    Raises:
        BrokenCase: a file is missing, truncated or no volume; a mask does not lie on its image or
            has values of no structure. All that is wrong with the case.
    """
    problems: list[Problem] = []

    def read(path: Path, channel: int | None) -> Volume | None:
        try:
            return read_volume(path, channel=channel, canonical=False)
        except SeveralChannels as error:
            choice = "" if path == image else "; a mask must have one"
            problems.append(Problem(str(path), f"{error}{choice or error.choice}"))
        except Unreadable as error:
            problems.append(Problem(str(path), str(error)))
        return None

    volume = read(image, channel)
    if volume is not None and not finite(volume.array):
        problems.append(Problem(str(image), "has voxels that are no finite numbers of 32 bits"))
    label: NDArray[np.uint8] | None = None
    for mask in masks:
        outlines = read(mask.path, None)
        if outlines is None:
            continue
        if volume is not None and canonical:
            outlines = turn_onto(outlines, volume)
        wrong = _unlike(outlines, volume, canonical) if volume is not None else ""
        values = _whole(outlines.array)
        wrong = wrong or _foreign(values, mask.values, structures)
        if wrong:
            problems.append(Problem(str(mask.path), wrong))
            continue
        if label is None:
            label = np.zeros(outlines.array.shape, dtype=np.uint8)
        for value, meaning in mask.values.items():
            label[values == value] = meaning
    if problems or volume is None or label is None:
        raise BrokenCase(problems)
    if canonical:
        turn = canonical_turn(volume)
        label = Volume(label, volume.affine).turned(turn).array
        volume = volume.turned(turn)
    outlined = frozenset(np.unique(label[label > 0]).tolist())
    voxels = volume.array.astype(np.float32)
    return Prepared(*prepare_volume(voxels, label, volume.spacing, how), outlined)


def finite(values: np.ndarray) -> bool:
    """Whether all values are finite, also as float32."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(np.float32)).all())


def _unlike(mask: Volume, image: Volume, canonical: bool) -> str:
    """Why a mask does not lie on its image, or ""."""
    if mask.array.shape != image.array.shape:
        shapes = [" x ".join(map(str, one.array.shape)) for one in (mask, image)]
        return f"has {shapes[0]} voxels (slices x rows x columns), its image {shapes[1]}"
    apart = mask.apart(image)
    if canonical and apart.max() > ONE_VOXEL:
        where = ", ".join(
            f"{voxels:.3g} voxels along its {axis}"
            for voxels, axis in zip(apart, ("slices", "rows", "columns"), strict=True)
            if voxels > ONE_VOXEL
        )
        return (
            f"lies up to {(apart * image.spacing).max():.3g} mm away from its image ({where}): "
            "position, spacing or orientation in one of the files are wrong "
            "(data.orientation=stored ignores them)"
        )
    return ""


def _whole(values: np.ndarray) -> np.ndarray:
    """Label values; those within `TOLERANCE` of a whole number are that number.

    A file that scales its values (by 0.9999 for 1, or by 1/255 of 255) gives what is nearly whole.
    """
    if values.dtype.kind != "f":
        return values
    whole = np.rint(values)
    with np.errstate(invalid="ignore"):  # infinities stay what they are
        return np.where(np.abs(values - whole) <= TOLERANCE, whole, values)


def _foreign(values: np.ndarray, known: dict[int, int], structures: Sequence[str]) -> str:
    """Which values of a mask stand for no structure, or ""."""
    found = np.unique(values)
    foreign = found[~np.isin(found, [0, *known])]
    if not len(foreign):
        return ""
    shown = ", ".join(str(value).removesuffix(".0") for value in foreign[:_SHOWN])  # all digits
    more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
    names = ", ".join(f"{value} {structures[label - 1]}" for value, label in known.items())
    return f"has the label value {shown}{more}; the data set has 0 background, {names}"
