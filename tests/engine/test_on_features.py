"""Runs on frozen features: `data.features` turns a scenario on images into one on vectors."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedsim import Result
from fedsim.data.features import extracting
from fedsim.engine.prepare import prepare
from fedsim.errors import InputError
from fedsim.federation.building import build_federation
from fedsim.folder.runfolder import RunFolder
from fedsim.registry import default_registry
from fedsim.scenario import activate_plugins, load
from fedsim.tasks.classification.vectors import VectorClassification
from fedsim.trained.load import load_model

ON_FEATURES = (
    "data.features={network: cnn, public: 40}",
    "model=linear",
    "client.learning_rate=0.5",
)


def test_every_client_has_vectors(tiny: Path) -> None:
    federation = build_federation(load(tiny, ON_FEATURES), 0)
    assert isinstance(federation.task, VectorClassification)
    assert federation.task.input_shape == (128,)
    view = federation.client_view(next(iter(federation.train)))
    assert view.images().shape == (len(view), 128)
    assert torch.linalg.vector_norm(view.images(), dim=1).max() <= 1 + 1e-6
    assert view.pixels().shape == (len(view), 16, 16, 3)
    some = np.array([2, 0])
    assert torch.equal(view.images(some), view.images()[some])


def test_a_head_is_trained_and_nothing_else_travels(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny(*ON_FEATURES, "rounds=3")
    assert result.summary["metrics"]["auc"] is not None
    numbers = 2 * (128 + 1)
    sent = [
        row
        for row in RunFolder.open(result.folder).read_lines("traffic.jsonl")
        if row["direction"] == "up"
    ]
    assert sent
    for row in sent:
        assert 4 * numbers <= row["fields"]["arrays"] < 4 * numbers + 500


def test_the_model_takes_pictures(
    tiny: Path, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    """What a run says of its test records, its model file says of their pictures."""
    result = run_tiny(*ON_FEATURES)
    federation = build_federation(load(tiny, ON_FEATURES), 0)
    view = federation.view("test")
    files = []
    for number, pixels in enumerate(view.pixels()):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    said = np.load(result.folder / "predictions.npz")["probabilities"][0]
    for place in (result.folder, result.folder / "model.safetensors"):
        assert load_model(place).predict(files) == pytest.approx(said, abs=1e-6)


def test_other_weights_than_the_models_own_are_refused(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    first = run_tiny("model={name: cnn, width: 32}", "rounds=1")
    weights = first.folder / "model.safetensors"
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(weights.read_bytes())
    features = f"data.features={{network: cnn, weights: {mine}, public: 40}}"
    second = run_tiny(features, *ON_FEATURES[1:], "rounds=1")
    assert load_model(second.folder).about.features["weights_sha256"]
    other = run_tiny("model={name: cnn, width: 32}", "rounds=2")
    mine.write_bytes((other.folder / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="with other weights"):
        load_model(second.folder)


def test_features_are_computed_once_for_all_seeds_and_heads(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_tiny(*ON_FEATURES)

    def compute(*arguments: object) -> None:
        raise AssertionError("they are in the cache")

    monkeypatch.setattr(extracting, "_compute", compute)
    run_tiny(*ON_FEATURES, seed=1)
    run_tiny(*ON_FEATURES, "data.features.whiten=0")


def test_what_is_in_the_cache_is_used_without_the_network(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_tiny(*ON_FEATURES)

    def build(*arguments: object) -> None:
        raise AssertionError("nobody needs it")

    monkeypatch.setattr("fedsim.data.features.network.require_module", build)
    again = run_tiny(*ON_FEATURES)
    assert (
        RunFolder.open(first.folder).read_json("run.json")["data"]
        == (RunFolder.open(again.folder).read_json("run.json")["data"])
    )


def test_a_damaged_note_of_a_network_is_written_anew(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    run_tiny(*ON_FEATURES)
    (note,) = (tmp_path / "cache" / "networks").glob("*.txt")
    digest = note.read_text()
    note.write_text("0" * 10)
    run_tiny(*ON_FEATURES)
    assert note.read_text() == digest


def test_a_download_of_weights_is_told_before_data_are_prepared(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def file_of(source: str, say: Callable[[str], None]) -> None:
        say(f"fetching {source}")
        raise InputError("no network")

    said: list[str] = []
    monkeypatch.setattr("fedsim.engine.prepare.file_of", file_of)
    scenario = load(tiny, ("data.features=dinov2_vits14", "model=linear"))
    with pytest.raises(InputError, match="no network"):
        prepare(scenario, 0, said.append)
    assert said == ["fetching dinov2_vits14"]


def test_scaled_otherwise_they_are_other_data(tiny: Path) -> None:
    prints = {
        build_federation(load(tiny, (*ON_FEATURES, *more)), 0).store.fingerprint
        for more in ((), ("data.features.whiten=0",), ("data.features.dimensions=8",))
    }
    assert len(prints) == 3


def test_head_trained_privately(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny(
        *ON_FEATURES,
        "client.class_balanced=false",
        "privacy={target_epsilon: 4, delta: 1e-3, unit: record}",
    )
    assert result.summary["epsilon"] == pytest.approx(4, rel=1e-2)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("data.features=cnnn", "model=linear"), "did you mean 'cnn'"),
        (("data.features=cnn",), "with these go: linear"),
        ((*ON_FEATURES, "client.augment=siamese"), "type client.augment=none"),
        (
            (*ON_FEATURES, "federation.overrides.client-1.client.augment=siamese"),
            "type client.augment=none",
        ),
        ((*ON_FEATURES, "data.features.dimensions=129"), "the network gives 128"),
        (
            (*ON_FEATURES, "data.features.public=0", "data.features.whiten=1.0"),
            "there are none",
        ),
        ((*ON_FEATURES, "data.features.public_root=/nowhere"), "there is no folder"),
        (("model=linear",), "is made for features"),
    ],
)
def test_what_does_not_go_with_features_is_refused(
    run_tiny: Callable[..., Result], overrides: tuple[str, ...], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        run_tiny(*overrides)


def test_public_images_may_not_be_the_clients_own(tiny: Path, tmp_path: Path) -> None:
    """What they teach is in the model file: noise on what clients send would hide nothing."""
    store = build_federation(load(tiny), 0).store
    for number in (0, 5):
        Image.fromarray(store.images[number]).save(tmp_path / f"{number}.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    features = f"data.features={{network: cnn, whiten: 0, public_root: {tmp_path}}}"
    with pytest.raises(InputError, match="2 of 3 public images are also in the data"):
        build_federation(load(tiny, (features, *ON_FEATURES[1:])), 0)
    (tmp_path / "0.png").unlink()
    (tmp_path / "5.png").unlink()
    assert build_federation(load(tiny, (features, *ON_FEATURES[1:])), 0).store.vectors.any()


def test_another_code_of_a_network_makes_other_features(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from torch import nn\n"
        "class OwnNetwork(nn.Module):\n"
        "    def __init__(self, num_classes, in_channels, image_size):\n"
        "        super().__init__()\n"
        "    def features(self, images):\n"
        "        return images.flatten(1)[:, :20] ** POWER\n"
    )
    found = []
    for power in ("1", "2"):
        (tmp_path / "own_network.py").write_text(code.replace("POWER", power))
        sys.modules.pop("own_network", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        default_registry.cache_clear()
        own = ("data.features={network: own_network:OwnNetwork, public: 40}", "model=linear")
        scenario = load(tiny, (*own, f"plugins=[{tmp_path}]"))
        activate_plugins(scenario)
        found.append(build_federation(scenario, 0).store.fingerprint)
    assert found[0] != found[1]


def test_volumes_have_none() -> None:
    from fedsim.federation.opening import dataset_of, task_of

    scenario = load("prostate_centres_fedavg")
    changed = scenario.model_copy(
        update={
            "data": scenario.data.model_copy(
                update={"features": load("isic_noniid_fedavg", ON_FEATURES[:2]).data.features}
            )
        }
    )
    with pytest.raises(InputError, match="is for images to classify"):
        task_of(dataset_of(changed), changed)


def test_a_model_file_is_a_network(run_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """Its architecture is in the file: a run's own model, of any width, makes features."""
    first = run_tiny("rounds=1")
    file = first.folder / "model.safetensors"
    second = run_tiny(f"data.features={{network: {file}, public: 40}}", *ON_FEATURES[1:])
    about = load_model(second.folder).about
    assert about.features["network"] == str(file)
    assert about.arguments["in_features"] == 32
    with pytest.raises(InputError, match="is no model of images"):
        run_tiny(f"data.features={second.folder / 'model.safetensors'}", *ON_FEATURES[1:])
    with pytest.raises(InputError, match="there is no file"):
        run_tiny("data.features=nowhere.safetensors", *ON_FEATURES[1:])
