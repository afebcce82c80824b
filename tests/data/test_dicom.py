"""DICOM pictures and series, written here with SimpleITK."""

from __future__ import annotations

import locale
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from fedsim.data.dicom import is_dicom, read_header, read_picture, same_locale
from fedsim.data.folder import Folder
from fedsim.data.images import read_image
from fedsim.data.store import Store, prepare
from fedsim.data.volumes.reading import Unreadable, files_of, read_volume
from fedsim.data.volumes.table import Volumes
from fedsim.errors import InputError

TAGS = {
    "patient": "0010|0020",
    "institution": "0008|0080",
    "modality": "0008|0060",
    "centre": "0028|1050",
    "width": "0028|1051",
    "slope": "0028|1053",
    "intercept": "0028|1052",
}


def write(path: Path, values: np.ndarray, *, white_first: bool = False, **tags: str) -> Path:
    """A DICOM file. SimpleITK writes MONOCHROME2 only: the other is put in by hand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(values, isVector=values.ndim == 3)
    for name, value in tags.items():
        image.SetMetaData(TAGS[name], value)
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.Execute(image)
    if white_first:
        content = path.read_bytes()
        assert content.count(b"MONOCHROME2") == 1
        path.write_bytes(content.replace(b"MONOCHROME2", b"MONOCHROME1"))
    return path


def ramp(least: int, most: int) -> np.ndarray:
    """Grey values that rise from left to right, int16 [16, 16]."""
    return np.tile(np.linspace(least, most, 16).round().astype(np.int16), (16, 1))


def test_the_window_of_the_file_says_what_is_black_and_white(tmp_path: Path) -> None:
    # Rescaled values are 2 * stored - 1000; the window 200 +- 100 is from 100 to 300.
    rescaled = ramp(0, 400) // 2 * 2
    file = write(
        tmp_path / "x.dcm", rescaled, slope="2", intercept="-1000", centre="200", width="200"
    )
    assert np.array_equal(read_picture(file).values, rescaled)
    row = read_image(file, 16)[0, :, 0].astype(int)
    low, high = 200 - 0.5 - 199 / 2, 200 - 0.5 + 199 / 2  # DICOM PS3.3, C.11.2.1.2.1
    expected = np.rint(255 * np.clip((rescaled[0] - low) / (high - low), 0, 1))
    assert np.array_equal(row, expected)
    assert row[0] == 0
    assert row[-1] == 255


def test_a_window_of_the_scenario_wins_over_that_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "x.dcm", ramp(0, 400), centre="200", width="10")
    row = read_image(file, 16, window=(0.0, 400.0))[0, :, 0].astype(int)
    assert np.abs(row - np.linspace(0, 255, 16)).max() < 1


def test_without_any_window_percentiles_are_taken(tmp_path: Path) -> None:
    row = read_image(write(tmp_path / "x.dcm", ramp(-1000, 3000)), 16)[0, :, 0]
    assert row[0] == 0
    assert row[-1] == 255


def test_a_picture_whose_smallest_value_is_white_is_turned(tmp_path: Path) -> None:
    window = (0.0, 400.0)
    usual = read_image(write(tmp_path / "2.dcm", ramp(0, 400)), 16, window)
    turned = read_image(write(tmp_path / "1.dcm", ramp(0, 400), white_first=True), 16, window)
    assert np.array_equal(turned, 255 - usual)
    eight = (ramp(0, 250)).astype(np.uint8)
    bright = read_image(write(tmp_path / "8.dcm", eight, white_first=True), 16)
    assert np.array_equal(bright[..., 0], 255 - eight)
    rescaled = ramp(0, 400) // 2 * 2
    told = {"slope": "2", "intercept": "-1000", "centre": "200", "width": "200"}
    one, other = (
        read_image(write(tmp_path / "r.dcm", rescaled, white_first=white, **told), 16)
        for white in (False, True)
    )
    assert np.array_equal(other, 255 - one)


def test_colour_and_eight_bits_stay_as_they_are(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    colour = draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(read_image(write(tmp_path / "rgb.dcm", colour), 16), colour)
    grey = draws.integers(0, 256, (16, 16), dtype=np.uint8)
    assert np.array_equal(read_image(write(tmp_path / "grey.dcm", grey), 16)[..., 1], grey)


def test_a_file_without_a_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    file = write(tmp_path / "x.dcm", ramp(0, 400)).rename(tmp_path / "IM0001")
    (tmp_path / "README").write_text("no picture " * 40)
    assert is_dicom(file)
    assert not is_dicom(tmp_path / "README")
    assert not is_dicom(tmp_path / "nothing")
    assert read_image(file, 8).shape == (8, 8, 3)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_truncated_file_is_an_error(tmp_path: Path, share: float) -> None:
    file = write(tmp_path / "x.dcm", ramp(0, 400))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(OSError, match="no DICOM picture"):
        read_image(file, 8)


def cases(root: Path, **tags: str) -> Path:
    """Twelve pictures of six patients in two classes."""
    draws = np.random.default_rng(0)
    for i in range(12):
        values = draws.integers(0, 1000, (16, 16)).astype(np.int16)
        told = {"patient": f"P{i // 2}", "institution": "AB"[i // 6]} | tags
        write(root / ("sick" if i % 2 else "well") / f"{i}.dcm", values, **told)
    return root


def prepared(root: Path, cache: Path) -> Store:
    options = {"name": "f", "root": root, "size": 8, "embedded": {}, "skip_bad": False}
    return prepare(Folder(), cache=cache, **options)


def test_headers_say_who_the_patients_and_sites_are(tmp_path: Path) -> None:
    store = prepared(cases(tmp_path / "root"), tmp_path / "cache")
    assert len(set(store.groups.tolist())) == 6
    assert store.site_names == ("A", "B")
    assert "patients are those that the DICOM files name: 6" in store.notes
    assert "12 images have more than 8 bits" in store.window


def test_a_patient_of_all_files_is_nobody(tmp_path: Path) -> None:
    root = cases(tmp_path / "root", patient="ANON", centre="500", width="1000")
    store = prepared(root, tmp_path / "cache")
    assert len(set(store.groups.tolist())) == 12
    assert any("'ANON', which is taken for none" in note for note in store.notes)
    assert store.window.startswith("12 DICOM images are shown in the window that each file names")


def test_a_table_wins_over_headers(tmp_path: Path) -> None:
    root = cases(tmp_path / "root")
    lines = [f"{i}.dcm,{'ab'[i % 2]},G{i // 6}" for i in range(12)]
    (root / "t.csv").write_text("path,label,group\n" + "\n".join(lines) + "\n")
    manifest = Folder().manifest(root)
    assert manifest.groups == [f"G{i // 6}" for i in range(12)]
    assert manifest.sites == ["A"] * 6 + ["B"] * 6
    assert manifest.paths[1] == root / "sick" / "1.dcm"


def test_a_header_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"none")
    assert read_header(tmp_path / "x.dcm") == read_header(tmp_path / "nothing.dcm")


# --- Series --------------------------------------------------------------------------------------


def series(
    folder: Path, values: np.ndarray, patient: str = "P", number: int = 1, **tags: str
) -> Path:
    """The slices of a volume, one a file, whose names do not follow their order."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = SimpleITK.GetImageFromArray(values)
    volume.SetSpacing((0.5, 0.5, 3.0))
    volume.SetOrigin((-4.0, 7.0, 20.0))
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    uid = f"1.2.826.0.1.3680043.2.1125.{number}"
    for z in range(len(values)):
        image = volume[:, :, z]
        place = volume.TransformIndexToPhysicalPoint((0, 0, z))
        told = {
            "0008|0060": "CT",
            "0008|0018": f"{uid}.{z + 1}",
            "0020|000d": f"{uid}.1000",
            "0020|000e": f"{uid}.2000",
            "0020|0032": "\\".join(map(str, place)),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0010|0020": patient,
        } | {TAGS[name]: value for name, value in tags.items()}
        for tag, value in told.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{(7 * z) % len(values):03d}.dcm"))
        with same_locale():
            writer.Execute(image)
    return folder


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(3).integers(-1000, 2000, (6, 12, 10)).astype(np.int16)


