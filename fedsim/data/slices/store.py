"""The store of complex slices: read and prepared once, kept as a memory map.

Like the store of images (fedsim/data/store.py): a folder in the cache whose name holds a hash of
everything the content depends on, there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.building import group_codes
from fedsim.data.copies import BYTES, Digests, digest, keep_together
from fedsim.data.dataset import usable
from fedsim.data.kept import (
    read_about,
    read_array,
    require_codes,
    require_digests,
    require_fingerprint,
    unusable,
    write_about,
)
from fedsim.data.preparing import store_of_files, store_of_stand_in, well_named
from fedsim.data.slices.dataset import Complex, EmbeddedSlices, SliceDataset, SliceManifest
from fedsim.data.slices.level import NOT_FINITE, levelled
from fedsim.data.source import (
    below,
    check_root,
    file_state,
    generated,
    hashed,
    lines_below,
    origin,
    plugin_error,
    refuse_broken,
    safe,
    stand_in,
)
from fedsim.errors import Problem
from fedsim.raising import one_line
from fedsim.tasks.reconstruction.sampling import Sampling

FORMAT = 1
"""Version of the preparation and of the files of a store; part of every store's key."""
_CODES = ("groups", "sites")
_BLOCK = 256


@dataclass(frozen=True, eq=False)
class SliceStore:
    """A prepared data set of complex slices.

    Attributes:
        images: float32 [n, 2, H, W], real and imaginary part, memory-mapped, read-only; the largest
            magnitude of each slice is 1.
        groups: int64 [n], codes of patients; slices with one code never part.
        sites: int64 [n], positions in `site_names`.
        site_names: names of the sites, sorted.
        ids: the name of each slice.
        labels: int64 [n], all 0: to splits and partitions every slice is of one class.
        classes: the name of that class.
        fingerprint: SHA-256 over images, groups and sites.
        source: "embedded" (a generated stand-in) or "path" (read from `root`).
        root: the folder it was read from, or None.
        folder: the folder it is kept in.
        skipped: files left out because they cannot be used, and why.
        sampling: what a run measures of k-space; no part of what is kept.
        notes, patients, digests, columns: see `fedsim.data.store.Store`.
    """

    images: NDArray[np.float32]
    groups: NDArray[np.int64]
    sites: NDArray[np.int64]
    site_names: tuple[str, ...]
    ids: tuple[str, ...]
    fingerprint: str
    source: str
    root: str | None
    folder: Path
    skipped: tuple[str, ...]
    notes: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    digests: Digests = field(default_factory=lambda: np.zeros((0, BYTES), np.uint8))
    classes: tuple[str, ...] = ("slice",)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)

    @classmethod
    def open(cls, folder: str | Path, checked: bool = False) -> SliceStore:
        """Open a prepared store.

        Args:
            folder: where it is.
            checked: its bytes were checked already, by the process that started this one.

        Raises:
            InputError: the folder is none or is damaged.
        """
        folder = Path(folder)
        try:
            about = read_about(folder, ("site_names", "ids", "skipped", "notes", "patients"))
            n = len(about["ids"])
            images = read_array(folder / "images.npy", "f4", (n, 2, None, None), mapped=True)
            arrays = {name: read_array(folder / f"{name}.npy", "i8", (n,)) for name in _CODES}
            arrays["digests"] = read_array(folder / "digests.npy", "u1", (n, BYTES))
            require_digests(arrays["digests"], about)
            require_codes("sites", arrays["sites"], len(about["site_names"]))
            require_codes("groups", arrays["groups"], n)
            if not checked:
                require_fingerprint(_fingerprint(images, arrays, about["site_names"]), about)
            return cls(images=images, folder=folder, **arrays, **about)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise unusable(folder, error) from error

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return int(self.images.shape[-1])

    @property
    def labels(self) -> NDArray[np.int64]:
        """All 0."""
        return np.zeros(len(self), dtype=np.int64)


