"""The store: a data set, decoded and resized once, kept as memory-mapped arrays.

A data set plugin says where the records are (`Dataset.manifest`) or generates a stand-in
(`Dataset.embedded`). `prepare` turns either into a folder in the cache and opens it; whoever trains
opens the same folder with `Store.open`, in any process, and reads only the images it asks for.
The folder's name holds a hash of everything the content depends on, so a store is never stale.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.building import fingerprint, keep_rows, write_records
from fedsim.data.copies import BYTES, Digests, contradictions, digests, keep_together
from fedsim.data.dataset import Dataset, Embedded, Manifest, usable
from fedsim.data.images import CHANNELS, Window, decode_files, doubts_note, window_note
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
from fedsim.errors import InputError, Problem
from fedsim.yaml_lines import write_value

__all__ = ["Dataset", "Embedded", "Manifest", "Store", "prepare"]

FORMAT = 3
"""Version of the preprocessing and of the files of a store; part of every store's key."""

_CODES = ("labels", "groups", "sites")


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
        skipped: images left out because they cannot be used, and why.
        notes: what a person must know about the data, a sentence each.
        window: how many images have more than 8 bits, and how they were brought into 8; or "".
        patients: the group of each record as the data name it, "" where they do not.
        digests: uint8 [n, 16], see `fedsim.data.copies`.
        positive_rule: why the second of two classes is the positive one; "" where the data set
            says so.
        columns: what else a table says of each record, by the column's name.
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
    notes: tuple[str, ...] = ()
    window: str = ""
    patients: tuple[str, ...] = ()
    digests: Digests = field(default_factory=lambda: np.zeros((0, BYTES), np.uint8))
    positive_rule: str = ""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path, checked: bool = False) -> Store:
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
                folder, ("site_names", "classes", "ids", "skipped", "notes", "patients")
            )
            n = len(about["ids"])
            images = read_array(folder / "images.npy", "u1", (n, None, None, CHANNELS), mapped=True)
            arrays = {name: read_array(folder / f"{name}.npy", "i8", (n,)) for name in _CODES}
            arrays["digests"] = read_array(folder / "digests.npy", "u1", (n, BYTES))
            require_digests(arrays["digests"], about)
            require_codes("labels", arrays["labels"], len(about["classes"]))
            require_codes("sites", arrays["sites"], len(about["site_names"]))
            require_codes("groups", arrays["groups"], n)
            if not checked:
                found = fingerprint(images, arrays, about["classes"], about["site_names"])
                require_fingerprint(found, about)
            return cls(images=images, folder=folder, **arrays, **about)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise unusable(folder, error) from error

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
    progress: Callable[..., None] | None = None,
    positive: str | None = None,
    window: Window | None = None,
) -> Store:
    """Open the store of a data set, building it first when the cache does not hold it.

    Args:
        dataset: the plugin.
        name: what the scenario calls it.
        root: the folder to read from; None generates the stand-in.
        size: side of the square images, in pixels.
        embedded: parameters of the stand-in; ignored when `root` is given.
        skip_bad: leave out images that cannot be used instead of refusing.
        cache: the folder that holds stores; made when missing.
        workers: processes that decode, or draw.
        progress: called with images done, images in all, and what is done where it is not decoding.
        positive: of two classes the one that becomes the second, which is the positive one.
        window: see `fedsim.data.images.read_image`.

    Raises:
        InputError: the data, or the stand-in's parameters, are wrong.
        RunError: the cache cannot be written, or a decoding process died.
    """
    if root is None and getattr(dataset, "rootless", False):
        root = dataset.fetch()
    if root is None:
        return _prepare_embedded(
            dataset, name, size, embedded, cache, positive, workers=workers, progress=progress
        )
    manifest = _read_manifest(dataset, name, root, skip_bad)
    classes, labels = _positive_second(
        manifest.classes or tuple(dataset.classes), manifest.labels, positive
    )
    manifest = well_named(replace(manifest, labels=labels))

    def build(folder: Path) -> bool:
        deep: set[int] = set()
        by_file: set[int] = set()
        doubts: dict[int, str] = {}
        failures = decode_files(
            manifest.paths,
            size,
            folder / "images.npy",
            workers=workers,
            progress=progress,
            window=window,
            deep=deep.add,
            by_file=by_file.add,
            warned=doubts.__setitem__,
        )
        content = digests(np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False))
        names = [below(path, root) for path in manifest.paths]
        broken = contradictions(content, labels, names, classes) | failures
        skipped = [f"{names[i]}: {why}" for i, why in sorted(broken.items())]
        count = len(manifest.paths)
        refuse_broken(
            [Problem(str(root), line) for line in skipped],
            count - len(skipped),
            headline=f"{len(skipped)} of {count} images of {name!r} cannot be "
            + ("read" if len(failures) == len(broken) else "used"),
            layout=dataset.layout,
            skip_bad=skip_bad,
        )
        keep = [i for i in range(len(manifest.paths)) if i not in broken]
        if broken:
            keep_rows(folder / "images.npy", keep)
        ids = [manifest.ids[i] for i in keep]
        patients = [manifest.groups[i] for i in keep]
        groups, notes = keep_together(content[keep], patients, ids)
        doubted = doubts_note({i: doubts[i] for i in keep if i in doubts}, names)
        write_records(
            folder,
            labels=labels[keep],
            groups=groups,
            sites=[manifest.sites[i] for i in keep],
            ids=ids,
            classes=classes,
            source="path",
            root=str(root),
            skipped=[*lines_below(manifest.bad, root), *skipped],
            notes=[*notes, *filter(None, [doubted])],
            window=window_note(
                len(deep.intersection(keep)), window, len(by_file.intersection(keep))
            ),
            patients=patients,
            content=content[keep],
        )
        return bool(broken)

    rule = "" if positive or dataset.classes else _rule(classes)

    def opened(folder: Path, checked: bool) -> Store:
        return replace(Store.open(folder, checked), positive_rule=rule)

    folder = cache / f"{safe(name)}-{size}-{_files_key(manifest, root, classes, size, window)}"
    return store_of_files(opened, manifest, root, folder, skip_bad, build)


