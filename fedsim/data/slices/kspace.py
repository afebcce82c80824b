"""Data of k-space: the layouts of fastMRI, Calgary-Campinas (CC359) and MoDL, by path.

Files are told apart by what is in them, so that one folder may hold all three: each folder below
the root is a site, as the federation of Wu et al. ("FedAutoMRI", 2023) has it. Of several coils one
virtual coil is made, the first of a singular value decomposition (Buehrer et al., "Array
compression for MRI with large coil arrays", 2007): it is linear, so what is measured of it is
k-space of its image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.phantom.brain import brain_stand_in
from fedsim.data.slices.dataset import Complex, SliceDataset, SliceManifest
from fedsim.data.slices.level import NOT_FINITE, levelled
from fedsim.errors import InputError, Problem

HDF5 = (".h5", ".hdf5")
SUFFIXES = (*HDF5, ".npy")
_MODL = ("trnOrg", "tstOrg")
_UNNAMED = (
    "files of MoDL do not name patients: slices of one patient may be on both sides of the split"
)


class KSpace(SliceDataset):
    """Measured k-space by path, with slices like a brain's of three scanners as stand-in."""

    embedded = brain_stand_in
    layout = (
        "a folder for each site with files of fastMRI (.h5), CC359 (.npy or .h5) or MoDL (.hdf5), "
        "or these files themselves"
    )

    def manifest(self, root: Path) -> SliceManifest:
        """All files with a known ending; the first folder below the root is the site.

        A file is a patient, but for files of fastMRI, which name theirs, and those of MoDL.
        """
        paths = sorted(path for path in root.rglob("*") if _wanted(path, root))
        if not paths:
            raise InputError(
                f"there are no files of k-space below {root}",
                [Problem(str(root), f"expected there: {self.layout}")],
                "check data.root",
            )
        if any(_hdf5(path) for path in paths):
            _h5py()
        parts = [path.relative_to(root).parts for path in paths]
        ids = _names(["/".join(part) for part in parts])
        groups = [_patient(path, name) for path, name in zip(paths, ids, strict=True)]
        return SliceManifest(
            paths,
            [part[0] if len(part) > 1 else "kspace" for part in parts],
            groups,
            ids,
            notes=(_UNNAMED,) if "" in groups else (),
        )

    def read(self, path: Path) -> Complex:
        """The slices of a file, of one (virtual) coil."""
        if not _hdf5(path):
            return calgary(_loaded(path))
        with _h5py().File(path, "r") as file:
            keys = set(file)
            if keys & set(_MODL):
                return modl({name: _array(file, name) for name in _MODL if name in keys})
            if "kspace" not in keys:
                raise ValueError(
                    f"has no k-space: its keys are {', '.join(sorted(keys)) or 'none'}; expected "
                    "kspace (fastMRI, CC359), or trnOrg and tstOrg (MoDL)"
                )
            if "mask" in keys:
                raise ValueError(
                    "holds k-space that was measured in part (it has a mask, as fastMRI's test "
                    "files have): nothing is known of the rest"
                )
            found = _array(file, "kspace")
        return fastmri(found) if found.dtype.kind == "c" else calgary(found)


