"""The measurement of rounds compares things that compute the same."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedsim import InputError
from fedsim.cli import main
from fedsim.engine import speed
from fedsim.engine.by_hand import federated
from fedsim.engine.speed import ROWS, WORK, Blobs, PooledCNN, Timed, engine, table, text


def test_ratios_are_taken_within_a_repetition() -> None:
    turns = [
        [
            Timed("raw-1x2", (1.0, 2.0, 3.0), 0.0, "", 0.1),
            Timed("raw-2x1", (4.0,), 0.0, "", 0.2),
            Timed("fast-2", (1.0,), 1e-6, "stacked: 3 of 3 clients", 0.3),
        ],
        [
            Timed("raw-1x2", (5.0,), 0.0, "", 0.1),
            Timed("raw-2x1", (4.0,), 0.0, "", 0.2),
            Timed("fast-2", (3.0,), 2e-6, "stacked: 3 of 3 clients", 0.5),
        ],
    ]
    assert table(turns).splitlines()[-1] == (
        "| fast-2 | 2.000 (1.000-3.000) | 0.62 (0.50-0.75) | 2.0e-06 | stacked: 3 of 3 clients | "
        "0.4 (0.3-0.5) |"
    )


def test_the_images_and_the_network_are_as_they_are_described() -> None:
    made = Blobs.embedded(32, 10)
    assert made.images.shape == (10, 32, 32, 3)
    brightness = made.images[:, 8:-8].mean(axis=(1, 3))
    assert ((brightness[:, :16].mean(1) > brightness[:, 16:].mean(1)) == (made.labels == 0)).all()
    assert sum(p.numel() for p in PooledCNN(2, 3, 32).parameters()) == 99_456


@pytest.mark.parametrize(
    ("rows", "rounds", "turns"),
    [(["fast-1"], 3, 1), (["raw-1x2"], 2, 1), (["raw-1x2"], 3, 0)],
)
def test_what_cannot_be_compared_is_refused(
    rows: list[str], rounds: int, turns: int, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="3 rounds, 1 turn and a raw loop"):
        engine(["tiny"], rows, rounds, turns, tmp_path)


def test_the_command_measures_the_same_work_in_all_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tiny", "--turns", "1", "--rows", "raw-2x1", "fast-1"]
    threads = torch.get_num_threads()
    assert main(["bench", "engine", *words, "--out", str(tmp_path)]) == 0
    assert torch.get_num_threads() == threads
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny"
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| raw-2x1", "| fast-1"]
    found = json.loads((tmp_path / "engine.json").read_text())
    (turn,) = found["measured"]["tiny"]
    assert all(len(timed["seconds"]) == 1 and timed["seconds"][0] > 0 for timed in turn)
    # The same batches, in the same order, from the same weights: rounding alone.
    assert np.max([timed["difference"] for timed in turn]) < 1e-5
    assert turn[-1]["together"] == "stacked: 3 of 3 clients"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Measure in this process: that each row has its own is shown above."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:3] == ["-m", "fedsim.engine.speed"]
        scenario, row, file = command[3:]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            speed._run(Path(scenario), row, Path(file))
        return subprocess.CompletedProcess(command, 0, said.getvalue(), "")

    monkeypatch.setattr(speed, "subprocess", SimpleNamespace(run=run))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("here")
def test_transport_is_measured_without_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tiny", "--turns", "1", "--rows", "raw-1x2", "inline-1"]
    assert main(["bench", "transport", *words, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("tiny-transport")
    found = json.loads((tmp_path / "transport.json").read_text())
    assert not found["work"]["tiny-transport"]["trains"]
    (turn,) = found["measured"]["tiny-transport"]
    # What came is sent back: the mean of all is what the run began with, but for rounding.
    assert np.max([timed["difference"] for timed in turn]) < 1e-6


@pytest.mark.usefixtures("here")
def test_centres_that_segment_are_measured_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tiny", "--turns", "1", "--rows", "raw-1x2", "inline-1"]
    assert main(["bench", "segmentation", *words, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("tiny-unet")
    found = json.loads((tmp_path / "segmentation.json").read_text())
    (turn,) = found["measured"]["tiny-unet"]
    # The same patches, from the same weights, and the same loss by MONAI: rounding alone.
    assert np.max([timed["difference"] for timed in turn]) < 1e-4


@pytest.mark.parametrize("name", WORK)
def test_all_work_is_a_scenario_that_can_begin(name: str, tmp_path: Path) -> None:
    file = tmp_path / "speed.yaml"
    file.write_text(text(replace(WORK[name], clients=4), rounds=3))
    work = federated(file)
    model = work.make()
    assert {n: v.shape for n, v in work.first.items()} == {
        n: tuple(v.shape) for n, v in model.state_dict().items()
    }
    assert len(work.clients) == 4


# Small work of these tests, and that of `bench transport` and `bench segmentation`.
HIDDEN = {"tiny", "tiny-transport", "tiny-unet", "transport-100", "unet-4"}


def test_the_command_knows_all_work_and_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in [*ROWS, *(set(WORK) - HIDDEN)])
