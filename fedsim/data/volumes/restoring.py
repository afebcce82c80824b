"""From a prediction on a prepared volume back to the voxels of the file that it was made of."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from fedsim.data.volumes.preparing import Preparation, Spacing, grids, resample, unfit
from fedsim.data.volumes.reading import Volume


def restore_labels(
    logits: NDArray[np.float32], shape: tuple[int, ...], spacing: Spacing, how: Preparation
) -> NDArray[np.uint8]:
    """The most probable class of each voxel of a volume, from logits on the prepared one.

    The steps of `prepare_volume` backwards. Where it resampled, class probabilities are resampled
    linearly before the most probable is taken. What it cut off is background.

    Args:
        logits: [C, *prepared], background first.
        shape: of the volume before it was prepared.
        spacing: of its voxels in mm.
        how: how it was prepared.

    Returns:
        uint8 of that shape.
    """
    even, window = grids(shape, spacing, how)
    if even == shape and logits.shape[1:] == window:
        return unfit(logits.argmax(axis=0).astype(np.uint8), shape, 0)
    shares = np.exp(logits - logits.max(axis=0))
    shares /= shares.sum(axis=0)
    best = np.full(shape, -1, np.float32)
    labels = np.zeros(shape, np.uint8)
    for number, share in enumerate(shares):
        placed = unfit(resample(share, window), even, 0 if number else 1)
        here = resample(placed, shape)
        better = here > best
        best[better], labels[better] = here[better], number
    return labels


def save_labels(labels: Volume, like: Path | None) -> bytes:
    """Labels as a compressed NIfTI file.

    Args:
        labels: uint8 [D, H, W], and where its voxels are.
        like: the NIfTI file on whose grid they are: its position is written as it has it; None for
            files of other kinds.
    """
    affine = labels.affine[:, [2, 1, 0, 3]]
    image = Nifti1Image(labels.array.transpose(2, 1, 0).astype(np.uint8), affine)
    image.header.set_xyzt_units("mm")
    if like is not None:
        stored: Nifti1Image = nibabel.load(like)  # type: ignore[assignment]
        header = stored.header
        for name in _PLACE:
            if name in header:
                image.header[name] = header[name]
        image.header["pixdim"][:4] = header["pixdim"][:4]
    else:
        for put in (image.set_qform, image.set_sform):
            put(affine, code="scanner")
    # The same labels give the same bytes: no time of day in them.
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


# Both forms in which NIfTI says where voxels are: readers differ in which they take.
_PLACE = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
