"""The store of volumes: what is wrong is said at once, and nothing is half there."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedsim.data.volumes.dataset import EmbeddedVolumes, VolumeCase, VolumeDataset
from fedsim.data.volumes.store import VolumeStore, prepare_volumes
from fedsim.data.volumes.table import Volumes
from fedsim.errors import InputError

SHAPE = (12, 14, 5)  # x, y, z


def write(file: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(
        nibabel.Nifti1Image(array, np.diag([-1, -1, 2, 1]) if affine is None else affine), file
    )
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven cases of two sites, compressed; values 0, 1 and 2 in every mask."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "root"
    lines = ["image,mask,site"]
    for i in range(7):
        image = rng.integers(0, 1000, SHAPE).astype(np.int16)
        mask = np.zeros(SHAPE, np.uint8)
        mask[3:7, 4:8, 1:4] = 1
        mask[7:9, 4:8, 1:4] = 2
        write(folder / f"{i}.nii.gz", image)
        write(folder / f"{i}_mask.nii.gz", mask)
        lines.append(f"{i}.nii.gz,{i}_mask.nii.gz,{'ba'[i % 2]}")
    (folder / "cases.csv").write_text("\n".join(lines))
    return folder


def prepared(root: Path | None, cache: Path, dataset: VolumeDataset | None = None, **options):
    options = {"size": 16, "embedded": {}, "skip_bad": False, **options}
    dataset = dataset or Volumes(structures=["head", "tail"])
    return prepare_volumes(dataset, name="mine", root=root, cache=cache, **options)


def problems(root: Path, cache: Path, dataset: VolumeDataset | None = None) -> dict[str, str]:
    """File name -> what is said of it; nothing may be left in the cache."""
    with pytest.raises(InputError) as caught:
        prepared(root, cache, dataset)
    assert caught.value.exit_code == 2
    assert list(cache.iterdir()) == []
    return {Path(problem.where).name: problem.message for problem in caught.value.problems}


def test_a_store_holds_the_cases_in_the_order_of_the_table(root, tmp_path):
    store = prepared(root, tmp_path / "cache")
    assert len(store) == 7
    assert store.ids == tuple(f"{i}.nii.gz" for i in range(7))
    assert store.site_names == ("a", "b")
    assert store.sites.tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert len(set(store.groups.tolist())) == 7
    assert store.labels.tolist() == [0] * 7
    assert store.classes == ("case",)
    assert store.labels.dtype == store.sites.dtype == store.groups.dtype == np.int64
    assert store.structures == ("head", "tail")
    assert (store.source, store.root, store.skipped) == ("path", str(root), ())
    assert store.shapes.tolist() == [[5, 16, 16]] * 7
    assert store.spacing.tolist() == [[2.0, 1.0, 1.0]] * 7
    image, label = store.image(3), store.label(3)
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    assert image.shape == label.shape == (5, 16, 16)
    original = np.asarray(nibabel.load(root / "3.nii.gz").dataobj).transpose(2, 1, 0)
    inner = image[:, 1:15, 2:14]
    assert np.corrcoef(inner.ravel(), original.ravel())[0, 1] > 0.999
    assert np.bincount(label.ravel()).tolist()[1:] == [4 * 4 * 3, 2 * 4 * 3]
    image[:] = 0  # a copy
    assert store.image(3).any()
    with pytest.raises(IndexError, match="there is no case 7"):
        store.mapped(7)


def test_an_opened_store_equals_the_prepared_one_and_needs_no_files(root, tmp_path):
    store = prepared(root, tmp_path / "cache")
    shutil.rmtree(root)
    again = VolumeStore.open(str(store.folder))
    assert re.fullmatch("[0-9a-f]{64}", again.fingerprint)
    assert again.fingerprint == store.fingerprint
    for case in range(7):
        assert (again.image(case) == store.image(case)).all()
        assert (again.label(case) == store.label(case)).all()
    assert not again.mapped(0)[0].flags.writeable
    with pytest.raises(InputError, match="cannot be opened"):
        VolumeStore.open(root)
    (store.folder / "images.bin").write_bytes(b"1234")
    with pytest.raises(InputError, match="delete this folder"):
        VolumeStore.open(store.folder)


VOLUME_FILES = (
    *("images.bin", "masks.bin", "shapes.npy", "spacing.npy"),
    *("sites.npy", "groups.npy", "digests.npy"),
)


@pytest.mark.parametrize("damage", ["empty", "short", "long", "gone", "flip"])
@pytest.mark.parametrize("name", [*VOLUME_FILES, "store.json"])
def test_damaged_volumes_are_found_and_prepared_again(root, tmp_path, caplog, name, damage):
    store = prepared(root, tmp_path / "cache")
    image = store.image(2)
    path = store.folder / name
    data = path.read_bytes()
    middle = len(data) // 2
    changed = {
        "empty": b"",
        "short": data[:-4],
        "long": data + bytes(4),
        "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    }
    path.unlink() if damage == "gone" else path.write_bytes(changed[damage])
    with pytest.raises(InputError, match="delete this folder"):
        VolumeStore.open(store.folder)
    again = prepared(root, tmp_path / "cache")
    (record,) = caplog.records
    assert f"prepared data in {store.folder} are damaged" in record.getMessage()
    assert again.fingerprint == store.fingerprint
    assert (again.image(2) == image).all()


def test_more_structures_than_a_label_can_hold_are_refused(root, tmp_path):
    names = [f"s{i}" for i in range(256)]
    with pytest.raises(InputError, match="256 structures are named, and 255 are the most"):
        prepared(root, tmp_path / "a", Volumes(structures=names))


@pytest.mark.parametrize("names", [["organ", "Organ"], ["a", "a"], []])
def test_structures_must_be_told_apart(names):
    with pytest.raises(ValueError, match="different names"):
        Volumes(structures=names)


@pytest.mark.parametrize("change", ["time", "mask", "site", "size", "option", "name"])
def test_what_the_content_depends_on_makes_another_store(root, tmp_path, change):
    first = prepared(root, tmp_path / "cache")
    assert prepared(root, tmp_path / "cache").folder == first.folder
    dataset, options = Volumes(structures=["head", "tail"]), {}
    if change == "time":
        os.utime(root / "2.nii.gz", ns=(0, 1))
    elif change == "mask":
        write(root / "2_mask.nii.gz", np.ones(SHAPE, np.uint8))
    elif change == "site":
        table = root / "cases.csv"
        table.write_text(table.read_text().replace(",a", ",c"))
    elif change == "size":
        options["size"] = 12
    elif change == "option":
        dataset = Volumes(structures=["head", "tail"], normalise="zscore")
    else:
        dataset = Volumes(structures=["head", "body"])
    second = prepared(root, tmp_path / "cache", dataset, **options)
    assert second.folder != first.folder
    assert (second.fingerprint == first.fingerprint) == (change == "time")


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_cached(root, tmp_path):
    half = (root / "0.nii.gz").read_bytes()
    (root / "0.nii.gz").write_bytes(half[: len(half) // 2])
    write(root / "1_mask.nii.gz", np.zeros((12, 13, 5), np.uint8))
    (root / "2_mask.nii.gz").unlink()
    foreign = np.zeros(SHAPE, np.uint8)
    foreign[2:4] = 7
    foreign[6:8] = 3
    write(root / "3_mask.nii.gz", foreign)
    write(root / "4.nii.gz", np.zeros((12, 14), np.int16))
    (root / "5.nii.gz").write_text("not a volume")
    write(root / "6.nii.gz", np.full(SHAPE, np.nan, np.float32))
    found = problems(root, tmp_path / "cache")
    assert list(found) == [
        "0.nii.gz",
        "1_mask.nii.gz",
        "2_mask.nii.gz",
        "3_mask.nii.gz",
        "4.nii.gz",
        "5.nii.gz",
        "6.nii.gz",
    ]
    assert "damaged" in found["0.nii.gz"]
    assert "has 5 x 13 x 12 voxels" in found["1_mask.nii.gz"]
    assert "its image 5 x 14 x 12" in found["1_mask.nii.gz"]
    assert found["2_mask.nii.gz"] == "does not exist"
    assert "has the label value 3, 7;" in found["3_mask.nii.gz"]
    assert "0 background, 1 head, 2 tail" in found["3_mask.nii.gz"]
    assert "is not a volume: its shape is 12 x 14" in found["4.nii.gz"]
    assert "no NIfTI file" in found["5.nii.gz"]
    assert "no finite numbers" in found["6.nii.gz"]


def test_at_most_ten_problems_are_shown(root, tmp_path):
    lines = ["image,mask"] + [f"{i}.nii,{i}_mask.nii" for i in range(20)]
    (root / "cases.csv").write_text("\n".join(lines))
    with pytest.raises(InputError) as caught:
        prepared(root, tmp_path / "cache")
    assert len(caught.value.problems) == 10
    assert "20 of 20 cases of 'mine' cannot be used; the first 10" in caught.value.headline


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_compressed_file_cut_anywhere_is_refused(root, tmp_path, share):
    whole = (root / "1.nii.gz").read_bytes()
    (root / "1.nii.gz").write_bytes(whole[: int(share * len(whole))])
    assert list(problems(root, tmp_path / "cache")) == ["1.nii.gz"]


def test_a_plain_file_that_is_cut_and_a_flipped_bit_are_refused(root, tmp_path):
    plain = gzip.decompress((root / "1.nii.gz").read_bytes())
    (root / "1.nii").write_bytes(plain[: len(plain) // 2])
    table = root / "cases.csv"
    table.write_text(table.read_text().replace("\n1.nii.gz", "\n1.nii"))
    flipped = bytearray((root / "2.nii.gz").read_bytes())
    flipped[len(flipped) // 2] ^= 64
    (root / "2.nii.gz").write_bytes(bytes(flipped))
    assert list(problems(root, tmp_path / "cache")) == ["1.nii", "2.nii.gz"]


def test_broken_cases_can_be_left_out_and_are_then_counted(root, tmp_path):
    (root / "2_mask.nii.gz").unlink()
    store = prepared(root, tmp_path / "cache", skip_bad=True)
    assert store.skipped == ("2_mask.nii.gz: does not exist",)
    assert store.ids == tuple(f"{i}.nii.gz" for i in (0, 1, 3, 4, 5, 6))
    assert store.image(2).shape == (5, 16, 16)
    whole = {path.name for path in (tmp_path / "cache").iterdir()}
    # Who does not allow it is not served from there.
    with pytest.raises(InputError):
        prepared(root, tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache").iterdir()} == whole
    assert prepared(root, tmp_path / "cache", skip_bad=True).folder == store.folder


def test_a_turned_mask_is_turned_back_and_one_that_lies_elsewhere_is_refused(root, tmp_path):
    first = prepared(root, tmp_path / "a")
    mask = np.asarray(nibabel.load(root / "1_mask.nii.gz").dataobj)
    # The same voxels in the same places, stored from right to left.
    mirrored = np.diag([1.0, -1, 2, 1])
    mirrored[0, 3] = -(SHAPE[0] - 1)
    write(root / "1_mask.nii.gz", mask[::-1], mirrored)
    assert (prepared(root, tmp_path / "b").label(1) == first.label(1)).all()
    # The same array with a header that puts it elsewhere would be mirrored wrongly.
    write(root / "1_mask.nii.gz", mask, np.diag([1.0, -1, 2, 1]))
    found = problems(root, tmp_path / "c")
    assert "mm away from its image" in found["1_mask.nii.gz"]
    stored = Volumes(structures=["head", "tail"], orientation="stored")
    assert (prepared(root, tmp_path / "d", stored).label(1) == first.label(1)).all()


def test_canonical_volumes_look_alike_however_they_are_stored(root, tmp_path):
    first = prepared(root, tmp_path / "a")
    for name in ("1.nii.gz", "1_mask.nii.gz"):
        image = nibabel.load(root / name)
        turn = [[2, -1], [0, 1], [1, -1]]
        nibabel.save(
            nibabel.Nifti1Image(image.dataobj, image.affine).as_reoriented(turn), root / name
        )
    assert np.asarray(nibabel.load(root / "1.nii.gz").dataobj).shape != SHAPE
    again = prepared(root, tmp_path / "b")
    np.testing.assert_allclose(again.image(1), first.image(1), atol=1e-5)
    assert (again.label(1) == first.label(1)).all()
    assert again.spacing[1].tolist() == first.spacing[1].tolist()


def test_a_channel_is_chosen_where_there_are_several(root, tmp_path):
    image = np.asarray(nibabel.load(root / "0.nii.gz").dataobj)
    first = prepared(root, tmp_path / "a")
    write(root / "0.nii.gz", np.stack([np.zeros(SHAPE, np.int16), image], axis=-1))
    found = problems(root, tmp_path / "b")
    assert found["0.nii.gz"] == "has 2 channels; choose one: data.channel=0 to 1"
    for i in range(1, 7):
        shutil.copy(root / "0.nii.gz", root / f"{i}.nii.gz")
    chosen = prepared(root, tmp_path / "c", Volumes(structures=["head", "tail"], channel=1))
    assert (chosen.image(0) == first.image(0)).all()
    found = problems(root, tmp_path / "d", Volumes(structures=["head", "tail"], channel=2))
    assert "has 2 channels, counted from 0, so none is 2" in found["3.nii.gz"]


def test_a_mask_with_channels_is_not_told_to_choose_one(root, tmp_path):
    write(root / "0_mask.nii.gz", np.zeros((*SHAPE, 3), np.uint8))
    found = problems(root, tmp_path / "a")
    assert found["0_mask.nii.gz"] == "has 3 channels; a mask must have one"


def test_values_beyond_32_bits_are_refused(root, tmp_path):
    voxels = np.random.default_rng(0).random(SHAPE)
    voxels[0, 0, 0] = 1e39
    write(root / "2.nii.gz", voxels)
    found = problems(root, tmp_path / "a")
    assert found == {"2.nii.gz": "has voxels that are no finite numbers of 32 bits"}


@pytest.mark.parametrize("spelling", ["0_mask.nii.gz", "./0_mask.nii.gz"])
def test_one_mask_is_for_images_of_one_patient(root, tmp_path, spelling):
    table = root / "cases.csv"
    table.write_text(table.read_text().replace("1_mask.nii.gz", spelling))
    with pytest.raises(InputError, match=r"is the mask of 0\.nii\.gz and of 1\.nii\.gz: if both"):
        prepared(root, tmp_path / "a")
    lines = table.read_text().splitlines()
    grouped = [f"{line},{'p' if i < 3 else i}" for i, line in enumerate(lines[1:], start=1)]
    table.write_text("\n".join([f"{lines[0]},group", *grouped]))
    groups = prepared(root, tmp_path / "b").groups.tolist()
    assert groups[0] == groups[1]
    assert len(set(groups)) == 6


def test_an_image_is_not_its_own_mask(root, tmp_path):
    table = root / "cases.csv"
    table.write_text(table.read_text().replace("\n1.nii.gz", "\n./1_mask.nii.gz"))
    with pytest.raises(InputError, match=r"1_mask\.nii\.gz: is an image and its own mask"):
        prepared(root, tmp_path / "a")


def test_outlines_that_are_not_there_or_no_longer_are_said(root, tmp_path):
    for i in (1, 2):
        write(root / f"{i}_mask.nii.gz", np.zeros(SHAPE, np.uint8))
    store = prepared(root, tmp_path / "a", Volumes(structures=["head", "tail", "body"]))
    assert store.notes[1:] == (
        "no mask outlines body: do the masks use other values?",
        "2 of 7 cases have masks without any outline",
    )
    corner = np.zeros((40, 40, 5), np.uint8)
    corner[:3, :3], corner[18:22, 18:22] = 1, 2
    write(root / "0.nii.gz", np.random.default_rng(0).random(corner.shape))
    write(root / "0_mask.nii.gz", corner)
    found = prepared(root, tmp_path / "a").notes
    assert found[-1] == (
        "in 1 of 7 cases a structure lies wholly in what is cut off "
        "(data.size, data.field_of_view, data.slices)"
    )
    assert prepared(root, tmp_path / "a").notes == found  # from the cache, too


def test_a_metaimage_is_read_like_the_same_nifti_and_missed_bytes_are_counted(root, tmp_path):
    import SimpleITK

    first = prepared(root, tmp_path / "a")
    table = root / "cases.csv"
    table.write_text(table.read_text().replace(".nii.gz", ".mhd"))
    for file in sorted(root.glob("*.nii.gz")):
        image = SimpleITK.ReadImage(str(file))
        compressed = "mask" in file.name
        SimpleITK.WriteImage(image, str(file).replace(".nii.gz", ".mhd"), compressed)
    again = prepared(root, tmp_path / "b")
    for case in range(7):
        assert (again.image(case) == first.image(case)).all()
        assert (again.label(case) == first.label(case)).all()
    assert again.spacing.tolist() == first.spacing.tolist()
    for name in ("1.raw", "2_mask.zraw"):
        (root / name).write_bytes((root / name).read_bytes()[:30])
    (root / "3.raw").unlink()
    (root / "4.mhd").write_text("NDims = 3")
    found = problems(root, tmp_path / "c")
    assert found["1.mhd"] == f"is truncated: 1.raw has 30 of {2 * 12 * 14 * 5} bytes"
    assert "is truncated: 2_mask.zraw has 30 of " in found["2_mask.mhd"]
    assert found["3.mhd"] == "needs 3.raw: no file"
    assert "no volume" in found["4.mhd"]


def test_files_of_unknown_kinds_are_refused(root, tmp_path):
    table = root / "cases.csv"
    table.write_text(table.read_text().replace("\n2.nii.gz", "\n2.gif"))
    (root / "2.gif").write_bytes(b"")
    assert found_suffixes(problems(root, tmp_path / "cache")["2.gif"])


def found_suffixes(message: str) -> bool:
    return "is none of .nii, .nii.gz, .mhd" in message


def test_the_cache_is_left_alone_when_preparing_is_interrupted(root, tmp_path):
    seen = []

    def interrupt(done: int, count: int) -> None:
        seen.append((done, count))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(root, tmp_path / "cache", progress=interrupt)
    assert seen == [(1, 7), (2, 7), (3, 7)]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_root_that_is_none_is_refused(root, tmp_path):
    for wrong, message in ((tmp_path / "nowhere", "does not exist"), (tmp_path / "e", "is empty")):
        if wrong.name == "e":
            wrong.mkdir()
        with pytest.raises(InputError, match=message):
            prepared(wrong, tmp_path / "cache")
    with pytest.raises(InputError, match="has no embedded stand-in"):
        prepared(None, tmp_path / "cache")


def dots(*, cases: int = 3, slices_drawn: int = 4, field_of_view: float | None = None):
    """A stand-in that takes none of `size`."""
    if cases < 1:
        raise ValueError(f"cases must be 1 or more, not {cases}.")
    rng = np.random.default_rng(cases)
    shape = (slices_drawn, 10, 10)
    return EmbeddedVolumes(
        ("dot",),
        (
            VolumeCase(
                rng.random(shape).astype(np.float32),
                np.ones(shape, np.uint8),
                (1, 1, 1),
                "s",
                str(i),
            )
            for i in range(cases)
        ),
    )


dots.version = 1  # type: ignore[attr-defined]


class Dots(VolumeDataset):
    embedded = dots

    def manifest(self, root):
        raise AssertionError("the stand-in has no manifest")


def test_a_stand_in_is_prepared_like_files(tmp_path):
    store = prepared(None, tmp_path / "cache", Dots(slices=6), embedded={"cases": 5})
    assert len(store) == 5
    assert (store.source, store.root) == ("embedded", None)
    assert store.shapes.tolist() == [[6, 16, 16]] * 5
    assert store.ids == ("0", "1", "2", "3", "4")
    assert store.label(0).sum() == 400
    assert (
        prepared(None, tmp_path / "cache", Dots(slices=6), embedded={"cases": 5}).folder
        == store.folder
    )
    assert (
        prepared(None, tmp_path / "cache", Dots(slices=5), embedded={"cases": 5}).folder
        != store.folder
    )


def test_wrong_parameters_of_a_stand_in_are_named(tmp_path):
    with pytest.raises(InputError, match=r"data.embedded.case: is unknown \(did you mean 'cases'"):
        prepared(None, tmp_path / "cache", Dots(), embedded={"case": 5})
    with pytest.raises(InputError, match=r"data.embedded.field_of_view: is set by"):
        prepared(None, tmp_path / "cache", Dots(), embedded={"field_of_view": 0.5})
    with pytest.raises(InputError, match="cases must be 1 or more"):
        prepared(None, tmp_path / "cache", Dots(), embedded={"cases": 0})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("slices", 0, "slices must be at least 1, not 0"),
        ("field_of_view", 0.0, "field_of_view must be above 0"),
        ("field_of_view", 1.1, "at most 1, not 1.1"),
        ("spacing", [1.0, 1.0], "spacing must be three lengths"),
        ("spacing", [1.0, 0.0, 1.0], "spacing must be three lengths above 0 mm"),
    ],
)
def test_options_out_of_range_are_refused(option, value, message):
    with pytest.raises(ValueError, match=message):
        Dots(**{option: value})
