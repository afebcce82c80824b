"""Dermoscopy data sets: ISIC 2020 and HAM10000."""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from fedsim.data.dataset import Dataset, Embedded, Manifest
from fedsim.data.table import coded, read_table
from fedsim.errors import InputError, Problem

BINARY = ("benign", "malignant")
DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
MALIGNANT = frozenset({"akiec", "bcc", "mel"})
SUFFIXES = frozenset({".jpg", ".jpeg"})


def _same(first: Path, second: Path) -> bool:
    """Whether two files have the same content."""
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


class _SkinPhantom:
    """Imports the generator of the stand-in when it is asked for."""

    def __get__(self, dataset: object, owner: type) -> Callable[..., Embedded]:
        from fedsim.data.phantom.skin import skin_phantom

        return skin_phantom


class ISIC2020(Dataset):
    """ISIC 2020 challenge, training set: melanoma or not, 33,126 images of 2,056 patients.

    Rotemberg et al. 2021, doi:10.1038/s41597-021-00815-z. One site; a group is a patient.
    """

    classes = BINARY
    embedded: ClassVar[Any] = _SkinPhantom()
    layout = "train.csv (image_name, patient_id, target) and train/<image_name>.jpg"

    def manifest(self, root: Path) -> Manifest:
        """Read `train.csv`."""
        rows = read_table(
            root / "train.csv", ("image_name", "patient_id", "target"), unique="image_name"
        )
        images = root / "train"
        if not images.is_dir():
            raise InputError(
                "the images of ISIC 2020 are missing",
                [Problem(str(images), f"is no folder; expected below {root}: {self.layout}")],
            )
        rows, labels, bad = coded(rows, "target", {"0": 0, "1": 1}.get, "0, 1")
        names = [row["image_name"] for row in rows]
        return Manifest(
            paths=[images / f"{name}.jpg" for name in names],
            labels=np.array(labels, dtype=np.int64),
            groups=[row["patient_id"] for row in rows],
            sites=["isic2020"] * len(rows),
            ids=names,
            bad=tuple(bad),
        ).checked()


class HAM10000(Dataset):
    """HAM10000: 10,015 images of 7,470 lesions from 4 sites, 7 diagnoses.

    Tschandl et al. 2018, doi:10.1038/sdata.2018.161. A group is a lesion, a site the source that
    the column `dataset` names.

    Args:
        task: "binary" asks for malignant (akiec, bcc, mel) or benign, "diagnosis" for all seven.
    """

    embedded: ClassVar[Any] = _SkinPhantom()
    layout = (
        "HAM10000_metadata.csv (lesion_id, image_id, dx, dataset) and <image_id>.jpg beside it or "
        "in folders beside it"
    )

    def __init__(self, task: Literal["binary", "diagnosis"] = "binary") -> None:
        self.task = task

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Class names in label order."""
        return BINARY if self.task == "binary" else DIAGNOSES

    def manifest(self, root: Path) -> Manifest:
        """Read `HAM10000_metadata.csv` and look for the images."""
        rows = read_table(
            root / "HAM10000_metadata.csv",
            ("lesion_id", "image_id", "dx", "dataset"),
            unique="image_id",
        )
        folders = [root, *sorted(folder for folder in root.iterdir() if folder.is_dir())]
        found: dict[str, Path] = {}
        different = []
        for folder in folders:
            for file in sorted(folder.iterdir()):
                if file.suffix.lower() not in SUFFIXES or file.name.startswith("."):
                    continue
                # Some distributions hold every picture twice: of two copies the first is taken.
                first = found.setdefault(file.stem, file)
                if first is not file and not _same(first, file):
                    different.append(Problem(str(file), f"differs from {first}"))
        if different:
            raise InputError("an image is there twice, and not the same", different, "remove one")
        if not found:
            raise InputError(
                "the images of HAM10000 are missing",
                [Problem(str(root), f"holds no .jpg files; expected there: {self.layout}")],
            )
        rows, diagnoses, bad = coded(
            rows, "dx", {name: i for i, name in enumerate(DIAGNOSES)}.get, ", ".join(DIAGNOSES)
        )
        if self.task == "binary":
            labels = [int(DIAGNOSES[diagnosis] in MALIGNANT) for diagnosis in diagnoses]
        else:
            labels = diagnoses
        names = [row["image_id"] for row in rows]
        return Manifest(
            paths=[found.get(name) or root / f"{name}.jpg" for name in names],
            labels=np.array(labels, dtype=np.int64),
            groups=[row["lesion_id"] for row in rows],
            sites=[row["dataset"] or "unknown" for row in rows],
            ids=names,
            bad=tuple(bad),
        ).checked()
