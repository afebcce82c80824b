"""What the folders that images lie in say: classes, sites, patients, or sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsim.data.columns import plain
from fedsim.data.finding import images_below
from fedsim.data.folder import SIDES
from fedsim.errors import InputError, Problem
from fedsim.starting.found import Found, Setting
from fedsim.starting.words import are_sites, is_class

_MOST_CLASSES = 50
_PATIENTS = 5  # folders below each class, from which on they are taken for patients


def from_folders(root: Path) -> Found | None:
    """What class folders say; None where there are no images.

    Raises:
        InputError: the images have no classes.
    """
    parts = [file.relative_to(root).parts[:-1] for file in images_below(root)]
    if not parts:
        return None
    inside = [one for one in parts if one]
    if not inside:
        raise _no_classes(root, f"holds {len(parts)} images and no folders of classes")
    levels, why = _levels(inside)
    names = {one[levels.index("label")] for one in inside if len(one) > levels.index("label")}
    if len(names) < 2:
        raise _no_classes(root, f"has images in only one folder of a class: {min(names)}")
    if len(names) > _MOST_CLASSES:
        raise _no_classes(root, f"has {len(names)} folders: too many to be classes")
    said = {"skip": "...", "label": "<class>", "group": "<patient>", "site": "<site>"}
    shown = "/".join(said[level] for level in levels)
    plainly = levels == ["label"]
    return Found(
        dataset="folder",
        kind="images",
        layout="a folder for each class" if plainly else f"folders {shown}",
        root=root,
        settings=() if plainly else (Setting("levels", levels, why),),
        notes=(f"folders: {why}",) if why and "skip" not in levels else (),
    )


def _levels(parts: Sequence[tuple[str, ...]]) -> tuple[list[str], str]:
    """What the levels of folders say, and why."""
    depth = min(map(len, parts))
    first = sorted({one[0] for one in parts})
    if len(first) == 1 and depth > 1:
        levels, why = _levels([one[1:] for one in parts])
        return ["skip", *levels], why or f"all images lie in {first[0]}"
    if all(plain(name) in SIDES for name in first) and depth > 1:
        levels, _ = _levels([one[1:] for one in parts])
        return ["skip", *levels], f"{', '.join(first)} are sides of a split, and pooled"
    if depth > 1:
        second = sorted({one[1] for one in parts})
        below = {name: {one[1] for one in parts if one[0] == name} for name in first}
        shared = all(len(names) > 1 for names in below.values()) and all(
            2 * len(names) > len(second) for names in below.values()
        )
        if are_sites(first) or (shared and any(map(is_class, second))):
            rest, _ = _patients([(one[1], *one[2:]) for one in parts], ["label"])
            return ["site", *rest], "the same classes are in every folder of a site"
        if are_sites(second):
            return ["label", "site"], "the folders in each class are called like sites"
        return _patients(parts, ["label"])
    return ["label"], ""


def _patients(parts: Sequence[tuple[str, ...]], levels: list[str]) -> tuple[list[str], str]:
    """Levels, with that of patients where each class has a good number of folders."""
    if min(map(len, parts)) < 2:
        return levels, ""
    below: dict[str, set[str]] = {}
    for one in parts:
        below.setdefault(one[0], set()).add(one[1])
    if min(map(len, below.values())) < _PATIENTS:
        return levels, ""
    return [*levels, "group"], "each class has a folder for each of many patients"


def _no_classes(root: Path, message: str) -> InputError:
    return InputError(
        "the images have no classes to learn",
        [Problem(str(root), message)],
        "put the images of each class into a folder of its own, or write a .csv file there with "
        "the columns path, label and, if known, group (the patient) and site",
    )
