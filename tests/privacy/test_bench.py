"""The benchmark compares things that compute the same."""

from __future__ import annotations

import json

import pytest
import torch

from fedsim.cli import main
from fedsim.privacy import bench
from fedsim.privacy.bench import MODELS, Speed, clipped_difference, measure, table


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_sums_of_clipped_gradients_are_those_of_opacus(name):
    torch.manual_seed(0)
    model = MODELS[name](num_classes=2, in_channels=3, image_size=32, width=8)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 1, 0, 1, 0])
    assert clipped_difference(model, images, labels) < 1e-5
    assert clipped_difference(model.double(), images.double(), labels) < 1e-12


def test_ratios_are_taken_within_a_repetition():
    speeds = {"plain": [100.0, 50.0, 80.0], "opacus": [20.0, 10.0, 20.0]}
    speeds["fedsim"] = [60.0, 40.0, 50.0]
    speed = Speed("cnn", 93_954, 1, speeds, {"float32": 2.4e-7, "float64": 3e-16})
    assert speed.ratio("fedsim", "opacus") == [2.5, 3.0, 4.0]
    line = table([speed]).splitlines()[-1]
    assert line == (
        "| cnn | 93,954 | 1 | 80.0 (50.0-100.0) | 20.0 (10.0-20.0) | 50.0 (40.0-60.0) | "
        "3.00 (2.50-4.00) | 0.62 (0.60-0.80) | 2.4e-07 | 3.0e-16 |"
    )


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "BATCH", 4)
    threads = torch.get_num_threads()
    words = ["--seconds", "0", "--repetitions", "2", "--models", "cnn", "--out", str(tmp_path)]
    assert main(["bench", "privacy", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("| cnn | 93,954 | 1 | ")
    assert torch.get_num_threads() == threads
    found = json.loads((tmp_path / "privacy.json").read_text())
    (speed,) = found["speeds"]
    assert {name: len(values) for name, values in speed["samples_per_second"].items()} == {
        "plain": 2,
        "opacus": 2,
        "fedsim": 2,
    }
    assert max(speed["difference"].values()) < 1e-5


def test_nothing_to_measure_is_wrong_input(tmp_path):
    words = ["bench", "privacy", "--out", str(tmp_path)]
    assert main([*words, "--threads", "0"]) == 2
    assert main([*words, "--repetitions", "0"]) == 2


def test_measuring_leaves_the_global_generators_alone(monkeypatch):
    monkeypatch.setattr(bench, "BATCH", 2)
    draws = torch.get_rng_state()
    measure("cnn", 0, 1)
    assert torch.equal(draws, torch.get_rng_state())
