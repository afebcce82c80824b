"""Predictions go back to the voxels that they are of: where a structure is, not near it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.volumes.preparing import Preparation, fit, prepare_volume, unfit
from fedsim.data.volumes.reading import read_volume
from fedsim.data.volumes.restoring import restore_labels
from fedsim.trained.about import About
from fedsim.trained.load import TrainedModel
from fedsim.trained.predicting import find_files, mask_names
from tests.trained.conftest import oblique

SHAPE, SPACING = (44, 38, 14), (0.7, 0.9, 3.0)  # columns, rows, slices
PLAIN: dict[str, Any] = {
    **{"size": 48, "slices": None, "field_of_view": None, "spacing": None},
    **{"normalise": "zscore", "orientation": "canonical", "channel": None, "patch": [48, 48]},
}
WAYS: dict[str, dict[str, Any]] = {
    "padded": {},
    "cut": {"size": 30, "slices": 11, "patch": [30, 30]},
    "scaled": {"size": 30, "field_of_view": 0.9, "patch": [30, 30]},
    "resampled": {"spacing": [2.0, 0.8, 0.8], "size": 40, "patch": [40, 40]},
    "all": {
        **{"spacing": [2.2, 1.0, 1.0], "size": 32, "field_of_view": 0.8, "slices": 18},
        **{"patch": [12, 24, 24], "normalise": "zscore_clipped"},
    },
    "stored": {"orientation": "stored"},
}


class Bright(torch.nn.Module):
    """Calls class 1 what is brighter than the mean by one standard deviation."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(images), 6 * (images - 1)], dim=1)


def finder(how: dict[str, Any]) -> TrainedModel:
    about = About(
        *("image-segmentation", "bright", {}, ("background", "lesion"), None, PLAIN | how),
        *("made", "path", "made", 0, "none"),
    )
    return TrainedModel(Bright(), about, torch.device("cpu"), Path("none"))


def blob() -> np.ndarray:
    """A blob off the middle, of another extent along each axis, bool [columns, rows, slices]."""
    places = np.indices(SHAPE) - np.array([26.0, 16.0, 7.5])[:, None, None, None]
    sizes = np.array([9.0, 6.0, 2.4])[:, None, None, None]
    return np.asarray((places / sizes).__pow__(2).sum(axis=0) < 1)


def write(folder: Path, suffix: str) -> tuple[Path, np.ndarray]:
    """The blob as an oblique, anisotropic file, and the blob [slices, rows, columns]."""
    mask, path = blob(), folder / f"scan{suffix}"
    image = (mask * 200 + 30).astype(np.int16)
    affine = oblique(SPACING)
    if suffix in (".mha", ""):
        made = sitk.GetImageFromArray(image.transpose(2, 1, 0))
        made.SetSpacing(SPACING)
        made.SetDirection((affine[:3, :3] / np.array(SPACING)).ravel().tolist())
        made.SetOrigin((12.0, -40.0, 7.0))
        if suffix:
            sitk.WriteImage(made, str(path))
        else:
            write_series(made, path)
    else:
        nibabel.save(nibabel.nifti1.Nifti1Image(image, affine), path)
    return path, mask.transpose(2, 1, 0)


def write_series(volume: sitk.Image, folder: Path) -> None:
    """A folder with a DICOM file for each slice."""
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    turn = np.array(volume.GetDirection()).reshape(3, 3)
    for z in range(volume.GetSize()[2]):
        image = volume[:, :, z]
        for tag, value in {
            "0008|0060": "MR",
            "0008|0018": f"1.2.3.{z + 1}",
            "0020|000d": "1.2.3.100",
            "0020|000e": "1.2.3.200",
            "0020|0032": "\\".join(map(str, volume.TransformIndexToPhysicalPoint((0, 0, z)))),
            "0020|0037": "\\".join(map(str, [*turn[:, 0], *turn[:, 1]])),
        }.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{z:03d}.dcm"))
        writer.Execute(image)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ""])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_found_lies_where_it_is(way: str, suffix: str, tmp_path: Path) -> None:
    path, truth = write(tmp_path, suffix)
    found = finder(WAYS[way]).segment(path)
    mask = found.labels.array == 1
    stored = read_volume(path, canonical=False)
    assert mask.shape == stored.array.shape
    np.testing.assert_allclose(found.labels.affine, stored.affine, atol=1e-9)
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    # Sampling thick slices anew costs their rims; a shift by one voxel would cost far more.
    exact = way in ("padded", "cut", "stored")
    assert dice == 1 if exact else dice > 0.9, dice
    moved = [2 * (mask & np.roll(truth, by, axis)).sum() / (mask.sum() + truth.sum())
             for axis in range(3) for by in (-1, 1)]  # fmt: skip
    assert dice > max(moved)
    assert found.millilitres(1) == pytest.approx(mask.sum() * np.prod(SPACING) / 1000)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ""])
