"""Records that are the same by content stay together, and do not contradict each other."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.data.copies import copies, digests, in_common, keep_together
from fedsim.data.folder import Folder
from fedsim.data.store import Store, prepare
from fedsim.data.table import one_name_each
from fedsim.errors import InputError


def picture(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def prepared(root: Path, skip_bad: bool = False) -> Store:
    options = {"name": "f", "root": root, "size": 12, "embedded": {}, "skip_bad": skip_bad}
    return prepare(Folder(), cache=root.parent / "cache", **options)


def test_digests_tell_records_apart_but_for_blank_ones():
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3)).astype(np.uint8)
    images[3] = images[1]
    found = digests(images)
    assert copies(found) == [[1, 3]]
    assert in_common(found[:2], found[2:]) == 1
    blank = np.zeros((3, 6, 6, 3), np.uint8) + np.array([9, 8, 7], np.uint8)
    assert copies(digests(blank)) == []
    assert in_common(digests(blank), digests(blank)) == 0


def test_groups_are_joined_by_copies_through_others():
    content = digests(np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8))
    content = content[[0, 1, 0, 2, 1, 3]]
    # 0 = 2 by content, 2 and 4 by group, 4 = 1 by content; 3 and 5 are alone.
    groups, notes = keep_together(content, ["", "", "p", "", "p", ""], list("abcdef"))
    assert groups[0] == groups[1] == groups[2] == groups[4] != ""
    assert (groups[3], groups[5]) == ("", "")
    assert notes == ["2 records are copies of others and stay with them (such as a = c)"]
    _, notes = keep_together(content, ["x", "y", "z", "", "q", ""], list("abcdef"))
    assert notes[1].startswith("2 of these stand under several patients")
    assert keep_together(content[:2], ["p", ""], ["a", "b"]) == (["p", ""], [])


@pytest.mark.parametrize("how", ["copy", "link", "hard link", "other format"])
def test_one_image_in_two_classes_is_refused_with_both_names(tmp_path, how):
    root = tmp_path / "root"
    for i in range(6):
        file = picture(root / ("cat" if i % 2 else "dog") / f"{i}.png", i)
    other = root / "dog" / "copy.png"
    if how == "copy":
        other.write_bytes(file.read_bytes())
    elif how == "link":
        other.symlink_to(file)
    elif how == "hard link":
        os.link(file, other)
    else:
        other = other.with_suffix(".bmp")
        Image.open(file).save(other)
    with pytest.raises(InputError, match="2 of 7 images of 'f' cannot be used") as caught:
        prepared(root)
    text = str(caught.value)
    assert (
        f"cat/5.png: is of class 'cat', and the same picture is of class 'dog': dog/{other.name}"
        in text
    )
    assert f"dog/{other.name}: is of class 'dog'" in text
    store = prepared(root, skip_bad=True)
    assert len(store) == 5
    assert len(store.skipped) == 2


def test_copies_in_one_class_are_one_group(tmp_path):
    root = tmp_path / "root"
    for i in range(6):
        file = picture(root / ("cat" if i % 2 else "dog") / f"{i}.png", i)
    (root / "cat" / "again.png").write_bytes(file.read_bytes())
    store = prepared(root)
    same = [i for i, name in enumerate(store.ids) if name in ("cat/5.png", "cat/again.png")]
    assert len(set(store.groups[same].tolist())) == 1
    assert len(set(store.groups.tolist())) == 6
    assert store.notes[1:] == (
        "1 records are copies of others and stay with them (such as cat/5.png = cat/again.png)",
    )
    assert prepared(root).notes == store.notes  # from the cache, too


def test_blank_pictures_are_no_copies(tmp_path):
    root = tmp_path / "root"
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (3, 4, 5)).save(root / name)
    store = prepared(root)
    assert len(set(store.groups.tolist())) == 3
    assert store.notes[1:] == ()


def test_a_file_by_two_spellings_is_refused(tmp_path):
    for i in range(2):
        picture(tmp_path / f"{i}.png", i)
    for spelling in ("./0.png", "x/../0.png", ".//0.png"):
        (tmp_path / "t.csv").write_text(f"path,label\n0.png,a\n1.png,b\n{spelling},a\n")
        with pytest.raises(InputError) as caught:
            Folder().manifest(tmp_path)
        assert f"t.csv:4: {spelling!r} is the file '0.png' of {tmp_path / 't.csv'}:2" in str(
            caught.value
        )


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    root = tmp_path / "root"
    picture(root / "cat" / "1.png", 1)
    picture(root / "dog" / "1.png", 2)
    picture(tmp_path / "elsewhere" / "2.png", 3)
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "loop").symlink_to(root / "dog")
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    manifest = Folder().manifest(root)
    assert manifest.ids == ["cat/1.png", "cat/more/2.png", "dog/1.png", "dog/gone.png"]
    with pytest.raises(InputError, match=r"dog/gone\.png: the file does not exist"):
        prepared(root)


@pytest.mark.parametrize("names", [("Cat", "cat"), ("é", "e\u0301"), ("1", "1.0"), ("01", "1")])
def test_classes_that_only_differ_in_case_are_refused(tmp_path, names):
    (tmp_path / "t.csv").write_text(f"path,label\n1.png,{names[0]}\n2.png,{names[1]}\n")
    with pytest.raises(InputError, match="one or several"):
        Folder().manifest(tmp_path)


def test_patients_that_only_differ_in_case_are_one_and_it_is_said(tmp_path):
    (tmp_path / "t.csv").write_text("path,label,group\n1.png,a,P1\n2.png,b,p1\n3.png,b,\n")
    for i in (1, 2, 3):
        picture(tmp_path / f"{i}.png", i)
    store = prepared(tmp_path)
    assert store.patients == ("P1", "P1", "")
    assert "differ in case, zeros or signs only" in store.notes[0]
    assert store.notes[1] == "1 of 3 records have no group: each is one of its own"


@pytest.mark.parametrize(
    "names",
    [("7", "7.0"), ("007", "7"), ("P01", "p-1"), ("P 01", "P01"), ("A_1/b", "a 01 B"), ("0", "00")],
)
def test_a_patient_by_two_spellings_is_on_one_side(tmp_path, names):
    groups, notes = one_name_each([names[0], "other", names[1], "12", "1-2", "P12", "P1-2"])
    assert groups == [names[0], "other", names[0], "12", "1-2", "P12", "P1-2"]
    (note,) = notes
    assert f"{names[0]}, {names[1]}" in note


def test_patients_of_different_names_stay_apart():
    names = [
        "7",
        "70",
        "7.1",
        "1.7",
        "P1",
        "P10",
        "Q1",
        "1P",
        "é1",
        "e1",
        "+",
        "?!",
        "1.0.0",
        "1.0",
    ]
    assert one_name_each(names) == (names, [])


@pytest.mark.parametrize("nobody", ["nan", "Unknown", "N/A", "-"])
def test_what_names_no_patient_is_said(nobody):
    groups, (note,) = one_name_each([nobody, "a", nobody])
    assert groups == [nobody, "a", nobody]
    assert note.startswith(f"2 records have the group {nobody} and are kept together")


def test_it_is_said_where_nothing_is_known_of_patients(tmp_path):
    root = tmp_path / "root"
    for i in range(4):
        picture(root / "ab"[i % 2] / f"{i}.png", i)
    assert "nothing is known of patients" in prepared(root).notes[0]


def test_what_lies_beside_the_images_is_named(tmp_path):
    picture(tmp_path / "cat" / "1.png", 1)
    picture(tmp_path / "dog" / "1.png", 2)
    assert Folder().manifest(tmp_path).notes == ()
    (tmp_path / "dog" / "patients.csv").write_text("path,group\n1.png,p\n")
    (tmp_path / "dog" / ".hidden.gif").write_bytes(b"")
    assert Folder().manifest(tmp_path).notes == ("not read: dog/patients.csv",)
    picture(tmp_path / "loose.png", 3)
    (tmp_path / "labels.txt").write_text("1.png a")
    for name in ("1.svs", "2.SVS", "deep/3.jp2"):
        (tmp_path / "dog" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "dog" / name).write_bytes(b"")
    assert Folder().manifest(tmp_path).notes == (
        "not read: labels.txt, loose.png, dog/patients.csv",
        "not read: 3 files of other kinds than images (.jp2, .svs)",
    )


def test_signs_are_part_of_a_class(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\n1.png,HER2+\n2.png,HER2-\n3.png,-1\n4.png,1\n")
    assert len(Folder().manifest(tmp_path).classes) == 4


@pytest.mark.parametrize("nothing", ["nan", "NA", "n/a", "?"])
def test_what_programs_write_for_no_label_is_no_class(tmp_path, nothing):
    (tmp_path / "t.csv").write_text(f"path,label\n1.png,a\n2.png,b\n3.png,{nothing}\n")
    with pytest.raises(InputError, match=re.escape(f"label is '{nothing}', not one of a, b")):
        Folder().manifest(tmp_path)
    assert Folder(classes=["a", "b", nothing]).manifest(tmp_path).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("sides", [("train", "test"), ("Training", "val", "Testing")])
def test_the_sides_of_a_split_are_no_classes(tmp_path, sides):
    for i, side in enumerate(sides):
        picture(tmp_path / side / "cat" / f"{i}.png", i)
    with pytest.raises(InputError, match="not of the sides of a split") as caught:
        Folder().manifest(tmp_path)
    assert "data.classes=[" in caught.value.hint
    assert len(Folder(classes=list(sides)).manifest(tmp_path).classes) == len(sides)


@pytest.mark.parametrize("wrong", ["", "bird"])
def test_skip_bad_covers_labels_that_cannot_be_used(tmp_path, wrong):
    root = tmp_path / "root"
    for i in range(5):
        picture(root / f"{i}.png", i)
    table = "path,label\n0.png,a\n1.png,b\n2.png,WRONG\n3.png,a\n4.png,WRONG\n"
    (root / "t.csv").write_text(table.replace("WRONG", wrong))

    def store(skip_bad: bool) -> Store:
        options = {"name": "f", "root": root, "size": 12, "embedded": {}, "skip_bad": skip_bad}
        return prepare(Folder(classes=["a", "b"]), cache=tmp_path / "cache", **options)

    with pytest.raises(InputError, match="2 of 5 records cannot be used") as caught:
        store(False)
    assert "data.skip_bad=true" in caught.value.hint
    left = store(True)
    assert left.ids == ("0.png", "1.png", "3.png")
    assert [line.split(":")[:2] for line in left.skipped] == [["t.csv", "4"], ["t.csv", "6"]]
    assert store(True).skipped == left.skipped
    with pytest.raises(InputError, match="cannot be used"):  # not from the cache either
        store(False)
