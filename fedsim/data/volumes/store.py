"""The store of volumes: read and prepared once, kept as memory maps.

Like the store of images (fedsim/data/store.py): a folder in the cache whose name holds a hash of
everything the content depends on, there whole or not at all. Volumes differ in shape, so all of
them lie one after another in one flat file, and their outlines in another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.copies import BYTES, Digests
from fedsim.data.dataset import usable
from fedsim.data.kept import (
    read_about,
    read_array,
    require_codes,
    require_digests,
    require_fingerprint,
    unusable,
)
from fedsim.data.preparing import store_of_files, store_of_stand_in, well_named
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
from fedsim.data.volumes.case import BrokenCase, Prepared, read_case
from fedsim.data.volumes.dataset import (
    EmbeddedVolumes,
    VolumeCase,
    VolumeDataset,
    VolumeManifest,
)
from fedsim.data.volumes.preparing import Preparation, prepare_volume
from fedsim.data.volumes.reading import files_of
from fedsim.data.volumes.writing import IMAGES, MASKS, StoreWriter, VolumesDigest
from fedsim.errors import InputError, Problem

FORMAT = 4
"""Version of the preparation and of the files of a store; part of every store's key."""

_MOST = 255
"""Structures that a label of 8 bits can tell apart."""


@dataclass(frozen=True, eq=False)
class VolumeStore:
    """A prepared data set of volumes with outlines.

    Attributes:
        structures: names of the label values 1, 2, ...
        ids: the name of each case.
        sites: int64 [n], positions in `site_names`.
        site_names: names of the sites, sorted.
        groups: int64 [n], codes of patients; cases with one code never part.
        labels: int64 [n], all 0: to splits and partitions every case is of one class.
        classes: the name of that class.
        shapes: int64 [n, 3], voxels along D (to the head), H (to the back) and W (to the left).
        spacing: float64 [n, 3], distance of voxels along D, H and W in mm.
        fingerprint: SHA-256 over volumes, outlines, shapes, spacing, sites and groups.
        source: "embedded" (a generated stand-in) or "path" (read from `root`).
        root: the folder it was read from, or None.
        folder: the folder it is kept in.
        skipped: cases left out because they cannot be used, and why.
        notes, patients, digests, columns: see `fedsim.data.store.Store`.
    """

    structures: tuple[str, ...]
    ids: tuple[str, ...]
    sites: NDArray[np.int64]
    site_names: tuple[str, ...]
    groups: NDArray[np.int64]
    shapes: NDArray[np.int64]
    spacing: NDArray[np.float64]
    fingerprint: str
    source: str
    root: str | None
    folder: Path
    skipped: tuple[str, ...]
    _images: NDArray[np.float32] = field(repr=False)
    _masks: NDArray[np.uint8] = field(repr=False)
    notes: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    digests: Digests = field(default_factory=lambda: np.zeros((0, BYTES), np.uint8))
    classes: tuple[str, ...] = ("case",)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path, checked: bool = False) -> VolumeStore:
        """Open a prepared store.

        Args:
            folder: where it is.
            checked: its bytes were checked already, by the process that started this one.

        Raises:
            InputError: the folder is none or is damaged.
        """
        folder = Path(folder)
        try:
            about = read_about(
                folder, ("structures", "site_names", "ids", "skipped", "notes", "patients")
            )
            n = len(about["ids"])
            arrays = {
                "shapes": read_array(folder / "shapes.npy", "i8", (n, 3)),
                "spacing": read_array(folder / "spacing.npy", "f8", (n, 3)),
                "sites": read_array(folder / "sites.npy", "i8", (n,)),
                "groups": read_array(folder / "groups.npy", "i8", (n,)),
                "digests": read_array(folder / "digests.npy", "u1", (n, BYTES)),
            }
            require_digests(arrays["digests"], about)
            require_codes("sites", arrays["sites"], len(about["site_names"]))
            require_codes("groups", arrays["groups"], n)
            if arrays["shapes"].min() < 1 or not np.isfinite(arrays["spacing"]).all():
                raise ValueError("shapes or spacings are no sizes")
            count = int(arrays["shapes"].prod(axis=1).sum())
            for name, kind in ((IMAGES, "<f4"), (MASKS, "u1")):
                if (folder / name).stat().st_size != count * np.dtype(kind).itemsize:
                    raise ValueError(f"{name} does not hold {count} voxels")
            images = np.memmap(folder / IMAGES, "<f4", "r", shape=(count,))
            masks = np.memmap(folder / MASKS, "u1", "r", shape=(count,))
            store = cls(folder=folder, _images=images, _masks=masks, **arrays, **about)
            if not checked:
                require_fingerprint(store._recomputed(arrays), about)
            return store
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise unusable(folder, error) from error

    def _recomputed(self, arrays: Mapping[str, np.ndarray]) -> str:
        """The fingerprint of what is in the files now."""
        digest = VolumesDigest()
        start = 0
        for size in self.shapes.prod(axis=1).tolist():
            digest.add(self._images[start : start + size].data)
            digest.add(self._masks[start : start + size].data)
            start += size
        return digest.finish(self.structures, self.site_names, arrays)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> NDArray[np.int64]:
        """All 0."""
        return np.zeros(len(self), dtype=np.int64)

    def image(self, case: int) -> NDArray[np.float32]:
        """The normalised intensities of a case, float32 [D, H, W], copied."""
        return np.array(self.mapped(case)[0])

    def label(self, case: int) -> NDArray[np.uint8]:
        """The label values of a case, uint8 [D, H, W], copied."""
        return np.array(self.mapped(case)[1])

    def mapped(self, case: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Image and label of a case as read-only views of the memory maps, to cut patches from."""
        if not 0 <= case < len(self):
            raise IndexError(f"there is no case {case}: the store has {len(self)}")
        start = int(self.shapes[:case].prod(axis=1).sum())
        shape = tuple(self.shapes[case].tolist())
        end = start + int(np.prod(shape))
        return self._images[start:end].reshape(shape), self._masks[start:end].reshape(shape)


def prepare_volumes(
    dataset: VolumeDataset,
    *,
    name: str,
    root: Path | None,
    size: int,
    embedded: Mapping[str, Any],
    skip_bad: bool,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> VolumeStore:
    """Open the store of a data set, building it first when the cache does not hold it.

    Args:
        dataset: the plugin.
        name: what the scenario calls it.
        root: the folder to read from; None generates the stand-in.
        size: height and width of the slices in voxels.
        embedded: parameters of the stand-in; ignored when `root` is given.
        skip_bad: leave out cases that cannot be used instead of refusing.
        cache: the folder that holds stores; made when missing.
        progress: called with (cases done, cases in all) while files are read.

    Raises:
        InputError: the data, or the stand-in's parameters, are wrong.
        RunError: the cache cannot be written.
    """
    how = dataset.preparation(size)
    if root is None:
        return _prepare_embedded(dataset, name, size, how, embedded, cache)
    check_root(name, root, dataset.layout)
    manifest: VolumeManifest = usable(dataset.manifest, root, skip_bad)
    _check(name, manifest)
    manifest = well_named(manifest)
    _refuse_shared(manifest)
    options = [FORMAT, vars(how), dataset.orientation, dataset.channel]
    key = _files_key(manifest, root, [*options, lines_below(manifest.bad, root)])

    def build(folder: Path) -> bool:
        broken: dict[int, list[Problem]] = {}
        writer = StoreWriter(folder)
        for i in range(len(manifest.ids)):
            try:
                writer.add(_read(dataset, manifest, i, how))
            except BrokenCase as error:
                broken[i] = error.problems
            if progress is not None:
                progress(i + 1, len(manifest.ids))
        wrong = [problem for problems in broken.values() for problem in problems]
        refuse_broken(
            wrong,
            len(manifest.ids) - len(broken),
            headline=f"{len(broken)} of {len(manifest.ids)} cases of {name!r} cannot be used",
            layout=dataset.layout,
            skip_bad=skip_bad,
        )
        keep = [i for i in range(len(manifest.ids)) if i not in broken]
        writer.finish(
            structures=manifest.structures,
            sites=[manifest.sites[i] for i in keep],
            groups=[manifest.groups[i] for i in keep],
            ids=[manifest.ids[i] for i in keep],
            source="path",
            root=str(root),
            skipped=[
                *lines_below(manifest.bad, root),
                *(f"{below(Path(one.where), root)}: {one.message}" for one in wrong),
            ],
        )
        return bool(broken)

    folder = cache / f"{safe(name)}-{size}-{key}"
    return store_of_files(VolumeStore.open, manifest, root, folder, skip_bad, build)


def _prepare_embedded(
    dataset: VolumeDataset,
    name: str,
    size: int,
    how: Preparation,
    embedded: Mapping[str, Any],
    cache: Path,
) -> VolumeStore:
    generator, parameters = stand_in(
        dataset.embedded, vars(dataset), embedded, name=name, size=size, layout=dataset.layout
    )
    key = hashed(["volumes", FORMAT, origin(generator), parameters, vars(how)])
    folder = cache / f"{safe(name)}-embedded-{size}-{key}"

    def make() -> EmbeddedVolumes:
        made: EmbeddedVolumes = generated(generator, parameters, name)
        return made

    def build(folder: Path, made: EmbeddedVolumes) -> None:
        writer = StoreWriter(folder)
        names: list[tuple[str, str]] = []
        for case in _checked(name, made.cases, len(made.structures)):
            writer.add(Prepared(*prepare_volume(case.image, case.label, case.spacing, how)))
            names.append((case.site, case.case))
        writer.finish(
            structures=made.structures,
            sites=[site for site, _ in names],
            groups=[""] * len(names),
            ids=[case for _, case in names],
            source="embedded",
            root=None,
            skipped=[],
        )

    return store_of_stand_in(VolumeStore.open, folder, make, build)


def _read(dataset: VolumeDataset, manifest: VolumeManifest, i: int, how: Preparation) -> Prepared:
    return read_case(
        manifest.images[i],
        manifest.masks[i],
        manifest.structures,
        how,
        channel=dataset.channel,
        canonical=dataset.orientation == "canonical",
    )


def _check(name: str, manifest: VolumeManifest) -> None:
    """Check what a plugin returned, so that its mistakes are not met rounds later."""
    wrong = []
    columns = (manifest.images, manifest.masks, manifest.sites, manifest.groups, manifest.ids)
    if len({len(column) for column in columns}) > 1:
        wrong.append("images, masks, sites, groups and ids differ in number")
    elif not manifest.ids:
        wrong.append("no cases")
    elif not all(manifest.masks):
        wrong.append("a case has no mask")
    if len(manifest.structures) > _MOST:
        raise InputError(
            f"{len(manifest.structures)} structures are named, and {_MOST} are the most",
            hint="outlines are kept as numbers of 8 bits",
        )
    if not manifest.structures or len(set(manifest.structures)) < len(manifest.structures):
        wrong.append(f"structures must be different names, not {list(manifest.structures)}")
    if wrong:
        raise plugin_error(name, wrong)


def _refuse_shared(manifest: VolumeManifest) -> None:
    """Raise InputError where a mask is its own image, or that of images of several patients.

    Images of several kinds share a mask where they show one patient, who must not part.
    """
    first: dict[str, int] = {}
    problems = []
    for i, masks in enumerate(manifest.masks):
        image, group = manifest.images[i], manifest.groups[i]
        for mask in masks:
            path = os.path.normpath(mask.path)
            other = first.setdefault(path, i)
            if path == os.path.normpath(image):
                problems.append(Problem(str(image), "is an image and its own mask"))
            elif other != i and (not group or group != manifest.groups[other]):
                problems.append(
                    Problem(
                        str(mask.path),
                        f"is the mask of {manifest.ids[other]} and of {manifest.ids[i]}: if both "
                        "show one patient, give them one group",
                    )
                )
    if problems:
        raise InputError("masks are named in two places", problems)


def _checked(name: str, cases: Iterable[VolumeCase], structures: int) -> Iterator[VolumeCase]:
    """The cases of a stand-in; raises InputError where a plugin drew something else."""
    for case in cases:
        shapes = (case.image.shape, case.label.shape)
        if shapes[0] != shapes[1] or case.image.ndim != 3 or case.label.max() > structures:
            found = f"image {shapes[0]}, label {shapes[1]} up to {case.label.max()}"
            raise plugin_error(name, [f"the stand-in's case {case.case!r} is wrong: {found}"])
        yield case


def _files_key(manifest: VolumeManifest, root: Path, options: list[Any]) -> str:
    """Hash what the store of these files depends on."""

    def state(path: Path) -> list[Any]:
        return [[below(file, root), file_state(file)] for file in files_of(path)]

    cases = [
        [
            state(image),
            [[state(mask.path), sorted(mask.values.items())] for mask in masks],
            [site, group, case],
        ]
        for image, masks, site, group, case in zip(
            manifest.images,
            manifest.masks,
            manifest.sites,
            manifest.groups,
            manifest.ids,
            strict=True,
        )
    ]
    return hashed(["volumes", options, manifest.structures, cases])
