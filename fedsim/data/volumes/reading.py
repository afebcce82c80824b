"""Read volumes and outlines from medical image files: NIfTI with nibabel, others with SimpleITK.

A folder with the files of one DICOM series is a volume, too, and a picture is one of one slice.
"""

from __future__ import annotations

import gzip
import os
import warnings
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data import dicom
from fedsim.data.volumes.series import read_series
from fedsim.data.volumes.unreadable import Unreadable
from fedsim.files import require_regular

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

SUFFIXES = (".nii", ".nii.gz", ".mhd", ".mha", ".nrrd")
PICTURES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")

_DIGITS = 3
"""Of directions (their cosines), where it is asked which way an axis goes."""

_FLAT = 1e-6
"""The volume of a cell of unit axes, below which they lie in a plane."""

_INSTALL = "is not installed; type: pip install {}"


class SeveralChannels(Unreadable):
    """There are channels to choose from; `choice` says how."""

    def __init__(self, count: int) -> None:
        self.choice = f"; choose one: data.channel=0 to {count - 1}"
        super().__init__(f"has {count} channels")


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

    def apart(self, other: Volume) -> NDArray[np.float64]:
        """How far, in voxels of `other` along its D, H and W, a voxel of this volume lies from the
        one of `other` with the same position in the array, at most; the arrays have one shape.
        """
        ends = [(0, count - 1) for count in self.array.shape]
        corners = np.array([[*corner, 1] for corner in product(*ends)], dtype=np.float64)
        there = corners @ (np.linalg.inv(other.affine) @ self.affine).T
        return np.asarray(np.abs(there - corners)[:, :3].max(axis=0))

    def turned(self, turn: NDArray[np.float64]) -> Volume:
        """The same volume with its axes swapped and mirrored, see nibabel's orientations."""
        from nibabel import orientations

        moved = self.affine @ orientations.inv_ornt_aff(turn, self.array.shape)
        return Volume(orientations.apply_orientation(self.array, turn), moved)


