"""Read the files of one DICOM series as a volume, with SimpleITK."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data import dicom
from fedsim.data.volumes.unreadable import Unreadable
from fedsim.files import require_regular

_POSITION = "0020|0032"
_MODALITY = "0008|0060"
_UNEVEN = 0.1
"""How far, in distances of slices, one may lie from where even distances put it."""


def read_series(path: Path) -> Any:
    """The volume of a folder with one series, or of a file with all its slices.

    Slices are sorted by their position; the image is SimpleITK's.

    Raises:
        Unreadable: no series or several, files that are damaged, or slices that are missing.
    """
    try:
        import SimpleITK
    except ImportError:
        raise Unreadable("is DICOM: pip install SimpleITK") from None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with dicom.same_locale():
            return _series(path, SimpleITK) if os.path.isdir(path) else _file(path, SimpleITK)
    except OSError as error:
        raise Unreadable(str(error.strerror or error)) from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[-1].replace(str(path), path.name) if lines else "unknown"
        raise Unreadable(f"is damaged or no DICOM volume: {why}") from error


def _file(path: Path, sitk: Any) -> Any:
    require_regular(path)
    image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    _refuse_outlines(image)
    return image


def _series(folder: Path, sitk: Any) -> Any:
    files = dicom.series_in(folder)
    if not files:
        raise Unreadable("is a folder without DICOM files")
    for file in files:
        require_regular(file)
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder), False)
    if len(found) != 1:
        raise Unreadable(f"holds {len(found)} DICOM series, not one: give each a folder")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), found[0])
    if len(names) < len(files):
        raise Unreadable(f"holds {len(files)} DICOM files, {len(names)} of them of the series")
    if len(names) == 1:
        return _file(Path(names[0]), sitk)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    _refuse_gaps([_position(reader, i) for i in range(len(names))])
    return image


def _position(reader: Any, i: int) -> list[float] | None:
    if not reader.HasMetaDataKey(i, _POSITION):
        return None
    try:
        return [float(text) for text in reader.GetMetaData(i, _POSITION).split("\\")]
    except ValueError:
        return None


def _refuse_gaps(positions: list[list[float] | None]) -> None:
    """Raise Unreadable where slices do not follow each other evenly."""
    if any(position is None for position in positions):
        raise Unreadable("has slices without a position (ImagePositionPatient)")
    steps = np.diff(np.array(positions, dtype=np.float64), axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    usual = float(np.median(lengths))
    if usual <= 0 or (lengths < usual * _UNEVEN).any():
        raise Unreadable("has several slices at one position: are two series in the folder?")
    wide = np.flatnonzero(np.abs(lengths - usual) > usual * _UNEVEN)
    if len(wide):
        raise Unreadable(
            f"has slices {usual:.3g} mm apart, and once {lengths[wide[0]]:.3g} mm: is one missing?"
        )


def _refuse_outlines(image: Any) -> None:
    modality = image.GetMetaData(_MODALITY).strip() if image.HasMetaDataKey(_MODALITY) else ""
    if modality in ("SEG", "RTSTRUCT"):
        raise Unreadable(f"is DICOM {modality}: save the outlines as a mask in NIfTI")
