"""How volumes in files look: their sizes, spacing and grey values, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedsim.data.looks import some_of
from fedsim.data.volumes.reading import Unreadable, Volume, read_volume

_LOOKED_AT = 5  # files that are read


def volume_looks(files: Sequence[Path]) -> list[str]:
    """A line about some of these files; none where none can be read."""
    chosen, of = some_of(files, _LOOKED_AT)
    read: list[Volume] = []
    for file in chosen:
        try:
            read.append(read_volume(file))
        except Unreadable:
            continue
    if not read:
        return []
    shapes = np.array([one.array.shape for one in read])
    spacings = np.array([one.spacing for one in read])
    ends = min(one.array.min() for one in read), max(one.array.max() for one in read)
    grey = f"grey values {ends[0]:g} to {ends[1]:g}"
    voxels = " x ".join(_span(shapes[:, axis], "d") for axis in range(3))
    lengths = " x ".join(_span(spacings[:, axis], ".3g") for axis in range(3))
    return [f"sizes: {voxels} voxels (slices x rows x columns) of {lengths} mm; {grey}{of}"]


def _span(values: np.ndarray, form: str) -> str:
    low, high = (format(end, form) for end in (values.min(), values.max()))
    return low if low == high else f"{low}-{high}"
