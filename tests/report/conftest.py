"""Run folders to make reports of: one written by hand, and one of a real tiny run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import run

TINY = """\
name: tiny
rounds: 2
data:
  name: ham10000
  size: 16
  embedded: {images: 260, sites: 3}
federation:
  clients: 3
model: {name: cnn, width: 8}
strategy: {name: fedavg}
client: {name: supervised, batch_size: 16}
resources: {backend: inline}
"""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two rounds; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY)
    return run(folder / "tiny.yaml", runs=folder / "runs").folder


def round_row(number: int, **changes: Any) -> dict[str, Any]:
    """A line of rounds.jsonl of two clients."""
    return {
        "round": number,
        "phase": "train",
        "clients": [0, 1],
        "failed": [],
        "mb_up": 0.25,
        "mb_down": 0.5,
        "mb_up_total": 0.25 * number,
        "mb_down_total": 0.5 * number,
        "epsilon": None,
        "epsilon_by_client": None,
        "delta": None,
        "certified": False,
        "metrics": {"auc": 0.5 + number / 30, "auc@north": 0.6, "train_loss": 1.0 / number},
        "metrics_by_client": {
            "0": {"num-examples": 30, "loss": 1.0 / number},
            "1": {"num-examples": 10, "loss": 3.0 / number},
        },
        "seconds": 1.5,
        "peak_rss_mb": 200.0,
        **changes,
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder: `make_run(rounds=[...], status=..., name=..., **run.json's keys)`."""

    def make(
        rounds: list[dict[str, Any]] | None = None,
        status: str = "done",
        name: str = "by_hand",
        **keys: Any,
    ) -> Path:
        folder = tmp_path / "runs" / "one"
        folder.mkdir(parents=True)
        rows = [round_row(number) for number in (1, 2, 3)] if rounds is None else rounds
        data = {
            "name": "ham10000",
            "source": "path",
            "root": "/data/ham10000",
            "fingerprint": "f00d",
            "sizes": {"train": 40, "val": 4, "test": 6},
            "sizes_by_client": {
                "north": {"train": 30, "val": 2},
                "south": {"train": 10, "val": 2},
            },
        }
        record = {"scenario": name, "seed": 7, "data": data, "status": status, **keys}
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "scenario.yaml").write_text(f"name: tiny\nrounds: {len(rows)}\n")
        (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        messages = [
            {"round": row["round"], "client": client, "direction": way, "bytes": size + 50,
             "fields": {"arrays": size, "metrics": 16} if way == "up" else {"arrays": size}}
            for row in rows for client in (0, 1) for way, size in (("up", 4000), ("down", 9000))
        ]  # fmt: skip
        lines = "".join(json.dumps(message) + "\n" for message in messages)
        (folder / "traffic.jsonl").write_text(lines)
        if status == "done":
            summary = {
                "metrics": {"auc": 0.6123, "dice": None, "auc@north": 0.6},
                "mb_up_total": 0.75,
                "mb_down_total": 1.5,
                "epsilon": None,
                "certified": False,
                "wall_seconds": 4.5,
                "peak_rss_mb": 200.0,
            }
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return make


def write_predictions(folder: Path, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Write predictions.npz."""
    np.savez(
        folder / "predictions.npz",
        labels=labels,
        records=np.arange(len(labels)),
        probabilities=probabilities,
    )
