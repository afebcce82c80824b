"""Read volumes and outlines from medical image files: NIfTI with nibabel, others with SimpleITK."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

SUFFIXES = (".nii", ".nii.gz", ".mhd", ".mha", ".nrrd")

_INSTALL = "is not installed; type: pip install {}"


class Unreadable(Exception):
    """A file is no volume that can be used; the message says why, without naming the file."""


@dataclass(frozen=True)
class Volume:
    """What a file holds.

    Attributes:
        array: [D, H, W], of the file's type (float32 where the file scales its values).
        affine: [4, 4], from (slice, row, column) to the patient's millimetres.
    """

    array: np.ndarray
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along D, H and W in mm."""
        lengths = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    def corners(self) -> NDArray[np.float64]:
        """Where the first and the last voxel are, [2, 3] in mm."""
        ends = np.array([[0, 0, 0, 1], [*(np.array(self.array.shape) - 1), 1]], dtype=np.float64)
        return (ends @ self.affine.T)[:, :3]


def read_volume(path: Path, *, channel: int | None = None, canonical: bool = True) -> Volume:
    """Read a file.

    Args:
        path: with one of `SUFFIXES`.
        channel: which of the last axis of a 4-D file; None accepts only one.
        canonical: turn the axes, so that slices go from the feet to the head, rows from front to
            back and columns to the patient's left, as nearly as the file's axes do. Otherwise they
            stay as they are stored.

    Raises:
        Unreadable: the file is missing, truncated, no volume, or has channels to choose from.
    """
    for file in files_of(path):
        if not file.exists():
            raise Unreadable("does not exist" if file == path else f"needs {file.name}: no file")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        array, affine = _read_nifti(path)
    elif path.name.lower().endswith(SUFFIXES):
        array, affine = _read_itk(path)
    else:
        raise Unreadable(f"is none of {', '.join(SUFFIXES)}")
    if array.dtype.kind not in "biuf":
        raise Unreadable(f"holds no plain numbers but {array.dtype}")
    array = _one_channel(array, channel)
    if array.ndim != 3 or min(array.shape) < 1:
        raise Unreadable(f"is not a volume: its shape is {_times(array.shape)}")
    if canonical:
        array, affine = _turned(array, affine)
    # From (column, row, slice), as files count, to (slice, row, column).
    return Volume(array.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])


def files_of(path: Path) -> list[Path]:
    """The files that a volume is kept in: a MetaImage header names a second one."""
    if path.suffix.lower() != ".mhd":
        return [path]
    name = _header(path).get("ElementDataFile", "LOCAL")
    return [path] if name.upper() in ("LOCAL", "LIST") else [path, path.with_name(name)]


def _header(path: Path) -> dict[str, str]:
    """The fields of a MetaImage header; empty when the file is none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _read_nifti(path: Path) -> tuple[np.ndarray, NDArray[np.float64]]:
    try:
        import nibabel
    except ImportError:
        raise Unreadable(_INSTALL.format("nibabel")) from None
    try:
        if path.suffix.lower() == ".gz":
            _check_gzip(path)  # nibabel stops reading before the checksum at the end
        image: Nifti1Image = nibabel.load(path)  # type: ignore[assignment]
        affine = image.affine
        array = np.asarray(image.dataobj)
    except (EOFError, OSError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as e:
        raise Unreadable(f"is damaged or no NIfTI file: {_line(e, path)}") from e
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise Unreadable("says nothing usable about the position of its voxels")
    return array, np.asarray(affine, dtype=np.float64)


def _check_gzip(path: Path) -> None:
    with gzip.open(path) as stream:
        while stream.read(1 << 22):
            pass


def _read_itk(path: Path) -> tuple[np.ndarray, NDArray[np.float64]]:
    try:
        import SimpleITK
    except ImportError:
        raise Unreadable(_INSTALL.format("SimpleITK")) from None
    _check_size(path)  # SimpleITK's own message on a truncated file is that there is none
    try:
        image = SimpleITK.ReadImage(str(path))
        array = SimpleITK.GetArrayFromImage(image)
    except RuntimeError as error:
        raise Unreadable(f"is damaged or no volume: {_line(error, path)}") from error
    dimension = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    array = array.transpose(*range(array.ndim)[::-1])
    if dimension < 3:
        raise Unreadable(f"is not a volume but a picture of {_times(array.shape[:2])}")
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    affine[:2] *= -1  # ITK counts towards the patient's left and back, NIfTI to the right and front
    return array, affine


_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}


def _check_size(path: Path) -> None:
    """Raise Unreadable when the file with a MetaImage's voxels is too small for them."""
    header, files = _header(path), files_of(path)
    if path.suffix.lower() != ".mhd" or len(files) < 2:
        return
    try:
        if header.get("CompressedData", "False").lower() == "true":
            wanted = int(header["CompressedDataSize"])
        else:
            kind = header["ElementType"].removeprefix("MET_").removeprefix("U")
            channels = int(header.get("ElementNumberOfChannels", "1"))
            wanted = int(np.prod([int(n) for n in header["DimSize"].split()]))
            wanted *= channels * _BYTES[kind]
    except (KeyError, ValueError):
        return  # SimpleITK knows more than this
    found = files[1].stat().st_size
    if found < wanted:
        raise Unreadable(f"is truncated: {files[1].name} has {found} of {wanted} bytes")


def _one_channel(array: np.ndarray, channel: int | None) -> np.ndarray:
    """The one channel of a 4-D array."""
    if array.ndim != 4:
        if channel not in (None, 0):
            raise Unreadable(f"has one channel, not a channel {channel}")
        return array
    count = array.shape[3]
    if channel is None and count > 1:
        raise Unreadable(f"has {count} channels; choose one: data.channel=0 to {count - 1}")
    if channel is not None and not 0 <= channel < count:
        raise Unreadable(f"has {count} channels, counted from 0, so none is {channel}")
    return array[..., channel or 0]


def _turned(
    array: np.ndarray, affine: NDArray[np.float64]
) -> tuple[np.ndarray, NDArray[np.float64]]:
    """Turn and mirror axes to left, back, head."""
    try:
        from nibabel import orientations
    except ImportError:
        raise Unreadable(_INSTALL.format("nibabel")) from None
    turn = orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(("L", "P", "S"))
    )
    moved = affine @ orientations.inv_ornt_aff(turn, array.shape)
    return orientations.apply_orientation(array, turn), moved


def _line(error: BaseException, path: Path) -> str:
    """The last line of a message, without the path that the caller names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text.replace(str(path), path.name).removeprefix("sitk::ERROR: ")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
