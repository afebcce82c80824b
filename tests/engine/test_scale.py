"""Many clients: who never joined costs nothing, and what a cost model says of more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim import InputError, Result
from fedsim.api import resume
from fedsim.cli import main
from fedsim.engine import scale
from fedsim.engine.scale import QUANTITIES, Cost, Model, fitted, forecast, table
from fedsim.folder.storing import decode
from fedsim.terminal.console import Console
from tests.engine.test_bits import assert_same
from tests.engine.test_privacy import PRIVATE

SHARDS = "federation.partition={name: shards, shards_per_client: 1}"
IMAGES = "data.embedded={images: 400, sites: 1, views: 1}"


def four_of(clients: int) -> tuple[str, ...]:
    """Overrides by which four of so many clients join a round."""
    share = f"federation.participation={4 / clients}"
    return SHARDS, IMAGES, f"federation.clients={clients}", share


def newest(result: Result) -> bytes:
    return sorted((result.folder / "checkpoint").glob("round-*"))[-1].read_bytes()


def lines(result: Result) -> int:
    """Bytes of all files of lines, but for the digits of clients' numbers."""
    found = 0
    for path in result.folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            found += len(json.dumps({k: v for k, v in json.loads(line).items() if k != "seconds"}))
    return found


@pytest.mark.parametrize("more", [("client=misbehaving:Counts",), PRIVATE])
def test_who_never_joined_takes_no_room_in_checkpoints_and_lines(
    more: tuple[str, ...], run_tiny: Callable[..., Result]
) -> None:
    few = run_tiny(*four_of(8), *more)
    many = run_tiny(*four_of(200), *more)
    assert [len(row["clients"]) for row in many.rounds] == [4, 4]
    joined = {client for row in many.rounds for client in row["clients"]}
    held = decode(newest(many))
    assert set(held["contexts"]) <= joined
    if more != PRIVATE:
        assert set(held["contexts"]) == joined
        assert held["privacy"] is None
    else:
        assert set(held["privacy"]) == {f"client-{client}" for client in joined}
        told = [set(row["epsilon_by_client"]) for row in many.rounds]
        assert told == [{str(client) for client in row["clients"]} for row in many.rounds]
    # Names and numbers have more digits; another 192 clients would take kilobytes.
    assert abs(len(newest(many)) - len(newest(few))) < 1000
    assert abs(lines(many) - lines(few)) < 1000


def test_states_of_some_clients_come_back_to_the_same_bits(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*four_of(40), "client=misbehaving:Counts", "rounds=3")
    whole = run_tiny(*overrides)
    from fedsim.engine.loop import Rounds

    begin = Rounds._begin

    def stop(rounds: Rounds, number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt
        begin(rounds, number)

    with monkeypatch.context() as patched:
        patched.setattr(Rounds, "_begin", stop)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run_tiny(*overrides)
    assert_same(whole, resume(Path(str(stopped.value)), [], Console(quiet=True)))


# --- The cost model ------------------------------------------------------------------------------


def costs(*sizes: tuple[int, int]) -> list[Cost]:
    """Runs whose quantities are 5 + 0.001 clients + 0.02 asked, and only the memory another."""
    every = []
    for clients, asked in sizes:
        values = dict.fromkeys(QUANTITIES, 5 + 0.001 * clients + 0.02 * asked)
        every.append(Cost(clients, asked, values | {"peak_mb": 300.0}))
    return every


SIZES = ((10, 1), (10, 10), (100, 1), (100, 100), (1000, 10), (1000, 1000))


def test_a_cost_model_finds_what_a_round_and_a_client_take() -> None:
    found = fitted(costs(*SIZES), "cpu_seconds")
    assert (found.fixed, found.each, found.each_asked) == pytest.approx((5, 0.001, 0.02))
    flat = fitted(costs(*SIZES), "peak_mb")
    assert (flat.fixed, flat.each, flat.each_asked) == pytest.approx((300, 0, 0), abs=1e-9)
    assert Model(1.0, 2.0, 3.0).of(10, 5) == 36


def test_the_largest_is_predicted_from_the_smaller_ones_alone() -> None:
    measured = costs(*SIZES)
    measured[-1].values["cpu_seconds"] *= 2  # it took twice what the smaller ones say
    found = forecast(measured)
    both = [(one["asked"], round(one["error"]["cpu_seconds"], 6)) for one in found["largest"]]
    assert both == [(10, 0), (1000, -0.5)]
    assert [(one["clients"], one["asked"]) for one in found["ten_times"]] == [
        (10_000, 100),
        (10_000, 10_000),
    ]
    assert found["ten_times"][0]["values"]["round_seconds"] == pytest.approx(5 + 10 + 2)
    text = table(measured, found).splitlines()
    assert text[7] == "| 1,000 | 1,000 | 52 | 26 | 300 | 26 | 26 | 26 |"
    assert "| 1,000 | 1,000 | 26 (-50%) | 26 (+0%) | 300 (+0%) |" in table(measured, found)


def test_the_bench_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(clients: int, share: float) -> Cost:
        return costs((clients, round(clients * share)))[0]

    monkeypatch.setattr(scale, "_measured", measured)
    assert main(["bench", "scale", "--tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "scale.json").read_text())
    assert [(run["clients"], run["asked"]) for run in found["runs"]] == [
        *((4, 1), (4, 4), (8, 1), (8, 8), (16, 1), (16, 16)),
    ]
    assert set(found["model"]) == set(QUANTITIES)
    assert capsys.readouterr().out.count("| 16 | 16 |") == 2


def test_two_federations_are_too_few_for_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least three"):
        scale.scale([10, 20], tmp_path)


def test_a_run_of_the_bench_is_measured() -> None:
    found = scale._measured(4, 0.5)
    assert (found.clients, found.asked) == (4, 2)
    assert set(found.values) == set(QUANTITIES)
    assert all(value > 0 for value in found.values.values())
    assert found.values["checkpoint_kb"] < 60 < found.values["peak_mb"]