def _positive_second(
    classes: tuple[str, ...], labels: np.ndarray, positive: str | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes and labels, with the class wanted as the second one."""
    if positive is None:
        return classes, labels
    if len(classes) != 2 or positive not in classes:
        raise InputError(
            "data.positive names the positive one of two classes",
            [Problem("data.positive", f"is {positive!r}; the classes are {', '.join(classes)}")],
            f"write one of {', '.join(classes)}" if len(classes) == 2 else "leave it out",
        )
    if classes[1] == positive:
        return classes, labels
    return classes[::-1], 1 - labels


def _rule(classes: Sequence[str]) -> str:
    """How the positive one of two classes was found where nothing says it."""
    if len(classes) != 2:
        return ""
    how = "the last by name" if list(classes) == sorted(classes) else "the second one"
    # As it is typed: 0 in YAML is a number, no a truth value, "0" and "no" are text.
    plain = classes[0].isalpha() and write_value(classes[0]) == classes[0]
    word = shlex.quote(
        f"data.positive={classes[0] if plain else json.dumps(classes[0], ensure_ascii=False)}"
    )
    return f"{how}; {word} takes the other"


def _prepare_embedded(
    dataset: Dataset,
    name: str,
    size: int,
    embedded: Mapping[str, Any],
    cache: Path,
    positive: str | None,
    *,
    workers: int,
    progress: Callable[..., None] | None,
) -> Store:
    generator, parameters = stand_in(
        dataset.embedded, vars(dataset), embedded, name=name, size=size, layout=dataset.layout
    )
    key = hashed([FORMAT, origin(generator), parameters, positive])
    folder = cache / f"{safe(name)}-embedded-{size}-{key}"

    def make() -> Embedded:
        made: Embedded = generated(generator, parameters, name, workers=workers, progress=progress)
        return made

    def build(folder: Path, made: Embedded) -> None:
        ids = [f"{safe(name)}-{i:06d}" for i in range(len(made.labels))]
        _check(name, made.labels, made.groups, made.sites, ids, made.classes)
        shape = (len(ids), size, size, CHANNELS)
        if made.images.shape != shape or made.images.dtype != np.uint8:
            found = f"{made.images.dtype} {made.images.shape}"
            raise plugin_error(name, [f"the stand-in's images are {found}, not uint8 {shape}"])
        if dataset.classes and tuple(made.classes) != tuple(dataset.classes):
            found = f"{made.classes}, not {dataset.classes}"
            raise plugin_error(name, [f"the stand-in's classes are {found}"])
        classes, labels = _positive_second(tuple(made.classes), made.labels, positive)
        np.save(folder / "images.npy", made.images)
        write_records(
            folder,
            labels=labels,
            groups=made.groups,
            sites=made.sites,
            ids=ids,
            classes=classes,
            source="embedded",
            root=None,
            skipped=(),
        )

    return store_of_stand_in(Store.open, folder, make, build)


def _read_manifest(dataset: Dataset, name: str, root: Path, skip_bad: bool) -> Manifest:
    """The manifest, after checking the root folder and what the plugin returned."""
    check_root(name, root, dataset.layout)
    manifest: Manifest = usable(dataset.manifest, root, skip_bad)
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


def _files_key(
    manifest: Manifest, root: Path, classes: Sequence[str], size: int, window: Window | None
) -> str:
    """Hash what the store of these files depends on; a file's size and time stand for its bytes."""
    about = [FORMAT, size, list(classes), window, lines_below(manifest.bad, root)]
    lines = [json.dumps(about)]
    for i, path in enumerate(manifest.paths):
        record = [manifest.groups[i], manifest.sites[i], manifest.ids[i], int(manifest.labels[i])]
        lines.append(json.dumps([below(path, root), file_state(path), record]))
    return hashed("\n".join(lines))
