"""FedBN, FedPer and frozen layers through the engine: bytes, states, scores, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.errors import Interruption
from fedsim.folder.runfolder import RunFolder
from fedsim.folder.storing import decode
from fedsim.report.text import closing_lines
from fedsim.trained.load import load_model
from tests.engine.conftest import TINY
from tests.engine.test_bits import lines
from tests.engine.test_resume import QUIET

SITES = (
    "federation.clients=null",
    "federation.partition=natural",
    "data.embedded={images: 120, sites: 3}",
    "data.split={val: 0.1, test: 0.3}",
    "client.batch_size=32",
)
NORM, HEAD = "federation.local=norm", "federation.local=head"
# Of the tiny CNN: three layers of normalisation, and a linear one.
ALL, NORMS, LAST = 6210, 2 * (8 + 16 + 32), 32 * 2 + 2
PART = "model.trainable=[features.8.*, classifier.*]"
PRIVATE = "privacy={noise_multiplier: 1.0, expected_batch: 16, delta: 0.001}"
STEPS = ("client.steps=2", "client.class_balanced=false")


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs the tiny scenario with the sites as clients; the same words are run once."""
    folder = tmp_path_factory.mktemp("sharing")
    (folder / "tiny.yaml").write_text(TINY)
    made: dict[tuple[Any, ...], Result] = {}

    def once(*overrides: str, **options: Any) -> Result:
        key = (*overrides, *options.items())
        if key not in made:
            made[key] = run(
                folder / "tiny.yaml", *SITES, *overrides, runs=folder / "runs", **options
            )
        return made[key]

    return once


def own_models(result: Result) -> list[dict[str, np.ndarray]]:
    return [load_file(path) for path in sorted((result.folder / "models").glob("*"))]


def field(result: Result, direction: str) -> set[int]:
    return {
        row["fields"]["arrays"]
        for row in lines(result, "traffic.jsonl")
        if row["direction"] == direction  # type: ignore[index]
    }


def assert_same_own(one: Result, other: Result) -> None:
    for left, right in zip(own_models(one), own_models(other), strict=True):
        assert left.keys() == right.keys()
        assert all(left[name].tobytes() == right[name].tobytes() for name in left)
    assert one.metrics == other.metrics
    for name in ("rounds.jsonl", "traffic.jsonl"):
        assert lines(one, name) == lines(other, name), name


@pytest.mark.parametrize(("local", "stays"), [(NORM, NORMS), (HEAD, LAST)])
def test_only_what_is_shared_travels(local: str, stays: int, go: Callable[..., Result]) -> None:
    result = go(local)
    assert sum(v.size for v in own_models(result)[0].values()) == ALL
    assert field(result, "up") == field(result, "down") == {4 * (ALL - stays)}
    models = own_models(result)
    layers = ("features.1.", "features.5.", "features.9.") if local == NORM else ("classifier.",)
    local_names = {name for name in models[0] if name.startswith(layers)}
    assert sum(models[0][n].size for n in local_names) == stays
    for name, value in models[0].items():
        same = all(np.array_equal(value, other[name]) for other in models[1:])
        assert same == (name not in local_names), name


def test_every_clients_model_is_scored_at_home_and_elsewhere(go: Callable[..., Result]) -> None:
    result = go(HEAD)
    last = result.rounds[-1]
    own = last["metrics_by_client"]
    each = [own[client] for client in sorted(own)]
    assert len({scores["test_auc"] for scores in each}) > 1, "clients share their heads"
    mean = np.mean([scores["test_auc"] for scores in each])
    assert result.metrics["auc"] == pytest.approx(mean)
    sites = sorted({k.partition("@")[2] for k in each[0] if k.startswith("test_auc@")})
    assert len(sites) == 3
    home = [scores[f"test_auc@{site}"] for scores, site in zip(each, sites, strict=True)]
    known = [value for value in home if value is not None]
    assert result.metrics["auc@own"] == pytest.approx(np.mean(known))
    assert "auc@others" in result.metrics
    with np.load(result.folder / "predictions.npz") as saved:
        assert saved["probabilities"].shape == (3, len(saved["labels"]), 2)
    told = closing_lines(result.summary, result.folder, Path())
    (line,) = [one for one in told if one.startswith("own models:")]
    assert line.startswith("own models: means over 3 clients' models, AUC 0.")
    assert "at home" in line
    assert "elsewhere" in line


def test_whole_models_are_written_and_one_is_chosen(go: Callable[..., Result]) -> None:
    result = go(HEAD)
    assert not (result.folder / "model.safetensors").exists()
    with pytest.raises(InputError, match="each client has its own model") as refused:
        load_model(result.folder)
    assert "--client NAME" in str(refused.value)
    name = next((result.folder / "models").iterdir()).stem
    trained = load_model(result.folder, name)
    assert trained.about.client == name
    assert sum(p.numel() for p in trained.model.parameters()) == ALL