def prepare_slices(
    dataset: SliceDataset,
    *,
    name: str,
    root: Path | None,
    size: int,
    embedded: Mapping[str, Any],
    skip_bad: bool,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> SliceStore:
    """Open the store of a data set, building it first when the cache does not hold it.

    Args:
        dataset: the plugin.
        name: what the scenario calls it.
        root: the folder to read from; None generates the stand-in.
        size: height and width of the slices in pixels.
        embedded: parameters of the stand-in; ignored when `root` is given.
        skip_bad: leave out files that cannot be used instead of refusing.
        cache: the folder that holds stores; made when missing.
        progress: called with (files done, files in all).

    Raises:
        InputError: the data, or the stand-in's parameters, are wrong.
        RunError: the cache cannot be written.
    """
    if root is None:
        return _prepare_embedded(dataset, name, size, embedded, cache)
    check_root(name, root, dataset.layout)
    manifest: SliceManifest = usable(dataset.manifest, root, skip_bad)
    if not manifest.ids:
        raise plugin_error(name, ["no files"])
    manifest = well_named(manifest)

    def build(folder: Path) -> bool:
        made, broken = _read_all(dataset, manifest, size, progress)
        refuse_broken(
            list(broken.values()),
            len(manifest.ids) - len(broken),
            headline=f"{len(broken)} of {len(manifest.ids)} files of {name!r} cannot be used",
            layout=dataset.layout,
            skip_bad=skip_bad,
        )
        skipped = [*lines_below(manifest.bad, root)]
        skipped += [f"{below(Path(one.where), root)}: {one.message}" for one in broken.values()]
        _write(folder, made, source="path", root=str(root), skipped=skipped)
        return bool(broken)

    folder = cache / f"{safe(name)}-{size}-{_files_key(dataset, manifest, root, size)}"
    return store_of_files(SliceStore.open, manifest, root, folder, skip_bad, build)


@dataclass(frozen=True)
class _Made:
    """Slices that are ready to be written: float32 [n, 2, H, W], and what is known of each."""

    images: NDArray[np.float32]
    sites: list[str]
    groups: list[str]
    ids: list[str]


def _read_all(
    dataset: SliceDataset,
    manifest: SliceManifest,
    size: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[_Made, dict[int, Problem]]:
    """All slices of all files, and what is wrong with those that cannot be read, by position."""
    parts: list[NDArray[np.float32]] = [np.zeros((0, 2, size, size), np.float32)]
    sites: list[str] = []
    groups: list[str] = []
    ids: list[str] = []
    broken: dict[int, Problem] = {}
    for i, path in enumerate(manifest.paths):
        try:
            found = _middle(_complex(dataset.read(path)), dataset.slices)
            numbers = [k for k, one in enumerate(found) if np.abs(one).max() > 0]
            if not numbers:
                raise ValueError("all slices are zero")
            parts.append(np.stack([normalised(fitted(levelled(found[k]), size)) for k in numbers]))
        except (OSError, ValueError, KeyError) as error:
            broken[i] = Problem(str(path), one_line(error))
        else:
            sites += [manifest.sites[i]] * len(numbers)
            own = [f"{manifest.ids[i]}-{k:03d}" for k in numbers]
            groups += [manifest.groups[i]] * len(numbers)
            ids += own
        if progress is not None:
            progress(i + 1, len(manifest.paths))
    return _Made(np.concatenate(parts), sites, groups, ids), broken


def _complex(found: Complex) -> Complex:
    """What a plugin read; ValueError where it is something else."""
    if found.ndim != 3 or found.dtype.kind != "c":
        raise ValueError(f"holds {found.dtype} {found.shape}, and no complex slices [n, H, W]")
    if not np.isfinite(found).all():
        raise ValueError(NOT_FINITE)
    return found


def _middle(found: Complex, wanted: int | None) -> Complex:
    """So many slices around the middle one."""
    if wanted is None or wanted >= len(found):
        return found
    start = (len(found) - wanted) // 2
    return found[start : start + wanted]


def fitted(image: Complex, size: int) -> Complex:
    """A slice as a square of `size` pixels, complex64, that shows the same field of view.

    Zeros are laid around it until it is a square; then k-space is cut or padded around its middle.

    Args:
        image: complex [H, W].
        size: in pixels.
    """
    side = max(image.shape)
    square = _centred(image, side)
    if side == size:
        return square.astype(np.complex64)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(square), norm="ortho"))
    found = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(_centred(kspace, size)), norm="ortho"))
    return np.asarray(found * (size / side)).astype(np.complex64)


