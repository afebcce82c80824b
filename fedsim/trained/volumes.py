"""Segmentations of volumes in files, on the voxels of these files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.data.volumes.case import finite
from fedsim.data.volumes.preparing import prepare_volume
from fedsim.data.volumes.reading import (
    SeveralChannels,
    Unreadable,
    Volume,
    canonical_turn,
    read_volume,
    turn_onto,
)
from fedsim.data.volumes.restoring import restore_labels, save_labels
from fedsim.tasks.segmentation.inference import class_logits
from fedsim.trained.about import About


@dataclass(frozen=True)
class Segmented:
    """What a model finds in a volume.

    Attributes:
        path: the volume's file.
        labels: uint8 [D, H, W], positions in the model's classes, and where its voxels are: just
            where those of the file are.
    """

    path: Path
    labels: Volume

    def voxels(self, label: int) -> int:
        """How many voxels a class has."""
        return int((self.labels.array == label).sum())

    def millilitres(self, label: int) -> float:
        """The volume of a class."""
        return self.voxels(label) * abs(float(np.linalg.det(self.labels.affine[:3, :3]))) / 1000

    def nifti(self) -> bytes:
        """The labels as a `.nii.gz` file."""
        there = self.path.name.lower().endswith((".nii", ".nii.gz"))
        return save_labels(self.labels, self.path if there else None)


def read_prepared(path: Path, about: About) -> torch.Tensor:
    """A volume as the model sees it, float32 [1, D, H, W].

    Raises:
        ValueError: it cannot be read; says why, without naming it.
    """
    return torch.tensor(_prepared(_read(path, about)[1], about))[None]


def segment_file(
    model: torch.nn.Module, path: Path, about: About, device: torch.device
) -> Segmented:
    """Segment the volume of a file.

    Raises:
        ValueError: it cannot be read; says why, without naming it.
        DivergedError: the model says what is no number.
    """
    stored, turned = _read(path, about)
    image = torch.tensor(_prepared(turned, about))[None]
    logits = class_logits(model, image, about.patch, device)
    labels = restore_labels(logits, turned.array.shape, turned.spacing, about.how)
    return Segmented(path, turn_onto(Volume(labels, turned.affine), stored))


def _read(path: Path, about: About) -> tuple[Volume, Volume]:
    """A volume as it is stored, and with its axes as the training data had theirs."""
    try:
        stored = read_volume(path, channel=about.preprocessing["channel"], canonical=False)
    except SeveralChannels as error:
        raise ValueError(f"{error}, but the model was trained on files with one") from error
    except Unreadable as error:
        raise ValueError(str(error)) from error
    if not finite(stored.array):
        raise ValueError("has voxels that are no finite numbers of 32 bits")
    if about.preprocessing["orientation"] == "stored":
        return stored, stored
    return stored, stored.turned(canonical_turn(stored))


def _prepared(volume: Volume, about: About) -> NDArray[np.float32]:
    nothing = np.zeros(volume.array.shape, np.uint8)
    voxels = volume.array.astype(np.float32)
    return prepare_volume(voxels, nothing, volume.spacing, about.how)[0]
