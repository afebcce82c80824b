"""The store: a data set, decoded and resized once, kept as memory-mapped arrays.

A data set plugin says where the records are (`Dataset.manifest`) or generates a stand-in
(`Dataset.embedded`). `prepare` turns either into a folder in the cache and opens it; whoever trains
opens the same folder with `Store.open`, in any process, and reads only the images it asks for.
The folder's name holds a hash of everything the content depends on, so a store is never stale.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.building import keep_rows, new_folder, publish, write_records
from fedsim.data.dataset import Dataset, Embedded, Manifest
from fedsim.data.images import CHANNELS, decode_files
from fedsim.data.source import (
    below,
    check_root,
    file_state,
    hashed,
    origin,
    plugin_error,
    refuse_broken,
    safe,
    stand_in,
)
from fedsim.errors import InputError, Problem

__all__ = ["Dataset", "Embedded", "Manifest", "Store", "prepare"]

FORMAT = 1
"""Version of the preprocessing and of the files of a store; part of every store's key."""


@dataclass(frozen=True, eq=False)
class Store:
    """A prepared data set.

    Attributes:
        images: uint8 [n, H, W, C], memory-mapped, read-only.
        labels: int64 [n], positions in `classes`.
        groups: int64 [n], codes; records with one code never part.
        sites: int64 [n], positions in `site_names`.
        site_names: names of the sites, sorted.
        classes: class names in label order.
        ids: the name of each record.
        fingerprint: SHA-256 over images, labels, groups and sites.
        source: "embedded" (a generated stand-in) or "path" (read from `root`).
        root: the folder it was read from, or None.
        folder: the folder it is kept in.
        skipped: images left out because they cannot be read, and why.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    sites: np.ndarray
    site_names: tuple[str, ...]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    fingerprint: str
    source: str
    root: str | None
    folder: Path
    skipped: tuple[str, ...]

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Open a prepared store. Raises InputError when the folder is none or is damaged."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "store.json").read_text())
            arrays = {key: np.load(folder / f"{key}.npy") for key in ("labels", "groups", "sites")}
            images = np.load(folder / "images.npy", mmap_mode="r")
            for key in ("site_names", "classes", "ids", "skipped"):
                about[key] = tuple(about[key])
            return cls(images=images, folder=folder, **arrays, **about)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                "a prepared data set cannot be opened",
                [Problem(str(folder), str(error))],
                "delete this folder; the next run prepares it again",
            ) from error

    def __len__(self) -> int:
        return len(self.labels)


def prepare(
    dataset: Dataset,
    *,
    name: str,
    root: Path | None,
    size: int,
    embedded: Mapping[str, Any],
    skip_bad: bool,
    cache: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Open the store of a data set, building it first when the cache does not hold it.

    Args:
        dataset: the plugin.
        name: what the scenario calls it.
        root: the folder to read from; None generates the stand-in.
        size: side of the square images, in pixels.
        embedded: parameters of the stand-in; ignored when `root` is given.
        skip_bad: leave out images that cannot be read instead of refusing.
        cache: the folder that holds stores; made when missing.
        workers: processes that decode.
        progress: called with (images done, images in all) while decoding.

    Raises:
        InputError: the data, or the stand-in's parameters, are wrong.
        RunError: the cache cannot be written, or a decoding process died.
    """
    if root is None:
        return _prepare_embedded(dataset, name, size, embedded, cache)
    manifest = _read_manifest(dataset, name, root)
    classes = manifest.classes or tuple(dataset.classes)
    # Two folders: what was built without some images must not serve who did not allow that.
    whole = cache / f"{safe(name)}-{size}-{_files_key(manifest, root, classes, size)}"
    partial = whole.with_name(whole.name + "-skipped")
    for folder in (whole, partial) if skip_bad else (whole,):
        if folder.is_dir():
            return replace(Store.open(folder), root=str(root))

    with new_folder(cache) as building:
        failures = decode_files(
            manifest.paths, size, building / "images.npy", workers=workers, progress=progress
        )
        skipped = [f"{below(manifest.paths[i], root)}: {why}" for i, why in failures.items()]
        count = len(manifest.paths)
        refuse_broken(
            [Problem(str(root), line) for line in skipped],
            count - len(skipped),
            headline=f"{len(skipped)} of {count} images of {name!r} cannot be read",
            layout=dataset.layout,
            skip_bad=skip_bad,
        )
        keep = [i for i in range(len(manifest.paths)) if i not in failures]
        if failures:
            keep_rows(building / "images.npy", keep)
        write_records(
            building,
            labels=manifest.labels[keep],
            groups=[manifest.groups[i] for i in keep],
            sites=[manifest.sites[i] for i in keep],
            ids=[manifest.ids[i] for i in keep],
            classes=classes,
            source="path",
            root=str(root),
            skipped=skipped,
        )
        folder = partial if failures else whole
        publish(building, folder)
    return replace(Store.open(folder), root=str(root))


