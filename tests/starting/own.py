"""Small folders of a person's own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image


def picture(path: Path, number: int, bright: bool, size: tuple[int, int] = (24, 20)) -> None:
    """An image that no other number gives; bright ones have a spot."""
    draws = np.random.default_rng(number)
    values = draws.integers(0, 120, (size[1], size[0], 3)).astype(np.uint8)
    values[6:14, 6:14] += 120 * bright
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def class_folders(root: Path, counts: dict[str, int], below: Sequence[str] = ("",)) -> Path:
    """A folder for each class, in each of some folders, with so many images."""
    number = 0
    for folder in below:
        for bright, (name, count) in enumerate(counts.items()):
            for i in range(count):
                number += 1
                picture(root / folder / name / f"{i:03d}.png", number, bool(bright))
    return root


def table(root: Path, header: str, rows: Sequence[str], name: str = "list.csv") -> Path:
    """A table and the images 000.png, 001.png, ... in a folder `images`; every third is bright."""
    for i in range(len(rows)):
        picture(root / "images" / f"{i:03d}.png", i, i % 3 == 0)
    (root / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root


def volumes(root: Path, count: int, value: int = 1, suffix: str = "_mask") -> Path:
    """Volumes with a bright ball, and masks of it beside them."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        draws = np.random.default_rng(i)
        places = np.indices((16, 16, 6)).astype(float)
        centre = draws.integers(6, 10, 2)
        ball = ((places[0] - centre[0]) ** 2 + (places[1] - centre[1]) ** 2) < 9
        image = draws.normal(0, 20, ball.shape) + 90 * ball
        affine = np.diag([0.8, 0.8, 3.0, 1.0])
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), root / f"case{i}.nii.gz")
        mask = nib.Nifti1Image((ball * value).astype(np.uint8), affine)
        nib.save(mask, root / f"case{i}{suffix}.nii.gz")
    return root
