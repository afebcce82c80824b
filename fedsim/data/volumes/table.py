"""A person's own volumes, from a table of images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedsim.data.columns import alike
from fedsim.data.table import belonging, find_table, read_table, refuse_one_file_twice
from fedsim.data.volumes.dataset import Mask, VolumeDataset, VolumeManifest
from fedsim.errors import InputError, Problem

_COLUMNS, _OPTIONAL = ("image", "mask"), ("group", "site")


class Volumes(VolumeDataset):
    """Volumes and masks that a CSV file lists, without a stand-in.

    Its columns are image and mask (paths relative to the root) and, if known, site and group (the
    patient).

    Args:
        structures: names of the mask's values 1, 2, ...
        csv: the CSV file's name below the root; without it the only one there that has the columns.
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
        if not structures or alike(structures) or len(set(structures)) < len(structures):
            raise ValueError(f"structures must be one or more different names, not {structures}.")
        self.structures = structures
        self.csv = csv
        self.channel = channel

    def manifest(self, root: Path) -> VolumeManifest:
        """Read the table."""
        found = (self.csv, "") if self.csv else find_table(root, _COLUMNS, _OPTIONAL, self.layout)
        if found is None:
            raise InputError(
                "which table lists the volumes?",
                [Problem(str(root), f"has no .csv file; expected: {self.layout}")],
            )
        name, note = found
        rows = read_table(root / name, _COLUMNS, unique="image", optional=_OPTIONAL)
        refuse_one_file_twice(rows, "image", name)
        bad = [Problem(row.where, "mask is empty") for row in rows if not row["mask"]]
        rows = [row for row in rows if row["mask"]]
        groups, sites, notes = belonging(rows)
        values = {value: value for value in range(1, len(self.structures) + 1)}
        return VolumeManifest(
            images=[root / row["image"] for row in rows],
            masks=[(Mask(root / row["mask"], values),) for row in rows],
            sites=sites,
            groups=groups,
            ids=[row["image"] for row in rows],
            structures=tuple(self.structures),
            bad=tuple(bad),
            notes=tuple(filter(None, (note, *notes))),
        ).checked()