def test_a_folder_of_slices_is_the_volume_of_its_file(tmp_path: Path, volume: np.ndarray) -> None:
    """The same voxels at the same places as those that ITK writes into a MetaImage."""
    before = locale.setlocale(locale.LC_ALL)
    folder = series(tmp_path / "ct", volume)
    image = SimpleITK.GetImageFromArray(volume)
    image.SetSpacing((0.5, 0.5, 3.0))
    image.SetOrigin((-4.0, 7.0, 20.0))
    SimpleITK.WriteImage(image, str(tmp_path / "x.mha"))
    one, other = read_volume(folder), read_volume(tmp_path / "x.mha")
    assert np.array_equal(one.array, other.array)
    assert np.allclose(one.affine, other.affine)
    assert one.spacing == pytest.approx((3.0, 0.5, 0.5))
    assert len(files_of(folder)) == 1 + len(volume)
    # Whatever GDCM does to it, text files must take umlauts.
    assert locale.setlocale(locale.LC_ALL) == before


def test_a_missing_slice_is_noticed(tmp_path: Path, volume: np.ndarray) -> None:
    folder = series(tmp_path / "ct", volume)
    (folder / f"{(7 * 3) % len(volume):03d}.dcm").unlink()
    with pytest.raises(Unreadable, match="3 mm apart, and once 6 mm: is one missing"):
        read_volume(folder)


def test_several_series_in_a_folder_are_told_apart(tmp_path: Path, volume: np.ndarray) -> None:
    folder = series(tmp_path / "ct", volume)
    series(tmp_path / "other", volume, number=2)
    for file in (tmp_path / "other").iterdir():
        file.rename(folder / f"other-{file.name}")
    with pytest.raises(Unreadable, match="holds 2 DICOM series"):
        read_volume(folder)


def test_what_is_no_series_says_so(tmp_path: Path, volume: np.ndarray) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unreadable, match="without DICOM files"):
        read_volume(tmp_path / "empty")
    outlines = write(tmp_path / "seg" / "x.dcm", volume[0], modality="SEG")
    with pytest.raises(Unreadable, match="is DICOM SEG: save the outlines"):
        read_volume(outlines)


def test_series_and_masks_are_paired_by_their_names(tmp_path: Path, volume: np.ndarray) -> None:
    for i in range(3):
        series(tmp_path / f"pat{i}" / "ct", volume, patient=f"P{i}", number=i + 1)
        mask = SimpleITK.GetImageFromArray((volume > 500).astype(np.uint8) * 255)
        SimpleITK.WriteImage(mask, str(tmp_path / f"pat{i}" / "mask.nii.gz"))
    manifest = Volumes(["bone"], values=[255]).manifest(tmp_path)
    assert manifest.images == [tmp_path / f"pat{i}" / "ct" for i in range(3)]
    assert [mask.path.name for (mask,) in manifest.masks] == ["mask.nii.gz"] * 3
    assert manifest.masks[0][0].values == {255: 1}
    assert manifest.groups == ["P0", "P1", "P2"]
    with pytest.raises(InputError, match=r"data\.columns says"):
        Volumes(["bone"], columns={"group": "Patient"}).manifest(tmp_path)
