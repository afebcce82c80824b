"""A person's own volumes, from a table of images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedsim.data.table import read_table
from fedsim.data.volumes.dataset import Mask, VolumeDataset, VolumeManifest
from fedsim.errors import InputError, Problem

ONE_SITE = "site-0"
"""The name of the only site of a table that says nothing about sites."""


class Volumes(VolumeDataset):
    """Volumes and masks that a CSV file lists, without a stand-in.

    Its columns are image and mask (paths relative to the root) and, if known, site and group (the
    patient).

    Args:
        structures: names of the mask's values 1, 2, ...
        csv: the CSV file's name below the root; without it the root's only .csv file.
        channel: of images with several.
        slices, field_of_view, orientation, spacing, normalise: see `VolumeDataset`.
    """

    layout = "a .csv file with the columns image, mask and, if known, site and group"

    def __init__(
        self,
        structures: list[str],
        csv: str | None = None,
        channel: int | None = None,
        slices: int | None = None,
        field_of_view: float | None = None,
        orientation: Literal["canonical", "stored"] = "canonical",
        spacing: list[float] | None = None,
        normalise: Literal["zscore_clipped", "zscore"] = "zscore_clipped",
    ) -> None:
        super().__init__(slices, field_of_view, orientation, spacing, normalise)
        if not structures or len(set(structures)) < len(structures):
            raise ValueError(f"structures must be one or more different names, not {structures}.")
        self.structures = structures
        self.csv = csv
        self.channel = channel

    def manifest(self, root: Path) -> VolumeManifest:
        """Read the table."""
        tables = [self.csv] if self.csv else sorted(file.name for file in root.glob("*.csv"))
        if len(tables) != 1:
            found = f"has {len(tables)} .csv files" if tables else "has no .csv file"
            raise InputError(
                "which table lists the volumes?",
                [Problem(str(root), f"{found}; expected: {self.layout}")],
                "name it: data.csv=FILE" if tables else "",
            )
        rows = read_table(root / tables[0], ("image", "mask"), unique="image")
        empty = [Problem(row.where, "mask is empty") for row in rows if not row["mask"]]
        if empty:
            raise InputError(f"{tables[0]} has cases without a mask", empty)
        values = {value: value for value in range(1, len(self.structures) + 1)}
        return VolumeManifest(
            images=[root / row["image"] for row in rows],
            masks=[(Mask(root / row["mask"], values),) for row in rows],
            sites=[row.get("site") or ONE_SITE for row in rows],
            groups=[row.get("group") for row in rows],
            ids=[row["image"] for row in rows],
            structures=tuple(self.structures),
        )
