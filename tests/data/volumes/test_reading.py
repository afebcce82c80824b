"""Where volumes lie and what their masks hold: geometry, label values, files of several parts."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from fedsim.data.volumes.case import BrokenCase, Prepared, read_case
from fedsim.data.volumes.dataset import Mask
from fedsim.data.volumes.preparing import Preparation
from fedsim.data.volumes.reading import Unreadable, files_of, read_volume

SHAPE = (16, 14, 8)  # x, y, z
SPACING = np.array([0.5, 0.7, 3.0])


def turned(degrees: float, axis: int, noise: float = 0.0) -> np.ndarray:
    """An affine that is turned about an axis, with the spacing above; noise as files have it."""
    a, b = [k for k in range(3) if k != axis]
    turn = np.eye(3)
    turn[[a, b], [a, b]] = np.cos(np.radians(degrees))
    turn[a, b], turn[b, a] = -np.sin(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = turn * SPACING
    affine[:3, 3] = (3, -20, 7)
    affine[:3, :3] += noise * np.random.default_rng(0).standard_normal((3, 3))
    return affine


def arrays() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(1).integers(0, 900, SHAPE).astype(np.int16)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:9, 4:8, 2:5] = 1
    return image, mask


def save(file: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), file)
    return file


def read(image: Path, mask: Path, canonical: bool = True) -> Prepared:
    how = Preparation(size=16)
    return read_case(image, [Mask(mask, {1: 1})], ["organ"], how, channel=None, canonical=canonical)


def problem(image: Path, mask: Path, canonical: bool = True) -> str:
    with pytest.raises(BrokenCase) as caught:
        read(image, mask, canonical)
    (one,) = caught.value.problems
    assert Path(one.where) == mask
    return one.message


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [0, 10, 30, 44.9999999, 45, 45.0000001, 60, 90, 135, -45, 225])
def test_an_aligned_mask_is_read_however_oblique_the_volume_is(tmp_path, axis, degrees):
    image, mask = arrays()
    straight = read(
        save(tmp_path / "i.nii", image, turned(degrees, axis)),
        save(tmp_path / "m.nii", mask, turned(degrees, axis)),
    )
    assert int(straight.label.sum()) == int(mask.sum())
    # Another program writes the mask: with rounding, and with its axes in another order.
    other = nibabel.Nifti1Image(mask, turned(degrees, axis, noise=1e-7))
    nibabel.save(other.as_reoriented([[2, -1], [0, 1], [1, -1]]), tmp_path / "m.nii")
    again = read(tmp_path / "i.nii", tmp_path / "m.nii")
    assert (again.label == straight.label).all()
    assert (again.image == straight.image).all()


def test_volumes_of_one_oblique_grid_are_turned_alike(tmp_path):
    image, _ = arrays()
    found = {
        read_volume(save(tmp_path / f"{i}.nii", image, turned(45, axis=0) + noise)).array.shape
        for i, noise in enumerate(1e-7 * np.random.default_rng(2).standard_normal((20, 4, 4)))
    }
    assert len(found) == 1


@pytest.mark.parametrize("degrees", [0, 20, 45])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mask_may_lie_one_voxel_away_along_each_axis_and_no_more(tmp_path, axis, degrees):
    image, mask = arrays()
    affine = turned(degrees, axis=0)
    file = save(tmp_path / "i.nii", image, affine)
    for voxels, right in ((0.5, True), (1, True), (1.2, False), (-2, False)):
        moved = affine.copy()
        moved[:3, 3] += voxels * affine[:3, axis]
        save(tmp_path / "m.nii", mask, moved)
        if right:
            read(file, tmp_path / "m.nii")
            continue
        told = problem(file, tmp_path / "m.nii")
        assert f"{abs(voxels) * SPACING[axis]:.3g} mm away from its image" in told
        assert f"{abs(voxels):.3g} voxels along its " in told
    read(file, tmp_path / "m.nii", canonical=False)  # geometry is ignored on demand


def test_a_mask_of_another_spacing_or_direction_is_refused(tmp_path):
    image, mask = arrays()
    file = save(tmp_path / "i.nii", image, turned(0, 0))
    for affine in (turned(0, 0) @ np.diag([1.2, 1, 1, 1]), turned(15, 2), turned(45, 1)):
        assert "away from its image" in problem(file, save(tmp_path / "m.nii", mask, affine))
    message = problem(file, save(tmp_path / "m.nii", mask[:, :, :-1], turned(0, 0)))
    assert message == ("has 7 x 14 x 16 voxels (slices x rows x columns), its image 8 x 14 x 16")


@pytest.mark.parametrize("slope", [0.9999, 1.0005, 1 / 3 * 3])
def test_nearly_whole_label_values_are_read(tmp_path, slope):
    image, mask = arrays()
    file = save(tmp_path / "i.nii", image, turned(0, 0))
    scaled = (mask * slope).astype(np.float32)
    assert read(file, save(tmp_path / "m.nii", scaled, turned(0, 0))).label.sum() == mask.sum()


@pytest.mark.parametrize(("value", "shown"), [(0.998, "0.998"), (1.0020001, "1.0020001")])
def test_other_label_values_are_shown_as_they_are(tmp_path, value, shown):
    image, mask = arrays()
    file = save(tmp_path / "i.nii", image, turned(0, 0))
    other = save(tmp_path / "m.nii", (mask * value).astype(np.float32), turned(0, 0))
    assert problem(file, other) == (
        f"has the label value {shown}; the data set has 0 background, 1 organ"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0, -1.0])
def test_values_that_are_no_label_are_shown(tmp_path, value):
    image, mask = arrays()
    other = mask.astype(np.float32)
    other[0, 0, 0] = value
    told = problem(
        save(tmp_path / "i.nii", image, turned(0, 0)), save(tmp_path / "m.nii", other, turned(0, 0))
    )
    assert told.startswith(f"has the label value {value:g}; the data set has")


@pytest.mark.parametrize("broken", ["flat", "nan", "zero"])
def test_an_affine_that_is_no_place_is_refused(tmp_path, broken):
    affine = turned(0, 0)
    if broken == "flat":
        affine[:3, 1] = affine[:3, 0]
    elif broken == "nan":
        affine[0, 3] = np.nan
    else:
        affine[:3, 2] = 0
    image = nibabel.Nifti1Image(arrays()[0], None)
    image.header.set_sform(affine, code=1)
    nibabel.save(image, tmp_path / "i.nii")
    with pytest.raises(Unreadable, match="nothing usable about the position"):
        read_volume(tmp_path / "i.nii")


def test_volumes_of_microscopes_are_read(tmp_path):
    small = turned(30, 1)
    small[:3, :3] *= 1e-6
    image, mask = arrays()
    read(save(tmp_path / "i.nii", image, small), save(tmp_path / "m.nii", mask, small))


# --- MetaImage -----------------------------------------------------------------------------------


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    """A header whose voxels lie in a file beside it."""
    image, _ = arrays()
    file = tmp_path / "case" / "x.mhd"
    file.parent.mkdir()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image.transpose(2, 1, 0)), str(file))
    return file


def name_voxels(meta: Path, value: str) -> None:
    lines = meta.read_text().splitlines()
    lines[-1] = f"ElementDataFile = {value}"
    meta.write_text("\n".join([*lines, ""]))


@pytest.mark.parametrize("where", ["raw/x.raw", "./x.raw", "../x.raw", "a b/x.raw", "ABSOLUTE"])
def test_the_voxels_of_a_metaimage_may_lie_in_a_folder(meta, tmp_path, where):
    expected = read_volume(meta).array
    voxels = tmp_path / "far.raw" if where == "ABSOLUTE" else meta.parent / where
    voxels.parent.mkdir(exist_ok=True)
    if voxels.resolve() != (meta.parent / "x.raw").resolve():
        shutil.move(meta.parent / "x.raw", voxels)
    name_voxels(meta, str(voxels) if where == "ABSOLUTE" else where)
    assert (read_volume(meta).array == expected).all()
    assert [file.resolve() for file in files_of(meta)] == [meta.resolve(), voxels.resolve()]
    content = voxels.read_bytes()
    voxels.write_bytes(content[:-10])
    with pytest.raises(Unreadable, match=f"is truncated: {voxels.name} has"):
        read_volume(meta)
    voxels.unlink()
    with pytest.raises(Unreadable, match=r"needs .*\.raw: no file"):
        read_volume(meta)


@pytest.mark.parametrize("value", ["", "  "])
def test_a_metaimage_that_names_no_file_says_so(meta, value):
    name_voxels(meta, value)
    with pytest.raises(Unreadable, match="ElementDataFile is empty"):
        read_volume(meta)


@pytest.mark.parametrize("form", ["LOCAL", "LIST", "slice%02d.raw 1 8 1"])
def test_other_forms_of_a_metaimage(meta, form):
    expected = read_volume(meta).array
    voxels = (meta.parent / "x.raw").read_bytes()
    (meta.parent / "x.raw").unlink()
    name_voxels(meta, form)
    if form == "LOCAL":
        head = meta.read_bytes()
        for wrong, why in ((voxels[:-10], "is truncated: x.mhd has"), (voxels + b"12", "not fit")):
            meta.write_bytes(head + wrong)
            with pytest.raises(Unreadable, match=why):
                read_volume(meta)
        meta.write_bytes(head + voxels)
    else:
        size = len(voxels) // SHAPE[2]
        names = [f"slice{i:02d}.raw" for i in range(1, SHAPE[2] + 1)]
        for i, name in enumerate(names):
            (meta.parent / name).write_bytes(voxels[i * size : (i + 1) * size])
        if form == "LIST":
            meta.write_text(meta.read_text() + "\n".join(names) + "\n")
        assert files_of(meta) == [meta, *(meta.parent / name for name in names)]
    assert (read_volume(meta).array == expected).all()
    if form != "LOCAL":
        (meta.parent / "slice03.raw").unlink()
        with pytest.raises(Unreadable, match=r"needs slice03\.raw: no file"):
            read_volume(meta)


@pytest.mark.parametrize("value", ["\0", "x\0y", "%d%d 1 3", "a%q 1 3", "x%d 1 99999999999 1", "/"])
def test_strange_names_of_voxels_are_no_fault(meta, value):
    name_voxels(meta, value)
    with pytest.raises(Unreadable):
        read_volume(meta)


def test_voxels_of_another_volume_do_not_fit_a_metaimage(meta):
    (meta.parent / "x.raw").write_bytes((meta.parent / "x.raw").read_bytes() + bytes(20))
    with pytest.raises(Unreadable, match=r"does not fit its voxels: x\.raw has \d+ bytes of them"):
        read_volume(meta)
    meta.write_text(meta.read_text().replace("ElementDataFile", "HeaderSize = -1\nElementDataFile"))
    read_volume(meta)  # The header says that other bytes are in front.


@pytest.mark.parametrize("form", ["x.raw", "LIST", "slice%02d.raw 1 8 1 2"])
def test_the_voxels_of_an_nrrd_may_lie_in_other_files(tmp_path, form):
    voxels = np.random.default_rng(0).integers(0, 99, (8, 9, 10)).astype(np.int16)
    names = ["x.raw"] if form == "x.raw" else [f"slice{i:02d}.raw" for i in range(1, 9)]
    for name, part in zip(names, np.array_split(voxels, len(names)), strict=True):
        (tmp_path / name).write_bytes(part.tobytes())
    lines = ["NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior"]
    lines += ["sizes: 10 9 8", "space directions: (1,0,0) (0,1,0) (0,0,1)", "endian: little"]
    lines += ["encoding: raw", "space origin: (0,0,0)", f"data file: {form}"]
    listed = "\n".join(names) if form == "LIST" else ""
    file = tmp_path / "x.nrrd"
    file.write_text("\n".join([*lines, listed, ""]))
    assert files_of(file) == [file, *(tmp_path / name for name in names)]
    assert read_volume(file, canonical=False).array.tolist() == voxels.tolist()
    (tmp_path / names[-1]).unlink()
    with pytest.raises(Unreadable, match=rf"needs {names[-1]}: no file"):
        read_volume(file)


@pytest.mark.parametrize(
    ("form", "values", "offset"),
    [
        ("<8h", (3, -12, 12, 4, 1, 1, 1, 1), 40),  # dimensions
        ("<8h", (99, 12, 12, 4, 1, 1, 1, 1), 40),
        ("<8h", (7, *[32767] * 7), 40),
        ("<8h", (3, *[32767] * 3, 1, 1, 1, 1), 40),
        ("<h", (0,), 70),  # the type of a voxel
        ("<h", (12345,), 70),
        ("<f", (-5.0,), 108),  # where the voxels begin
        ("<f", (1e30,), 108),
        ("<f", (float("nan"),), 108),
    ],
)
def test_a_header_that_cannot_be_is_refused_without_a_sound(
    tmp_path, capfd, recwarn, form, values, offset
):
    file = save(tmp_path / "a.nii", arrays()[0], np.eye(4))
    header = bytearray(file.read_bytes())
    struct.pack_into(form, header, offset, *values)
    file.write_bytes(header)
    with pytest.raises(Unreadable, match=r"is damaged or no NIfTI file|is the header damaged\?"):
        read_volume(file)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
