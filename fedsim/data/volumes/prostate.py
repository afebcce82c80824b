"""Prostate MRI data sets: PROMISE12 and ProstateX, with the prostate phantom as stand-in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from fedsim.data.table import about_records, read_table, tables_in
from fedsim.data.volumes.dataset import (
    EmbeddedVolumes,
    Mask,
    VolumeCase,
    VolumeDataset,
    VolumeManifest,
)
from fedsim.errors import InputError, Problem

Outlines = Literal["zones", "zones_and_lesions", "gland"]

GLAND = ("prostate",)
ZONES = ("peripheral_zone", "transition_zone")
LESION = "lesion"
_WHO = ("group", "site")


def prostate_cases(
    size: int,
    *,
    outlines: Outlines,
    field_of_view: float | None,
    mean_slices: int,
    scale: float,
    seed: int,
) -> EmbeddedVolumes:
    """The prostate phantom with the outlines wanted; see `prostate_phantom` for the arguments.

    It is drawn as large as what is cut out of it must be: nothing is enlarged afterwards.
    """
    from fedsim.data.phantom.prostate import prostate_phantom

    volumes = prostate_phantom(
        np.random.default_rng(seed), round(size / (field_of_view or 1)), mean_slices, scale
    )

    def cases() -> Iterator[VolumeCase]:
        for volume in volumes:
            label = volume.labels
            if outlines == "gland":
                label = (label > 0).astype(np.uint8)
            elif outlines == "zones":  # a lesion lies in the peripheral zone
                label = np.where(label == 3, np.uint8(1), label)
            yield VolumeCase(volume.image, label, volume.spacing, volume.centre, volume.case)

    return EmbeddedVolumes(structures_of(outlines), cases())


def structures_of(outlines: Outlines) -> tuple[str, ...]:
    """Names of the label values 1, 2, ..."""
    if outlines == "gland":
        return GLAND
    return (*ZONES, LESION) if outlines == "zones_and_lesions" else ZONES


def promise12_stand_in(
    size: int,
    *,
    field_of_view: float | None = None,
    mean_slices: int = 16,
    scale: float = 0.25,
    seed: int = 0,
) -> EmbeddedVolumes:
    """Four centres of the prostate phantom with the outline of the whole gland.

    Args:
        size: height and width of the slices afterwards.
        field_of_view: share of the slices that is kept.
        mean_slices: of an average case without an endorectal coil, at least 8.
        scale: part of the 32, 23, 27 and 184 cases, above 0; no centre has fewer than three.
        seed: of all random numbers: other patients of the same centres.
    """
    return prostate_cases(
        size,
        outlines="gland",
        field_of_view=field_of_view,
        mean_slices=mean_slices,
        scale=scale,
        seed=seed,
    )


def prostatex_stand_in(
    size: int,
    *,
    outlines: Outlines = "zones",
    field_of_view: float | None = None,
    mean_slices: int = 16,
    scale: float = 0.25,
    seed: int = 0,
) -> EmbeddedVolumes:
    """Four centres of the prostate phantom with outlines of zones and lesions.

    Args: as `promise12_stand_in`, and `outlines` as of `ProstateX`.
    """
    return prostate_cases(
        size,
        outlines=outlines,
        field_of_view=field_of_view,
        mean_slices=mean_slices,
        scale=scale,
        seed=seed,
    )


for _stand_in in (promise12_stand_in, prostatex_stand_in):
    _stand_in.version = 1  # type: ignore[attr-defined]


class Promise12(VolumeDataset):
    """PROMISE12: T2-weighted MRI of several centres with the outline of the prostate.

    Litjens et al. 2014, doi:10.1016/j.media.2013.12.002. The files do not say which centre a case
    is from: `centres.csv` does. A group is a case.
    """

    embedded: ClassVar[Callable[..., EmbeddedVolumes] | None] = promise12_stand_in
    layout = (
        "Case00.mhd and Case00_segmentation.mhd with their .raw or .zraw, and so on, also in "
        "folders; and centres.csv (case, centre)"
    )

    def manifest(self, root: Path) -> VolumeManifest:
        """List the images, and read `centres.csv`."""
        images = _by_case(
            root,
            r"Case.*(?<!_segmentation)\.mhd",
            lambda file: file.stem,
            others=r"case.*(?<!_segmentation)\.(mhd|mha|nii|nii\.gz|nrrd)",
        )
        if not images:
            raise _no_images("PROMISE12", root, self.layout)
        centres, patients = _centres(root, list(images), required=True)
        return VolumeManifest(
            images=list(images.values()),
            masks=[
                (Mask(file.with_name(f"{case}_segmentation.mhd"), {1: 1}),)
                for case, file in images.items()
            ],
            sites=[centres[case] for case in images],
            groups=[patients.get(case) or case for case in images],
            ids=list(images),
            structures=GLAND,
        )


class ProstateX(VolumeDataset):
    """ProstateX: T2-weighted MRI with outlines of the zones of the prostate.

    Litjens et al. 2014, doi:10.1109/TMI.2014.2303821. One site, unless a `centres.csv` names
    several. A group is a patient.

    Args:
        outlines: "zones": peripheral and transition zone, from `<patient>_zones.nii.gz` (1 and 2);
            "zones_and_lesions": also `<patient>_lesions.nii.gz` (1), over the zones; "gland": the
            whole prostate, from `<patient>_whole_gland.nii.gz` (1).
        slices, field_of_view, orientation, spacing, normalise: see `VolumeDataset`.
    """

    embedded: ClassVar[Callable[..., EmbeddedVolumes] | None] = prostatex_stand_in
    layout = (
        "<patient>_T2W.nii.gz with <patient>_zones.nii.gz, <patient>_lesions.nii.gz or "
        "<patient>_whole_gland.nii.gz, and perhaps centres.csv (case, centre)"
    )

    def __init__(
        self,
        outlines: Outlines = "zones",
        slices: int | None = None,
        field_of_view: float | None = None,
        orientation: Literal["canonical", "stored"] = "canonical",
        spacing: list[float] | None = None,
        normalise: Literal["zscore_clipped", "zscore"] = "zscore_clipped",
    ) -> None:
        super().__init__(slices, field_of_view, orientation, spacing, normalise)
        self.outlines = outlines

    def manifest(self, root: Path) -> VolumeManifest:
        """List the images."""
        end = "_T2W.nii.gz"
        images = _by_case(
            root,
            r".*_T2W\.nii\.gz",
            lambda file: file.name.removesuffix(end),
            others=r".*_t2w\.(mhd|mha|nii|nii\.gz|nrrd)",
        )
        if not images:
            raise _no_images("ProstateX", root, self.layout)
        centres, patients = _centres(root, list(images), required=False)
        files: dict[Any, dict[str, dict[int, int]]] = {
            "gland": {"whole_gland": {1: 1}},
            "zones": {"zones": {1: 1, 2: 2}},
            "zones_and_lesions": {"zones": {1: 1, 2: 2}, "lesions": {1: 3}},
        }
        return VolumeManifest(
            images=list(images.values()),
            masks=[
                tuple(
                    Mask(file.with_name(f"{case}_{name}.nii.gz"), values)
                    for name, values in files[self.outlines].items()
                )
                for case, file in images.items()
            ],
            sites=[centres.get(case, "prostatex") for case in images],
            groups=[patients.get(case) or case for case in images],
            ids=list(images),
            structures=structures_of(self.outlines),
        )


def _no_images(name: str, root: Path, layout: str) -> InputError:
    problem = Problem(str(root), f"holds none; expected there: {layout}")
    return InputError(f"the images of {name} are missing", [problem], "check data.root")


def _by_case(
    root: Path, pattern: str, case_of: Callable[[Path], str], *, others: str
) -> dict[str, Path]:
    """The image of each case, at any depth; names with a leading dot are not data.

    Args:
        root: the folder.
        pattern: of the names of images.
        case_of: the case of such a file.
        others: of names that were meant to be so, in any case.

    Raises:
        InputError: a case has several images, or files have nearly the name of one.
    """
    found: dict[str, Path] = {}
    twice, missed = [], []
    for file in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(root).parts) or file.is_dir():
            continue
        if not re.fullmatch(pattern, file.name):
            if re.fullmatch(others, file.name, re.IGNORECASE):
                missed.append(Problem(str(file), "is not read: other names are expected"))
        elif (first := found.setdefault(case_of(file), file)) is not file:
            twice.append(Problem(str(file), f"is case {case_of(file)!r}, and so is {first}"))
    if twice:
        raise InputError(
            "one case is there several times", twice, "keep one of the files, or rename it"
        )
    if missed:
        raise InputError(
            "images would be passed over", missed, f"rename them as {_said(pattern)}, or move them"
        )
    return found


def _said(pattern: str) -> str:
    """A pattern of names as a person writes it."""
    plain = re.sub(r"\(\?.*?\)", "", pattern)
    return plain.replace(".*", "<case>", 1).replace("\\", "")


def _centres(
    root: Path, cases: list[str], *, required: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """The centre of each case, and its group ("" where it is not told), from `centres.csv`.

    Raises:
        InputError: the table is missing although required, wrong, or about other cases.
    """
    file = root / "centres.csv"
    if not file.exists():
        others = [name for name in tables_in(root) if about_records(root / name, ("case",), _WHO)]
        if others:
            raise InputError(
                "centres.csv is there by another name",
                [Problem(str(root / name), "is not read") for name in others],
                "call it centres.csv (columns case, centre and, if known, group), or move it",
            )
        if not required:
            return {}, {}
    rows = read_table(file, ("case", "centre"), unique="case", optional=("group",))
    known = {row["case"]: row["centre"] for row in rows}
    problems = [
        Problem(str(file), f"has no line for {case}") for case in cases if case not in known
    ]
    for row in rows:
        if row["case"] not in cases:
            problems.append(Problem(row.where, f"there is no image of {row['case']!r}"))
        elif not row["centre"]:
            problems.append(Problem(row.where, "centre is empty"))
    if problems:
        raise InputError(
            "centres.csv and the images do not match",
            problems,
            "give every case one line with its centre (one name for all where it is unknown)",
        )
    return known, {row["case"]: row.get("group") for row in rows}
