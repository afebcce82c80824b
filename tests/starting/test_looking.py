"""What a folder is taken for, before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.data.folder import Folder
from fedsim.errors import InputError
from fedsim.starting.found import Found
from fedsim.starting.looking import look
from fedsim.starting.words import positive_of
from tests.starting.own import class_folders, picture, table, volumes


def settings(found: Found) -> dict[str, object]:
    return {one.key: one.value for one in found.settings}


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    found = look(class_folders(tmp_path, {"nevus": 2, "melanoma": 2}))
    assert (found.dataset, found.kind, settings(found)) == ("folder", "images", {})
    assert found.layout == "a folder for each class"


@pytest.mark.parametrize(
    ("below", "classes", "levels"),
    [
        (("train", "val", "test"), ("NORMAL", "PNEUMONIA"), ["skip", "label"]),
        (("hospital-a", "hospital-b"), ("x", "y"), ["site", "label"]),
        (("bern", "basel"), ("benign", "malignant"), ["site", "label"]),
        (("benign", "malignant"), ("site-1", "site-2"), ["label", "site"]),
        (("everything",), ("a", "b"), ["skip", "label"]),
        (("benign", "malignant"), ("raw", "cropped"), None),
    ],
)
def test_levels_of_folders(
    tmp_path: Path, below: tuple[str, ...], classes: tuple[str, ...], levels: list[str] | None
) -> None:
    root = class_folders(tmp_path, dict.fromkeys(classes, 2), below)
    found = look(root)
    assert settings(found) == ({} if levels is None else {"levels": levels})
    manifest = Folder(**settings(found)).manifest(root)  # type: ignore[arg-type]
    assert len(manifest.paths) == 2 * len(classes) * len(below)
    assert set(manifest.classes) == set(
        below if levels is None or levels[0] == "label" else classes
    )


def test_many_folders_in_each_class_are_patients(tmp_path: Path) -> None:
    for name in ("well", "sick"):
        for i in range(6):
            picture(tmp_path / name / f"p{i}" / "1.png", i, name == "sick")
    found = look(tmp_path)
    assert settings(found) == {"levels": ["label", "group"]}
    # p1 in one class may be p1 in the other: they stay together.
    assert set(Folder(levels=["label", "group"]).manifest(tmp_path).groups) == {
        f"p{i}" for i in range(6)
    }


def test_a_table_with_columns_of_other_names(tmp_path: Path) -> None:
    rows = [f"{i:03d};{'mel' if i % 3 else 'nv'};P{i // 2};Basel;{i}" for i in range(12)]
    found = look(table(tmp_path, "Image_ID;dx;Patient;Hospital;Age", rows))
    assert settings(found) == {
        "columns": {"path": "Image_ID", "label": "dx", "group": "Patient", "site": "Hospital"}
    }
    assert found.table == "list.csv"
    manifest = Folder(**settings(found)).manifest(tmp_path)  # type: ignore[arg-type]
    assert manifest.paths[3] == tmp_path / "images" / "003.png"
    assert manifest.groups[:3] == ["P0", "P0", "P1"]


def test_a_table_of_the_known_columns_needs_no_settings(tmp_path: Path) -> None:
    found = look(table(tmp_path, "PATH,Label", [f"images/{i:03d}.png,{i % 2}" for i in range(6)]))
    assert settings(found) == {}


def test_of_patients_and_lesions_the_patients_stay_together(tmp_path: Path) -> None:
    rows = [f"{i:03d}.png,{i % 2},L{i // 2},P{i // 4}" for i in range(12)]
    found = look(table(tmp_path, "file,target,lesion_id,patient_id", rows))
    assert settings(found)["columns"]["group"] == "patient_id"  # type: ignore[index]


def test_a_column_of_clients_is_noticed(tmp_path: Path) -> None:
    rows = [f"{i:03d}.png,{i % 2},c{i // 6}" for i in range(12)]
    assert look(table(tmp_path, "path,label,client", rows)).client_column == "client"


def test_which_column_is_the_class_may_be_told(tmp_path: Path) -> None:
    rows = [f"{i:03d}.png,{i % 2},{i % 3}" for i in range(12)]
    root = table(tmp_path, "path,sex,stage", rows)
    with pytest.raises(InputError, match="which column of the table is the class") as caught:
        look(root)
    assert "--label sex" in caught.value.hint
    assert settings(look(root, "stage"))["columns"] == {"label": "stage"}
    with pytest.raises(InputError, match="no such column"):
        look(root, "grade")


def test_the_table_about_the_images_is_chosen(tmp_path: Path) -> None:
    root = table(tmp_path, "path,label", [f"images/{i:03d}.png,{i % 2}" for i in range(6)])
    (root / "other.csv").write_text("who,when\nme,today\n")
    assert settings(look(root)) == {"csv": "list.csv"}


def test_volumes_and_masks_of_another_value(tmp_path: Path) -> None:
    found = look(volumes(tmp_path, 3, value=255))
    assert found.dataset == "volumes"
    assert settings(found) == {"structures": ["structure"], "values": [255]}


def test_a_table_of_volumes(tmp_path: Path) -> None:
    root = volumes(tmp_path, 3)
    lines = [f"case{i}.nii.gz,case{i}_mask.nii.gz,P{i}" for i in range(3)]
    (root / "t.csv").write_text("Scan,Outline,Patient\n" + "\n".join(lines) + "\n")
    found = look(root)
    assert settings(found) == {
        "columns": {"image": "Scan", "mask": "Outline", "group": "Patient"},
        "structures": ["structure"],
    }


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: picture(root / "1.png", 1, True), "holds 1 images and no folders of classes"),
        (lambda root: picture(root / "a" / "1.png", 1, True), "only one folder of a class: a"),
        (lambda root: (root / "x.txt").write_text("x"), "no images, volumes or tables"),
        (lambda root: (root / "x.xlsx").write_text("x"), "x.xlsx is not read: save it as CSV"),
        (lambda root: None, "is empty"),
    ],
)
def test_what_is_not_understood_says_what_is(tmp_path: Path, make: object, says: str) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError) as caught:
        look(tmp_path)
    assert says in str(caught.value)
    assert "a folder" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 6


@pytest.mark.parametrize("made", [picture, lambda path, *_: None])
def test_a_table_in_another_encoding_is_what_is_wrong(tmp_path: Path, made: object) -> None:
    for number in range(4):
        made(tmp_path / f"{number}.png", number, bool(number % 2))  # type: ignore[operator]
    text = "Datei;Befund;Klinik\n0.png;gutartig;Köln\n1.png;bösartig;Köln\n"
    (tmp_path / "liste.csv").write_text(text, encoding="cp1252")
    with pytest.raises(InputError, match=r"liste\.csv cannot be read") as caught:
        look(tmp_path)
    assert "liste.csv:2: is not UTF-8 text" in str(caught.value)
    assert "save it as UTF-8 CSV" in caught.value.hint


def test_images_in_folders_of_classes_need_no_table_that_can_be_read(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / ("a", "b")[number % 2] / f"{number}.png", number, bool(number % 2))
    (tmp_path / "notes.csv").write_bytes("Köln\n".encode("cp1252"))
    assert look(tmp_path).layout == "a folder for each class"


def test_volumes_without_masks_say_how_masks_are_called(tmp_path: Path) -> None:
    root = volumes(tmp_path, 2)
    for mask in root.glob("*_mask*"):
        mask.unlink()
    with pytest.raises(InputError, match="holds 2 volumes, and no masks") as caught:
        look(root)
    assert "_mask" in caught.value.hint


def test_images_of_the_same_name_are_no_masks(tmp_path: Path) -> None:
    root = volumes(tmp_path, 2)
    (root / "images").mkdir()
    (root / "case0.nii.gz").rename(root / "images" / "case0.nii.gz")
    (root / "scans").mkdir()
    (root / "scans" / "case0.nii.gz").write_bytes((root / "images" / "case0.nii.gz").read_bytes())
    with pytest.raises(InputError, match="several may be one image: images/case0"):
        look(root)


@pytest.mark.parametrize(
    ("classes", "positive"),
    [
        (("melanoma", "nevus"), "melanoma"),
        (("NORMAL", "PNEUMONIA"), "PNEUMONIA"),
        (("0", "1"), "1"),
        (("No Finding", "Effusion"), "Effusion"),
        (("a", "b"), "b"),
    ],
)
def test_the_class_that_is_looked_for(classes: tuple[str, str], positive: str) -> None:
    assert positive_of(classes)[0] == positive


def test_published_data_sets_are_known(real_data: Path) -> None:
    assert look(real_data / "ham10000").dataset == "ham10000"
    assert look(real_data / "msd_hippocampus").dataset == "msd"
    assert look(real_data / "promise12").dataset == "promise12"
    assert look(real_data / "prostatex_zonal").dataset == "prostatex"
