"""MLflow's own client reads back what a run put there."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from fedsim.cli import main
from fedsim.observers import End, Run
from fedsim.observers.mlflow import MLflow, _quiet
from fedsim.observers.telling import Observers
from fedsim.observers.tracking import numbers, results
from fedsim.registry import default_registry
from tests.observers.conftest import Watched

if importlib.util.find_spec("mlflow") is None:
    # Not importorskip: an import outside of the observer configures logging, and asks a network.
    pytest.skip("the extra `mlflow` is not installed", allow_module_level=True)

pytestmark = pytest.mark.xdist_group("trackers")


@pytest.fixture(scope="module")
def store(watched: Watched) -> str:
    return f"sqlite:///{watched.place / 'mlflow.db'}"


@pytest.fixture(scope="module")
def client(store: str) -> Any:
    with _quiet():
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=store)


def kept_runs(client: Any, experiment: str) -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id]))


def steps(client: Any, kept: Any, name: str) -> list[tuple[int, float]]:
    history = client.get_metric_history(kept.info.run_id, name)
    return sorted((one.step, one.value) for one in history)


def test_a_resumed_run_is_one_run_without_gaps_or_doubles(client: Any, watched: Watched) -> None:
    (kept,) = kept_runs(client, "isic_noniid_dpsgd")
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == watched.folder.name
    rows = watched.rows
    assert [row["round"] for row in rows] == [1, 2, 3]
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in numbers(row, ("client-0", "client-1", "client-2")).items():
            expected.setdefault(name.replace("@", " at "), []).append((row["round"], value))
    for name, value in results(watched.summary).items():
        expected[name.replace("@", " at ")] = [(3, value)]
    assert {name: steps(client, kept, name) for name in kept.data.metrics} == expected
    for name in ("auc", "epsilon", "epsilon_upper", "mb_up", "mb_down_total", "failed"):
        assert len(expected[name]) == 3, name
    assert [value for _, value in expected["epsilon"]] == [row["epsilon"] for row in rows]
    assert [value for _, value in expected["mb_up_total"]] == [row["mb_up_total"] for row in rows]


def test_settings_and_facts_are_there(client: Any, watched: Watched) -> None:
    (kept,) = kept_runs(client, "isic_noniid_dpsgd")
    parameters = kept.data.params
    assert parameters["seed"] == "0"
    assert parameters["privacy.target_epsilon"] == "4.0"
    assert parameters["federation.partition.name"] == "dirichlet"
    assert not [name for name in parameters if name.startswith("observers")]
    tags = kept.data.tags
    assert tags["fedsim.data_source"] == "EMBEDDED STAND-IN"
    assert tags["fedsim.certified"] == "true"
    assert len(tags["fedsim.data_fingerprint"]) == 64


def test_the_results_are_copied_and_are_those_of_the_folder(
    client: Any, watched: Watched, tmp_path: Path
) -> None:
    (kept,) = kept_runs(client, "isic_noniid_dpsgd")
    place = Path(client.download_artifacts(kept.info.run_id, "", str(tmp_path)))
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    names = {"scenario.yaml", "summary.json", "model.safetensors", "MODEL_CARD.md"}
    assert found == names | {"report/index.html"}
    for name in found:
        assert (place / name).read_bytes() == (watched.folder / name).read_bytes()
    # Whoever looks for runs below takes no copy for one.
    assert not list((watched.place / "mlruns").rglob("run.json"))


# --- With plain values ---------------------------------------------------------------------------


def a_run(folder: Path, rows: tuple[dict[str, Any], ...] = (), **changes: Any) -> Run:
    words: dict[str, Any] = {"settings": {"name": "plain"}, **changes}
    return Run("f" * 32, "plain", 0, folder, ("north",), 3, finished=len(rows), rows=rows, **words)


def row(number: int, **metrics: float) -> dict[str, Any]:
    return {"round": number, "mb_up_total": number / 4, "metrics": {"auc": 0.5, **metrics}}


def test_rounds_that_are_told_again_are_not_there_twice(
    store: str, client: Any, tmp_path: Path
) -> None:
    first, second = (MLflow(store, "again") for _ in range(2))
    first.begin(a_run(tmp_path))
    for number in (1, 2):
        first.round(row(number))
    first.end(End("interrupted", tmp_path))
    (kept,) = kept_runs(client, "again")
    assert kept.info.status == "KILLED"
    second.begin(a_run(tmp_path, (row(1),), resumed=True))
    assert client.get_run(kept.info.run_id).info.status == "RUNNING"
    for number in (2, 3):
        second.round(row(number))
    second.end(End("failed", tmp_path, error="RuntimeError: no memory"))
    (kept,) = kept_runs(client, "again")
    assert (kept.info.status, kept.data.tags["fedsim.error"]) == (
        *("FAILED", "RuntimeError: no memory"),
    )
    assert steps(client, kept, "auc") == [(1, 0.5), (2, 0.5), (3, 0.5)]


def test_a_round_of_which_a_part_was_written_is_made_whole(
    store: str, client: Any, tmp_path: Path
) -> None:
    MLflow(store, "partly").begin(a_run(tmp_path))
    (kept,) = kept_runs(client, "partly")
    client.log_metric(kept.info.run_id, "auc", 0.5, step=1)
    MLflow(store, "partly").begin(a_run(tmp_path, (row(1), row(2)), resumed=True))
    (kept,) = kept_runs(client, "partly")
    assert steps(client, kept, "auc") == [(1, 0.5), (2, 0.5)]
    assert steps(client, kept, "mb_up_total") == [(1, 0.25), (2, 0.5)]


def test_many_and_long_settings_and_odd_names_are_taken(
    store: str, client: Any, tmp_path: Path
) -> None:
    settings = {f"key{number}": number for number in range(230)} | {"long": "x" * 9000}
    odd = {"dice/left atrium": 1.0, "auc@Zürich, 2": 2.0, "../up//": 3.0, "y" * 300: 4.0}
    odd |= {f"metric {number}": 0.0 for number in range(1001)}
    observer = MLflow(store, "many")
    observer.begin(a_run(tmp_path, settings=settings))
    observer.round(row(1, **odd))
    (kept,) = kept_runs(client, "many")
    assert len(kept.data.params) == 232
    assert kept.data.params["long"] == "x" * 5997 + "..."
    found = kept.data.metrics
    assert (found["dice/left atrium"], found["auc at Zürich_ 2"], found["up"]) == (1.0, 2.0, 3.0)
    assert [len(name) for name, value in found.items() if value == 4.0] == [250]
    assert len(found) == 1007


def test_an_error_of_a_private_run_is_not_published(
    store: str, client: Any, tmp_path: Path
) -> None:
    observer = MLflow(store, "private")
    observer.begin(a_run(tmp_path, about={"privacy": {"certified": True}}))
    observer.end(End("failed", tmp_path, error="ValueError: Mrs Miller"))
    (kept,) = kept_runs(client, "private")
    assert kept.info.status == "FAILED"
    assert "fedsim.error" not in kept.data.tags


def test_nothing_of_mlflow_stays(store: str, tmp_path: Path) -> None:
    before, disabled = dict(os.environ), logging.root.manager.disable
    handlers = list(logging.getLogger("mlflow").handlers)
    MLflow(store, "again").begin(a_run(tmp_path))
    assert dict(os.environ) == before
    assert logging.root.manager.disable == disabled
    assert logging.getLogger("mlflow").handlers == handlers
    with _quiet():
        from mlflow.telemetry.client import get_telemetry_client

        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert get_telemetry_client() is None


def test_a_store_that_cannot_be_written_is_named_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no database, and no folder")
    said: list[str] = []

    class Says(Observers):
        def note(self, text: str) -> None:
            said.append(text)

    for place in ("file/mlflow.db", "file"):
        said.clear()
        observer = MLflow(str(tmp_path / place))
        observers = Says([observer], {id(observer): "mlflow"})
        observers.begin(a_run(tmp_path))
        observers.round(row(1))
        observers.end(End("done", tmp_path, {}))
        (line,) = said
        assert line.startswith("observer 'mlflow' failed in begin: ")
    out, err = capsys.readouterr()
    assert (out, err) == ("", ""), "MLflow itself says nothing"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("https://me:secret@host", "MLFLOW_TRACKING_URI"),
        ("file:///results", "/results/mlflow.db"),
        (".", "./mlflow.db"),
        ("/dev/null", "not a file"),
    ],
)
def test_a_store_that_mlflow_does_not_take_is_said_at_once(
    uri: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(ValueError, match=said) as caught:
        MLflow(uri)
    assert "secret" not in str(caught.value)


def test_without_the_package_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedsim.observers.tracking.importlib.util.find_spec", lambda name: None)
    words = ["run", "isic_noniid_dpsgd", "--observe", "mlflow", "--runs", str(tmp_path / "runs")]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "pip install '.[mlflow]'" in err
    assert len(err.splitlines()) <= 4
    assert not (tmp_path / "runs").exists()


def test_the_name_is_registered() -> None:
    assert default_registry().resolve("observers", "mlflow") is MLflow
