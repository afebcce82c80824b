"""ISIC 2020 and HAM10000 on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.data.skin import HAM10000, ISIC2020
from fedsim.data.store import prepare
from fedsim.errors import InputError


def isic(root: Path, table: str) -> Path:
    (root / "train").mkdir(parents=True)
    (root / "train.csv").write_text(table)
    return root


def ham(root: Path, rows: list[str], folders: dict[str, list[str]]) -> Path:
    root.mkdir()
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"
    (root / "HAM10000_metadata.csv").write_text("\n".join([header, *rows]) + "\n")
    for folder, names in folders.items():
        (root / folder).mkdir(exist_ok=True)
        for name in names:
            Image.new("RGB", (12, 9)).save(root / folder / name)
    return root


def test_isic_reads_its_columns_wherever_they_stand(tmp_path):
    table = "target,sex,patient_id,image_name\n0,male,IP_1,ISIC_1\n1,,IP_1,ISIC_2\n0,,,ISIC_3\n"
    manifest = ISIC2020().manifest(isic(tmp_path / "data", table))
    assert manifest.labels.tolist() == [0, 1, 0]
    assert manifest.labels.dtype == np.int64
    assert manifest.groups == ["IP_1", "IP_1", ""]
    assert len(set(manifest.sites)) == 1
    assert manifest.ids == ["ISIC_1", "ISIC_2", "ISIC_3"]
    assert manifest.paths[0] == tmp_path / "data" / "train" / "ISIC_1.jpg"
    assert ISIC2020.classes == ("benign", "malignant")


def test_isic_names_missing_and_found_columns(tmp_path):
    root = isic(tmp_path / "data", "image_name,label\nx,1\n")
    with pytest.raises(InputError) as caught:
        ISIC2020().manifest(root)
    (problem,) = caught.value.problems
    assert problem.where == str(root / "train.csv")
    assert "columns missing: patient_id, target" in problem.message
    assert "columns found: image_name, label" in problem.message


def test_isic_names_rows_with_unknown_targets_and_repeated_images(tmp_path):
    root = isic(tmp_path / "a", "image_name,patient_id,target\nx,,1\ny,,2\nz,,\n")
    with pytest.raises(InputError) as caught:
        ISIC2020().manifest(root)
    assert [problem.where[-11:] for problem in caught.value.problems] == [
        "train.csv:3",
        "train.csv:4",
    ]
    root = isic(tmp_path / "b", "image_name,patient_id,target\nx,,1\ny,,0\nx,,0\n,,0\n")
    with pytest.raises(InputError) as caught:
        ISIC2020().manifest(root)
    text = str(caught.value)
    assert "train.csv:4: image_name 'x' is already at" in text
    assert "train.csv:5: image_name is empty" in text


def test_isic_without_table_or_images_says_what_belongs_there(tmp_path):
    with pytest.raises(InputError, match=r"train\.csv"):
        ISIC2020().manifest(tmp_path)
    (tmp_path / "train.csv").write_text("image_name,patient_id,target\nx,,1\n")
    with pytest.raises(InputError, match=r"train/<image_name>\.jpg"):
        ISIC2020().manifest(tmp_path)


def test_a_listed_image_that_is_not_there_is_named(tmp_path):
    root = isic(tmp_path / "data", "image_name,patient_id,target\nhere,,0\ngone,,1\n")
    Image.new("RGB", (9, 9)).save(root / "train" / "here.jpg")
    options = {"name": "isic2020", "root": root, "size": 8, "embedded": {}}
    with pytest.raises(InputError, match=r"train/gone\.jpg: the file does not exist"):
        prepare(ISIC2020(), skip_bad=False, cache=tmp_path / "cache", **options)
    store = prepare(ISIC2020(), skip_bad=True, cache=tmp_path / "cache", **options)
    assert store.ids == ("here",)


def test_ham_finds_images_in_the_root_and_in_any_folder_below(tmp_path):
    rows = [
        "L1,I1,mel,,,,,rosendahl",
        "L1,I2,nv,,,,,rosendahl",
        "L2,I3,akiec,,,,,",
        "L3,I4,bcc,,,,,x",
    ]
    root = ham(tmp_path / "d", rows, {"b": ["I2.JPG", "I1.jpg"], "a": ["I1.jpg"], ".": ["I3.jpg"]})
    manifest = HAM10000().manifest(root)
    assert [path.relative_to(root).as_posix() for path in manifest.paths] == [
        "a/I1.jpg",
        "b/I2.JPG",
        "I3.jpg",
        "I4.jpg",
    ]
    assert manifest.labels.tolist() == [1, 0, 1, 1]
    assert manifest.groups == ["L1", "L1", "L2", "L3"]
    assert manifest.sites == ["rosendahl", "rosendahl", "unknown", "x"]
    diagnosis = HAM10000(task="diagnosis")
    assert diagnosis.manifest(root).labels.tolist() == [4, 5, 0, 1]
    assert diagnosis.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert HAM10000().classes == ("benign", "malignant")


def test_ham_takes_one_of_two_copies_and_refuses_two_that_differ(tmp_path):
    (tmp_path / "HAM10000_metadata.csv").write_text(
        "lesion_id,image_id,dx,dataset\nL1,a,mel,x\nL2,b,nv,x\n"
    )
    for folder in ("part_1", "part_2"):
        (tmp_path / folder).mkdir()
        for name in "ab":
            (tmp_path / folder / f"{name}.jpg").write_bytes(name.encode())
    (tmp_path / "part_1" / "._a.jpg").write_bytes(b"hidden")
    assert HAM10000().manifest(tmp_path).paths[0] == tmp_path / "part_1" / "a.jpg"
    (tmp_path / "part_2" / "a.jpg").write_bytes(b"another")
    with pytest.raises(InputError, match="an image is there twice, and not the same") as caught:
        HAM10000().manifest(tmp_path)
    first, second = (tmp_path / part / "a.jpg" for part in ("part_1", "part_2"))
    assert f"{second}: differs from {first}" in str(caught.value)


def test_ham_names_unknown_diagnoses_and_missing_images(tmp_path):
    root = ham(tmp_path / "a", ["L1,I1,melanoma,,,,,x"], {".": ["I1.jpg"]})
    with pytest.raises(InputError, match=r"metadata\.csv:2: dx is 'melanoma', not one of akiec"):
        HAM10000().manifest(root)
    root = ham(tmp_path / "b", ["L1,I1,mel,,,,,x"], {})
    with pytest.raises(InputError, match=r"holds no \.jpg files"):
        HAM10000().manifest(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "columns found: none"),
        (b"image_name,patient_id,target\n", "has a header but no rows"),
        (b"image_name,patient_id,target\nx,1\n", "has 2 values for 3 columns"),
        (b"image_name,patient_id,target\n\xff\xfe,,1\n", "cannot be read"),
        (b'image_name,patient_id,target\n"x,,1\n', "cannot be read"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, content, message):
    root = isic(tmp_path / "data", "")
    (root / "train.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        ISIC2020().manifest(root)


def test_a_table_of_a_spreadsheet_program_is_read(tmp_path):
    table = "\ufeffimage_name , patient_id,target\r\nISIC_1 ,, 1\r\n\r\n"
    manifest = ISIC2020().manifest(isic(tmp_path / "data", table))
    assert manifest.ids == ["ISIC_1"]
    assert manifest.labels.tolist() == [1]


@pytest.mark.parametrize("dataset", [ISIC2020(), HAM10000(), HAM10000(task="diagnosis")])
def test_without_a_root_the_stand_in_has_the_same_classes(tmp_path, dataset):
    store = prepare(
        dataset,
        name="skin",
        root=None,
        size=16,
        embedded={"images": 60, "sites": 3},
        skip_bad=False,
        cache=tmp_path,
    )
    assert store.source == "embedded"
    assert store.classes == tuple(dataset.classes)
    assert store.images.shape == (60, 16, 16, 3)
    assert len(store.site_names) == 3


def test_real_isic_has_107_malignant_of_453(real_data):
    manifest = ISIC2020().manifest(real_data / "isic_uda")
    assert np.bincount(manifest.labels).tolist() == [346, 107]
    assert all(path.is_file() for path in manifest.paths)
    assert set(manifest.groups) == {""}


def test_real_ham_has_the_known_counts(real_data):
    manifest = HAM10000().manifest(real_data / "ham10000")
    assert len(manifest.paths) == 10015
    assert len(set(manifest.groups)) == 7470
    sites = np.array(manifest.sites)
    found = {
        site: (int(manifest.labels[sites == site].sum()), int((sites == site).sum()))
        for site in sorted(set(manifest.sites))
    }
    assert found == {
        "rosendahl": (933, 2259),
        "vidir_modern": (923, 3363),
        "vidir_molemax": (26, 3954),
        "vienna_dias": (72, 439),
    }
    seven = HAM10000(task="diagnosis").manifest(real_data / "ham10000")
    assert np.bincount(seven.labels).tolist() == [327, 514, 1099, 115, 1113, 6705, 142]


def test_real_isic_images_are_prepared(real_data, tmp_path):
    store = prepare(
        ISIC2020(),
        name="isic2020",
        root=real_data / "isic_uda",
        size=32,
        embedded={},
        skip_bad=False,
        cache=tmp_path,
        workers=2,
    )
    assert store.images.shape == (453, 32, 32, 3)
    assert store.source == "path"
    # Lesions are photographed in the middle and are darker than the skin around them.
    grey = np.asarray(store.images, dtype=float).mean(axis=(0, 3))
    assert grey[12:20, 12:20].mean() < grey[[0, -1]].mean() - 10
