"""A person's own images: a folder for each class, or a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from fedsim.data import dicom
from fedsim.data.columns import alike, as_number, plain
from fedsim.data.dataset import Dataset, Manifest
from fedsim.data.finding import SUFFIXES, files_below, images_below, located
from fedsim.data.headers import by_headers
from fedsim.data.table import (
    ONE_SITE,
    belonging,
    check_called,
    coded,
    find_table,
    other_columns,
    read_table,
    refuse_one_file_twice,
    tables_in,
)
from fedsim.data.table import SUFFIXES as TABLES
from fedsim.errors import InputError, Problem

Level = Literal["label", "group", "site", "skip"]
"""What a level of folders says."""

_COLUMNS, _OPTIONAL = ("path", "label"), ("group", "site")
SIDES = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "holdout"}
)
"""What people call the folders of a split."""

_NO_LABEL = frozenset({"", "nan", "na", "n/a", "#n/a", "null", "?"})
_SHOWN = 5  # files named in a note


class Folder(Dataset):
    """Images below one folder, without a stand-in.

    Either a folder for each class (with images at any depth below it), or a table with the columns
    path (relative to the root), label and, if known, group (patient or lesion) and site. A path
    that is a bare name, with or without suffix, may lie in any folder below the root. Of DICOM
    files without a table, or where it does not name patients, the headers do.

    Args:
        csv: the table's name below the root. Without it the only one there that has the columns is
            read. A root without any table is read as a folder for each class.
        classes: class names in label order; without it those found, sorted.
        columns: what the table calls its columns: {group: Patient, label: dx}.
        levels: what the folders say, from the root down; without it [label]. With [site, label] a
            site has a folder for each class; "group" is a patient or lesion, and "skip" says
            nothing. The folders below may have any names.
    """

    layout = (
        "a folder of images for each class, or a .csv file with the columns path, label and, if "
        "known, group and site"
    )

    def __init__(
        self,
        csv: str | None = None,
        classes: list[str] | None = None,
        columns: dict[str, str] | None = None,
        levels: list[Level] | None = None,
    ) -> None:
        if classes is not None and (len(classes) < 2 or len(set(classes)) != len(classes)):
            raise ValueError(f"classes must name at least two different classes, not {classes}.")
        known = [name for name in levels or () if name != "skip"]
        if levels is not None and ("label" not in known or len(set(known)) < len(known)):
            raise ValueError(f"levels must name label once, and the others at most once: {levels}.")
        if levels is not None and (csv is not None or columns):
            raise ValueError("levels is of folders without a table: leave out csv and columns.")
        self.csv = csv
        self.classes = tuple(classes or ())
        self.columns = check_called(columns, (*_COLUMNS, *_OPTIONAL))
        self.levels = tuple(levels or ())

    def manifest(self, root: Path) -> Manifest:
        """List the images of the table, or of the class folders."""
        if self.levels:
            return self._from_levels(root)
        if self.csv is not None:
            return self._from_table(root, self.csv)
        found = find_table(root, _COLUMNS, _OPTIONAL, self.layout, self.columns)
        if found is not None:
            name, note = found
            return self._from_table(root, name, note)
        if self.columns:
            message = "has no table, and data.columns says what a table calls its columns"
            raise InputError("which table lists the records?", [Problem(str(root), message)])
        return self._from_folders(root)

    def _from_table(self, root: Path, name: str, note: str = "") -> Manifest:
        rows = read_table(
            root / name, _COLUMNS, unique="path", optional=_OPTIONAL, called=self.columns
        )
        refuse_one_file_twice(rows, "path", name)
        paths, searched = located(root, rows, name)
        found = {row["label"] for row in rows if plain(row["label"]) not in _NO_LABEL}
        classes = self.classes or tuple(sorted(found))
        _refuse_alike(classes, root / name)
        _refuse_one_class(classes, root / name)
        order = {label: i for i, label in enumerate(classes)}
        good, labels, bad = coded(rows, "label", order.get, ", ".join(classes))
        groups, sites, notes = belonging(good)
        records = Manifest(
            paths=[paths[row.where] for row in good],
            labels=np.array(labels, dtype=np.int64),
            groups=groups,
            sites=sites,
            ids=[row["path"] for row in good],
            classes=classes,
            bad=tuple(bad),
            notes=tuple(filter(None, (note, searched, *notes))),
            columns=other_columns(good, _COLUMNS, self.columns),
        )
        return _told(records).checked()

    def _from_levels(self, root: Path) -> Manifest:
        """The images below levels of folders."""
        depth = len(self.levels)
        files = images_below(root)
        said = [file.relative_to(root).parts[:-1] for file in files]
        bad = [
            Problem(str(file), f"lies outside of the {depth} levels {', '.join(self.levels)}")
            for file, folders in zip(files, said, strict=True)
            if len(folders) < depth
        ]
        records = [
            (file, dict(zip(self.levels, folders, strict=False)))
            for file, folders in zip(files, said, strict=True)
            if len(folders) >= depth
        ]
        found = {levels["label"] for _, levels in records}
        classes = self.classes or tuple(sorted(found))
        _refuse_alike(classes, root)
        _refuse_one_class(classes, root)
        if strangers := sorted(found - set(classes)):
            message = f"has folders of {', '.join(strangers)}, none of {', '.join(classes)}"
            raise InputError("the folders do not match the classes", [Problem(str(root), message)])
        # A patient's number may begin anew at each site; one patient may be in two classes.
        groups = [
            "/".join(one[name] for name in ("site", "group") if name in one)
            if "group" in one
            else ""
            for _, one in records
        ]
        notes = []
        if "skip" in self.levels:
            sides = sorted({one["skip"] for _, one in records})
            if sides and all(plain(side) in SIDES for side in sides):
                notes.append(
                    f"folders {', '.join(sides)} are pooled; data.split decides what is for "
                    "training and test"
                )
        return _told(
            Manifest(
                paths=[file for file, _ in records],
                labels=np.array([classes.index(one["label"]) for _, one in records], np.int64),
                groups=groups,
                sites=[levels.get("site", ONE_SITE) for _, levels in records],
                ids=[file.relative_to(root).as_posix() for file, _ in records],
                classes=classes,
                bad=tuple(bad),
                notes=tuple(notes),
            )
        ).checked()

    def _from_folders(self, root: Path) -> Manifest:
        found = {
            folder.name: images_below(folder)
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
        if not self.classes and all(plain(name) in SIDES for name in classes):
            raise InputError(
                "folders of classes are expected, not of the sides of a split",
                [Problem(str(root), f"has the folders {', '.join(classes)}")],
                "fedsim splits by itself: put the images of a class into one folder, or write a "
                "table; or, where each of them holds the classes, add data.levels=[skip, label]. "
                f"If these are the classes, add data.classes=[{', '.join(classes)}]",
            )
        records = [(path, label) for label, name in enumerate(classes) for path in found[name]]
        return _told(
            Manifest(
                paths=[path for path, _ in records],
                labels=np.array([label for _, label in records], dtype=np.int64),
                groups=[""] * len(records),
                sites=[ONE_SITE] * len(records),
                ids=[path.relative_to(root).as_posix() for path, _ in records],
                classes=classes,
                notes=_not_read(root, classes),
            )
        )


def _told(records: Manifest) -> Manifest:
    """The records, with what the headers of DICOM files say of them."""
    groups, sites, notes = by_headers(records.paths, records.groups, records.sites)
    return replace(records, groups=groups, sites=sites, notes=(*records.notes, *notes))


def _not_read(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """A note on what lies beside the images and was passed over, if anything does."""
    names = [file.name for file in sorted(root.iterdir()) if file.is_file() and file.name[0] != "."]
    names += [f"{name}/{table}" for name in classes for table in tables_in(root / name)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    others = [
        file.suffix.lower() or file.name
        for name in classes
        for file in files_below(root / name)
        if file.suffix.lower() not in {*SUFFIXES, *TABLES}
        and file.is_file()
        and not dicom.is_dicom(file)
    ]
    kinds = ", ".join(sorted(set(others))[:_SHOWN])
    notes = (
        f"not read: {', '.join(names[:_SHOWN])}{more}" if names else "",
        f"not read: {len(others)} files of other kinds than images ({kinds})" if others else "",
    )
    return tuple(filter(None, notes))


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
