"""A person's own images: a folder for each class, or a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsim.data.dataset import Dataset, Manifest
from fedsim.data.table import codes, read_table
from fedsim.errors import InputError, Problem

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
ONE_SITE = "site-0"
"""The name of the only site of data that says nothing about sites."""


class Folder(Dataset):
    """Images below one folder, without a stand-in.

    Either a folder for each class (with images at any depth below it), or a CSV file with the
    columns path (relative to the root), label and, if known, group (patient or lesion) and site.

    Args:
        csv: the CSV file's name below the root. Without it the root's only .csv file is used; a
            root with none, or several, is read as a folder for each class.
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
        tables = sorted(file.name for file in root.iterdir() if file.suffix.lower() == ".csv")
        if self.csv is not None:
            return self._from_table(root, self.csv)
        if len(tables) == 1:
            hint = "move this file elsewhere to have the folders read as classes"
            return self._from_table(root, tables[0], hint)
        return self._from_folders(root, tables)

    def _from_table(self, root: Path, name: str, hint: str = "") -> Manifest:
        rows = read_table(root / name, ("path", "label"), unique="path", hint=hint)
        classes = self.classes or tuple(sorted({row["label"] for row in rows}))
        empty = [Problem(row.where, "label is empty") for row in rows if not row["label"]]
        if empty:
            raise InputError(f"{name} has records without a label", empty)
        _refuse_one_class(classes, root / name)
        order = {label: i for i, label in enumerate(classes)}
        labels = codes(rows, "label", order.get, ", ".join(classes))
        return Manifest(
            paths=[root / row["path"] for row in rows],
            labels=np.array(labels, dtype=np.int64),
            groups=[row.get("group") for row in rows],
            sites=[row.get("site") or ONE_SITE for row in rows],
            ids=[row["path"] for row in rows],
            classes=classes,
        )

    def _from_folders(self, root: Path, tables: list[str]) -> Manifest:
        found = {
            folder.name: _images(folder)
            for folder in sorted(root.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
        }
        classes = self.classes or tuple(found)
        several = f" (several tables: {', '.join(tables)}; data.csv=NAME takes one)"
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
            more = several if tables else ""
            problems = [Problem(str(root), f"has no class folders{more}; expected: {self.layout}")]
        if problems:
            raise InputError("the folders do not match the classes", problems, "check data.root")
        _refuse_one_class(classes, root)
        records = [(path, label) for label, name in enumerate(classes) for path in found[name]]
        return Manifest(
            paths=[path for path, _ in records],
            labels=np.array([label for _, label in records], dtype=np.int64),
            groups=[""] * len(records),
            sites=[ONE_SITE] * len(records),
            ids=[path.relative_to(root).as_posix() for path, _ in records],
            classes=classes,
        )


def _images(folder: Path) -> list[Path]:
    """The image files at any depth, sorted; names with a leading dot are not data."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def _refuse_one_class(classes: tuple[str, ...], where: Path) -> None:
    if len(classes) < 2:
        problem = Problem(str(where), f"has only the class {', '.join(classes)}")
        raise InputError("a classifier needs at least two classes", [problem])