def read_volume(path: Path, *, channel: int | None = None, canonical: bool = True) -> Volume:
    """Read a file.

    Args:
        path: with one of `SUFFIXES` or `PICTURES`, or a folder with the files of one DICOM series.
        channel: which of the last axis of a 4-D file; None accepts only one.
        canonical: turn the axes, so that slices go from the feet to the head, rows from front to
            back and columns to the patient's left, as nearly as the file's axes do. Otherwise they
            stay as they are stored.

    Raises:
        Unreadable: the file is missing, truncated, no volume, or has channels to choose from.
    """
    for file in files_of(path):
        if not os.path.exists(file):
            needed = os.path.relpath(file, path.parent)
            raise Unreadable("does not exist" if file == path else f"needs {needed}: no file")
    if path.suffix.lower() in (".mhd", ".mha") and not _header(path)[0].get(_DATA, "LOCAL"):
        raise Unreadable(f"names no file with its voxels: {_DATA} is empty")
    if os.path.isdir(path) or dicom.has_name(path):
        array, affine = _of_itk(read_series(path))
    elif path.name.lower().endswith((".nii", ".nii.gz")):
        array, affine = _read_nifti(path)
    elif path.name.lower().endswith(SUFFIXES):
        array, affine = _read_itk(path)
    elif path.name.lower().endswith(PICTURES):
        array, affine = _read_picture(path)
    else:
        suffixes = ", ".join((*SUFFIXES, *PICTURES))
        raise Unreadable(f"is none of {suffixes}, and no folder of a DICOM series")
    if not _is_place(affine):
        raise Unreadable("says nothing usable about the position of its voxels")
    if array.dtype.kind not in "biuf":
        raise Unreadable(f"holds no plain numbers but {array.dtype}")
    array = _one_channel(array, channel)
    if array.ndim != 3 or min(array.shape) < 1:
        raise Unreadable(f"is not a volume: its shape is {_times(array.shape)}")
    # From (column, row, slice), as files count, to (slice, row, column).
    volume = Volume(array.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
    return volume.turned(canonical_turn(volume)) if canonical else volume


def canonical_turn(volume: Volume) -> NDArray[np.float64]:
    """How to turn a volume's axes to head, back and left, as nearly as they go there.

    Of an axis that lies just between two, rounding does not decide: volumes of one grid turn alike.
    """
    from nibabel import orientations

    plain = volume.affine.copy()
    plain[:3, :3] = (plain[:3, :3] / np.array(volume.spacing)).round(_DIGITS)
    turn: NDArray[np.float64] = orientations.ornt_transform(
        orientations.io_orientation(plain), orientations.axcodes2ornt(("S", "P", "L"))
    )
    return turn


def turn_onto(volume: Volume, other: Volume) -> Volume:
    """A volume with its axes in the order and direction of another one's, where they are parallel.

    Otherwise it is left as it is.
    """
    steps = (np.linalg.inv(other.affine) @ volume.affine)[:3, :3]
    steps = steps / np.abs(steps).max(axis=0)
    places = np.abs(steps).argmax(axis=0)
    if len(set(places.tolist())) < 3:
        return volume
    turn = np.stack([places, np.sign(steps[places, range(3)])], axis=1)
    return volume.turned(turn)


def files_of(path: Path) -> list[Path]:
    """The files that a volume is kept in: a header of MetaImage or NRRD may name others.

    They are beside the header, below its folder ("raw/x.raw", "./x.raw"), anywhere ("/data/x.raw"),
    one a line after LIST, or counted by a pattern ("slice%03d.raw 1 20 1"). Of a folder: its DICOM
    files.
    """
    if os.path.isdir(path):
        return [path, *dicom.series_in(path)]
    if path.suffix.lower() == ".nrrd":
        name, listed = _nrrd_data(path)
    elif path.suffix.lower() in (".mhd", ".mha"):
        header, listed = _header(path)
        name = header.get(_DATA, "LOCAL")
    else:
        return [path]
    first = (name.split() or [""])[0].upper()
    if not name or first == "LOCAL":
        names = []
    elif first == "LIST":
        names = listed
    elif (counted := _counted(name)) is not None:
        names = counted
    else:
        names = [name]
    return [path, *(path.parent / one for one in names)]


_DATA = "ElementDataFile"
_MOST_SLICES = 10_000
_LONGEST = 1 << 16  # bytes of a header's line; voxels have no lines


def _header(path: Path) -> tuple[dict[str, str], list[str]]:
    """The fields of a MetaImage header, and the files listed after it; empty when it is none."""
    fields: dict[str, str] = {}
    try:
        require_regular(path)
        with path.open("rb") as file:
            while line := file.readline(_LONGEST):
                key, equals, value = line.decode(errors="replace").partition("=")
                if not equals:
                    break
                fields[key.strip()] = value.strip()
                if key.strip() == _DATA:
                    break
            if not fields.get(_DATA, "").upper().startswith("LIST"):
                return fields, []
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return {}, []
    return fields, [line.strip() for line in lines if line.strip()]


def _nrrd_data(path: Path) -> tuple[str, list[str]]:
    """What an NRRD header says of the files with its voxels ("LOCAL": none), and those listed."""
    name, listed = "LOCAL", []
    try:
        require_regular(path)
        with path.open("rb") as file:
            while (line := file.readline(_LONGEST).decode(errors="replace").strip()) != "":
                key, _, value = line.partition(":")
                if key.strip().lower().replace(" ", "") == "datafile":
                    name = value.strip()
                    if name.upper().startswith("LIST"):  # up to the end of the file
                        listed = file.read().decode(errors="replace").splitlines()
                        break
    except OSError:
        return "LOCAL", []
    return name, [line.strip() for line in listed if line.strip()]


def _counted(name: str) -> list[str] | None:
    """The files of a pattern with its first and last number and its step; None for no pattern.

    NRRD may have the dimension of a file's content behind them.
    """
    pattern, *numbers = name.split()
    if "%" not in pattern or not 2 <= len(numbers) <= 4:
        return None
    try:
        first, last, step = map(int, [*numbers, "1"][:3])
        return [pattern % number for number in range(first, last + 1, step)[:_MOST_SLICES]]
    except (ValueError, TypeError):
        return None


def _read_nifti(path: Path) -> tuple[np.ndarray, NDArray[np.float64]]:
    try:
        import nibabel
    except ImportError:
        raise Unreadable(_INSTALL.format("nibabel")) from None
    try:
        require_regular(path)
        if path.suffix.lower() == ".gz":
            _check_gzip(path)  # nibabel stops reading before the checksum at the end
        # Both say on the console, too, what is wrong with a header.
        with nibabel.imageglobals.LoggingOutputSuppressor(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Nifti1Image = nibabel.load(path)  # type: ignore[assignment]
            affine = image.affine
            array = np.asarray(image.dataobj)
    except MemoryError as e:
        raise Unreadable("by its header is larger than the memory: is the header damaged?") from e
    except Exception as e:  # nibabel lets many kinds through; each means damage.
        raise Unreadable(f"is damaged or no NIfTI file: {_line(e, path)}") from e
    if affine is None:
        raise Unreadable("says nothing about the position of its voxels")
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
        for file in files_of(path):
            require_regular(file)
    except OSError as error:
        raise Unreadable(str(error.strerror)) from error
    try:
        return _of_itk(SimpleITK.ReadImage(str(path)))
    except RuntimeError as error:
        raise Unreadable(f"is damaged or no volume: {_line(error, path)}") from error


def _read_picture(path: Path) -> tuple[np.ndarray, NDArray[np.float64]]:
    """A picture as a volume of one slice, whose pixels have sides of 1 mm.

    A palette gives its indices, which are what a mask means by it. Alpha is dropped. Colours stay
    channels, unless all are alike.
    """
    from PIL import Image

    from fedsim.data.images import opened_picture

    try:
        with opened_picture(path) as opened:
            if (frames := getattr(opened, "n_frames", 1)) > 1 and opened.format != "MPO":
                raise Unreadable(f"holds {frames} pictures (pages or frames), not one")
            plain = opened.convert("RGB") if opened.mode in ("CMYK", "YCbCr", "LAB") else opened
            array = np.asarray(plain)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(f"is damaged or no picture: {_line(error, path)}") from error
    if array.ndim == 3:
        colours = array[..., : 1 if array.shape[2] < 3 else 3]
        alike = (colours == colours[..., :1]).all()
        array = colours[..., 0] if alike else colours[:, :, None]
    if array.dtype == bool:
        array = array.astype(np.uint8)
    array = array.swapaxes(0, 1)  # as files count: column, row
    # Rows go from front to back and columns to the left: nothing is turned.
    return array if array.ndim == 4 else array[..., None], np.diag([-1.0, -1.0, 1.0, 1.0])


def _of_itk(image: Any) -> tuple[np.ndarray, NDArray[np.float64]]:
    """The array and the affine of an image of SimpleITK."""
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(image)
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
    """Raise Unreadable when the file with a MetaImage's voxels is too small for them, or too large.

    Voxels in a file of another size belong to another header, and would be read out of place.
    """
    files = files_of(path)
    header, _ = _header(path)
    local = header.get(_DATA, "").upper() == "LOCAL"
    as_text = header.get("BinaryData", "True").lower() == "false"
    if len(files) != 2 - local or as_text or path.suffix.lower() == ".nrrd":
        return
    exact = False
    try:
        if header.get("CompressedData", "False").lower() == "true":
            wanted = int(header["CompressedDataSize"])
        else:
            kind = header["ElementType"].removeprefix("MET_").removeprefix("U")
            channels = int(header.get("ElementNumberOfChannels", "1"))
            wanted = int(np.prod([int(n) for n in header["DimSize"].split()]))
            wanted *= channels * _BYTES[kind]
            exact = "HeaderSize" not in header
    except (KeyError, ValueError):
        return  # SimpleITK knows more than this
    found = files[-1].stat().st_size - (_start(path) if local else 0)
    if found < wanted:
        raise Unreadable(f"is truncated: {files[-1].name} has {found} of {wanted} bytes")
    if exact and found > wanted:
        raise Unreadable(
            f"does not fit its voxels: {files[-1].name} has {found} bytes of them, and by its size "
            f"it is {wanted}"
        )


def _start(path: Path) -> int:
    """Where the voxels begin that follow a MetaImage header."""
    with path.open("rb") as file:
        while line := file.readline(_LONGEST):
            if line.partition(b"=")[0].strip() == _DATA.encode():
                break
        return file.tell()


def _is_place(affine: NDArray[np.float64]) -> bool:
    """Whether an affine says where voxels are: finite, with three axes that span a space."""
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if not np.isfinite(affine).all() or not (lengths > 0).all():
        return False
    return abs(float(np.linalg.det(affine[:3, :3] / lengths))) > _FLAT


def _one_channel(array: np.ndarray, channel: int | None) -> np.ndarray:
    """The one channel of a 4-D array."""
    if array.ndim != 4:
        if channel not in (None, 0):
            raise Unreadable(f"has one channel, not a channel {channel}")
        return array
    count = array.shape[3]
    if channel is None and count > 1:
        raise SeveralChannels(count)
    if channel is not None and not 0 <= channel < count:
        raise Unreadable(f"has {count} channels, counted from 0, so none is {channel}")
    return array[..., channel or 0]


def _line(error: BaseException, path: Path) -> str:
    """The last line of a message, without the path that the caller names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text.replace(str(path), path.name).removeprefix("sitk::ERROR: ")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
