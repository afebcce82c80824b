"""What trackers keep of a run, whatever they are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedsim.observers import Run
from fedsim.observers.tracking import MARKER, facts, numbers, require, results, settings

ROW = {
    "round": 3,
    "phase": "train",
    "clients": [0, 1],
    "failed": [{"client": 1, "error": "Mrs Miller's image is broken"}],
    "mb_up_total": 0.5,
    "seconds": 2,
    "epsilon": 1.5,
    "epsilon_claimed": None,
    "epsilon_by_client": {"0": 1.5, "1": None},
    "certified": True,
    "unit": "record",
    "metrics": {"auc": 0.75, "auc@site-1": 0.5, "dice": math.nan, "seconds": 7.0},
    "metrics_by_client": {"1": {"val_auc": 0.25}},
}


def a_run(**changes: object) -> Run:
    about = {
        "data": {"name": "isic2020", "source": "embedded", "fingerprint": "b37a"},
        "privacy": {"certified": False},
        "versions": {"fedsim-medical": "0.1.0"},
    }
    words: dict[str, object] = {"settings": {}, "about": about} | changes
    return Run("ab", "tiny", 4, Path("/runs/tiny/x"), ("north", "south"), 5, **words)  # type: ignore[arg-type]


def test_all_numbers_of_a_round_have_a_name_of_their_own() -> None:
    assert numbers(ROW, ("north", "south")) == {
        "auc": 0.75,
        "auc@site-1": 0.5,
        "metrics/seconds": 7.0,
        "clients": 2.0,
        "failed": 1.0,
        "seconds": 2.0,
        "epsilon": 1.5,
        "clients/epsilon/north": 1.5,
        "clients/val_auc/south": 0.25,
        "mb_up_total": 0.5,
    }


def test_the_marker_comes_last() -> None:
    assert list(numbers(ROW, ("north", "south")))[-1] == MARKER
    assert numbers({"round": 1}, ()) == {MARKER: 0.0}


def test_results_stand_apart_from_the_last_round() -> None:
    summary = {"metrics": {"auc": 0.5}, "epsilon": 4.0, "audit": None, "data_source": "embedded"}
    assert results(summary) == {"final/auc": 0.5, "final/epsilon": 4.0}


def test_settings_are_flat_and_name_no_store() -> None:
    given = {
        "rounds": 5,
        "data": {"root": None, "embedded": {"images": 9}, "split": {}},
        "plugins": ["a", "b"],
        "federation": {"overrides": {"north": {"epochs": 2}}},
        "observers": [{"name": "mlflow", "uri": "https://somewhere"}],
    }
    assert settings(a_run(settings=given)) == {
        "seed": "4",
        "rounds": "5",
        "data.root": "null",
        "data.embedded.images": "9",
        "data.split": "{}",
        "plugins": '["a", "b"]',
        "federation.overrides.north.epochs": "2",
    }


def test_facts_say_what_a_reader_must_know() -> None:
    found = facts(a_run())
    assert found["data_source"] == "EMBEDDED STAND-IN"
    assert (found["private"], found["certified"]) == ("true", "false")
    assert (found["run_id"], found["seed"], found["data_fingerprint"]) == ("ab", "4", "b37a")
    assert facts(a_run(about={}))["private"] == "false"


def test_a_missing_package_is_a_sentence_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that name beside the scenario is not the package."""
    (tmp_path / "no_such_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    require("numpy", "frames")
    for name in ("no_such_tracker", "no_such_package"):
        with pytest.raises(ValueError, match=r"pip install '\.\[mlflow\]'"):
            require(name, "mlflow")
