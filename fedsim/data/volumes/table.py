"""A person's own volumes: a table of images and masks, or files paired by their names.

A picture is a volume of one slice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedsim.data.columns import alike
from fedsim.data.headers import by_headers
from fedsim.data.table import (
    ONE_SITE,
    belonging,
    check_called,
    find_table,
    other_columns,
    read_table,
    refuse_one_file_twice,
)
from fedsim.data.volumes.dataset import Mask, VolumeDataset, VolumeManifest
from fedsim.data.volumes.pairing import pairs_below
from fedsim.errors import InputError, Problem

_COLUMNS, _OPTIONAL = ("image", "mask"), ("group", "site")
_LARGEST = 65535  # of a mask's values


class Volumes(VolumeDataset):
    """Volumes and masks, without a stand-in: listed by a table, or paired by their names.

    The columns of the table are image and mask (paths relative to the root) and, if known, site
    and group (the patient). An image or a mask may be a folder with the files of one DICOM series,
    or a picture (PNG, BMP, TIFF, JPEG), which is a volume of one slice.
    Without a table, an image and its mask are called alike but for words as `mask` or `seg` in
    their names or folders.

    Args:
        structures: names of the mask's values.
        csv: the CSV file's name below the root; without it the only one there that has the columns.
        channel: of images with several.
        columns: what the table calls its columns: {image: Scan, group: Patient}.
        values: the mask's value for each of the structures; without it 1, 2, ...
        slices, field_of_view, orientation, spacing, normalise: see `VolumeDataset`.
    """

    layout = (
        "a .csv file with the columns image, mask and, if known, site and group; or images and "
        "masks called alike (images/case1.nii.gz and masks/case1.nii.gz, or case1.nii.gz and "
        "case1_mask.nii.gz)"
    )

    def __init__(
        self,
        structures: list[str],
        csv: str | None = None,
        channel: int | None = None,
        columns: dict[str, str] | None = None,
        values: list[int] | None = None,
        slices: int | None = None,
        field_of_view: float | None = None,
        orientation: Literal["canonical", "stored"] = "canonical",
        spacing: list[float] | None = None,
        normalise: Literal["zscore_clipped", "zscore"] = "zscore_clipped",
    ) -> None:
        super().__init__(slices, field_of_view, orientation, spacing, normalise)
        if not structures or alike(structures) or len(set(structures)) < len(structures):
            raise ValueError(f"structures must be one or more different names, not {structures}.")
        if values is not None and (
            len(values) != len(structures)
            or len(set(values)) < len(values)
            or not all(0 < value <= _LARGEST for value in values)
        ):
            raise ValueError(
                f"values must be {len(structures)} different whole numbers from 1 to {_LARGEST}, "
                f"one for each of the structures, not {values}."
            )
        self.structures = structures
        self.csv = csv
        self.channel = channel
        self.columns = check_called(columns, (*_COLUMNS, *_OPTIONAL))
        self.values = values

    def manifest(self, root: Path) -> VolumeManifest:
        """Read the table, or pair the files."""
        found: tuple[str, str] | None
        if self.csv:
            found = self.csv, ""
        else:
            found = find_table(root, _COLUMNS, _OPTIONAL, self.layout, self.columns)
        if found is None:
            return self._paired(root)
        name, note = found
        rows = read_table(
            root / name, _COLUMNS, unique="image", optional=_OPTIONAL, called=self.columns
        )
        refuse_one_file_twice(rows, "image", name)
        bad = [Problem(row.where, "mask is empty") for row in rows if not row["mask"]]
        rows = [row for row in rows if row["mask"]]
        groups, sites, notes = belonging(rows)
        images = [root / row["image"] for row in rows]
        groups, sites, told = by_headers(images, groups, sites)
        return VolumeManifest(
            images=images,
            masks=[(Mask(root / row["mask"], self._meanings()),) for row in rows],
            sites=sites,
            groups=groups,
            ids=[row["image"] for row in rows],
            structures=tuple(self.structures),
            bad=tuple(bad),
            notes=tuple(filter(None, (note, *notes, *told))),
            columns=other_columns(rows, _COLUMNS, self.columns),
        ).checked()

    def _meanings(self) -> dict[int, int]:
        """The label value that each of a mask's values stands for."""
        values = self.values or range(1, len(self.structures) + 1)
        return {value: number for number, value in enumerate(values, start=1)}

    def _paired(self, root: Path) -> VolumeManifest:
        if self.columns:
            message = "has no table, and data.columns says what a table calls its columns"
            raise InputError("which table lists the volumes?", [Problem(str(root), message)])
        pairs, notes = pairs_below(root)
        if not pairs:
            raise InputError(
                "which table lists the volumes?",
                [
                    Problem(
                        str(root),
                        "has no .csv file, nor images and masks called alike; expected: "
                        f"{self.layout}",
                    )
                ],
            )
        images = [pair.image for pair in pairs]
        groups, sites, told = by_headers(images, [""] * len(pairs), [ONE_SITE] * len(pairs))
        return VolumeManifest(
            images=images,
            masks=[(Mask(pair.mask, self._meanings()),) for pair in pairs],
            sites=sites,
            groups=groups,
            ids=[pair.image.relative_to(root).as_posix() for pair in pairs],
            structures=tuple(self.structures),
            notes=(*notes, *told),
        )
