"""Small folders of pictures and of volumes, and runs on them, shared by all tests of models."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from fedsim import Result, run
from fedsim.federation.building import build_federation
from fedsim.scenario import load

PICTURES = """\
name: my_images
data: {{name: folder, root: {root}, size: 16, window: [500, 60000], split: {{val: 0.1, test: 0.3}}}}
federation: {{clients: 3}}
model: {{name: cnn, width: 8}}
strategy: {{name: fedavg}}
client: {{name: supervised, batch_size: 8, epochs: 6}}
resources: {{backend: inline}}
"""

VOLUMES = """\
name: my_volumes
data:
  name: volumes
  root: {root}
  structures: [core, shell]
  size: 32
  patch: [32, 32]
  split: {{val: 0.1, test: 0.8}}
federation: {{clients: 1}}
model: {{name: unet, channels: [4, 8]}}
strategy: {{name: fedavg}}
client: {{name: segmentation, steps: 30, batch_size: 4}}
resources: {{backend: inline}}
"""

PRIVATE = (
    "client={name: supervised, class_balanced: false, steps: 1}",
    "privacy={noise_multiplier: 1.0, expected_batch: 8, delta: 1e-3}",
)


@dataclass(frozen=True)
class Trained:
    """A run, and the files that its test records are read from, in the order of its predictions."""

    result: Result
    root: Path
    files: list[Path]
    labels: NDArray[np.int64]

    @property
    def folder(self) -> Path:
        return self.result.folder


def trained(result: Result, root: Path) -> Trained:
    federation = build_federation(load(result.folder / "scenario.yaml"), result.seed)
    positions = federation.split["test"]
    files = [root / federation.store.ids[i] for i in positions]
    return Trained(result, root, files, np.asarray(federation.store.labels)[positions])


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the data and runs of all tests of models, with a cache of its own."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def pictures(home: Path) -> Path:
    """A scenario of two classes of JPEGs, PNGs, PNGs of 16 bits and DICOM files, alike many."""
    draws = np.random.default_rng(0)
    for number in range(160):
        label = ("benign", "malignant")[number % 2]
        folder = home / "pictures" / label
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 120, (24, 30 + number % 7, 3))
        if label == "malignant":
            pixels[::4] += 130  # lines
        name = folder / f"case-{number:03d}"
        kind = number // 2 % 4
        if kind == 0:
            Image.fromarray(pixels.astype(np.uint8)).save(name.with_suffix(".jpg"))
        elif kind == 1:
            Image.fromarray(pixels.astype(np.uint8)).save(name.with_suffix(".png"))
        elif kind == 2:
            Image.fromarray((pixels[..., 0] * 256).astype(np.uint16)).save(name.with_suffix(".png"))
        else:
            grey = sitk.GetImageFromArray((pixels[..., 0] * 256).astype(np.uint16))
            sitk.WriteImage(grey, str(name.with_suffix(".dcm")))
    file = home / "pictures.yaml"
    file.write_text(PICTURES.format(root=home / "pictures"))
    return file


@pytest.fixture(scope="session")
def classifier(pictures: Path, home: Path) -> Trained:
    """One model for three clients."""
    return trained(run(pictures, "rounds=3", runs=home / "runs"), home / "pictures")


@pytest.fixture(scope="session")
def local(pictures: Path, home: Path) -> Trained:
    """A model for each of three clients."""
    own = ("strategy=local_only", "client={name: local, batch_size: 16}", "name=alone")
    return trained(run(pictures, *own, runs=home / "runs"), home / "pictures")


@pytest.fixture(scope="session")
def private(pictures: Path, home: Path) -> Trained:
    """A model that was trained with noise."""
    result = run(pictures, *PRIVATE, "name=guarded", seed=41, runs=home / "runs")
    return trained(result, home / "pictures")


def turned(degrees: float) -> NDArray[np.float64]:
    """A rotation about the head-to-feet axis, then a smaller one about the left-to-right axis."""
    a, b = np.radians([degrees, degrees / 2])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def oblique(spacing: tuple[float, float, float], degrees: float = 20.0) -> NDArray[np.float64]:
    """An affine of voxels that lie askew, with columns that count to the right."""
    affine = np.eye(4)
    affine[:3, :3] = turned(degrees) * np.array(spacing)
    affine[:3, 3] = (-31.5, 17.25, 8.0)
    return affine


@pytest.fixture(scope="session")
def volumes(home: Path) -> Path:
    """28 volumes with masks, half of them askew NIfTI files, half MetaImages; a scenario."""
    root, draws = home / "volumes", np.random.default_rng(1)
    root.mkdir()
    rows = [("image", "mask", "group", "site")]
    for number in range(28):
        shape = (32 + number % 3, 32 + number % 4, 5 + number % 2)
        places = np.indices(shape) - np.array(shape)[:, None, None, None] / 2
        far = np.sqrt((places**2 / np.array([9, 9, 2.0])[:, None, None, None] ** 2).sum(axis=0))
        mask = np.where(far < 0.6, 1, np.where(far < 1, 2, 0)).astype(np.uint8)
        image = (draws.normal(0, 8, shape) + 100 + 40.0 * mask).astype(np.float32)
        if number % 2 == 0:
            names = f"case-{number:02d}.nii.gz", f"outline-{number:02d}.nii.gz"
            for name, array in zip(names, (image, mask), strict=True):
                made = nibabel.nifti1.Nifti1Image(
                    array, oblique((0.8, 1.1, 3.5), 5.0 * (number % 12))
                )
                nibabel.save(made, root / name)
        else:
            names = f"case-{number:02d}.mha", f"outline-{number:02d}.mha"
            for name, array in zip(names, (image, mask), strict=True):
                made_by_itk = sitk.GetImageFromArray(array.transpose(2, 1, 0))
                made_by_itk.SetSpacing((0.8, 1.1, 3.5))
                made_by_itk.SetOrigin((4.5, -6.0, 12.5))
                made_by_itk.SetDirection(turned(7.0 * (number % 12)).ravel().tolist())
                sitk.WriteImage(made_by_itk, str(root / name))
        rows.append((*names, f"patient-{number}", "here"))
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    file_of = home / "volumes.yaml"
    file_of.write_text(VOLUMES.format(root=root))
    return file_of


@pytest.fixture(scope="session")
def segmenter(volumes: Path, home: Path) -> Trained:
    """A network of slices, trained on one volume."""
    return trained(run(volumes, runs=home / "runs"), home / "volumes")