def _centred(array: NDArray[Any], size: int) -> NDArray[Any]:
    """An array cut or padded with zeros to a square; its middle pixel stays the middle one."""
    found = np.zeros((size, size), dtype=array.dtype)
    source, target = [], []
    for length in array.shape:
        shift = size // 2 - length // 2
        source.append(slice(max(0, -shift), min(length, size - shift)))
        target.append(slice(max(0, shift), max(0, shift) + source[-1].stop - source[-1].start))
    found[tuple(target)] = array[tuple(source)]
    return found


def normalised(image: Complex) -> NDArray[np.float32]:
    """Real and imaginary part, float32 [2, H, W]; the largest magnitude is 1."""
    scaled = image / np.abs(image).max()
    return np.stack([scaled.real, scaled.imag]).astype(np.float32)


def _prepare_embedded(
    dataset: SliceDataset, name: str, size: int, embedded: Mapping[str, Any], cache: Path
) -> SliceStore:
    generator, parameters = stand_in(
        dataset.embedded, {}, embedded, name=name, size=size, layout=dataset.layout
    )
    key = hashed(["slices", FORMAT, origin(generator), parameters])
    folder = cache / f"{safe(name)}-embedded-{size}-{key}"

    def make() -> EmbeddedSlices:
        made: EmbeddedSlices = generated(generator, parameters, name)
        return made

    def build(folder: Path, made: EmbeddedSlices) -> None:
        count = len(made.images)
        if made.images.shape != (count, size, size) or not (
            count and count == len(made.sites) == len(made.groups)
        ):
            raise plugin_error(name, [f"the stand-in's slices are {made.images.shape}"])
        images = np.stack([normalised(one) for one in _complex(made.images)])
        ids = [f"{safe(name)}-{i:06d}" for i in range(count)]
        ready = _Made(images, made.sites, made.groups, ids)
        _write(folder, ready, source="embedded", root=None, skipped=[])

    return store_of_stand_in(SliceStore.open, folder, make, build)


def _write(folder: Path, made: _Made, *, source: str, root: str | None, skipped: list[str]) -> None:
    """Write the files of a store; copies become one group."""
    content = np.frombuffer(b"".join(map(digest, made.images)), np.uint8).reshape(-1, BYTES)
    joined, notes = keep_together(content, made.groups, made.ids)
    site_names = sorted(set(made.sites))
    arrays = {
        "groups": group_codes(joined),
        "sites": np.array([site_names.index(site) for site in made.sites], dtype=np.int64),
    }
    np.save(folder / "images.npy", made.images)
    np.save(folder / "digests.npy", content)
    for name, codes in arrays.items():
        np.save(folder / f"{name}.npy", codes)
    write_about(
        folder,
        {
            "fingerprint": _fingerprint(made.images, arrays, site_names),
            "digests_sha256": hashlib.sha256(content.tobytes()).hexdigest(),
            "source": source,
            "root": root,
            "site_names": site_names,
            "skipped": skipped,
            "ids": made.ids,
            "notes": notes,
            "patients": made.groups,
        },
    )


def _fingerprint(
    images: NDArray[np.float32], arrays: Mapping[str, np.ndarray], site_names: Sequence[str]
) -> str:
    """SHA-256 over images, then groups and sites, and what their numbers stand for."""
    digest_ = hashlib.sha256(json.dumps([images.shape, list(site_names)]).encode())
    for block in _blocks(images):
        digest_.update(np.ascontiguousarray(block, dtype="<f4").data)
    for name in _CODES:
        digest_.update(arrays[name].astype("<i8").tobytes())
    return digest_.hexdigest()


def _blocks(images: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(images), _BLOCK):
        yield images[start : start + _BLOCK]


def _files_key(dataset: SliceDataset, manifest: SliceManifest, root: Path, size: int) -> str:
    """Hash what the store of these files depends on; a file's size and time stand for its bytes."""
    kind = [type(dataset).__module__, type(dataset).__qualname__]
    options = {key: value for key, value in vars(dataset).items() if key != "sampling"}
    files = [
        [below(path, root), file_state(path), manifest.sites[i], manifest.groups[i]]
        for i, path in enumerate(manifest.paths)
    ]
    about = [FORMAT, size, kind, options, lines_below(manifest.bad, root)]
    return hashed(["slices", about, files])
