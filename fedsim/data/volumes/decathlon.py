"""The Medical Segmentation Decathlon: any of its tasks, with a hippocampus as stand-in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from fedsim.data.volumes.dataset import EmbeddedVolumes, Mask, VolumeDataset, VolumeManifest
from fedsim.errors import InputError, Problem
from fedsim.files import require_regular


class _HippocampusPhantom:
    """Imports the generator of the stand-in when it is asked for."""

    def __get__(self, dataset: object, owner: type) -> Callable[..., EmbeddedVolumes]:
        from fedsim.data.phantom.hippocampus import hippocampus_stand_in

        return hippocampus_stand_in


class MSD(VolumeDataset):
    """Medical Segmentation Decathlon: the training cases of any task, such as Task04_Hippocampus.

    Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9. One site; a group is a case. Structures
    are called as in `dataset.json`, in lower case and with _ for blanks.

    Args:
        channel: of images with several (in Task05_Prostate 0 is T2-weighted, 1 the diffusion).
        structures: other names for the label values, in their order.
        slices, field_of_view, orientation, spacing, normalise: see `VolumeDataset`.
    """

    embedded: ClassVar[Any] = _HippocampusPhantom()
    layout = "dataset.json, imagesTr and labelsTr of one task"

    def __init__(
        self,
        channel: int | None = None,
        structures: list[str] | None = None,
        slices: int | None = None,
        field_of_view: float | None = None,
        orientation: Literal["canonical", "stored"] = "canonical",
        spacing: list[float] | None = None,
        normalise: Literal["zscore_clipped", "zscore"] = "zscore_clipped",
    ) -> None:
        super().__init__(slices, field_of_view, orientation, spacing, normalise)
        self.channel = channel
        self.structures = structures

    def manifest(self, root: Path) -> VolumeManifest:
        """Read `dataset.json`."""
        file = root / "dataset.json"
        try:
            require_regular(file)
            about = json.loads(file.read_text(encoding="utf-8-sig"))
            name = str(about.get("name") or "msd")
            values = {
                int(value): str(structure).strip().lower().replace(" ", "_")
                for value, structure in about["labels"].items()
            }
            pairs = [(root / case["image"], root / case["label"]) for case in about["training"]]
        except FileNotFoundError:
            problem = Problem(str(root), f"has none; expected there: {self.layout}")
            raise InputError("dataset.json is missing", [problem], "check data.root") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"has no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(
                "dataset.json is not one of the Medical Segmentation Decathlon",
                [Problem(str(file), why)],
                'expected: "labels": {"0": "background", "1": NAME, ...} and "training": '
                '[{"image": FILE, "label": FILE}, ...]',
            ) from error
        known = dict(sorted((value, names) for value, names in values.items() if value != 0))
        structures = tuple(known.values())
        if self.structures is not None:
            if len(self.structures) != len(structures):
                message = f"must name {len(structures)} structures: {', '.join(structures)}"
                raise InputError(
                    "the names of the structures do not fit dataset.json",
                    [Problem("data.structures", message)],
                )
            structures = tuple(self.structures)
        if not pairs or not known:
            raise InputError(
                "dataset.json lists nothing to learn",
                [Problem(str(file), f"has {len(pairs)} cases and {len(known)} structures")],
            )
        listed: dict[str, Path] = {}
        twice = [
            Problem(str(image), f"is listed twice (as {image.name} and {first.name})")
            for image, _ in pairs
            if (first := listed.setdefault(os.path.normpath(image), image)) is not image
        ]
        if twice:
            raise InputError(f"{file.name} lists a case twice", twice, "keep one of them")
        meaning = {value: label for label, value in enumerate(known, start=1)}
        ids = [image.name.removesuffix(".gz").removesuffix(".nii") for image, _ in pairs]
        return VolumeManifest(
            images=[image for image, _ in pairs],
            masks=[(Mask(mask, meaning),) for _, mask in pairs],
            sites=[name.strip().lower().replace(" ", "_")] * len(pairs),
            groups=ids,
            ids=ids,
            structures=structures,
        )
