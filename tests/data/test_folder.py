"""A person's own images."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from fedsim.data.folder import ONE_SITE, Folder
from fedsim.data.store import prepare
from fedsim.errors import InputError
from fedsim.federation.building import build_federation
from fedsim.scenario import load


def images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10)).save(root / name)
    return root


def test_a_folder_is_a_class(tmp_path):
    root = images(tmp_path, "nevus/2.png", "nevus/deep/1.JPG", "melanoma/1.jpg")
    images(tmp_path, "nevus/.hidden.png", ".cache/3.png")
    (root / "nevus" / "notes.txt").write_text("not an image")
    manifest = Folder().manifest(root)
    assert manifest.classes == ("melanoma", "nevus")
    assert manifest.ids == ["melanoma/1.jpg", "nevus/2.png", "nevus/deep/1.JPG"]
    assert manifest.labels.tolist() == [0, 1, 1]
    assert manifest.groups == ["", "", ""]
    assert manifest.sites == [ONE_SITE] * 3


@pytest.mark.parametrize("levels", [None, ["label"]])
def test_what_is_called_as_an_image_and_is_none_is_counted(tmp_path, levels):
    root = images(tmp_path / "root", "a/1.png", "b/1.png", "b/scan.png/1.png", "b/2.jpg")
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "zero.tif").symlink_to("/dev/zero")
    (root / "b" / "zz.png").mkdir()
    (root / "b" / "zz.dcm").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "a" / "s.bmp"))
    options = {"name": "f", "root": root, "size": 8, "embedded": {}, "cache": tmp_path / "cache"}
    with pytest.raises(InputError, match="5 of 9 images of 'f' cannot be read") as caught:
        prepare(Folder(levels=levels), skip_bad=False, **options)
    assert [
        (Path(p.message.split(":")[0]).name, p.message.split(": ")[1])
        for p in caught.value.problems
    ] == [
        ("pipe.png", "it is a pipe, a device or a socket, not a file"),
        ("s.bmp", "it is a pipe, a device or a socket, not a file"),
        ("zero.tif", "it is a pipe, a device or a socket, not a file"),
        ("zz.dcm", "it is a folder, not a file"),
        ("zz.png", "it is a folder, not a file"),
    ]
    store = prepare(Folder(levels=levels), skip_bad=True, **options)
    assert (len(store), len(store.skipped)) == (4, 5)


def test_the_order_of_classes_can_be_fixed(tmp_path):
    root = images(tmp_path, "a/1.png", "b/1.png")
    manifest = Folder(classes=["b", "a"]).manifest(root)
    assert manifest.classes == ("b", "a")
    assert manifest.ids == ["b/1.png", "a/1.png"]


def test_folders_and_classes_must_match(tmp_path):
    root = images(tmp_path, "a/1.png", "b/1.png", "c/1.png")
    (root / "d").mkdir()
    with pytest.raises(InputError) as caught:
        Folder(classes=["a", "b", "d", "e"]).manifest(root)
    text = str(caught.value)
    assert "no folder for class 'e'" in text
    assert f"{root / 'c'}: is none of the classes" in text
    assert f"{root / 'd'}: holds no images" in text


def test_one_class_or_no_folder_is_refused(tmp_path):
    root = images(tmp_path, "a/1.png")
    with pytest.raises(InputError, match="at least two classes"):
        Folder().manifest(root)
    root = images(tmp_path / "flat", "1.png", "2.png")
    with pytest.raises(InputError, match="has no class folders"):
        Folder().manifest(root)
    with pytest.raises(ValueError, match="two different classes"):
        Folder(classes=["a", "a"])


def test_the_only_table_is_read(tmp_path):
    root = images(tmp_path, "x/1.png", "2.png", "3.png")
    (root / "any.csv").write_text("path,label,group,site\nx/1.png,b,P1,\n2.png,a,,Basel\n")
    manifest = Folder().manifest(root)
    assert manifest.classes == ("a", "b")
    assert manifest.labels.tolist() == [1, 0]
    assert manifest.groups == ["P1", ""]
    assert manifest.sites == [ONE_SITE, "Basel"]
    assert manifest.paths == [root / "x" / "1.png", root / "2.png"]


def test_a_table_needs_no_groups_and_sites(tmp_path):
    (tmp_path / "any.csv").write_text("label,path\na,1.png\nb,2.png\n")
    manifest = Folder().manifest(tmp_path)
    assert manifest.groups == ["", ""]
    assert manifest.sites == [ONE_SITE] * 2


def test_of_several_tables_one_is_chosen_by_name(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(f"path,label\n{name}.png,a\n2.png,b\n")
    assert Folder(csv="two.csv").manifest(tmp_path).ids == ["two.png", "2.png"]
    with pytest.raises(InputError, match=r"several tables: one\.csv, two\.csv; data\.csv=NAME"):
        Folder().manifest(tmp_path)
    with pytest.raises(InputError, match=r"three\.csv"):
        Folder(csv="three.csv").manifest(tmp_path)


def test_a_table_that_is_something_else_says_how_to_get_the_folders(tmp_path):
    root = images(tmp_path, "a/1.png", "b/1.png")
    (root / "notes.csv").write_text("who,when\nme,today\n")
    with pytest.raises(InputError) as caught:
        Folder().manifest(root)
    assert "columns missing: path, label; columns found: who, when" in str(caught.value)
    assert "folders" in caught.value.hint


def test_labels_of_a_table_must_be_known_and_given(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\n1.png,a\n2.png,c\n3.png,b\n")
    with pytest.raises(InputError, match=r"t\.csv:3: label is 'c', not one of a, b"):
        Folder(classes=["a", "b"]).manifest(tmp_path)
    (tmp_path / "t.csv").write_text("path,label\n1.png,a\n2.png,\n3.png,b\n")
    with pytest.raises(InputError, match=r"t\.csv:3: label is empty"):
        Folder().manifest(tmp_path)
    (tmp_path / "t.csv").write_text("path,label\n1.png,a\n1.png,b\n")
    with pytest.raises(InputError, match="already at"):
        Folder().manifest(tmp_path)


def test_a_table_changes_the_store(tmp_path):
    root = images(tmp_path / "root", "1.png", "2.png", "3.png")
    table = root / "t.csv"
    options = {"name": "f", "root": root, "size": 8, "embedded": {}, "skip_bad": False}
    table.write_text("path,label,group\n1.png,a,p\n2.png,b,p\n3.png,b,q\n")
    first = prepare(Folder(), cache=tmp_path / "cache", **options)
    assert first.groups.tolist() == [0, 0, 1]
    table.write_text("path,label,group\n1.png,a,p\n2.png,b,q\n3.png,b,q\n")
    second = prepare(Folder(), cache=tmp_path / "cache", **options)
    assert second.groups.tolist() == [0, 1, 1]
    assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize("name", ["x" * 400 + ".png", "y" * 300, "z/" * 3000 + "a.png"])
def test_a_name_that_no_file_can_have_is_one_that_is_not_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for k in range(4):
        Image.new("RGB", (8, 8), (k, 0, 0)).save(data / f"i{k}.png")
    rows = [f"i{k}.png,{'a' if k % 2 else 'b'}" for k in range(4)] + [f"{name},a"]
    (data / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    words = ["data={name: folder, size: 16}", f"data.root={data}", "federation.clients=1"]
    with pytest.raises(InputError, match="1 of 5 images of 'folder' cannot be read"):
        build_federation(load("isic_iid_fedavg", words), 0)
