"""Data sets of Hugging Face, by a stand-in of the package that has what is used of it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from fedsim import scenario
from fedsim.data.huggingface import HuggingFace
from fedsim.errors import InputError
from fedsim.federation.opening import open_store
from fedsim.starting.looking import look


class Image:
    """A feature: pictures."""


class Value:
    """A feature: a plain value."""


class ClassLabel:
    """A feature: a class."""

    names = ("benign", "malignant")


class Rows:
    """An Arrow table of one row."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row

    def to_pylist(self) -> list[dict[str, Any]]:
        return [self.row]


class Split:
    """A data set: `features`, `cache_files`, a length, and rows."""

    def __init__(self, features: dict[str, Any], rows: list[dict[str, Any]], file: Path) -> None:
        self.features, self.rows, self.cache_files = features, rows, [{"filename": str(file)}]

    def __len__(self) -> int:
        return len(self.rows)

    def with_format(self, name: str) -> Split:
        assert name == "arrow"
        return self

    def __getitem__(self, i: int) -> Rows:
        return Rows(self.rows[i])


FEATURES = {"image": Image(), "labels": ClassLabel(), "patient": Value(), "hospital": Value()}


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    made = []
    for i in range(start, start + count):
        values = np.random.default_rng(i).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        file = io.BytesIO()
        Pillow.fromarray(values).save(file, "PNG")
        picture = {"bytes": file.getvalue(), "path": None}
        made.append(
            {"image": picture, "labels": i % 2, "patient": f"P{i // 2}", "hospital": "AB"[i % 2]}
        )
    return made


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two splits; its content is what the stand-in of the package makes up."""
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "saved"
    root.mkdir()
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    arrow = root / "data.arrow"
    arrow.write_bytes(b"arrow")
    both = {"train": Split(FEATURES, rows(16), arrow), "test": Split(FEATURES, rows(4, 16), arrow)}
    package = ModuleType("datasets")

    def load_dataset(name: str, config: str | None) -> dict[str, Split]:
        if name != "me/skin":
            raise FileNotFoundError(f"{name} is not on the hub")
        return both

    package.load_from_disk = lambda folder: both  # type: ignore[attr-defined]
    package.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", package)
    return root


def test_a_saved_data_set_is_read(saved: Path) -> None:
    assert look(saved).dataset == "huggingface"
    manifest = HuggingFace().manifest(saved)
    assert manifest.classes == ("benign", "malignant")
    assert manifest.labels.tolist() == [0, 1] * 10
    assert manifest.ids[15:17] == ["train/15", "test/0"]
    assert manifest.groups[:3] == ["P0", "P0", "P1"]
    assert manifest.sites[:2] == ["A", "B"]
    assert manifest.columns["hospital"] == ["A", "B"] * 10
    assert "splits train, test are pooled" in manifest.notes[0]
    values = np.random.default_rng(3).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Pillow.open(manifest.paths[3])), values)
    assert HuggingFace().manifest(saved).paths == manifest.paths  # from the cache
    assert len(HuggingFace(subset="test").manifest(saved).paths) == 4


def test_a_column_that_may_be_the_patient_is_named_and_not_used(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = sys.modules["datasets"].load_from_disk("")["train"]
    features = {
        {"patient": "study_subject_id"}.get(name, name): kind for name, kind in FEATURES.items()
    }
    renamed = [
        {{"patient": "study_subject_id"}.get(name, name): value for name, value in row.items()}
        for row in rows(16)
    ]
    monkeypatch.setattr(split, "features", features)
    monkeypatch.setattr(split, "rows", renamed)
    manifest = HuggingFace(subset="train").manifest(saved)
    assert set(manifest.groups) == {""}
    (note,) = manifest.notes
    assert "'study_subject_id' is not read" in note
    assert "data.columns='{group: study_subject_id}'" in note
    columns = {"group": "study_subject_id"}
    named = HuggingFace(subset="train", columns=columns).manifest(saved)
    assert named.groups[:3] == ["P0", "P0", "P1"]
    assert named.notes == ()


def test_a_name_on_the_hub_needs_no_root(saved: Path) -> None:
    words = ["data={name: huggingface, hub: me/skin, size: 16}"]
    store = open_store(scenario.load("isic_iid_fedavg", words))
    assert len(store) == 20
    assert store.source == "path"
    with pytest.raises(InputError, match="cannot load 'me/other'") as caught:
        HuggingFace(hub="me/other").fetch()
    assert "is not on the hub" in str(caught.value)


def test_without_the_package_one_sentence_says_so(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="which is not installed") as caught:
        HuggingFace().manifest(saved)
    assert caught.value.hint == "type: pip install datasets"


def test_without_a_hub_a_root_is_needed() -> None:
    with pytest.raises(InputError, match="no embedded stand-in"):
        scenario.load("isic_iid_fedavg", ["data={name: huggingface}"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"subset": "tset"}, "there is no split 'tset' (did you mean 'test'?)"),
        ({"columns": {"label": "dx"}}, "there is no column 'dx'"),
    ],
)
def test_what_is_not_there_is_named(saved: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        HuggingFace(**options).manifest(saved)
    assert says in str(caught.value)
    with pytest.raises(ValueError, match="'patient', which is none of"):
        HuggingFace(columns={"patient": "x"})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data set of Hugging Face"):
        HuggingFace().manifest(tmp_path)


def test_the_real_package_reads_what_it_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    features = datasets.Features(
        image=datasets.Image(), labels=datasets.ClassLabel(names=["benign", "malignant"])
    )
    made = {key: [row[key] for row in rows(6)] for key in features}
    datasets.Dataset.from_dict(made, features=features).save_to_disk(str(tmp_path / "saved"))
    assert HuggingFace().manifest(tmp_path / "saved").labels.tolist() == [0, 1] * 3
