"""Tables with columns of other names, files found by name, levels of folders, clients by column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsim import scenario
from fedsim.data.folder import Folder
from fedsim.data.partition import Table
from fedsim.data.volumes.table import Volumes
from fedsim.errors import InputError
from fedsim.federation.building import build_federation
from tests.starting.own import class_folders, picture, table


def lines(count: int = 12) -> list[str]:
    return [f"{i:03d},{'ab'[i % 2]},P{i // 2},c{i // 6}" for i in range(count)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_say_what_a_table_calls_its_own(tmp_path: Path, delimiter: str) -> None:
    rows = [line.replace(",", delimiter) for line in lines()]
    root = table(tmp_path, delimiter.join(("Image", "DX", "Patient", "Ward")), rows)
    called = {"path": "image", "label": "dx", "group": "patient"}
    manifest = Folder(columns=called).manifest(root)
    assert manifest.classes == ("a", "b")
    assert manifest.groups == [f"P{i // 2}" for i in range(12)]
    assert manifest.columns["patient"] == manifest.groups
    assert manifest.columns["Ward"] == [f"c{i // 6}" for i in range(12)]


def test_a_column_of_the_known_name_can_be_something_else(tmp_path: Path) -> None:
    rows = [f"{i:03d},{'ab'[i % 2]},x,P{i // 2}" for i in range(6)]
    root = table(tmp_path, "path,label,group,Patient", rows)
    manifest = Folder(columns={"group": "Patient"}).manifest(root)
    assert manifest.groups == [f"P{i // 2}" for i in range(6)]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"label": "dxx"}, "data.columns.label: there is no column 'dxx' (did you mean 'dx'?)"),
        ({"label": "dx", "group": "Ward"}, "data.columns.group: there is no column 'Ward'"),
    ],
)
def test_a_column_that_is_not_there_is_named(
    tmp_path: Path, columns: dict[str, str], says: str
) -> None:
    root = table(tmp_path, "path,dx,Patient,x", lines())
    with pytest.raises(InputError) as caught:
        Folder(csv="list.csv", columns=columns).manifest(root)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"patient": "Patient"}, "'patient', which is none of path, label, group, site"),
        ({"group": " "}, "says nothing"),
        ({"group": "x", "site": "X"}, "one column for two"),
    ],
)
def test_columns_that_say_nothing_are_refused(columns: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Folder(columns=columns)


def test_a_misnamed_column_can_be_told_of_instead_of_renamed(tmp_path: Path) -> None:
    root = table(tmp_path, "path,label,Patient,x", lines())
    with pytest.raises(InputError) as caught:
        Folder().manifest(root)
    assert "data.columns={group: Patient}" in str(caught.value)


def test_the_table_is_found_by_what_it_calls_its_columns(tmp_path: Path) -> None:
    root = table(tmp_path, "File,dx,Patient,x", lines(), "b.csv")
    (root / "a.csv").write_text("who,when\nme,today\n")
    called = {"path": "File", "label": "dx", "group": "Patient"}
    manifest = Folder(columns=called).manifest(root)
    assert len(manifest.paths) == 12
    assert "read b.csv, not a.csv" in manifest.notes


def test_a_bare_name_is_looked_for_below_the_root(tmp_path: Path) -> None:
    picture(tmp_path / "deep" / "er" / "one.png", 1, True)
    picture(tmp_path / "two.jpg", 2, False)
    (tmp_path / "t.csv").write_text("path,label\none,a\ntwo.jpg,b\nthree,a\nno/one.png,b\n")
    manifest = Folder().manifest(tmp_path)
    assert manifest.paths == [
        tmp_path / "deep" / "er" / "one.png",
        tmp_path / "two.jpg",
        tmp_path / "three",
        # A path with a folder is meant as it is: another folder's file is not it.
        tmp_path / "no" / "one.png",
    ]
    assert "1 images were found by their names in folders below" in manifest.notes


def test_a_name_of_two_files_or_a_file_of_two_names_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "one.png", 1, True)
    picture(tmp_path / "b" / "one.png", 2, False)
    (tmp_path / "t.csv").write_text("path,label\none,a\nx,b\n")
    with pytest.raises(InputError, match=r"may be a/one\.png and b/one\.png"):
        Folder().manifest(tmp_path)
    (tmp_path / "b" / "one.png").unlink()
    (tmp_path / "t.csv").write_text("path,label\none,a\none.png,b\n")
    with pytest.raises(InputError, match=r"'one\.png' is the file of 'one'"):
        Folder().manifest(tmp_path)


def test_levels_of_folders_say_site_class_and_patient(tmp_path: Path) -> None:
    for site in ("basel", "bern"):
        for name in ("well", "sick"):
            picture(tmp_path / site / name / "p1" / "any" / "1.png", 1, True)
    manifest = Folder(levels=["site", "label", "group"]).manifest(tmp_path)
    assert manifest.classes == ("sick", "well")
    assert manifest.sites == ["basel", "basel", "bern", "bern"]
    # Numbers of patients begin anew at each site; a patient may be in two classes.
    assert manifest.groups == ["basel/p1", "basel/p1", "bern/p1", "bern/p1"]


def test_an_image_outside_of_the_levels_cannot_be_used(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 2}, ["train", "test"])
    picture(tmp_path / "train" / "loose.png", 9, True)
    with pytest.raises(InputError, match="lies outside of the 2 levels skip, label"):
        Folder(levels=["skip", "label"]).manifest(tmp_path)
    (tmp_path / "train" / "loose.png").unlink()
    manifest = Folder(levels=["skip", "label"]).manifest(tmp_path)
    assert len(manifest.paths) == 8
    assert any("test, train are pooled" in note for note in manifest.notes)


@pytest.mark.parametrize("levels", [["site"], ["label", "label"], []])
def test_levels_must_name_the_class_once(levels: list[str]) -> None:
    with pytest.raises(ValueError, match="must name label once"):
        Folder(levels=levels)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[1], [1, 1], [0, 1], [1, 70000]])
def test_values_of_masks_must_fit_the_structures(values: list[int]) -> None:
    with pytest.raises(ValueError, match="values must be 2 different whole numbers"):
        Volumes(["a", "b"], values=values)


# --- Clients by a column -------------------------------------------------------------------------


def by_column(root: Path, cache: Path, *words: str) -> scenario.Scenario:
    return scenario.load(
        "isic_iid_fedavg",
        [
            f"data={{name: folder, root: '{root}', size: 16, split: {{val: 0.2, test: 0.2}}}}",
            "federation={partition: {name: table, column: ward}}",
            *words,
        ],
    )


@pytest.fixture
def wards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    rows = [f"{i:03d},{'ab'[i % 2]},P{i},{'xyz'[i % 3]}" for i in range(36)]
    return table(tmp_path / "root", "path,label,group,Ward", rows)


def test_a_column_says_which_client_a_record_belongs_to(wards: Path, tmp_path: Path) -> None:
    federation = build_federation(by_column(wards, tmp_path), 0)
    store = federation.store
    ward = np.array(["xyz"[int(name) % 3] for name in store.ids])
    assert list(federation.train) == ["x", "y", "z"]
    for held in (federation.train, federation.val):
        assert all((ward[positions] == name).all() for name, positions in held.items())
    assert sum(map(len, federation.train.values())) == len(federation.split["train"])
    assert sum(map(len, federation.val.values())) == len(federation.split["val"])
    assert federation.torn == 0


def test_a_patient_at_two_clients_is_with_one_and_said(wards: Path, tmp_path: Path) -> None:
    rows = [f"{i:03d},{'ab'[i % 2]},P{i // 4},{'xyz'[i % 3]}" for i in range(36)]
    table(wards, "path,label,group,Ward", rows)
    federation = build_federation(by_column(wards, tmp_path), 0)
    assert federation.torn == 9
    holders = [set(federation.store.groups[held].tolist()) for held in federation.train.values()]
    assert not holders[0] & holders[1] | holders[1] & holders[2]
    assert any("several clients of the table: 9" in note for note in federation.notes())
    assert not any("several clients" in note for note in federation.notes(counts=False))


@pytest.mark.parametrize(
    ("rows", "words", "says"),
    [
        (None, ["federation.partition.column=room"], "the data have no column 'room'"),
        (None, ["federation.clients=2"], "names 3 clients"),
        (None, ["federation.partition.min_samples=99"], "below 99"),
        ("", [], "is empty for"),
    ],
)
def test_columns_that_cannot_name_clients_are_errors(
    wards: Path, tmp_path: Path, rows: str | None, words: list[str], says: str
) -> None:
    if rows is not None:
        text = (wards / "list.csv").read_text()
        (wards / "list.csv").write_text(text.replace(",x\n", ",\n"))
    with pytest.raises(InputError) as caught:
        build_federation(by_column(wards, tmp_path, *words), 0)
    assert says in str(caught.value)


def test_data_without_a_table_have_no_columns(tmp_path: Path, monkeypatch: object) -> None:
    words = [
        "data.embedded={images: 60}",
        "federation={partition: {name: table, column: ward}}",
    ]
    with pytest.raises(InputError, match="columns of the data: none"):
        build_federation(scenario.load("isic_iid_fedavg", words), 0)
    with pytest.raises(ValueError, match="min_samples must be 1 or more"):
        Table("ward", min_samples=0)
