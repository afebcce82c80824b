"""One private run that both trackers watch: it is interrupted, and resumed by another process."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedsim import Observer, run
from fedsim.api import resume
from fedsim.errors import Interruption
from fedsim.observers import Row
from fedsim.report.record import Record
from fedsim.terminal.console import Console

SMALL = (
    *("rounds=3", "data.size=16", "data.embedded.images=300", "federation.clients=3"),
    *("federation.partition.min_samples=30", "model.width=4", "model.depth=1"),
    *("client.epochs=1", "privacy.expected_batch=32", "privacy.audit=false"),
    *("evaluation.on_clients=true", "resources.backend=inline"),
)


@dataclass(frozen=True)
class Watched:
    """A run that trackers watched.

    Attributes:
        folder: its folder, `runs/isic_noniid_dpsgd/<run>`, all below `place`.
        rows: of rounds.jsonl.
        summary: of summary.json.
    """

    place: Path
    folder: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]


class Stops(Observer):
    """Interrupts the run in round 2, before trackers hear of it."""

    def round(self, row: Row) -> None:
        if row["round"] == 2:
            raise Interruption


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    place = tmp_path_factory.mktemp("trackers")
    names = [name for name in ("mlflow", "tensorboard") if importlib.util.find_spec(name)]
    words = (*SMALL, f"observers=[{', '.join(names)}]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.report.page.write_page", _page)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        with pytest.raises(KeyboardInterrupt) as caught:
            run("isic_noniid_dpsgd", *words, runs=place / "runs", observers=[Stops()])
        folder = Path(str(caught.value))
        resume(folder, [], Console(quiet=True))
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    summary = json.loads((folder / "summary.json").read_text())
    return Watched(place, folder, [json.loads(line) for line in lines], summary)


def _page(record: Record, *, paths: bool) -> None:
    """A page in a moment."""
    folder = record.path
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "index.html").write_text("a page")
