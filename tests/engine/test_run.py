"""What a run leaves behind, and what it says when something fails."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from fedsim import ClientError, InputError, Result, RunError
from fedsim.engine.strategies import disclosed_by_client
from fedsim.federation.building import build_federation
from fedsim.models.build import first_arrays
from fedsim.scenario import activate_plugins, load
from fedsim.wire.codecs import image_bytes
from fedsim.wire.flower import tensors
from tests.engine.conftest import GDD

ROUND_KEYS = {
    "round", "phase", "clients", "failed", "mb_up", "mb_down", "mb_up_total", "mb_down_total",
    "epsilon", "epsilon_by_client", "delta", "certified", "metrics", "metrics_by_client",
    "seconds", "peak_rss_mb", "delay_seconds", "epsilon_claimed", "epsilon_upper", "accountant",
    "unit", "trust", "exchanges", "seen", "attacks",
    "simulated_hours", "work",
}  # fmt: skip
SUMMARY_KEYS = {
    "metrics", "rounds", "mb_up_total", "mb_down_total", "epsilon", "epsilon_rdp",
    "epsilon_claimed", "accountant", "delta", "certified", "audit", "wall_seconds",
    "peak_rss_mb", "data_source", "failed", "stopped", "unit", "unit_note", "unlearning",
    "trust", "trust_note", "masked_sum_mb", "certificate",
    "simulated_hours",
}  # fmt: skip


def rows(result: Result, name: str) -> list[dict]:
    return [json.loads(line) for line in (result.folder / name).read_text().splitlines()]


def test_the_run_folder_holds_what_it_promises(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny()
    assert (result.folder.parent / "latest").resolve() == result.folder.resolve()
    assert [set(row) for row in rows(result, "rounds.jsonl")] == [ROUND_KEYS] * 2
    assert set(result.summary) == SUMMARY_KEYS
    record = json.loads((result.folder / "run.json").read_text())
    assert record["status"] == "done"
    assert record["finished"] >= record["started"]
    assert record["data"]["source"] == "embedded"
    assert sum(record["data"]["sizes"].values()) == 260
    shared = [sizes["train"] for sizes in record["data"]["sizes_by_client"].values()]
    assert sum(shared) == record["data"]["sizes"]["train"]
    assert set(result.metrics) >= {"auc", "pr_auc", "precision", "recall", "f1", "auc@site-0"}
    assert "NaN" not in (result.folder / "rounds.jsonl").read_text()


def test_traffic_rows_add_up_to_the_totals(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny()
    sums = {"up": 0, "down": 0}
    for row in rows(result, "traffic.jsonl"):
        sums[row["direction"]] += row["bytes"]
    assert result.summary["mb_up_total"] == sums["up"] / 1e6
    assert result.summary["mb_down_total"] == sums["down"] / 1e6
    assert result.rounds[-1]["mb_up_total"] == result.summary["mb_up_total"]


def test_fedavg_sends_four_bytes_a_parameter_and_codecs_less(
    run_tiny: Callable[..., Result],
) -> None:
    from safetensors.numpy import load_file

    result = run_tiny()
    parameters = sum(a.size for a in load_file(result.folder / "model.safetensors").values())
    plain = rows(result, "traffic.jsonl")
    assert {row["fields"]["arrays"] for row in plain} == {4 * parameters}
    half = rows(run_tiny("strategy.codec=float16"), "traffic.jsonl")
    assert {row["fields"]["arrays"] for row in half} == {2 * parameters}
    quarter = {
        row["fields"]["arrays"] for row in rows(run_tiny("strategy.codec=uint8"), "traffic.jsonl")
    }
    assert parameters < min(quarter) <= max(quarter) < 2 * parameters


def test_a_gdd_run_sends_the_images_that_the_formula_counts(
    run_tiny: Callable[..., Result],
) -> None:
    result = run_tiny(*GDD, "federation.partition=iid")
    up = [row for row in rows(result, "traffic.jsonl") if row["direction"] == "up"]
    assert sum(row["fields"]["images"] for row in up) == image_bytes(4, 2, 2, 16)
    assert {row["fields"]["labels"] for row in up} == {4 * 8}
    down = [row for row in rows(result, "traffic.jsonl") if row["direction"] == "down"]
    assert all(set(row["fields"]) == {"config"} for row in down)
    floats = run_tiny(*GDD, "federation.partition=iid", "strategy.codec=float32")
    up = [row for row in rows(floats, "traffic.jsonl") if row["direction"] == "up"]
    assert sum(row["fields"]["images"] for row in up) == image_bytes(4, 2, 2, 16, "float32")


def test_gdd_leaves_its_images_and_never_sends_an_absent_class(
    run_tiny: Callable[..., Result],
) -> None:
    result = run_tiny(*GDD, "federation.partition={name: shards, shards_per_client: 1}")
    labels = {}
    for path in sorted((result.folder / "synthetic").glob("client-*.npz")):
        saved = np.load(path)
        assert saved["images"].dtype == np.uint8
        assert len(saved["images"]) == len(saved["labels"])
        labels[path.stem] = set(saved["labels"].tolist())
    assert len(labels) == 4
    assert {0} in labels.values(), "label shards give some client one class only"
    assert Image.open(result.folder / "synthetic" / "sheet.png").width > 50


def test_flowers_own_strategies_run_unmodified(run_tiny: Callable[..., Result]) -> None:
    ours, level = run_tiny(), logging.getLogger("flwr").level
    for name, parameters in (("FedAvg", ""), ("FedProx", ", proximal_mu: 0.1"), ("FedAdam", "")):
        result = run_tiny(f"strategy={{name: 'flwr.serverapp.strategy:{name}'{parameters}}}")
        assert result.metrics["auc"] is not None
        assert result.summary["mb_up_total"] == pytest.approx(ours.summary["mb_up_total"], rel=0.01)
    assert logging.getLogger("flwr").level == level, "a program's own runs of Flower may talk"


def test_fedprox_reaches_the_client(run_tiny: Callable[..., Result]) -> None:
    # A strong pull keeps the clients near the start: their loss falls less.
    free, held = (
        run_tiny(
            f"strategy={{name: flwr.serverapp.strategy.FedProx, proximal_mu: {mu}}}",
            "rounds=1",
            "client.epochs=5",
            "client.learning_rate=0.002",
        )
        for mu in (0.0, 100.0)
    )
    assert free.rounds[0]["metrics"]["train_loss"] < held.rounds[0]["metrics"]["train_loss"]


def test_participation_samples_clients_and_clients_can_evaluate(
    run_tiny: Callable[..., Result],
) -> None:
    result = run_tiny("federation.participation=0.5", "evaluation.on_clients=true", "rounds=3")
    joined = [tuple(row["clients"]) for row in result.rounds]
    assert {len(clients) for clients in joined} == {2}
    assert len(set(joined)) > 1
    heard = result.rounds[-1]["metrics_by_client"]
    assert len(heard) == 4
    assert all("val_accuracy" in metrics for metrics in heard.values())


def test_selection_by_validation_is_declared(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("evaluation.select=pooled_val")
    record = json.loads((result.folder / "run.json").read_text())
    assert any("validation" in item for item in record["released_without_privacy"])
    best = max(result.rounds, key=lambda row: row["metrics"]["val_auc"])
    assert result.metrics["auc"] == best["metrics"]["auc"]
    plain = json.loads((run_tiny().folder / "run.json").read_text())
    assert not any("validation" in item for item in plain["released_without_privacy"])


def test_validation_scores_change_nothing_and_are_declared(run_tiny: Callable[..., Result]) -> None:
    scored, plain = run_tiny("evaluation.val_scores=true"), run_tiny()
    assert all(row["metrics"]["val_auc"] is not None for row in scored.rounds)
    assert scored.metrics == plain.metrics  # ... of the last round, whatever validation says.
    before, after = (load_file(one.folder / "model.safetensors") for one in (plain, scored))
    assert all(np.array_equal(after[name], before[name]) for name in before)
    record = json.loads((scored.folder / "run.json").read_text())
    assert any("validation" in item for item in record["released_without_privacy"])


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_a_client_that_raises_stops_the_run_with_its_own_traceback(
    backend: str, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(ClientError) as caught:
        run_tiny("client={name: misbehaving.Raises, client: 2, round: 2}", backend=backend)
    text = str(caught.value)
    assert text.startswith("client 2 (site 'client-2') failed in round 2:")
    assert "RuntimeError: the scanner is on fire" in text
    assert "misbehaving.py" in text
    folder = next((tmp_path / "runs" / "tiny").glob("*seed0"))
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert len((folder / "rounds.jsonl").read_text().splitlines()) == 1, "round 1 is not lost"


def test_a_run_works_after_one_that_failed(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(ClientError):
        run_tiny("client=misbehaving:Raises", backend="ray")
    assert run_tiny(backend="ray").metrics["auc"] is not None


def test_a_strategy_that_raises_is_named(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(RunError, match="strategy 'misbehaving:Forgets' failed in aggregate_train"):
        run_tiny("strategy=misbehaving:Forgets")


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("client=misbehaving:Diverges", r"client 2 \(site 'client-2'\) in round 1: sent 'arrays'"),
        ("client=misbehaving:ReturnsNothing", "must return a RecordDict, not NoneType"),
        ("strategy=misbehaving:Deaf", "read 0 of 4 replies"),
        ("strategy=misbehaving:OtherModel", "'misbehaving:OtherModel' returned arrays in round 1"),
    ],
)
def test_what_would_silently_spoil_a_run_stops_it(
    wrong: str, expected: str, run_tiny: Callable[..., Result]
) -> None:
    with pytest.raises(RunError, match=expected):
        run_tiny(wrong)


def test_a_client_name_that_is_no_client_is_wrong_input(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="not a client method"):
        run_tiny("client=misbehaving:NotAClient")


def test_waiting_for_clients_who_do_not_exist_is_an_error(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="waits for more clients than the 4"):
        run_tiny("strategy=misbehaving:Lonely")
    with pytest.raises(InputError, match="min_available_nodes asks for 9 clients"):
        run_tiny("strategy={name: flwr.serverapp.strategy.FedAvg, min_available_nodes: 9}")


def test_one_shot_means_one_round(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="one-shot"):
        run_tiny(*GDD, "rounds=2")


def test_pretrained_weights_start_the_model_and_must_fit(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    first = run_tiny()
    path = first.folder / "model.safetensors"
    again = run_tiny(f"model.init={path}", "rounds=1", "client.learning_rate=1e-12")
    assert again.metrics["auc"] == pytest.approx(first.metrics["auc"], abs=1e-6)
    with pytest.raises(InputError, match=r"model\.init"):
        run_tiny(f"model.init={path}", "model.width=16")
    newest = first.folder.parent / "latest"
    newest.unlink()
    newest.symlink_to(first.folder.name)
    same = run_tiny(f"model.init={newest / path.name}", "rounds=1", "client.learning_rate=1e-12")
    assert same.metrics == again.metrics
    assert load(same.folder / "scenario.yaml").model.init == str(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda values: values * np.nan, "no numbers"),
        (lambda values: values + np.inf, "no numbers"),
        (lambda values: values.astype(np.float64) + 1e300, r"beyond 3\.4e\+38"),
        (lambda values: values.astype(np.int32), "is int32 where the model has weights"),
        (lambda values: values > 0, "is bool where the model has weights"),
    ],
)
def test_first_weights_that_no_training_can_start_from_are_refused(
    change: Callable[[Any], Any], why: str, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    federation = build_federation(load(tmp_path / "tiny.yaml"), 0)
    arrays = tensors(first_arrays(load(tmp_path / "tiny.yaml"), federation.task, 0))
    names = sorted(arrays)
    path = tmp_path / "odd.safetensors"
    save_file({**arrays, names[0]: change(arrays[names[0]])}, path)
    with pytest.raises(InputError, match=f"model.init.*{why}"):
        run_tiny(f"model.init={path}")
    save_file({f"of another model {k}": values for k, values in enumerate([np.ones(1)] * 99)}, path)
    with pytest.raises(InputError) as caught:
        run_tiny(f"model.init={path}")
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "runs").exists()


def test_a_model_in_which_rounding_decides_is_refused_before_the_run_begins(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="so few values together") as caught:
        run_tiny("model={name: odd_models.Pairs}")
    assert "2: GroupNorm normalises groups of 2 value(s)" in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("what", ["bfloat16", "sparse", "lazy", "huge"])
def test_a_model_that_cannot_travel_is_refused_before_the_run_begins(
    what: str, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="cannot travel") as caught:
        run_tiny(f"model={{name: odd_models.Stays, what: {what}}}")
    assert len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("releases", ["5", "'text'", "[1]", "null"])
def test_releases_are_texts(releases: str, run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="no tuple of texts"):
        run_tiny(f"client={{name: misbehaving.Says, what: {releases}}}")


def test_a_release_is_told_in_a_line(tiny: Path) -> None:
    scenario = load(tiny, ['client={name: misbehaving.Says, what: ["two\\nlines"]}'])
    activate_plugins(scenario)
    assert disclosed_by_client(scenario) == ("two lines",)
