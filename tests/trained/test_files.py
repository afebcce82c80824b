"""A model file says what it is, to whoever has it, and nothing that is nobody else's business."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fedsim import InputError, __version__, load_model, run
from fedsim.api import resume
from fedsim.cli import main
from fedsim.federation.building import build_federation
from fedsim.folder.identity import edited, sealed
from fedsim.models import SmallCNN
from fedsim.models.build import first_arrays
from fedsim.scenario import load
from fedsim.terminal.console import Console
from fedsim.trained.about import About, NotDescribedError
from fedsim.trained.files import encoded, model_file, read_about
from fedsim.wire import flower
from tests.engine.conftest import PLUGINS
from tests.trained.conftest import Trained
from tests.yaml_bombs import YAML_BOMBS


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="np") as file:
        return file.metadata()  # type: ignore[no-any-return]


def record_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "run.json").read_text())  # type: ignore[no-any-return]


def test_a_file_says_what_it_is(classifier: Trained) -> None:
    found = metadata(classifier.folder / "model.safetensors")
    assert found["format"] == "pt"
    assert found["task"] == "image-classification"
    assert found["architecture"] == "cnn"
    arguments = {"width": 8, "num_classes": 2, "in_channels": 3, "image_size": 16}
    assert json.loads(found["architecture_arguments"]) == arguments
    assert json.loads(found["classes"]) == ["benign", "malignant"]
    assert found["positive_class"] == "malignant"
    steps = json.loads(found["preprocessing"])
    assert (steps["size"], steps["channels"], steps["window"]) == (16, 3, [500, 60000])
    assert len(steps["mean"]) == len(steps["std"]) == 3
    assert (found["scenario"], found["seed"], found["data"]) == ("my_images", "0", "folder")
    assert found["run_id"] == record_of(classifier.folder)["run_id"]
    assert found["fedsim_version"] == __version__
    assert "no licence is stated" in found["license_note"]
    assert str(classifier.root) not in json.dumps(found)


def test_a_file_of_volumes_says_how_they_were_prepared(segmenter: Trained) -> None:
    found = metadata(segmenter.folder / "model.safetensors")
    assert found["task"] == "image-segmentation"
    assert json.loads(found["classes"]) == ["background", "core", "shell"]
    assert "positive_class" not in found
    assert json.loads(found["preprocessing"]) == {
        **{"size": 32, "slices": None, "field_of_view": None, "spacing": None, "channel": None},
        **{"normalise": "zscore_clipped", "orientation": "canonical", "patch": [32, 32]},
        "axes": "slices to the head, rows to the back, columns to the left",
    }


def test_a_private_model_gives_away_neither_seed_nor_counts(private: Trained) -> None:
    found = metadata(private.folder / "model.safetensors")
    assert "dp_sgd, epsilon" in found["privacy"]
    assert "seed" not in found
    sizes_of_images = ("preprocessing", "architecture_arguments", "run_id", "privacy")
    text = json.dumps({k: v for k, v in found.items() if k not in sizes_of_images})
    record = record_of(private.folder)
    assert record["seed"] == 41
    assert "41" not in text
    data = record["data"]
    assert isinstance(data, dict)
    for secret in (str(private.root), data["fingerprint"], *map(str, data["sizes"].values())):
        assert secret not in text


def test_what_is_written_is_read(classifier: Trained, segmenter: Trained, local: Trained) -> None:
    files = [one.folder / "model.safetensors" for one in (classifier, segmenter)]
    for path in (*files, model_file(local.folder, "client-1")):
        about = read_about(path)
        assert About.of_metadata(about.metadata()) == about
        assert about.metadata() == metadata(path)


def test_the_same_model_has_the_same_bytes(classifier: Trained) -> None:
    """The library's own order of metadata is another one each time."""
    path = classifier.folder / "model.safetensors"
    assert b"".join(encoded(load_file(path), read_about(path).metadata())) == path.read_bytes()


def test_a_model_file_is_a_first_model(classifier: Trained, pictures: Path) -> None:
    path = classifier.folder / "model.safetensors"
    scenario = load(pictures, [f"model.init={path}"])
    task = build_federation(scenario, 0).task
    first = flower.tensors(first_arrays(scenario, task, 0))
    for name, values in load_file(path).items():
        assert first[name].tobytes() == values.tobytes()


# --- Loading -------------------------------------------------------------------------------------


def test_a_run_and_its_file_alone_are_the_same_model(classifier: Trained, tmp_path: Path) -> None:
    alone = tmp_path / "mailed.safetensors"
    shutil.copy(classifier.folder / "model.safetensors", alone)
    models = [load_model(classifier.folder), load_model(str(alone))]
    assert isinstance(models[0].model, SmallCNN)
    assert not models[0].model.training
    assert models[0].classes == ("benign", "malignant")
    image = models[0].transform(classifier.files[0])
    assert (image.shape, image.dtype) == ((3, 16, 16), torch.float32)
    with torch.inference_mode():
        one, other = (trained.model(image[None]) for trained in models)
    assert one.equal(other)


