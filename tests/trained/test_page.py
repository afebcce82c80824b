"""docs/models.md is run, in a folder with what it names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedsim.trained.load import TrainedModel
from tests.docs.test_docs import blocks, commands_of, pattern, table, typed
from tests.trained.conftest import Trained
from tests.trained.test_files import metadata


@pytest.fixture
def desk(
    classifier: Trained, segmenter: Trained, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with the runs and files of the page."""
    for folder in ("new", "scans"):
        (home / folder).mkdir(exist_ok=True)
    sick = next(p for p in classifier.files if p.suffix == ".jpg" and "malignant" in str(p))
    well = next(p for p in classifier.files if p.suffix == ".png" and "benign" in str(p))
    scan = next(p for p in segmenter.files if p.suffix == ".gz")
    for path, copy in ((sick, "new/a.jpg"), (well, "new/b.png"), (scan, "scans/one.nii.gz")):
        shutil.copy(path, home / copy)
    (home / "torn.jpg").write_text("no picture")
    monkeypatch.chdir(home)
    return home


def test_commands_print_what_the_page_says(desk: Path) -> None:
    commands = commands_of("models.md")
    assert len(commands) == 3
    for command in commands:
        code, output = typed(command.words)
        assert re.fullmatch(pattern(command.expected), output), output
        assert code == command.code


def test_the_pages_code_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = [text for language, text in blocks("models.md") if language == "python"]
    assert len(examples) == 2
    told = []
    for text in examples:
        exec(compile(text, "models.md", "exec"), {})
        told.append(capsys.readouterr().out)
    of_one, of_many = told[0].splitlines()[0], told[0].splitlines()[1:]
    assert of_one.startswith("{'benign': 0.")
    one = float(of_one.split("'malignant': ")[1].rstrip("}"))
    many = np.array([line.strip("[ ]").split() for line in of_many], dtype=float)
    assert many[0, 1] == pytest.approx(one, abs=1e-4)
    mask, scan = nibabel.load(desk / "mask.nii.gz"), nibabel.load(desk / "scans" / "one.nii.gz")
    assert mask.shape == scan.shape
    assert str(scan.shape[::-1]) in told[1]


def test_the_entries_of_the_metadata_are_listed(
    classifier: Trained, private: Trained, local: Trained
) -> None:
    paths = [one.folder / "model.safetensors" for one in (classifier, private)]
    paths.append(local.folder / "models" / "client-0.safetensors")
    written = {name for path in paths for name in metadata(path)}
    assert table("models.md", "metadata").names("metadata") == written


def test_what_a_loaded_model_has_is_listed() -> None:
    listed = table("models.md", "name").column("name")
    names = {re.sub(r"[`()]|FILES?", "", cell).removeprefix("trained.") for cell in listed}
    known = set(TrainedModel.__dataclass_fields__) | set(dir(TrainedModel))
    assert names <= known
    assert {"model", "transform", "classes", "predict", "segment", "about"} == names
