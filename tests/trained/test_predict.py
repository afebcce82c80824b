"""What a model says of a file is what it said of the same record when the run ended."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from fedsim import InputError, load_model
from fedsim.cli import main
from fedsim.data.volumes.reading import read_volume
from fedsim.errors import Interruption
from fedsim.tasks.segmentation.metrics import overlap_counts
from fedsim.trained import predicting
from fedsim.trained.predicting import mask_names
from tests.trained.conftest import Trained

EACH = 10
"""Records of each loader."""


def kind(path: Path) -> str:
    """The loader of a picture."""
    if path.suffix == ".dcm":
        return path.suffix
    with Image.open(path) as opened:
        return "deep" if opened.mode.startswith("I") else path.suffix


@pytest.mark.parametrize("loader", [".jpg", ".png", "deep", ".dcm"])
def test_probabilities_of_files_are_those_of_the_run(classifier: Trained, loader: str) -> None:
    stored = np.load(classifier.folder / "predictions.npz")["probabilities"][0]
    chosen = [i for i, path in enumerate(classifier.files) if kind(path) == loader][:EACH]
    assert len(chosen) == EACH
    found = load_model(classifier.folder).predict([classifier.files[i] for i in chosen])
    np.testing.assert_allclose(found, stored[chosen], rtol=0, atol=1e-6)
    assert np.ptp(stored[chosen, 1]) > 1e-3  # Records that all look alike would prove nothing.


def test_the_command_writes_what_is_stored(
    classifier: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "answers.csv"
    words = ["predict", str(classifier.folder), str(classifier.root), "--csv", str(table)]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "positive class: malignant" in told
    assert "not a medical device" in told
    with table.open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == 160
    stored = np.load(classifier.folder / "predictions.npz")["probabilities"][0]
    for path, (benign, malignant) in zip(classifier.files, stored, strict=True):
        row = rows[str(path)]
        assert float(row["p_benign"]) == pytest.approx(benign, abs=1e-6)
        assert row["predicted"] == ("malignant" if malignant > benign else "benign")
        assert row["error"] == ""


def test_each_clients_own_model_answers(local: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    stored = np.load(local.folder / "predictions.npz")["probabilities"]
    assert len(stored) == 3
    for position, client in enumerate(("client-0", "client-1", "client-2")):
        found = load_model(local.folder, client).predict(local.files[:EACH])
        np.testing.assert_allclose(found, stored[position, :EACH], rtol=0, atol=1e-6)
    words = ["predict", str(local.folder), str(local.files[0])]
    assert main([*words, "--client", "client-2"]) == 0
    assert "model of client-2" in capsys.readouterr().out
    assert main(words) == 2
    assert "client-0, client-1, client-2" in capsys.readouterr().err
    assert main([*words, "--client", "client-9"]) == 2
    assert "no client is 'client-9'" in capsys.readouterr().err


def test_what_cannot_be_read_is_named_and_the_others_are_answered(
    classifier: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "torn.jpg").write_bytes(classifier.files[0].read_bytes()[:80])
    (folder / "text.png").write_text("no picture")
    (folder / "good.png").write_bytes(classifier.files[1].read_bytes())
    (folder / "notes.txt").write_text("not asked about")
    empty = tmp_path / "empty"
    empty.mkdir()
    table = tmp_path / "answers.csv"
    places = [str(folder), str(empty), str(tmp_path / "gone.png")]
    assert main(["predict", str(classifier.folder), *places, "--csv", str(table)]) == 2
    told = capsys.readouterr()
    assert "1 file: " in told.out
    assert "4 of 5 files or folders cannot be used" in told.err
    for name in ("torn.jpg", "text.png", "empty: holds no images", "gone.png: does not exist"):
        assert name in told.err
    assert "notes.txt" not in told.err
    with table.open(newline="") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    assert rows["text.png"]["error"] == "not a picture in a known format"
    assert rows["good.png"]["predicted"] in ("benign", "malignant")


def test_a_named_pipe_is_refused_and_not_waited_for(
    classifier: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert main(["predict", str(classifier.folder), str(tmp_path / "pipe.png")]) == 2
    assert "pipe" in capsys.readouterr().err


def test_answers_never_take_the_place_of_what_is_asked_about(
    classifier: Trained, segmenter: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(classifier.files[0].read_bytes())
    words = ["predict", str(classifier.folder), str(picture)]
    assert main([*words, "--csv", str(picture)]) == 2
    assert main([*words, "--out", str(tmp_path / "masks")]) == 2
    assert "this model classifies images" in capsys.readouterr().err
    assert picture.read_bytes() == classifier.files[0].read_bytes()
    scan = next(path for path in segmenter.files if path.suffix == ".gz")
    first, second = tmp_path / "a.nii.gz", tmp_path / "a_mask.nii.gz"
    for path in (first, second):
        path.write_bytes(scan.read_bytes())
    words = ["predict", str(segmenter.folder), str(first), str(second), "--out", str(tmp_path)]
    assert main(words) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert second.read_bytes() == scan.read_bytes()


def test_masks_of_volumes_of_one_name_get_names_of_their_own() -> None:
    files = [Path(p) for p in ("x/a.nii.gz", "x/A.mha", "y/a.nii.gz", "y/b.nii", "../y/c.nrrd")]
    names = [path.name for path in mask_names(files, Path("out")).values()]
    assert len({name.casefold() for name in names}) == len(files)
    assert names[3:] == ["b_mask.nii.gz", "c_mask.nii.gz"]
    assert all(path.parent == Path("out") for path in mask_names(files, Path("out")).values())


# --- Volumes -------------------------------------------------------------------------------------


def outline(image: Path) -> Path:
    return image.with_name(image.name.replace("case", "outline"))


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_masks_overlap_the_truth_as_the_run_counted(segmenter: Trained, suffix: str) -> None:
    stored = np.load(segmenter.folder / "overlaps.npz")["overlaps"][0]
    model = load_model(segmenter.folder)
    chosen = [i for i, path in enumerate(segmenter.files) if path.name.endswith(suffix)]
    assert len(chosen) >= EACH
    for i in chosen[:EACH]:
        found = model.segment(segmenter.files[i])
        truth = read_volume(outline(segmenter.files[i]), canonical=False)
        np.testing.assert_allclose(found.labels.affine, truth.affine, atol=1e-9)
        counts = overlap_counts(found.labels.array, truth.array, 2)
        # Nothing was scaled or added, and what was cut off holds no outline.
        np.testing.assert_array_equal(counts, stored[i])
        assert counts[:, 1].all()


def test_masks_lie_on_the_voxels_of_their_files(
    segmenter: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    askew = next(p for p in segmenter.files if p.suffix == ".gz" and "case-00" not in p.name)
    meta = next(path for path in segmenter.files if path.suffix == ".mha")
    table, out = tmp_path / "answers.csv", tmp_path / "masks"
    words = ["predict", str(segmenter.folder), str(askew), str(meta)]
    assert main([*words, "--out", str(out), "--csv", str(table)]) == 0
    assert "core" in capsys.readouterr().out
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for image, row in zip((askew, meta), rows, strict=True):
        mask = Path(row["mask"])
        assert mask.parent == out
        found, like = (sitk.ReadImage(str(path)) for path in (mask, image))
        assert found.GetSize() == like.GetSize()
        for place in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(found, place)(), getattr(like, place)(), atol=1e-5)
        voxels = sitk.GetArrayFromImage(found)
        assert voxels.dtype == np.uint8
        assert int(row["core voxels"]) == (voxels == 1).sum() > 0
        litres = np.prod(like.GetSpacing()) / 1000
        assert float(row["shell ml"]) == pytest.approx((voxels == 2).sum() * litres, rel=1e-5)
    mine, theirs = (nibabel.load(path) for path in (out / f"{askew.name[:-7]}_mask.nii.gz", askew))
    assert mine.affine.tobytes() == theirs.affine.tobytes()
    for name in ("qform_code", "sform_code", "quatern_b", "srow_x"):
        np.testing.assert_array_equal(mine.header[name], theirs.header[name])


def test_unreadable_volumes_are_named_and_the_others_segmented(
    segmenter: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torn.nii.gz").write_bytes(segmenter.files[0].read_bytes()[:200])
    flat = np.full((4, 5, 6), np.nan, np.float32)
    nibabel.save(nibabel.nifti1.Nifti1Image(flat, np.eye(4)), tmp_path / "nan.nii.gz")
    words = ["predict", str(segmenter.folder), str(tmp_path), str(segmenter.files[0])]
    assert main([*words, "--out", str(tmp_path / "masks")]) == 2
    told = capsys.readouterr()
    assert "2 of 3 files or folders cannot be used" in told.err
    assert "nan.nii.gz: has voxels that are no finite numbers" in told.err
    assert len(list((tmp_path / "masks").iterdir())) == 1


def test_masks_of_the_last_time_are_not_asked_about(
    segmenter: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / segmenter.files[0].name).write_bytes(segmenter.files[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["predict", str(segmenter.folder), "."]) == 0
    assert len(list((tmp_path / "masks").iterdir())) == 1


def test_what_was_found_out_before_an_interruption_is_kept(
    segmenter: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked = predicting.segment_file, []

    def interrupted(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 3:
            raise Interruption
        return whole(*arguments)

    monkeypatch.setattr(predicting, "segment_file", interrupted)
    table, out = tmp_path / "answers.csv", tmp_path / "masks"
    words = ["predict", str(segmenter.folder), *map(str, segmenter.files)]
    assert main([*words, "--csv", str(table), "--out", str(out)]) == 130
    with table.open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [*map(str, segmenter.files[:2])]
    assert len(list(out.iterdir())) == 2


def test_what_a_model_does_not_do_is_said(classifier: Trained, segmenter: Trained) -> None:
    with pytest.raises(InputError, match="segments volumes"):
        load_model(segmenter.folder).predict([segmenter.files[0]])
    with pytest.raises(InputError, match="classifies images"):
        load_model(classifier.folder).segment(classifier.files[0])
    with pytest.raises(InputError, match="nowhere"):
        load_model(classifier.folder).transform("nowhere.png")


def test_a_volume_as_the_model_sees_it_is_that_of_the_store(segmenter: Trained) -> None:
    from fedsim.federation.building import build_federation
    from fedsim.scenario import load

    federation = build_federation(load(segmenter.folder / "scenario.yaml"), 0)
    view, model = federation.view("test"), load_model(segmenter.folder)
    for position, path in enumerate(segmenter.files):
        assert model.transform(path).equal(view.volume(position)[0])