def fastmri(kspace: NDArray[Any]) -> Complex:
    """Slices of fastMRI: k-space [slices, coils, rows, columns], or of one coil without its axis.

    Rows are sampled twice as densely as needed: the middle half of the image's rows is kept where
    it has more rows than columns.

    Raises:
        ValueError: the array is something else.
    """
    if kspace.ndim not in (3, 4) or not kspace.size:
        raise ValueError(f"holds k-space {kspace.shape}, expected [slices, (coils,) rows, columns]")
    coils = kspace if kspace.ndim == 4 else kspace[:, None]
    images = _images(coils)
    rows, columns = images.shape[2:]
    if rows > columns:
        images = images[:, :, rows // 4 : rows // 4 + rows // 2]
    return virtual_coil(images)


def calgary(kspace: NDArray[Any]) -> Complex:
    """Slices of CC359: k-space [slices, rows, columns, 2 * coils], real and imaginary by turns.

    Its frequency 0 is at the corner, as the files have it.

    Raises:
        ValueError: the array is something else.
    """
    if kspace.ndim != 4 or kspace.shape[-1] % 2 or kspace.dtype.kind != "f" or not kspace.size:
        raise ValueError(
            f"holds {kspace.dtype} {kspace.shape}, expected k-space of real numbers "
            "[slices, rows, columns, 2 * coils]"
        )
    coils = np.moveaxis(kspace[..., 0::2] + 1j * kspace[..., 1::2], -1, 1)
    images = np.fft.ifft2(coils, norm="ortho")
    return virtual_coil(images)


def modl(arrays: dict[str, NDArray[Any]]) -> Complex:
    """Slices of MoDL's data set: complex images [slices, rows, columns], training before test.

    Raises:
        ValueError: an array is something else.
    """
    for name, found in arrays.items():
        if found.ndim != 3 or found.dtype.kind != "c":
            raise ValueError(f"{name} holds {found.dtype} {found.shape}, expected complex slices")
    if len({found.shape[1:] for found in arrays.values()}) > 1:
        shapes = " and ".join(f"{name} {found.shape}" for name, found in arrays.items())
        raise ValueError(f"holds slices of several sizes: {shapes}")
    return np.concatenate([arrays[name] for name in sorted(arrays)])


def virtual_coil(images: NDArray[Any]) -> Complex:
    """One coil out of several: for each slice the combination with the most energy.

    Args:
        images: complex [slices, coils, H, W].

    Returns:
        complex64 [slices, H, W].

    Raises:
        ValueError: values are NaN or infinite.
    """
    if images.shape[1] == 1:
        return images[:, 0].astype(np.complex64)
    if not np.isfinite(images).all():
        raise ValueError(NOT_FINITE)
    found = np.empty((len(images), *images.shape[2:]), dtype=np.complex64)
    for number, coils in enumerate(images):
        flat = coils.reshape(len(coils), -1)
        level = levelled(flat)  # So that products are neither 0 nor infinite.
        _, vectors = np.linalg.eigh(level @ level.conj().T)
        found[number] = (vectors[:, -1].conj() @ flat).reshape(coils.shape[1:])
    return found


def _images(kspace: NDArray[Any]) -> NDArray[Any]:
    """Images of k-space whose frequency 0 is in the middle."""
    shifted = np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho")
    return np.asarray(np.fft.fftshift(shifted, axes=(-2, -1)))


def _wanted(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in SUFFIXES and path.is_file() and not hidden


def _hdf5(path: Path) -> bool:
    return path.suffix.lower() in HDF5


def _names(paths: list[str]) -> list[str]:
    """Names of files without their endings, but where two would be the same."""
    short = [path.rsplit(".", 1)[0] for path in paths]
    return [s if short.count(s) == 1 else p for s, p in zip(short, paths, strict=True)]


def _patient(path: Path, name: str) -> str:
    """The patient whom a file names, "" for one of MoDL, and else the file's own name."""
    if not _hdf5(path):
        return name
    try:
        with _h5py().File(path, "r") as file:
            if set(file) & set(_MODL):
                return ""
            told = file.attrs.get("patient_id", b"")
    except (OSError, RuntimeError, KeyError):
        return name  # That it cannot be read is said when it is read.
    told = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
    return told.strip() or name


def _loaded(path: Path) -> NDArray[Any]:
    """The array of a .npy file; ValueError where it holds something else."""
    try:
        found = np.load(path, allow_pickle=False)
    except EOFError as error:
        raise ValueError("is empty") from error
    if not isinstance(found, np.ndarray):
        raise ValueError("holds several arrays (.npz), expected one")
    return found


def _array(file: Any, name: str) -> NDArray[Any]:
    """An array of an open HDF5 file; ValueError where the name is that of a group."""
    if not isinstance(file[name], _h5py().Dataset):
        raise ValueError(f"{name} is a group, expected an array")
    return np.asarray(file[name][()])


def _h5py() -> Any:
    """h5py, which not everybody has."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "files of fastMRI, CC359 and MoDL are HDF5, and h5py is not installed",
            hint="type: pip install '.[kspace]' in fedsim's folder",
        ) from error
    return h5py