def test_a_mask_that_is_written_is_read_where_the_volume_is(suffix: str, tmp_path: Path) -> None:
    path, truth = write(tmp_path, suffix)
    (tmp_path / "mask.nii.gz").write_bytes(finder({}).segment(path).nifti())
    image, mask = read_volume(path), read_volume(tmp_path / "mask.nii.gz")
    assert mask.array.shape == image.array.shape
    assert mask.apart(image).max() < 1e-4
    np.testing.assert_array_equal(mask.array == 1, image.array > 100)
    assert (mask.array == 1).sum() == truth.sum()


def test_a_folder_of_a_series_is_a_volume(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "")
    scan, _ = write(tmp_path, ".mha")
    assert find_files([tmp_path], finder({})) == ([path, scan], [])
    assert find_files([path], finder({})) == ([path], [])
    assert mask_names([path], tmp_path)[path].name == "scan_mask.nii.gz"


def test_the_same_mask_is_the_same_file(tmp_path: Path) -> None:
    path, _ = write(tmp_path, ".nii.gz")
    assert finder({}).segment(path).nifti() == finder({}).segment(path).nifti()


def test_nothing_of_a_files_notes_is_copied(tmp_path: Path) -> None:
    path, _ = write(tmp_path, ".nii")
    image = nibabel.nifti1.Nifti1Image.from_bytes(path.read_bytes())
    image.header["descrip"] = b"Jane Doe"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    path.write_bytes(image.to_bytes())
    assert b"Jane" in path.read_bytes()
    (tmp_path / "mask.nii.gz").write_bytes(finder({}).segment(path).nifti())
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    assert not mask.header.extensions
    assert not bytes(mask.header["descrip"]).strip(b"\0")


def test_of_four_dimensions_the_channel_that_was_trained_on_is_taken(tmp_path: Path) -> None:
    image = np.stack([np.zeros(SHAPE), blob() * 200.0], axis=-1).astype(np.float32)
    path = tmp_path / "two.nii.gz"
    nibabel.save(nibabel.nifti1.Nifti1Image(image, oblique(SPACING)), path)
    found = finder({"channel": 1}).segment(path)
    np.testing.assert_array_equal(found.labels.array == 1, blob().transpose(2, 1, 0))
    (tmp_path / "mask.nii.gz").write_bytes(found.nifti())
    assert nibabel.load(tmp_path / "mask.nii.gz").shape == SHAPE


shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3)


@given(shapes)
def test_what_was_cut_or_lengthened_goes_back_to_its_place(pairs: list[tuple[int, int]]) -> None:
    have, want = (tuple(shape) for shape in zip(*pairs, strict=True))
    array = np.arange(1, 1 + int(np.prod(have))).reshape(have)
    fitted = fit(array, want)
    back = unfit(fitted, have, 0)
    kept = np.isin(array, fitted)
    np.testing.assert_array_equal(back, np.where(kept, array, 0))
    assert kept.sum() == np.prod(np.minimum(have, want))


def test_resampled_classes_are_the_most_probable() -> None:
    """Where two structures meet, the border is between their voxels, and no third class is there:
    classes are no quantity that one interpolates."""
    how = Preparation(size=8, field_of_view=1.0, clip=False)
    label = np.zeros((4, 16, 16), np.uint8)
    label[:, :, :6], label[:, :, 6:10], label[:, :, 10:] = 2, 0, 1
    _, small, _ = prepare_volume(label.astype(np.float32), label, (1.0, 1.0, 1.0), how)
    logits = 20 * np.eye(3, dtype=np.float32)[small].transpose(3, 0, 1, 2)
    back = restore_labels(logits, label.shape, (1.0, 1.0, 1.0), how)
    np.testing.assert_array_equal(back, label)