def _prepare_embedded(
    dataset: Dataset, name: str, size: int, embedded: Mapping[str, Any], cache: Path
) -> Store:
    generator, parameters = stand_in(
        dataset.embedded, vars(dataset), embedded, name=name, size=size, layout=dataset.layout
    )
    key = hashed([FORMAT, origin(generator), parameters])
    folder = cache / f"{safe(name)}-embedded-{size}-{key}"
    if not folder.is_dir():
        try:
            made = generator(**parameters)
        except ValueError as error:
            raise InputError(
                f"wrong parameters of the stand-in of {name!r}",
                [Problem("data.embedded", str(error))],
            ) from error
        ids = [f"{safe(name)}-{i:06d}" for i in range(len(made.labels))]
        _check(name, made.labels, made.groups, made.sites, ids, made.classes)
        shape = (len(ids), size, size, CHANNELS)
        if made.images.shape != shape or made.images.dtype != np.uint8:
            found = f"{made.images.dtype} {made.images.shape}"
            raise plugin_error(name, [f"the stand-in's images are {found}, not uint8 {shape}"])
        if dataset.classes and tuple(made.classes) != tuple(dataset.classes):
            found = f"{made.classes}, not {dataset.classes}"
            raise plugin_error(name, [f"the stand-in's classes are {found}"])
        with new_folder(cache) as building:
            np.save(building / "images.npy", made.images)
            write_records(
                building,
                labels=made.labels,
                groups=made.groups,
                sites=made.sites,
                ids=ids,
                classes=made.classes,
                source="embedded",
                root=None,
                skipped=(),
            )
            publish(building, folder)
    return Store.open(folder)


def _read_manifest(dataset: Dataset, name: str, root: Path) -> Manifest:
    """The manifest, after checking the root folder and what the plugin returned."""
    check_root(name, root, dataset.layout)
    manifest = dataset.manifest(root)
    if len(manifest.paths) != len(manifest.labels):
        raise plugin_error(name, ["the manifest's paths and labels differ in number"])
    classes = manifest.classes or dataset.classes
    _check(name, manifest.labels, manifest.groups, manifest.sites, manifest.ids, classes)
    return manifest


def _check(
    name: str,
    labels: np.ndarray,
    groups: Sequence[str],
    sites: Sequence[str],
    ids: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Check what a plugin returned, so that its mistakes are not met rounds later."""
    wrong = []
    if not len(labels) == len(groups) == len(sites) == len(ids):
        wrong.append("labels, groups, sites and ids differ in number")
    if len(labels) == 0:
        wrong.append("no records")
    elif labels.min() < 0 or labels.max() >= len(classes):
        wrong.append(
            f"labels from {labels.min()} to {labels.max()}, but there are {len(classes)} classes"
        )
    if wrong:
        raise plugin_error(name, wrong)


def _files_key(manifest: Manifest, root: Path, classes: Sequence[str], size: int) -> str:
    """Hash what the store of these files depends on; a file's size and time stand for its bytes."""
    lines = [json.dumps([FORMAT, size, list(classes)])]
    for i, path in enumerate(manifest.paths):
        record = [manifest.groups[i], manifest.sites[i], manifest.ids[i], int(manifest.labels[i])]
        lines.append(json.dumps([below(path, root), file_state(path), record]))
    return hashed("\n".join(lines))
