"""PROMISE12, ProstateX, the Medical Segmentation Decathlon, a person's own table; stand-ins."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from fedsim.data.phantom.prostate import prostate_phantom
from fedsim.data.volumes.dataset import VolumeDataset
from fedsim.data.volumes.decathlon import MSD
from fedsim.data.volumes.prostate import Promise12, ProstateX
from fedsim.data.volumes.split import split_cases
from fedsim.data.volumes.store import VolumeStore, prepare_volumes
from fedsim.data.volumes.table import Volumes
from fedsim.errors import InputError
from fedsim.scenario.parameters import check_parameters


def prepared(dataset: VolumeDataset, root: Path | None, cache: Path, size: int = 32, **embedded):
    return prepare_volumes(
        dataset, name="x", root=root, size=size, embedded=embedded, skip_bad=False, cache=cache
    )


def some(real_data: Path, folder: str, target: Path, *patterns: str) -> Path:
    """A folder of links to some of the real files."""
    target.mkdir()
    for pattern in patterns:
        for file in sorted((real_data / folder).glob(pattern)):
            os.symlink(file, target / file.name)
    return target


def gland(store: VolumeStore, case: int) -> np.ndarray:
    return store.label(case) > 0


@pytest.fixture
def promise12(real_data: Path, tmp_path: Path) -> Path:
    """Three cases each of two of the centres, as links; the list of centres is a copy."""
    names = ("Case0[01456]*", "Case1[34]*", "Case15*")
    root = some(real_data, "promise12", tmp_path / "promise12", *names)
    lines = (real_data / "promise12" / "centres.csv").read_text().splitlines()
    cases = {file.stem for file in root.glob("*.mhd")}
    kept = [line for line in lines[1:] if line.split(",")[0] in cases]
    (root / "centres.csv").write_text("\n".join([lines[0], *kept]))
    return root


def test_promise12_has_its_centres_and_glands(promise12, tmp_path):
    store = prepared(Promise12(field_of_view=0.7), promise12, tmp_path / "cache", size=48)
    assert store.structures == ("prostate",)
    assert store.site_names == ("bidmc", "runmc")
    assert store.ids == (
        "Case00",
        "Case01",
        "Case04",
        "Case05",
        "Case06",
        "Case13",
        "Case14",
        "Case15",
    )
    assert store.shapes[0].tolist() == [47, 48, 48]
    # The spacing is that of a 256 x 256 slice of which 179 voxels became 48.
    assert store.spacing[0].tolist() == [1.0, 179 / 48, 179 / 48]
    for case in range(len(store)):
        mask = gland(store, case)
        assert ndimage.label(mask)[1] <= 2
        middle = np.array(ndimage.center_of_mass(mask)) / mask.shape
        assert np.all(np.abs(middle - 0.5) < 0.2)
        values = store.image(case)
        # Nearly as bright as what surrounds it.
        assert abs(values[mask].mean() - values[~mask].mean()) < 1.5
    parts = split_cases(store.sites, store.groups, store.site_names, val=0.1, test=0.2, seed=0)
    assert [len(parts[side]) for side in ("train", "val", "test")] == [4, 2, 2]


def test_a_promise12_file_that_is_cut_is_named(promise12, tmp_path):
    file = promise12 / "Case01.zraw"
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[: len(data) // 2])
    os.unlink(promise12 / "Case14_segmentation.mhd")
    with pytest.raises(InputError) as caught:
        prepared(Promise12(), promise12, tmp_path / "cache")
    assert [Path(problem.where).name for problem in caught.value.problems] == [
        "Case01.mhd",
        "Case14_segmentation.mhd",
    ]
    message = f"is truncated: Case01.zraw has {len(data) // 2} of {len(data)} bytes"
    assert caught.value.problems[0].message == message
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_list_of_centres_and_the_images_must_match(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(InputError, match="images of PROMISE12 are missing"):
        Promise12().manifest(root)
    for name in ("Case00.mhd", "Case00_segmentation.mhd", "Case01.mhd"):
        (root / name).write_text("")
    with pytest.raises(InputError, match=r"centres\.csv is missing"):
        Promise12().manifest(root)
    (root / "centres.csv").write_text("case,centre\nCase00,\nCase07,hk\n")
    with pytest.raises(InputError) as caught:
        Promise12().manifest(root)
    text = str(caught.value)
    assert "has no line for Case01" in text
    assert "centres.csv:2: centre is empty" in text
    assert "centres.csv:3: there is no image of 'Case07'" in text


def test_a_centre_with_one_case_is_named_before_it_is_split(promise12, tmp_path):
    table = promise12 / "centres.csv"
    table.write_text(table.read_text().replace("Case15,runmc", "Case15,ucl"))
    store = prepared(Promise12(), promise12, tmp_path / "cache")
    with pytest.raises(InputError) as caught:
        split_cases(store.sites, store.groups, store.site_names, val=0.1, test=0.1, seed=0)
    assert caught.value.exit_code == 2
    assert [problem.where for problem in caught.value.problems] == ["site 'runmc'", "site 'ucl'"]


def test_prostatex_has_zones_that_make_up_the_gland(real_data, tmp_path):
    root = real_data / "prostatex_zonal"
    options = {"field_of_view": 0.5, "slices": 16}
    zones = prepared(ProstateX(**options), root, tmp_path / "cache", size=64)
    whole = prepared(ProstateX(outlines="gland", **options), root, tmp_path / "cache", size=64)
    assert zones.structures == ("peripheral_zone", "transition_zone")
    assert whole.structures == ("prostate",)
    assert zones.ids == ("ProstateX-0000", "ProstateX-0001")
    assert zones.site_names == ("prostatex",)
    assert zones.shapes.tolist() == [[16, 64, 64]] * 2
    assert zones.spacing[0].tolist() == pytest.approx([3.0, 1.5, 1.5])
    for case in range(2):
        both = (gland(zones, case) & gland(whole, case)).sum()
        assert 2 * both / (gland(zones, case).sum() + gland(whole, case).sum()) > 0.95
        # Rows go from front to back: the peripheral zone lies behind.
        label = zones.label(case)
        rows = [np.nonzero(label == zone)[1].mean() for zone in (1, 2)]
        assert rows[0] > rows[1] + 2
    with pytest.raises(InputError, match=r"ProstateX-0000_lesions\.nii\.gz: does not exist"):
        prepared(ProstateX(outlines="zones_and_lesions"), root, tmp_path / "cache")
    with pytest.raises(InputError, match=r"site 'prostatex': has 2 case"):
        split_cases(zones.sites, zones.groups, zones.site_names, val=0.1, test=0.1, seed=0)


def test_lesions_lie_over_the_zones(real_data, tmp_path):
    root = some(real_data, "prostatex_zonal", tmp_path / "root", "ProstateX-0000*")
    zones = nibabel.load(root / "ProstateX-0000_zones.nii.gz")
    lesion = np.zeros(zones.shape, np.uint8)
    lesion[180:200, 200:220, 8:11] = 1
    nibabel.save(nibabel.Nifti1Image(lesion, zones.affine), root / "ProstateX-0000_lesions.nii.gz")
    store = prepared(ProstateX(outlines="zones_and_lesions"), root, tmp_path / "cache", size=384)
    assert store.structures == ("peripheral_zone", "transition_zone", "lesion")
    assert (store.label(0) == 3).sum() == lesion.sum()
    (root / "centres.csv").write_text("case,centre\nProstateX-0000,skyra\n")
    assert prepared(ProstateX(), root, tmp_path / "cache").site_names == ("skyra",)


def test_the_hippocampus_task_of_the_decathlon(real_data, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    about = json.loads((real_data / "msd_hippocampus" / "dataset.json").read_text())
    about["training"] = about["training"][:12]
    (root / "dataset.json").write_text(json.dumps(about))
    for folder in ("imagesTr", "labelsTr"):
        os.symlink(real_data / "msd_hippocampus" / folder, root / folder)
    store = prepared(MSD(), root, tmp_path / "cache", size=64)
    assert store.structures == ("anterior", "posterior")
    assert store.site_names == ("hippocampus",)
    assert store.ids[0] == "hippocampus_001"
    assert len(store) == 12
    for case in range(12):
        label = store.label(case)
        assert label.shape[1:] == (64, 64)
        front, back = (np.nonzero(label == value)[1].mean() for value in (1, 2))
        assert front < back
        low, high = (np.nonzero(label == value)[0].mean() for value in (1, 2))
        assert low < high
    renamed = prepared(MSD(structures=["head", "tail"]), root, tmp_path / "cache", size=64)
    assert renamed.structures == ("head", "tail")
    with pytest.raises(InputError, match="must name 2 structures: anterior, posterior"):
        prepared(MSD(structures=["head"]), root, tmp_path / "cache")


def decathlon(root: Path, **changes: object) -> Path:
    """A task with a 4-D image and label values that are not 1, 2, ..."""
    about = {
        "name": "My Prostate",
        "labels": {"0": "background", "2": "TZ", "5": "Big Tumour"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    }
    about.update(changes)
    image = np.random.default_rng(0).random((8, 8, 4, 2)).astype(np.float32)
    mask = np.zeros((8, 8, 4), np.uint8)
    mask[:2], mask[4:] = 2, 5
    for folder, array in (("imagesTr", image), ("labelsTr", mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), root / folder / "a.nii.gz")
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def test_any_task_gives_its_structures_from_its_own_values(tmp_path):
    root = decathlon(tmp_path / "root")
    store = prepared(MSD(channel=1), root, tmp_path / "cache", size=8)
    assert store.structures == ("tz", "big_tumour")
    assert np.bincount(store.label(0).ravel()).tolist() == [2 * 32, 2 * 32, 4 * 32]
    assert store.site_names == ("my_prostate",)
    with pytest.raises(InputError, match=r"has 2 channels; choose one: data\.channel=0 to 1"):
        prepared(MSD(), root, tmp_path / "cache")
    root = decathlon(tmp_path / "less", labels={"0": "background", "2": "TZ"})
    with pytest.raises(
        InputError, match="has the label value 5; the data set has 0 background, 2 tz"
    ):
        prepared(MSD(channel=0), root, tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["background"]}, "is not one of the Medical"),
        ({"labels": {"one": "x"}}, "is not one of the Medical"),
        ({"labels": {"0": "background"}}, "has 1 cases and 0 structures"),
        ({"training": []}, "has 0 cases"),
        ({"training": [{"image": "a"}]}, "has no 'label'"),
    ],
)
def test_a_wrong_dataset_json_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        MSD().manifest(decathlon(tmp_path / "root", **changes))


def test_a_missing_or_broken_dataset_json_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json is missing"):
        MSD().manifest(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="is not one of the Medical"):
        MSD().manifest(tmp_path)
    (tmp_path / "dataset.json").unlink()
    os.mkfifo(tmp_path / "dataset.json")
    with pytest.raises(InputError) as caught:
        MSD().manifest(tmp_path)
    assert "it is a pipe" in str(caught.value)


def test_a_table_names_images_masks_sites_and_patients(tmp_path):
    (tmp_path / "mine.csv").write_text("image,mask,site,group\na.nii,am.nii,x,p\nb.nii,bm.nii,,\n")
    manifest = Volumes(structures=["liver", "tumour"]).manifest(tmp_path)
    assert manifest.images == [tmp_path / "a.nii", tmp_path / "b.nii"]
    assert [mask.path.name for (mask,) in manifest.masks] == ["am.nii", "bm.nii"]
    assert manifest.masks[0][0].values == {1: 1, 2: 2}
    assert manifest.sites == ["x", "site-0"]
    assert manifest.groups == ["p", ""]
    assert manifest.structures == ("liver", "tumour")


def test_wrong_tables_are_refused(tmp_path):
    volumes = Volumes(structures=["liver"])
    with pytest.raises(InputError, match=r"has no \.csv file"):
        volumes.manifest(tmp_path)
    (tmp_path / "a.csv").write_text("image,mask\nx.nii,\n")
    with pytest.raises(InputError, match=r"a\.csv:2: mask is empty"):
        volumes.manifest(tmp_path)
    (tmp_path / "b.csv").write_text("image\nx.nii\n")
    with pytest.raises(InputError, match=r"has 2 \.csv files"):
        volumes.manifest(tmp_path)
    with pytest.raises(InputError, match="columns missing: mask"):
        Volumes(structures=["liver"], csv="b.csv").manifest(tmp_path)
    with pytest.raises(ValueError, match="structures must be one or more different names"):
        Volumes(structures=["a", "a"])


def test_options_are_checked_by_their_types():
    assert check_parameters(Volumes, {"structures": ["a"], "spacing": [1, 1, 2]}) == []
    assert check_parameters(Promise12, {"field_of_view": 1, "slices": 16}) == []
    wrong = {"outlines": "lesions", "slices": 1.5, "normalise": "none", "orientation": 3}
    assert {key for key, _ in check_parameters(ProstateX, wrong)} == set(wrong)
    assert check_parameters(Volumes, {})[0][0] == "structures"


def test_the_stand_ins_show_the_prostate_phantom(tmp_path):
    small = {"scale": 0.01, "mean_slices": 8}
    glands = prepared(Promise12(slices=8), None, tmp_path / "cache", size=32, **small)
    zones = prepared(ProstateX(), None, tmp_path / "cache", size=32, **small)
    lesions = prepared(
        ProstateX(outlines="zones_and_lesions"), None, tmp_path / "cache", size=32, **small
    )
    drawn = list(prostate_phantom(np.random.default_rng(0), 32, 8, 0.01))
    assert glands.site_names == ("centre-1", "centre-2", "centre-3", "centre-4")
    assert np.bincount(glands.sites).tolist() == [3, 3, 3, 3]
    assert glands.structures == ("prostate",)
    assert glands.ids == zones.ids == tuple(volume.case for volume in drawn)
    assert set(glands.shapes[:, 0].tolist()) == {8}
    assert len(set(zones.shapes[:, 0].tolist())) > 1
    assert lesions.structures == ("peripheral_zone", "transition_zone", "lesion")
    for case, volume in enumerate(drawn):
        assert (lesions.label(case) == volume.labels).all()
        assert (zones.label(case) == np.where(volume.labels == 3, 1, volume.labels)).all()
        assert lesions.spacing[case].tolist() == list(volume.spacing)
    parts = split_cases(glands.sites, glands.groups, glands.site_names, val=0.1, test=0.1, seed=0)
    assert [len(part) for part in parts.values()] == [4, 4, 4]


def test_a_stand_in_with_a_smaller_field_of_view_is_drawn_finer_not_enlarged(tmp_path):
    near = prepared(
        Promise12(field_of_view=0.5), None, tmp_path / "cache", size=24, scale=0.01, mean_slices=8
    )
    drawn = next(prostate_phantom(np.random.default_rng(0), 48, 8, 0.01))
    assert near.shapes[0, 1:].tolist() == [24, 24]
    assert near.spacing[0].tolist() == list(drawn.spacing)
    assert (near.label(0) == (drawn.labels[:, 12:36, 12:36] > 0)).all()


def test_the_decathlons_stand_in_is_a_hippocampus(tmp_path):
    store = prepared(MSD(), None, tmp_path / "cache", size=64, cases=3)
    assert store.structures == ("anterior", "posterior")
    assert store.source == "embedded"
    assert len(store) == 3
    shutil.rmtree(tmp_path / "cache")
    again = prepared(MSD(), None, tmp_path / "cache", size=64, cases=3)
    assert again.fingerprint == store.fingerprint


def test_one_case_in_two_folders_is_refused_with_both_names(tmp_path):
    for name in ("Case00.mhd", "Case01.mhd", "b/Case01.mhd", "b/deep/Case00.mhd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="one case is there several times") as caught:
        Promise12().manifest(tmp_path)
    for case, other in (("Case01", "b/Case01.mhd"), ("Case00", "b/deep/Case00.mhd")):
        first = tmp_path / f"{case}.mhd"
        assert f"{tmp_path / other}: is case {case!r}, and so is {first}" in str(caught.value)
    x = tmp_path / "x"
    for name in ("p1_T2W.nii.gz", "p2_T2W.nii.gz", "._p1_T2W.nii.gz", "b/p1_T2W.nii.gz"):
        (x / name).parent.mkdir(parents=True, exist_ok=True)
        (x / name).touch()
    with pytest.raises(InputError, match="is case 'p1', and so is"):
        ProstateX().manifest(x)
    shutil.rmtree(x / "b")
    assert ProstateX().manifest(x).ids == ["p1", "p2"]


def test_a_case_that_is_listed_twice_is_refused(tmp_path):
    case = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    again = case | {"image": "./imagesTr/a.nii.gz"}
    about = {"name": "x", "labels": {"0": "background", "1": "organ"}, "training": [case, again]}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="lists a case twice"):
        MSD().manifest(tmp_path)


def test_a_list_of_centres_may_name_patients(tmp_path):
    for i in range(3):
        (tmp_path / f"Case0{i}.mhd").touch()
    rows = ["Case00,A,p", "Case01,A,p", "Case02,A,"]
    (tmp_path / "centres.csv").write_text("\n".join(["Case;Centre;Group", *rows]).replace(",", ";"))
    assert Promise12().manifest(tmp_path).groups == ["p", "p", "Case02"]
    (tmp_path / "centres.csv").write_text("\n".join(["case,centre,patient_id", *rows]))
    with pytest.raises(InputError, match="'patient_id': looks like the column 'group'"):
        Promise12().manifest(tmp_path)


def test_columns_of_volumes_are_understood_or_refused(tmp_path):
    volumes = Volumes(structures=["liver"])
    (tmp_path / "t.csv").write_text("Image|MASK|Group|Site\na.nii|am.nii|p|x\nb.nii|bm.nii|p|y\n")
    (tmp_path / "._t.csv").write_bytes(b"\0")
    manifest = volumes.manifest(tmp_path)
    assert (manifest.groups, manifest.sites) == (["p", "p"], ["x", "y"])
    (tmp_path / "t.csv").write_text("image,mask,Site,patient_id\na.nii,am.nii,x,p\n")
    with pytest.raises(InputError, match="'patient_id'"):
        volumes.manifest(tmp_path)
    (tmp_path / "t.csv").write_text("image,mask\na.nii,am.nii\n./a.nii,am.nii\n")
    with pytest.raises(InputError, match="names a file twice"):
        volumes.manifest(tmp_path)


def test_skip_bad_covers_cases_without_a_mask(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        for name, array in (("", rng.integers(0, 99, (8, 8, 4))), ("m", np.ones((8, 8, 4)))):
            image = nibabel.Nifti1Image(array.astype(np.int16), np.eye(4))
            nibabel.save(image, root / f"{i}{name}.nii")
    (root / "t.csv").write_text("image,mask\n0.nii,0m.nii\n1.nii,\n")
    options = {"name": "x", "root": root, "size": 8, "embedded": {}, "cache": tmp_path / "cache"}
    volumes = Volumes(structures=["liver"])
    with pytest.raises(InputError, match="mask is empty"):
        prepare_volumes(volumes, skip_bad=False, **options)
    store = prepare_volumes(volumes, skip_bad=True, **options)
    assert (store.ids, store.skipped) == (("0.nii",), ("t.csv:3: mask is empty",))


def test_copies_of_a_volume_are_one_group(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        image = rng.integers(0, 99, (8, 8, 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), root / f"{i}.nii")
        mask = np.ones((8, 8, 4), np.uint8)
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), root / f"m{i}.nii")
    shutil.copy(root / "0.nii", root / "2.nii")
    lines = [f"{i}.nii,m{i}.nii" for i in range(3)]
    (root / "t.csv").write_text("\n".join(["image,mask", *lines]))
    store = prepared(Volumes(structures=["liver"]), root, tmp_path / "cache", size=8)
    assert store.groups.tolist() == [0, 1, 0]
    assert "1 records are copies of others" in store.notes[-1]


@pytest.mark.parametrize(
    ("dataset", "good", "nearly"),
    [
        (Promise12(), "Case00.mhd", ["case01.mhd", "Case01.MHD", "Case01.nii.gz", "Case01.mha"]),
        (ProstateX(), "p0_T2W.nii.gz", ["p1_t2w.nii.gz", "p1_T2W.nii", "p1_T2w.NII.GZ"]),
    ],
)
def test_an_image_by_nearly_the_right_name_is_not_passed_over(tmp_path, dataset, good, nearly):
    (tmp_path / "deep").mkdir()
    for name in (good, f".{good}", "Case00_segmentation.mhd", "p0_zones.nii.gz", "notes.txt"):
        (tmp_path / "deep" / name).write_text("")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / good).write_text("")
    case = good.split(".")[0].removesuffix("_T2W")
    (tmp_path / "centres.csv").write_text(f"case,centre,group\n{case},a,p\n")
    assert dataset.manifest(tmp_path).images == [tmp_path / "deep" / good]
    for name in nearly:
        file = tmp_path / "deep" / name
        file.write_text("")
        with pytest.raises(InputError, match=r"passed over\n.*deep/" + re.escape(name)) as caught:
            dataset.manifest(tmp_path)
        assert re.match(r"rename them as (Case<case>\.mhd|<case>_T2W\.nii\.gz),", caught.value.hint)
        file.unlink()


@pytest.mark.parametrize("name", ["Centres.csv", "centers.csv", "patients.csv"])
def test_a_table_of_centres_by_another_name_is_not_passed_over(tmp_path, name):
    (tmp_path / "p0_T2W.nii.gz").write_text("")
    (tmp_path / name).write_text("case,centre,group\np0,a,p\n")
    with pytest.raises(InputError, match=rf"{name}: is not read\ncall it centres\.csv"):
        ProstateX().manifest(tmp_path)
    (tmp_path / name).write_text("when,what\n1,2\n")
    assert ProstateX().manifest(tmp_path).sites == ["prostatex"]


def test_patients_and_centres_by_two_spellings_are_said(tmp_path):
    lines = ["case,centre,group"]
    for i in range(6):
        voxels = np.random.default_rng(i).integers(0, 99, (8, 8, 4)).astype(np.int16)
        for end, array in (("T2W", voxels), ("whole_gland", (voxels > 50).astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"c{i}_{end}.nii.gz")
        lines.append(f"c{i},{'aA'[i % 2]},{'pP'[i % 2]}{i // 2}")
    (tmp_path / "centres.csv").write_text("\n".join(lines))
    store = prepared(ProstateX(outlines="gland"), tmp_path, tmp_path / "cache", size=8)
    assert store.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert "6 groups differ in case, zeros or signs only" in store.notes[0]
    assert store.notes[1] == "sites differ in case only and stay apart: a, A"


def test_a_list_of_cases_in_another_form_says_which(tmp_path):
    about = {"labels": {"background": 0, "organ": 1}, "training": []}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r'expected: "labels": \{"0": "background"'):
        MSD().manifest(tmp_path)