def test_frozen_layers_never_change_and_travel_nowhere(go: Callable[..., Result]) -> None:
    result = go("model.trainable=head")
    first = go("model.trainable=head", "rounds=1", "client.learning_rate=1e-30")
    assert field(result, "up") == field(result, "down") == {4 * LAST}
    model, begun = (load_file(r.folder / "model.safetensors") for r in (result, first))
    moved = {name for name in model if not np.array_equal(model[name], begun[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    assert sum(value.size for value in model.values()) == ALL


def test_frozen_and_local_parts_go_together(go: Callable[..., Result]) -> None:
    result = go(PART, HEAD)
    shared = 9 * 16 * 32 + 32
    assert field(result, "up") == {4 * shared}
    models = own_models(result)
    frozen = [n for n in models[0] if n.startswith("features") and not n.startswith("features.8.")]
    assert all(np.array_equal(models[0][n], other[n]) for n in frozen for other in models[1:])
    assert not np.array_equal(models[0]["classifier.bias"], models[1]["classifier.bias"])
    # A checkpoint holds what is frozen once, and of each client its own parts alone.
    checkpoints = sorted((result.folder / "checkpoint").glob("round-*"))
    data = checkpoints[-1].read_bytes()
    held = decode(data)
    for state in held["contexts"].values():
        assert set(state["fedsim.local"]) == {"classifier.weight", "classifier.bias"}
    assert data.count(models[0]["features.0.weight"].tobytes()) == 1


@pytest.mark.parametrize(
    "words",
    [
        (NORM, "model={name: odd_models.Odd}", "strategy={name: server_momentum, codec: uint8}"),
        (HEAD, PART, "federation.participation=0.5", "evaluation.select=pooled_val"),
    ],
    ids=["norm", "head"],
)
def test_a_cut_run_goes_on_to_the_same_bits(
    words: tuple[str, ...],
    go: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    whole = go(*words, "rounds=3")
    save = RunFolder.append

    def stopping(self: RunFolder, name: str, row: dict[str, Any]) -> None:
        save(self, name, row)
        if name == "traffic.jsonl" and row["round"] == 2:
            raise Interruption

    (tmp_path / "tiny.yaml").write_text(TINY)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "tiny.yaml", *SITES, *words, "rounds=3", runs=tmp_path / "runs")
    (folder,) = [p for p in (tmp_path / "runs" / "tiny").iterdir() if not p.is_symlink()]
    resumed = resume(folder, [], QUIET)
    assert_same_own(whole, resumed)
    if PART in words:
        frozen = own_models(whole)[0]["features.0.weight"].tobytes()
        data = (folder / "checkpoint" / "round-000003.ckpt").read_bytes()
        assert data.count(frozen) == 1, "what was read again is another array"


def test_ray_keeps_local_parts_as_one_process_does(go: Callable[..., Result]) -> None:
    assert_same_own(go(NORM), go(NORM, backend="ray", workers=2))


@pytest.mark.parametrize(
    "strategy", ["{name: flwr.serverapp.strategy.FedAdam, eta: 0.01}", "{name: server_momentum}"]
)
def test_other_averaging_strategies_share_the_same_names(
    strategy: str, go: Callable[..., Result]
) -> None:
    result = go(NORM, f"strategy={strategy}", "rounds=1")
    assert field(result, "up") == {4 * (ALL - NORMS)}


def test_batch_statistics_stay_with_fedbn(go: Callable[..., Result]) -> None:
    result = go(NORM, "model={name: odd_models.Odd}", "rounds=1")
    models = own_models(result)
    for name in ("norm.weight", "norm.running_mean", "norm.running_var"):
        assert not np.array_equal(models[0][name], models[1][name]), name
    assert np.array_equal(models[0]["first.weight"], models[1]["first.weight"])


def test_a_foreign_client_app_gets_a_whole_model(go: Callable[..., Result]) -> None:
    result = go(HEAD, "client=misbehaving:foreign", "rounds=1")
    assert field(result, "down") == {4 * (ALL - LAST)}


def test_dp_sgd_noises_the_trainable_parts_alone(go: Callable[..., Result]) -> None:
    plain, frozen = (go(PRIVATE, *STEPS, *w, "rounds=1") for w in ((), ("model.trainable=head",)))
    assert frozen.summary["epsilon"] == plain.summary["epsilon"], "the accounting is the same"
    model = load_file(frozen.folder / "model.safetensors")
    begun = load_file(
        go("model.trainable=head", "rounds=1", "client.learning_rate=1e-30").folder
        / "model.safetensors"
    )
    moved = {name for name in model if not np.array_equal(model[name], begun[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    own = go(PRIVATE, *STEPS, HEAD, "rounds=1")
    assert field(own, "up") == {4 * (ALL - LAST)}
    assert own.summary["epsilon"] == plain.summary["epsilon"]
    told = json.loads((own.folder / "run.json").read_text())["released_without_privacy"]
    assert any("each client's own model" in item for item in told)


def test_client_level_noise_is_on_what_is_shared(go: Callable[..., Result]) -> None:
    privacy = "privacy={unit: client, noise_multiplier: 1.0, max_grad_norm: 1.0}"
    result = go(privacy, HEAD, "strategy.weighting=uniform", "rounds=1")
    assert field(result, "up") == {4 * (ALL - LAST)}
    told = json.loads((result.folder / "run.json").read_text())["released_without_privacy"]
    assert any("trained without noise" in item for item in told)
    about = load_model(result.folder, next((result.folder / "models").iterdir()).stem).about
    assert "what stays at the client was trained without noise" in about.private


def test_a_wrong_rule_is_refused_before_anything_runs(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="matches no name"):
        run(tiny, "federation.local=[nobody]", runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
