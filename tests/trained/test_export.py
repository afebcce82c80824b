"""A model in other forms: ONNX that says the same, and a card that people read."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fedsim import InputError, load_model
from fedsim.cli import main
from fedsim.models.modl import MoDL
from fedsim.trained.card import build_card, write_card
from fedsim.trained.onnx_file import _why, _WithProbabilities, _written, export_onnx
from tests.trained.conftest import Trained


@pytest.fixture
def onnxruntime() -> Any:
    pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[export]'")
    return pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: pip install '.[export]'"
    )


def test_onnx_predicts_what_the_run_predicted(
    classifier: Trained, onnxruntime: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "deep" / "model.onnx"
    assert main(["export", str(classifier.folder), "--onnx", str(target)]) == 0
    assert "float32 [n, 3, 16, 16]" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(target)
    images = torch.stack([load_model(classifier.folder).transform(p) for p in classifier.files])
    found = session.run(["probabilities"], {"images": images.numpy()})[0]
    stored = np.load(classifier.folder / "predictions.npz")["probabilities"][0]
    np.testing.assert_allclose(found, stored, rtol=0, atol=1e-4)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["benign", "malignant"]
    assert told["run_id"] == json.loads((classifier.folder / "run.json").read_text())["run_id"]


def test_onnx_of_a_clients_model_lies_beside_it(
    local: Trained, onnxruntime: Any, tmp_path: Path
) -> None:
    shutil.copytree(local.folder, tmp_path / "run")
    words = ["export", str(tmp_path / "run"), "--client", "client-1", "--onnx"]
    assert main(words) == 0
    assert (tmp_path / "run" / "models" / "client-1.onnx").is_file()
    load_model(tmp_path / "run", "client-1")  # What lies beside a result is no damage.


def test_onnx_of_a_network_of_slices_segments_them(segmenter: Trained, onnxruntime: Any) -> None:
    trained = load_model(segmenter.folder)
    session = onnxruntime.InferenceSession(export_onnx(trained).content)
    image = trained.transform(segmenter.files[0])[:, :, :32, :32].transpose(0, 1)
    with torch.inference_mode():
        logits = trained.model(image)
    found = session.run(["logits"], {"images": image.numpy()})[0]
    np.testing.assert_allclose(found, logits.numpy(), rtol=0, atol=1e-4)


def test_an_unrolled_network_that_cannot_be_written_is_one_short_sentence() -> None:
    wrapped = _WithProbabilities(MoDL(3, 16, width=2, layers=2, unrolls=1)).eval()
    with pytest.raises(RuntimeError) as error:
        _written(wrapped, torch.rand(1, 3, 16, 16))
    assert len(str(error.value).splitlines()) > 5
    assert re.fullmatch(r"the exporter has no form for its operation \w+", _why(error.value))


def test_other_reasons_are_cut_short() -> None:
    assert _why(ValueError("too\nlarge")) == "ValueError: too large"
    assert len(_why(ValueError("x" * 999))) <= 201


def test_a_file_that_says_something_else_is_not_written(
    classifier: Trained,
    onnxruntime: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def other(self: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(images)
        if torch.onnx.is_in_onnx_export():
            logits = logits + 1e-3
        return logits, torch.softmax(logits, dim=1)

    monkeypatch.setattr(_WithProbabilities, "forward", other)
    words = ["export", str(classifier.folder), "--onnx", str(tmp_path / "wrong.onnx")]
    assert main(words) == 1
    assert "they differ by up to 0.001" in capsys.readouterr().err
    assert not (tmp_path / "wrong.onnx").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_what_is_to_be_installed_is_said(
    classifier: Trained,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return object() if name.startswith("onnx") else found(name, *rest)

    monkeypatch.setattr("fedsim.trained.onnx_file.importlib.import_module", without)
    assert main(["export", str(classifier.folder), "--onnx"]) == 2
    told = capsys.readouterr().err
    assert f"need the package {missing}, which is not installed" in told
    assert "pip install '.[export]'" in told
    assert not (classifier.folder / "model.onnx").exists()


def test_export_asks_what_is_wanted(
    classifier: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(classifier.folder)]) == 2
    assert "--onnx" in capsys.readouterr().err


# --- The card ------------------------------------------------------------------------------------


def parts(card: str) -> tuple[dict[str, Any], str]:
    """The YAML in front of a card, and its text."""
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


def test_every_run_ends_with_a_card(classifier: Trained) -> None:
    front, text = parts((classifier.folder / "MODEL_CARD.md").read_text())
    assert front["library_name"] == "fedsim"
    assert front["pipeline_tag"] == "image-classification"
    (result,) = front["model-index"][0]["results"]
    scores = {one["type"]: one for one in result["metrics"]}
    assert scores["auc"]["value"] == classifier.result.metrics["auc"]
    low, high = scores["auc"]["args"]["interval"]
    assert low <= scores["auc"]["value"] <= high
    for part in ("Use", "Data", "Results", "Privacy", "Training", "Limits", "How to load it"):
        assert f"\n## {part}\n" in text
    assert "Not a medical device" in text
    assert "positive class: malignant" in text
    assert f"On the test split of {len(classifier.files)} records" in text
    assert "read these numbers with care" in text
    assert "No privacy mechanism was used" in text
    assert str(classifier.root) not in text


def test_the_cards_code_runs(classifier: Trained, segmenter: Trained, local: Trained) -> None:
    for run, file in (
        (classifier, "image.png"),
        (segmenter, "volume.nii.gz"),
        (local, "image.png"),
    ):
        text = (run.folder / "MODEL_CARD.md").read_text()
        code = text.split("```python\n")[1].split("```")[0]
        assert file in code
        asked = next(path for path in run.files if path.name.endswith(file.partition(".")[2]))
        code = code.replace(f'"{file}"', repr(str(asked))).replace('"RUN"', repr(str(run.folder)))
        exec(compile(code, "MODEL_CARD.md", "exec"), {})


def test_a_card_of_a_private_run_tells_the_guarantee_and_no_counts(private: Trained) -> None:
    front, text = parts((private.folder / "MODEL_CARD.md").read_text())
    assert "differential-privacy" in front["tags"]
    assert "# guarded\n" in text
    assert "Differentially private: epsilon is at most" in text
    assert "at delta 0.001 for every record" in text
    assert "whoever knows the seed can remove the noise" in text
    record = json.loads((private.folder / "run.json").read_text())
    for released in record["released_without_privacy"]:
        assert released.partition(" (")[0].partition("_")[0] in text
    assert "seed 41" not in text
    assert f"{record['data']['sizes']['train']} train" not in text
    assert (
        "differential-privacy" in parts((private.folder / "MODEL_CARD.md").read_text())[0]["tags"]
    )


def test_a_card_of_volumes_and_one_of_clients_say_what_they_are(
    segmenter: Trained, local: Trained
) -> None:
    front, text = parts((segmenter.folder / "MODEL_CARD.md").read_text())
    assert front["pipeline_tag"] == "image-segmentation"
    assert "labels each voxel of a volume as background, core, shell" in text
    assert "| Dice |" in text
    _, text = parts((local.folder / "MODEL_CARD.md").read_text())
    assert "each of 3 clients has its own, in `models/`" in text
    assert "client='client-0'" in text


def test_names_of_anybody_are_no_markup(classifier: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(classifier.folder, folder)
    record = json.loads((folder / "run.json").read_text())
    for key in ("run_id", "scenario_sha256", "digest", "files"):
        record.pop(key)  # as runs of older versions, which may be edited
    record["scenario"] = "x\n# <script>alert(1)</script> [a](http://b) | `c`"
    (folder / "run.json").write_text(json.dumps(record))
    front, text = parts(build_card(folder))
    assert front["model-index"][0]["name"] == record["scenario"]
    assert "<script>" not in text
    assert "\n# \\<script" not in text
    assert r"\[a\](http://b) \| \`c\`" in text


def test_what_people_write_into_a_card_stays(
    classifier: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(classifier.folder, folder)
    words = ["export", str(folder), "--card"]
    assert main(words) == 0  # It says what is there already.
    card = folder / "MODEL_CARD.md"
    card.write_text("ours")
    assert main(words) == 2
    assert "somebody may have written into it" in capsys.readouterr().err
    write_card(folder)
    assert card.read_text() == "ours"
    assert main([*words, str(tmp_path / "new.md")]) == 0
    assert (tmp_path / "new.md").read_text() == (classifier.folder / "MODEL_CARD.md").read_text()


def test_an_unfinished_run_has_no_card(classifier: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(classifier.folder, folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "failed"}))
    with pytest.raises(InputError, match="has not finished"):
        build_card(folder)