def test_loading_leaves_the_global_random_state_alone(classifier: Trained) -> None:
    before = torch.get_rng_state()
    load_model(classifier.folder)
    assert torch.get_rng_state().equal(before)


def test_models_of_clients_are_results_that_resume_keeps(local: Trained, tmp_path: Path) -> None:
    names = sorted(path.name for path in (local.folder / "models").iterdir())
    assert names == [f"client-{k}.safetensors" for k in range(3)]
    files = record_of(local.folder)["files"]
    assert isinstance(files, dict)
    assert {f"models/{name}" for name in names} <= set(files)
    folder = tmp_path / "copy"
    shutil.copytree(local.folder, folder)
    assert resume(folder, [], Console(quiet=True)).metrics == local.result.metrics
    path = folder / "models" / names[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(4))
    with pytest.raises(InputError, match=r"client-1\.safetensors: is not as the run wrote it"):
        load_model(folder, "client-2")
    path.unlink()
    (problem,) = edited(folder, record_of(folder))
    assert problem.message == "is missing"
    (folder / "run.json").write_text(json.dumps(record_of(folder) | {"status": "interrupted"}))
    resume(folder, [], Console(quiet=True))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["models/../../stolen.safetensors", "models/", "../x", "other"])
def test_only_results_are_named_as_results(local: Trained, name: str) -> None:
    record = record_of(local.folder)
    files = record["files"]
    assert isinstance(files, dict)
    (problem,) = edited(local.folder, sealed(record | {"files": files | {name: "0" * 64}}))
    assert "does not name the files of results" in problem.message


def test_a_plugins_model_is_found_by_the_run_and_not_by_the_file_alone(
    pictures: Path, tmp_path: Path
) -> None:
    own = ("model={name: odd_models.Odd}", f"plugins=[{PLUGINS}]", "client.steps=1", "name=odd")
    folder = run(pictures, *own, runs=tmp_path).folder
    assert load_model(folder).about.architecture == "odd_models.Odd"
    with pytest.raises(InputError, match="not installed here"):
        load_model(folder / "model.safetensors")


def test_what_is_no_model_of_ours_is_refused(
    classifier: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(classifier.folder / "model.safetensors")
    about = read_about(classifier.folder / "model.safetensors").metadata()
    arguments = about["architecture_arguments"].replace("8", "-8")
    for name, texts, message in (
        ("bare", {}, "does not say what model it holds"),
        ("newer", about | {"schema": "2"}, "of a newer form"),
        ("torn", about | {"preprocessing": "{"}, "damaged"),
        ("small", about | {"preprocessing": "{}"}, "damaged"),
        ("task", about | {"task": "chess"}, "for the task 'chess'"),
        ("code", about | {"architecture": "os.system"}, "not installed here"),
        ("size", about | {"architecture_arguments": arguments}, "size.safetensors cannot be built"),
        ("other", about | {"architecture": "convnet"}, "convnet"),
    ):
        path = tmp_path / f"{name}.safetensors"
        save_file(weights, path, metadata=texts)
        assert main(["predict", str(path), str(classifier.files[0])]) == 2, name
        told = capsys.readouterr().err
        assert message in told
        assert len(told.splitlines()) <= 40
    (tmp_path / "no.safetensors").write_bytes(b"no")
    for place, message in (
        (tmp_path / "no.safetensors", "cannot be read as a model file"),
        (tmp_path / "gone.safetensors", "cannot be read as a model file"),
        (tmp_path / "gone", "does not exist"),
        (tmp_path, "is not a run folder"),
    ):
        assert main(["predict", str(place), str(classifier.files[0])]) == 2
        assert message in capsys.readouterr().err


def test_a_run_that_has_not_finished_has_no_model(classifier: Trained, tmp_path: Path) -> None:
    shutil.copytree(classifier.folder, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    record = record_of(classifier.folder) | {"status": "interrupted"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        load_model(tmp_path / "run")


def test_metadata_of_strangers_are_no_models() -> None:
    for texts in (None, {}, {"format": "pt"}):
        with pytest.raises(NotDescribedError):
            About.of_metadata(texts)


def test_weights_are_those_of_the_run(classifier: Trained) -> None:
    state = load_model(classifier.folder).model.state_dict()
    for name, values in load_file(classifier.folder / "model.safetensors").items():
        np.testing.assert_array_equal(state[name].numpy(), values)


@pytest.mark.parametrize(
    "text", [*YAML_BOMBS.values(), "a: [", "plugins: 3"], ids=[*YAML_BOMBS, "open", "number"]
)
def test_a_run_whose_settings_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    # A run folder of an older fedsim, whose run.json has no digest of the settings.
    record = {"scenario": "tiny", "seed": 0, "status": "done", "data": {"name": "x", "source": "x"}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "scenario.yaml").write_text(text)
    with pytest.raises(InputError, match=str(tmp_path / "scenario.yaml")):
        load_model(tmp_path)
