"""The loops that are compared compute the same, and the table says how they compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedsim import InputError
from fedsim.cli import main
from fedsim.distillation import Means, bench
from fedsim.distillation.bench import TOLERANCE, Turns, distil, measure, table


def test_ratios_are_taken_within_a_turn() -> None:
    seconds = {"plain": [4.0, 2.0, 3.0], "frozen": [2.0, 2.0, 1.0], "fedsim": [1.0, 1.0, 0.5]}
    difference = {"plain": 0.0, "frozen": 1e-7, "fedsim": 2 * TOLERANCE}
    lines = table([Turns("32", seconds, difference, {})]).splitlines()
    assert lines[-2:] == [
        "| 32 | frozen | 0.50 (0.50-1.00) | 2.00 (1.00-3.00) | 1.00 (1.00-1.00) | 1.0e-07 |",
        "| 32 | fedsim | 1.00 (1.00-2.00) | 4.00 (2.00-6.00) | 2.00 (2.00-2.00) | "
        "2.0e-03: too far |",
    ]


def test_all_loops_have_the_same_losses() -> None:
    found = measure("tiny", 2)
    assert len(found.losses["plain"]) == 1 + 2 * bench.WORK["tiny"].iterations
    assert len(set(found.losses["plain"])) == len(found.losses["plain"])
    assert found.difference["plain"] == 0
    assert max(found.difference.values()) < 1e-5


def test_a_loop_that_draws_otherwise_is_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.PerturbedMeans, "seen", Means.seen)
    assert measure("tiny", 1).difference["fedsim"] > TOLERANCE


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    words = ["--tiny", "--turns", "1", "--out", str(tmp_path)]
    assert main(["bench", "distil", *words]) == 0
    assert torch.get_num_threads() == threads
    lines = capsys.readouterr().out.splitlines()
    starts = [" | ".join(line.split(" | ")[:2]) for line in lines[-3:]]
    assert starts == ["| tiny | plain", "| tiny | frozen", "| tiny | fedsim"]
    assert "too far" not in "".join(lines)
    told = json.loads((tmp_path / "distil.json").read_text())
    (found,) = told["measured"]
    assert {loop: len(values) for loop, values in found["seconds"].items()} == {
        "plain": 1,
        "frozen": 1,
        "fedsim": 1,
    }
    assert told["tolerance"] == TOLERANCE
    assert (torch.get_rng_state() == state).all()


def test_nothing_to_measure_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1 turn"):
        distil(["tiny"], 0, tmp_path)
