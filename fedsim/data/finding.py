"""Find image files below a folder, by what a person or a table calls them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedsim.data import dicom
from fedsim.data.table import Row
from fedsim.errors import InputError, Problem

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", *dicom.SUFFIXES})
"""Of images; DICOM files without a suffix are found, too."""


def images_below(folder: Path) -> list[Path]:
    """The image files at any depth, sorted.

    What is called as an image is listed, and can be none: a link that leads nowhere, a pipe, a
    device, a folder without images. Reading it says so.
    """
    found = [
        file
        for file in files_below(folder)
        if file.suffix.lower() in SUFFIXES
        or (dicom.may_be(file) and file.is_file() and dicom.is_dicom(file))
    ]
    holding = {above for file in found for above in file.parents}
    named = (Path(here, name) for here, names, _ in _walked(folder) for name in names)
    found += [one for one in named if one.suffix.lower() in SUFFIXES and one not in holding]
    return sorted(found)


def files_below(folder: Path) -> list[Path]:
    """The files at any depth, and what else is no folder; names with a leading dot are not data.

    Links to folders are followed, except to one that they lie in.
    """
    return [
        Path(here, name)
        for here, _, names in _walked(folder)
        for name in names
        if not name.startswith(".")
    ]


def _walked(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder, with the names of the folders and of the files in it."""

    def refuse(error: OSError) -> None:
        problem = Problem(str(error.filename), f"cannot be read: {error.strerror}")
        raise InputError("a folder of images cannot be read", [problem])

    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        inside = Path(here).resolve()
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not inside.is_relative_to((inside / name).resolve())
        ]
        yield here, folders, names


def located(root: Path, rows: Sequence[Row], name: str) -> tuple[dict[str, Path], str]:
    """The file of each row of a table, by where the row stands, and a note on how it was found.

    What is not where its path says, and has no folder in it, is looked for below the root: by its
    name, and where that has no suffix of an image also without. What is nowhere stays where its
    path says: whoever reads it says so.

    Raises:
        InputError: several files fit a row, or one file fits two.
    """
    paths = {row.where: root / row["path"] for row in rows}
    # os.path takes a name that no file can have for one that is not there; Path raises.
    missing = [
        row for row in rows if _is_name(row["path"]) and not os.path.isfile(paths[row.where])
    ]
    if not missing:
        return paths, ""
    by_name: dict[str, list[Path]] = {}
    for file in images_below(root):
        for key in {file.name, file.stem}:
            by_name.setdefault(key, []).append(file)
    problems, found = [], 0
    for row in missing:
        files = by_name.get(row["path"], [])
        if len(files) > 1:
            shown = " and ".join(str(file.relative_to(root)) for file in files[:2])
            problems.append(Problem(row.where, f"{row['path']!r} may be {shown}: write the folder"))
        elif files:
            paths[row.where] = files[0]
            found += 1
    seen: dict[Path, str] = {}
    for row in rows:
        file = paths[row.where]
        if (other := seen.setdefault(file, row["path"])) != row["path"]:
            problems.append(Problem(row.where, f"{row['path']!r} is the file of {other!r}"))
    if problems:
        raise InputError(f"{name} does not say which file is meant", problems)
    return paths, f"{found} images were found by their names in folders below" if found else ""


def _is_name(text: str) -> bool:
    return "/" not in text and "\\" not in text
