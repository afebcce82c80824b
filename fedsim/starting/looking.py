"""Look at a folder, and say what is there."""

from __future__ import annotations

import json
from pathlib import Path

from fedsim.data.source import check_root
from fedsim.data.table import SPREADSHEETS, tables_in
from fedsim.errors import InputError, Problem
from fedsim.starting.folders import from_folders
from fedsim.starting.found import Found, Setting
from fedsim.starting.outlines import from_pairs, masks_of, with_structures
from fedsim.starting.tables import from_tables, unread

LAYOUTS = (
    "a folder of images for each class (JPEG, PNG, TIFF, DICOM); a .csv file with the columns "
    "path, label and, if known, group (the patient) and site; volumes and masks called alike "
    "(NIfTI, MetaImage, NRRD, folders of DICOM series), or in a .csv file with the columns image "
    "and mask; ISIC 2020, HAM10000, the Medical Segmentation Decathlon, PROMISE12 and ProstateX "
    "as they are published; a data set saved by Hugging Face datasets"
)
"""What is understood."""


def look(root: Path, label: str | None = None) -> Found:
    """What a folder holds.

    Args:
        root: the folder.
        label: the column of the class, where a person names it.

    Raises:
        InputError: no such folder, or nothing that is understood.
    """
    check_root("folder", root, LAYOUTS)
    if (known := _published(root)) is not None:
        return known
    found = from_tables(root, label)
    if found is not None and found.kind == "volumes":
        return with_structures(found, masks_of(found))
    if found is None:
        try:
            found = from_pairs(root) or from_folders(root)
        except InputError as error:
            raise unread(root) or error from None
    if found is None:
        if (wrong := unread(root)) is not None:
            raise wrong
        sheets = tables_in(root, SPREADSHEETS)
        hint = f"understood are: {LAYOUTS}"
        if sheets:
            hint = f"{', '.join(sheets)} is not read: save it as CSV. {hint[0].upper()}{hint[1:]}"
        raise InputError(
            "no images, volumes or tables about them were found",
            [Problem(str(root), "holds nothing that fedsim understands")],
            hint,
        )
    return found


def _published(root: Path) -> Found | None:
    """A published data set that lies in a folder as it is distributed."""

    def there(name: str) -> bool:
        return (root / name).exists()

    if there("HAM10000_metadata.csv"):
        return Found("ham10000", "images", "HAM10000 as it is published", root)
    if there("train.csv") and (root / "train").is_dir() and _has(root / "train.csv", "image_name"):
        return Found("isic2020", "images", "ISIC 2020 as it is published", root)
    if there("dataset.json") and there("imagesTr") and there("labelsTr"):
        return Found("msd", "volumes", _decathlon(root), root, _channel(root))
    if there("centres.csv") and any(root.rglob("Case*_segmentation.mhd")):
        return Found("promise12", "volumes", "PROMISE12 as it is published", root)
    if any(root.rglob("*_T2W.nii.gz")) and any(root.rglob("*_zones.nii.gz")):
        return Found("prostatex", "volumes", "ProstateX with its zones", root)
    if there("dataset_dict.json") or (there("dataset_info.json") and there("state.json")):
        return Found("huggingface", "images", "a data set of Hugging Face datasets", root)
    return None


def _has(table: Path, word: str) -> bool:
    try:
        with table.open(encoding="utf-8-sig", errors="replace") as file:
            return word in file.readline(10_000)
    except OSError:
        return False


def _decathlon(root: Path) -> str:
    return f"a task of the Medical Segmentation Decathlon: {_about(root).get('name', root.name)}"


def _channel(root: Path) -> tuple[Setting, ...]:
    """Which channel to take, where there are several."""
    channels = _about(root).get("modality") or _about(root).get("channel_names") or {}
    if not isinstance(channels, dict) or len(channels) < 2:
        return ()
    said = ", ".join(f"{key} {name}" for key, name in channels.items())
    return (Setting("channel", 0, f"of {said}"),)


def _about(root: Path) -> dict[str, object]:
    try:
        about = json.loads((root / "dataset.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
