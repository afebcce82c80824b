"""Rounds of several exchanges: numbers, charges, phases, history, and resuming between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import InputError, Result, RunError, run
from fedsim.api import resume
from fedsim.engine.checkpoint import Checkpoints
from fedsim.errors import Interruption
from fedsim.grid.base import BaseGrid
from fedsim.report.phases import beginnings
from fedsim.terminal.console import Console
from tests.engine.conftest import TINY
from tests.engine.test_bits import assert_same, lines

TWICE = (
    "strategy=exchanging.Twice",
    "client={name: exchanging.Draws, batch_size: 16, steps: 2, class_balanced: false}",
)
PRIVATE = ("privacy={noise_multiplier: 1.0, expected_batch: 8}", "federation.participation=0.5")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    folder = tmp_path_factory.mktemp("exchanges")
    (folder / "tiny.yaml").write_text(TINY)

    def started(*overrides: str, runs: str = "runs", **options: Any) -> Result:
        return run(folder / "tiny.yaml", *TWICE, *overrides, runs=folder / runs, **options)

    return started


@pytest.fixture(scope="module")
def whole(go: Callable[..., Result]) -> Result:
    return go()


def test_each_exchange_has_a_number_and_draws_of_its_own(whole: Result) -> None:
    kinds = ["train", "draws", "train"]
    assert [row["exchanges"] for row in whole.rounds] == [kinds, kinds]
    assert [row["phase"] for row in whole.rounds] == ["early", "late"]
    assert beginnings(whole.rounds) == [(2, "late")]
    counted = [(row["round"], row["exchange"]) for row in lines(whole, "traffic.jsonl")]
    assert counted == sorted(counted)
    assert {number for _, number in counted} == {0, 1, 2}
    heard = whole.rounds[0]["metrics_by_client"]
    assert {client["draws_at"] for client in heard.values()} == {1}
    assert len({client["draws_drawn"] for client in heard.values()}) == 4


def test_the_last_round_s_history_is_at_hand(whole: Result) -> None:
    metrics = [row["metrics"] for row in whole.rounds]
    assert [one["draws_kept"] for one in metrics] == [0, 1]
    assert metrics[1]["draws_norm"] > 0


@pytest.mark.parametrize("place", [1, 2, 4])
def test_a_run_that_ends_between_two_exchanges_goes_on_to_the_same_bits(
    place: int, whole: Result, go: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = Checkpoints.save, []

    def cut(self: Checkpoints, checkpoint: Any) -> None:
        save(self, checkpoint)
        saved.append(checkpoint.moment)
        if len(saved) > place:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", cut)
        with pytest.raises(KeyboardInterrupt) as stopped:
            go(runs=f"cut{place}")
    assert saved[-1] == {1: (0, 2), 2: (0, 3), 4: (1, 1)}[place]
    folder = Path(str(stopped.value))
    assert_same(whole, resume(folder, [], QUIET))


def test_replies_of_an_exchange_are_stored_as_they_arrive(
    whole: Result, go: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, asked = BaseGrid._keep, []

    def cut(self: BaseGrid, message: Any, *rest: Any) -> None:
        keep(self, message, *rest)
        asked.append((self.round, self.exchange, self.client(message)))
        if asked[-1] == (1, 2, 1):
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(BaseGrid, "_keep", cut)
        with pytest.raises(KeyboardInterrupt) as stopped:
            go(runs="arrived")
        asked.clear()
        assert_same(whole, resume(Path(str(stopped.value)), [], QUIET))
    assert asked[0] == (1, 2, 2)


def test_the_ledger_is_charged_for_every_exchange_before_anybody_is_asked(
    go: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the client answers to "draws" makes no release, which is what it is charged for.
    with pytest.raises(RunError, match="made 0 releases"):
        go(*PRIVATE, runs="charged", seed=1)
    folder = next((folder for folder in _runs(go, "charged")), None)
    assert folder is not None
    charged = [json.loads(line) for line in (folder / "privacy.jsonl").read_text().splitlines()]
    assert [row["exchange"] for row in charged] == [0, 0, 1, 1]
    assert all(row["epsilon_total"] is not None for row in charged)


def _runs(go: Any, name: str) -> list[Path]:
    base = go.__closure__[0].cell_contents
    return [path for path in (base / name / "tiny").iterdir() if not path.is_symlink()]


def test_no_more_exchanges_train_than_were_planned(go: Callable[..., Result]) -> None:
    with pytest.raises(RunError, match=r"more than 3 exchanges, for which it planned"):
        go(*PRIVATE, "strategy=exchanging.TooOften", runs="often")
    (folder,) = _runs(go, "often")
    charged = [json.loads(line) for line in (folder / "privacy.jsonl").read_text().splitlines()]
    assert sorted({row["exchange"] for row in charged}) == [0, 1, 2]
    noisy = {row["client"]: row["steps"] for row in charged}
    assert len(charged) == 3 * len(noisy)


def test_a_private_run_wants_to_know_how_many_exchanges_train(go: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match=r"method exchanges\(rounds\)|null exchanges"):
        go(*PRIVATE, "strategy=exchanging.Silent", runs="silent")


def test_client_level_privacy_refuses_what_its_mean_does_not_cover(
    go: Callable[..., Result],
) -> None:
    unit = "privacy={noise_multiplier: 1.0, unit: client, delta: 0.01}"
    for strategy, why in (("TooOften", "makes the exchanges"), ("Remembers", "keeps a history")):
        with pytest.raises(InputError, match=why):
            go(unit, f"strategy=exchanging.{strategy}", runs="unit")


def test_a_strategy_may_end_the_run(go: Callable[..., Result]) -> None:
    result = go("strategy.rounds=1", "rounds=3", runs="short")
    assert len(result.rounds) == 1
    assert "no exchange for round 2" in result.summary["stopped"]


def test_a_full_history_is_on_disk_checked_and_sized(
    go: Callable[..., Result], tmp_path: Path
) -> None:
    from fedsim.folder.history import History

    result = go("strategy=exchanging.Remembers", runs="full")
    history = History("full", result.folder / "history")
    history.round = 3
    assert history.rounds == [1, 2]
    for number in history.rounds:
        norms = history.norms(number)
        for client, norm in norms.items():
            update = history.update(number, client)
            found = np.sqrt(sum(np.square(v.astype(np.float64)).sum() for v in update.values()))
            assert found == pytest.approx(norm, rel=1e-6)
    path = result.folder / "history" / "round-000002" / "000-000001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="digest"):
        history.update(2, 1)
    on_disk = sum(file.stat().st_size for file in (result.folder / "history").rglob("*.safe*"))
    assert history.bytes(1) == on_disk
    history.cut(1, 0)
    assert history.rounds == [1]
