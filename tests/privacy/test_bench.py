"""The benchmark compares things that compute the same."""

from __future__ import annotations

import json

import pytest
import torch

from fedsim.cli import main
from fedsim.privacy import bench
from fedsim.privacy.bench import MODELS, Cost, clipped_difference, measure, peak, table

PEAK = {"plain": 500.0, "fedsim": 600.0}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_sums_of_clipped_gradients_are_those_of_opacus(name):
    if name == "unet":
        pytest.importorskip("monai")
    torch.manual_seed(0)
    work = MODELS[name]
    model = work.make(**({} if name == "unet" else {"width": 8}))
    images, targets = work.records(6)
    assert clipped_difference(work, model, images, targets) < 1e-5
    assert clipped_difference(work, model.double(), images.double(), targets) < 1e-12


def test_ratios_are_taken_within_a_repetition():
    times = {"plain": [1.0, 2.0, 1.5], "opacus": [5.0, 10.0, 5.0], "fedsim": [1.5, 2.2, 2.25]}
    cost = Cost("cnn", 93_954, 1, 64, times, {"float32": 2.4e-7, "float64": 3e-16}, PEAK)
    assert cost.ratios("fedsim", "opacus") == pytest.approx([0.3, 0.22, 0.45])
    line = table([cost]).splitlines()[-1]
    assert line == (
        "| cnn | 93,954 | 1 | 64 | 1.50 (1.00-2.00) | 5.00 (5.00-10.00) | 2.20 (1.50-2.25) | "
        "0.30 (0.22-0.45) | 1.50 (1.10-1.50) | 500 | 600 | 1.20 | 2.4e-07 | 3.0e-16 |"
    )
    del times["opacus"]
    assert "| 1.50 (1.00-2.00) | - | 2.20 (1.50-2.25) | - | 1.50" in table([cost])


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "peak", lambda name, method: PEAK[method])
    threads = torch.get_num_threads()
    words = ["--seconds", "0", "--repetitions", "2", "--models", "cnn", "--out", str(tmp_path)]
    assert main(["bench", "privacy", "--batch", "4", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("| cnn | 93,954 | 1 | 4 | ")
    assert torch.get_num_threads() == threads
    found = json.loads((tmp_path / "privacy.json").read_text())
    (cost,) = found["costs"]
    assert {name: len(values) for name, values in cost["milliseconds"].items()} == {
        "plain": 2,
        "opacus": 2,
        "fedsim": 2,
    }
    assert max(cost["difference"].values()) < 1e-5
    assert cost["peak_mb"] == PEAK


def test_the_peak_is_that_of_a_process_with_the_model():
    assert 100 < peak("cnn", "fedsim") < 5000


def test_nothing_to_measure_is_wrong_input(tmp_path):
    words = ["bench", "privacy", "--out", str(tmp_path)]
    for key in ("--threads", "--repetitions", "--batch"):
        assert main([*words, key, "0"]) == 2


def test_measuring_leaves_the_global_generators_alone(monkeypatch):
    draws = torch.get_rng_state()
    monkeypatch.setattr(bench, "OPACUS_BYTES", 0)
    assert list(measure("cnn", 2, 0, 1, PEAK).milliseconds) == ["plain", "fedsim"]
    assert torch.equal(draws, torch.get_rng_state())
