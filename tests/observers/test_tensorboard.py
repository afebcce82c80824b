"""TensorBoard's own reader reads back what a run wrote."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from fedsim.observers import End, Run
from fedsim.observers.telling import Observers
from fedsim.observers.tensorboard import TensorBoard
from fedsim.observers.tracking import numbers, results
from fedsim.registry import default_registry
from tests.observers.conftest import Watched
from tests.observers.test_tracking import ROW

if importlib.util.find_spec("tensorboard") is None:
    pytest.skip("the extra `tensorboard` is not installed", allow_module_level=True)

pytestmark = pytest.mark.xdist_group("trackers")


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def steps(found: Any, name: str) -> list[tuple[int, float]]:
    return [(one.step, pytest.approx(one.value)) for one in found.Scalars(name)]


def test_a_resumed_run_has_neither_gaps_nor_doubles(watched: Watched) -> None:
    found = read(watched.folder / "tensorboard")
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in watched.rows:
        for name, value in numbers(row, ("client-0", "client-1", "client-2")).items():
            expected.setdefault(name, []).append((row["round"], value))
    for name, value in results(watched.summary).items():
        expected[name] = [(3, value)]
    assert {name: steps(found, name) for name in found.Tags()["scalars"]} == expected
    assert [step for step, _ in expected["epsilon"]] == [1, 2, 3]


def test_facts_and_settings_are_there_once(watched: Watched) -> None:
    found = read(watched.folder / "tensorboard")
    (text,) = found.Tensors("run/text_summary")
    assert b"EMBEDDED STAND-IN" in text.tensor_proto.string_val[0]
    content = found.PluginTagToContent("hparams")
    assert b"privacy.target_epsilon" in content["_hparams_/session_start_info"]


def a_run(folder: Path, rows: tuple[dict[str, Any], ...] = ()) -> Run:
    return Run("f" * 32, "plain", 0, folder, ("north",), 3, finished=len(rows), rows=rows)


def row(number: int, auc: float) -> dict[str, Any]:
    return {"round": number, "mb_up_total": number / 4, "metrics": {"auc": auc}}


def test_a_run_that_goes_back_counts_what_is_told_again(tmp_path: Path) -> None:
    run_folder = tmp_path / "plain" / "run"
    place = tmp_path / "all" / "plain" / "run"
    first, second = (TensorBoard(str(tmp_path / "all")) for _ in range(2))
    first.begin(a_run(run_folder))
    for number in (1, 2):
        first.round(row(number, 0.5))
    # As after a kill, nothing is closed, and a part of a round is there.
    first._writer.add_scalar("auc", 0.25, 3)
    first._writer.flush()
    second.begin(a_run(run_folder, (row(1, 0.5),)))
    for number in (2, 3):
        second.round(row(number, 0.75))
    second.end(End("interrupted", run_folder))
    assert steps(read(place), "auc") == [(1, 0.5), (2, 0.75), (3, 0.75)]
    assert len(read(place).Tensors("run/text_summary")) == 1
    first._writer.close()


def test_who_watches_from_the_middle_on_has_all_rounds(tmp_path: Path) -> None:
    observer = TensorBoard()
    observer.begin(a_run(tmp_path, (row(1, 0.25), row(2, 0.5))))
    observer.round(row(3, 0.75))
    observer.end(End("failed", tmp_path, error="no memory"))
    assert steps(read(tmp_path / "tensorboard"), "auc") == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_names_stay_what_they_are(tmp_path: Path) -> None:
    observer = TensorBoard()
    observer.begin(a_run(tmp_path))
    observer.round(ROW)
    assert "auc@site-1" in read(tmp_path / "tensorboard").Tags()["scalars"]
    observer.end(End("done", tmp_path, {"rounds": 3, "metrics": {}}))


def test_a_folder_that_cannot_be_written_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        TensorBoard(str(tmp_path / "file"))
    said: list[str] = []

    class Says(Observers):
        def note(self, text: str) -> None:
            said.append(text)

    observers = Says([TensorBoard(str(tmp_path / "file" / "below"))])
    observers.begin(a_run(tmp_path))
    observers.round(row(1, 0.5))
    observers.end(End("done", tmp_path, {}))
    (line,) = said
    assert line.startswith("observer 'TensorBoard' failed in begin: ")


def test_without_the_package_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.observers.tracking.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install '\.\[tensorboard\]'"):
        TensorBoard()


def test_the_name_is_registered() -> None:
    assert default_registry().resolve("observers", "tensorboard") is TensorBoard
