"""A person's own images: a folder for each class, or a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedsim.data.columns import alike, as_number, plain
from fedsim.data.dataset import Dataset, Manifest
from fedsim.data.table import (
    ONE_SITE,
    belonging,
    coded,
    find_table,
    read_table,
    refuse_one_file_twice,
    tables_in,
)
from fedsim.data.table import SUFFIXES as TABLES
from fedsim.errors import InputError, Problem

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
_COLUMNS, _OPTIONAL = ("path", "label"), ("group", "site")
_SIDES = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "holdout"}
)
_NO_LABEL = frozenset({"", "nan", "na", "n/a", "#n/a", "null", "?"})
_SHOWN = 5  # files named in a note


class Folder(Dataset):
    """Images below one folder, without a stand-in.

    Either a folder for each class (with images at any depth below it), or a table with the columns
    path (relative to the root), label and, if known, group (patient or lesion) and site.

    Args:
        csv: the table's name below the root. Without it the only one there that has the columns is
            read. A root without any table is read as a folder for each class.
        classes: class names in label order; without it those found, sorted.
    """

    layout = (
        "a folder of images for each class, or a .csv file with the columns path, label and, if "
        "known, group and site"
    )

    def __init__(self, csv: str | None = None, classes: list[str] | None = None) -> None:
        if classes is not None and (len(classes) < 2 or len(set(classes)) != len(classes)):
            raise ValueError(f"classes must name at least two different classes, not {classes}.")
        self.csv = csv
        self.classes = tuple(classes or ())

    def manifest(self, root: Path) -> Manifest:
        """List the images of the table, or of the class folders."""
        if self.csv is not None:
            return self._from_table(root, self.csv)
        if (found := find_table(root, _COLUMNS, _OPTIONAL, self.layout)) is not None:
            name, note = found
            return self._from_table(root, name, note)
        return self._from_folders(root)

    def _from_table(self, root: Path, name: str, note: str = "") -> Manifest:
        rows = read_table(root / name, _COLUMNS, unique="path", optional=_OPTIONAL)
        refuse_one_file_twice(rows, "path", name)
        found = {row["label"] for row in rows if plain(row["label"]) not in _NO_LABEL}
        classes = self.classes or tuple(sorted(found))
        _refuse_alike(classes, root / name)
        _refuse_one_class(classes, root / name)
        order = {label: i for i, label in enumerate(classes)}
        good, labels, bad = coded(rows, "label", order.get, ", ".join(classes))
        groups, sites, notes = belonging(good)
        return Manifest(
            paths=[root / row["path"] for row in good],
            labels=np.array(labels, dtype=np.int64),
            groups=groups,
            sites=sites,
            ids=[row["path"] for row in good],
            classes=classes,
            bad=tuple(bad),
            notes=tuple(filter(None, (note, *notes))),
        ).checked()

    def _from_folders(self, root: Path) -> Manifest:
        found = {
            folder.name: _images(folder)
            for folder in sorted(root.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
        }
        classes = self.classes or tuple(found)
        problems = [
            Problem(str(root), f"has no folder for class {name!r}")
            for name in classes
            if name not in found
        ]
        problems += [
            Problem(str(root / name), f"is none of the classes {', '.join(classes)}")
            for name in found
            if name not in classes
        ]
        problems += [
            Problem(str(root / name), f"holds no images ({', '.join(sorted(SUFFIXES))})")
            for name in classes
            if name in found and not found[name]
        ]
        if not found:
            problems = [Problem(str(root), f"has no class folders; expected: {self.layout}")]
        if problems:
            raise InputError("the folders do not match the classes", problems, "check data.root")
        _refuse_alike(classes, root)
        _refuse_one_class(classes, root)
        if not self.classes and all(plain(name) in _SIDES for name in classes):
            raise InputError(
                "folders of classes are expected, not of the sides of a split",
                [Problem(str(root), f"has the folders {', '.join(classes)}")],
                "fedsim splits by itself: put the images of a class into one folder, or write a "
                f"table. If these are the classes, add data.classes=[{', '.join(classes)}]",
            )
        records = [(path, label) for label, name in enumerate(classes) for path in found[name]]
        return Manifest(
            paths=[path for path, _ in records],
            labels=np.array([label for _, label in records], dtype=np.int64),
            groups=[""] * len(records),
            sites=[ONE_SITE] * len(records),
            ids=[path.relative_to(root).as_posix() for path, _ in records],
            classes=classes,
            notes=_not_read(root, classes),
        )


def _not_read(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """A note on what lies beside the images and was passed over, if anything does."""
    names = [file.name for file in sorted(root.iterdir()) if file.is_file() and file.name[0] != "."]
    names += [f"{name}/{table}" for name in classes for table in tables_in(root / name)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    others = [
        file.suffix.lower() or file.name
        for name in classes
        for file in _files(root / name)
        if file.suffix.lower() not in {*SUFFIXES, *TABLES} and file.is_file()
    ]
    kinds = ", ".join(sorted(set(others))[:_SHOWN])
    notes = (
        f"not read: {', '.join(names[:_SHOWN])}{more}" if names else "",
        f"not read: {len(others)} files of other kinds than images ({kinds})" if others else "",
    )
    return tuple(filter(None, notes))


def _images(folder: Path) -> list[Path]:
    """The image files at any depth, sorted. A link that leads nowhere is listed: reading it says
    so.
    """
    return sorted(
        file
        for file in _files(folder)
        if file.suffix.lower() in SUFFIXES and (file.is_file() or not file.exists())
    )


def _files(folder: Path) -> list[Path]:
    """The files at any depth; names with a leading dot are not data.

    Links to folders are followed, except to one that they lie in.
    """

    def refuse(error: OSError) -> None:
        problem = Problem(str(error.filename), f"cannot be read: {error.strerror}")
        raise InputError("a folder of images cannot be read", [problem])

    found = []
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        inside = Path(here).resolve()
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not inside.is_relative_to((inside / name).resolve())
        ]
        found += [Path(here, name) for name in names if not name.startswith(".")]
    return found


def _refuse_alike(classes: Sequence[str], where: Path) -> None:
    """Raise InputError for classes whose names differ in case, or in how letters or numbers are
    written (1 and 1.0).
    """
    problems = [
        Problem(str(where), f"has the classes {' and '.join(map(repr, names))}: one or several?")
        for names in alike(classes, as_number)
    ]
    if problems:
        raise InputError(
            "classes have names that a reader cannot tell apart", problems, "rename them"
        )


def _refuse_one_class(classes: tuple[str, ...], where: Path) -> None:
    if len(classes) < 2:
        problem = Problem(str(where), f"has only the class {', '.join(classes) or '(none)'}")
        raise InputError("a classifier needs at least two classes", [problem])
