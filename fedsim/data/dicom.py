"""Read DICOM files with SimpleITK: pictures with their grey values, and what headers say.

Values are rescaled (slope and intercept) by SimpleITK. Windows: DICOM PS3.3, C.11.2.1.
"""

from __future__ import annotations

import contextlib
import locale
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.files import require_regular

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Of DICOM files; many have none, see `is_dicom`."""

_MAGIC = (128, b"DICM")
_DIRECTORY = "DICOMDIR"
_PATIENT, _INSTITUTION = "0010|0020", "0008|0080"
_CENTRE, _WIDTH, _FUNCTION = "0028|1050", "0028|1051", "0028|1056"
_PHOTOMETRIC, _SHAPE, _BITS = "0028|0004", "2050|0020", "0028|0101"
_MODALITY = "0008|0060"
_TURNED = re.compile(rb"(\x28\x00\x04\x00(?:CS\x0c\x00|\x0c\x00\x00\x00)MONOCHROME)1")
_OUTLINES = {"SEG": "a segmentation", "RTSTRUCT": "contours"}


@dataclass(frozen=True)
class Picture:
    """One picture of a DICOM file.

    Attributes:
        values: grey values [H, W] after rescaling, or uint8 RGB [H, W, 3].
        deep: whether it has grey values of more than 8 bits.
        window: what its file says becomes black and white; None where it says nothing.
        inverted: whether the smallest value is white.
    """

    values: np.ndarray
    deep: bool
    window: tuple[float, float] | None
    inverted: bool


@dataclass(frozen=True)
class Header:
    """Who a DICOM file is of and where it was made; "" where it does not say."""

    patient: str
    institution: str


@contextlib.contextmanager
def same_locale() -> Iterator[None]:
    """Put the process's locale back: GDCM sets it to C, and then no text file takes an umlaut."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        if locale.setlocale(locale.LC_ALL) != before:
            locale.setlocale(locale.LC_ALL, before)


def has_name(path: Path) -> bool:
    """Whether a file is called as DICOM files are: by suffix, or so that only its content says."""
    return path.suffix.lower() in SUFFIXES


def may_be(path: Path) -> bool:
    """Whether a name has no suffix, as DICOM files of archives have none (IM0001, 1.2.840.1)."""
    return (not path.suffix or path.suffix[1:].isdigit()) and path.name.upper() != _DIRECTORY


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix, or without one by the mark in its content."""
    if has_name(path):
        return True
    if not may_be(path):
        return False
    start, mark = _MAGIC
    try:
        require_regular(path)
        with path.open("rb") as file:
            file.seek(start)
            return file.read(len(mark)) == mark
    except OSError:
        return False


def read_picture(path: str | Path) -> Picture:
    """Read the one picture of a file.

    Raises:
        OSError: the file is missing, unreadable or truncated, or no DICOM file.
        ValueError: it holds no picture, several, or values of more than 8 bits in colour.
    """
    image = _read(Path(path))
    tags = _tags(image)
    if tags.get(_PHOTOMETRIC) == "MONOCHROME1":
        image = _as_stored(Path(path))
    if (modality := tags.get(_MODALITY, "")) in _OUTLINES:
        raise ValueError(f"is {_OUTLINES[modality]} (DICOM {modality}), not a picture")
    size = image.GetSize()
    frames = size[2] if len(size) > 2 else 1
    if frames != 1:
        raise ValueError(f"holds {frames} pictures (pages or frames), not one")
    values = _sitk().GetArrayFromImage(image)
    values = values[0] if len(size) > 2 else values
    if image.GetNumberOfComponentsPerPixel() > 1:
        if values.dtype != np.uint8 or values.shape[-1] < 3:
            raise ValueError("colours of more than 8 bits a channel; save it with 8")
        return Picture(values[..., :3], False, None, False)
    inverted = tags.get(_PHOTOMETRIC) == "MONOCHROME1" or tags.get(_SHAPE) == "INVERSE"
    deep = values.dtype != np.uint8
    return Picture(values, deep, _window(tags), inverted)


def read_depth(path: Path) -> tuple[bool, tuple[float, float] | None]:
    """`deep` and `window` of the picture in a file, without reading it."""
    reader = _informed(path)
    if reader.GetNumberOfComponents() > 1:
        return False, None
    return reader.GetPixelID() != _sitk().sitkUInt8, _window(_tags(reader))


def read_looks(path: Path) -> tuple[tuple[int, int], str]:
    """Width and height of the picture in a file, and what kind it is, without reading it."""
    reader = _informed(path)
    width, height = reader.GetSize()[:2]
    kind = "DICOM, colour"
    if reader.GetNumberOfComponents() == 1:
        kind = f"DICOM, {_tag(reader, _BITS) or '?'} bits"
    return (width, height), kind


def read_header(path: Path) -> Header:
    """What a file says of patient and institution; nothing where it cannot be read."""
    try:
        require_regular(path)
        reader = _informed(path)
    except (OSError, RuntimeError):
        return Header("", "")
    return Header(_tag(reader, _PATIENT), _tag(reader, _INSTITUTION))


def series_in(folder: Path) -> list[Path]:
    """The DICOM files that lie in a folder itself, by name; [] where there are none."""
    try:
        files = sorted(folder.iterdir())
    except OSError:
        return []
    return [file for file in files if file.name[0] != "." and file.is_file() and is_dicom(file)]


def _window(tags: Mapping[str, str]) -> tuple[float, float] | None:
    """The first window of a file, as the values that become black and white."""
    try:
        centre, width = (float(tags[tag].split("\\")[0]) for tag in (_CENTRE, _WIDTH))
    except (KeyError, ValueError):
        return None
    if not np.isfinite([centre, width]).all() or width < 1:
        return None
    if tags.get(_FUNCTION, "LINEAR") == "LINEAR":  # between the middles of the outermost values
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return centre - width / 2, centre + width / 2


def _read(path: Path) -> Any:
    require_regular(path)
    if not os.path.exists(path):
        raise FileNotFoundError(2, "the file does not exist", str(path))
    try:
        with same_locale():
            return _reader(path).Execute()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[-1].replace(str(path), path.name) if lines else "unknown"
        raise OSError(f"is damaged or no DICOM picture: {why}") from error


def _as_stored(path: Path) -> Any:
    """A picture whose smallest value is white, with its values as they are.

    GDCM turns such pictures over while it decodes some kinds of them: by all bits there are, before
    it rescales. So it is told that the smallest value is black.
    """
    content, count = _TURNED.subn(rb"\g<1>2", path.read_bytes())
    if not count:
        raise ValueError("is MONOCHROME1 in a form that cannot be read; save it uncompressed")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(content)
        return _read(copy)


def _informed(path: Path) -> Any:
    """A reader that has read the header of a file."""
    with same_locale():
        reader = _reader(path)
        reader.ReadImageInformation()
    return reader


def _reader(path: Path) -> Any:
    sitk = _sitk()
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _sitk() -> Any:
    import SimpleITK

    # Its warnings go to standard error, past everything.
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _tags(image: Any) -> dict[str, str]:
    names = (_CENTRE, _WIDTH, _FUNCTION, _PHOTOMETRIC, _SHAPE, _MODALITY)
    return {name: value for name in names if (value := _tag(image, name))}


def _tag(image: Any, name: str) -> str:
    """A value as text, without what fills it up; "" where there is none."""
    if not image.HasMetaDataKey(name):
        return ""
    value: str = image.GetMetaData(name)
    return value.strip().strip("\0").strip()
