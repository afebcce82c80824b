"""Guess which columns of a table are what, by their names and by what stands in them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.data import dicom
from fedsim.data.columns import meant, plain
from fedsim.data.finding import SUFFIXES as IMAGES
from fedsim.data.finding import images_below
from fedsim.data.table import columns_in, tables_in
from fedsim.data.volumes.pairing import MASK_WORDS
from fedsim.data.volumes.reading import SUFFIXES as VOLUMES
from fedsim.errors import InputError, Problem
from fedsim.starting.found import Found, Setting

_LABELS = (
    *("label", "labels", "class", "classes", "target", "diagnosis", "dx", "category", "finding"),
    *("findings", "outcome", "pathology", "disease", "truth", "ground_truth", "benign_malignant"),
    *("malignant", "grade", "result", "type", "y"),
)
"""What people call the class, the likeliest first."""

_CLIENTS = ("client", "client_id", "clients")
_LOOKED_AT = 500  # rows
_ENOUGH = 0.5  # share of them whose file is there
_MOST_CLASSES = 20


@dataclass(frozen=True)
class _Guess:
    """A table's columns: fedsim's name -> the table's."""

    name: str
    columns: dict[str, str]
    kind: str
    files: int
    client: str


def from_tables(root: Path, label: str | None) -> Found | None:
    """What a folder's tables say of its records; None where there is no table about them.

    Args:
        root: the folder.
        label: the column of the class, where a person names it.

    Raises:
        InputError: it is not clear which column is the class, or the mask.
    """
    files = _Files(root)
    guesses = []
    for name in tables_in(root):
        try:
            columns = columns_in(root / name)
        except InputError:
            continue
        guess = _guess(name, columns, files, label)
        if guess is not None:
            guesses.append(guess)
    if not guesses:
        return None
    best = max(guesses, key=lambda guess: guess.files)
    renamed = {
        known: title for known, title in best.columns.items() if plain(title) != plain(known)
    }
    settings = []
    if len(tables_in(root)) > 1:
        settings.append(Setting("csv", best.name, "of several tables"))
    if renamed:
        settings.append(Setting("columns", renamed, "what the table calls its columns"))
    said = ", ".join(
        f"{known} ({title})" if known in renamed else known for known, title in best.columns.items()
    )
    return Found(
        dataset="folder" if best.kind == "images" else "volumes",
        kind="images" if best.kind == "images" else "volumes",
        layout=f"the table {best.name}: {said}",
        root=root,
        settings=tuple(settings),
        client_column=best.client,
        table=best.name,
    )


def unread(root: Path) -> InputError | None:
    """Why a table of a folder cannot be read, the first of several; None: each can."""
    for name in tables_in(root):
        try:
            columns_in(root / name)
        except InputError as error:
            return error
    return None


class _Files:
    """The files that the rows of a table may be about."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: set[str] | None = None

    def kind_of(self, value: str) -> str:
        """ "images" or "volumes", or "" where no such file is there."""
        path = self.root / value
        if not value or "\0" in value:
            return ""
        try:
            if os.path.isdir(path):
                return "volumes" if plain(value) != "." and dicom.series_in(path) else ""
            if os.path.isfile(path):
                return _kind(path)
        except OSError:  # a name that no file can have
            return ""
        if "/" in value or "\\" in value:
            return ""
        if self._names is None:
            self._names = {
                name for file in images_below(self.root) for name in (file.name, file.stem)
            }
        return "images" if value in self._names else ""


def _kind(path: Path) -> str:
    if path.name.lower().endswith(VOLUMES):
        return "volumes"
    return "images" if path.suffix.lower() in IMAGES or dicom.is_dicom(path) else ""


def _guess(
    name: str, columns: Mapping[str, Sequence[str]], files: _Files, label: str | None
) -> _Guess | None:
    """What the columns of one table are; None where none names files that are there."""
    found: dict[str, tuple[str, float]] = {}
    for title, values in columns.items():
        looked = [value for value in values if value][:_LOOKED_AT]
        kinds = Counter(files.kind_of(value) for value in looked)
        kind, count = max(
            ((kind, kinds[kind]) for kind in ("images", "volumes")), key=lambda one: one[1]
        )
        if looked and count / len(looked) >= _ENOUGH and len(set(looked)) > 1:
            found[title] = kind, count / len(looked)
    if not found:
        return None
    where = str(files.root / name)
    volumes = [title for title, (kind, _) in found.items() if kind == "volumes"]
    chosen: dict[str, str]
    if volumes:
        chosen = _image_and_mask(where, volumes, columns)
        kind = "volumes"
    else:
        path = max(found, key=lambda title: (found[title][1], title in ("path", "file")))
        rest = {title: values for title, values in columns.items() if title not in found}
        chosen = {"path": path, "label": _label(where, rest, label)}
        kind = "images"
    others = {
        title: values
        for title, values in columns.items()
        if title not in chosen.values() and title not in found
    }
    chosen |= _belonging(others)
    client = next((title for title in others if plain(title) in _CLIENTS), "")
    return _Guess(name, chosen, kind, len(next(iter(columns.values()))), client)


def _image_and_mask(
    where: str, titles: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    def says_mask(text: str) -> bool:
        return bool(MASK_WORDS & set(re.findall(r"[a-z]+", plain(text))))

    masks = [title for title in titles if says_mask(title)]
    if not masks:
        masks = [t for t in titles if all(map(says_mask, columns[t][:_LOOKED_AT]))]
    images = [title for title in titles if title not in masks]
    if len(masks) != 1 or len(images) != 1:
        raise InputError(
            "it is not clear which column names the image and which the mask",
            [Problem(where, f"columns with volumes: {', '.join(titles)}")],
            "call them image and mask in the table's header, and start again",
        )
    return {"image": images[0], "mask": masks[0]}


def _label(where: str, columns: Mapping[str, Sequence[str]], wanted: str | None) -> str:
    """The column of the class."""
    titles = {plain(title): title for title in columns}
    if wanted is not None:
        if plain(wanted) not in titles:
            message = f"has no column {wanted!r}; its columns are {', '.join(columns)}"
            raise InputError("there is no such column", [Problem(where, message)])
        return titles[plain(wanted)]
    named = [titles[name] for name in _LABELS if name in titles]
    if named:
        return named[0]
    candidates = [
        title
        for title, values in columns.items()
        if 2 <= len(set(filter(None, values))) <= min(_MOST_CLASSES, len(values) // 2)
        and meant(title, ("group", "site")) is None
    ]
    if len(candidates) == 1:
        return candidates[0]
    raise InputError(
        "it is not clear which column of the table is the class",
        [Problem(where, f"its columns are {', '.join(columns)}")],
        f"type: fedsim start DIR --label {(candidates or ['COLUMN'])[0]}",
    )


def _belonging(columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The columns of patient and site."""
    chosen: dict[str, str] = {}
    for known in ("group", "site"):
        plainly = [title for title in columns if plain(title) == known]
        sure: list[str] = []
        perhaps: list[str] = []
        for title, values in columns.items():
            match = meant(title, ("group", "site"))
            if match is None or match[0] != known:
                continue
            given = list(filter(None, values))
            if match[1]:
                sure.append(title)
            elif len(set(given)) < len(given):
                perhaps.append(title)
        # Of patients and lesions, the patients: a lesion is of one patient.
        ranked = plainly or sorted(sure, key=lambda title: _distinct(columns[title])) or perhaps
        if ranked:
            chosen[known] = ranked[0]
    return chosen


def _distinct(values: Sequence[str]) -> float:
    """How many names there are; infinite where there are none."""
    return len(set(filter(None, values))) or float("inf")
