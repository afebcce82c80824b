"""Simulated time: synchronous, deadline, buffered and asynchronous runs of the tiny federation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import Result
from fedsim.errors import FedsimError, InputError

CLOCK = "federation.clock"
SLOW = f"{CLOCK}.speed={{lognormal: [20, 1.0]}}"
BUFFERED = (f"{CLOCK}={{kind: buffered, buffer: 2}}", SLOW, "rounds=4")
ASYNCHRONOUS = (f"{CLOCK}.kind=asynchronous", SLOW, "rounds=6")

Run = Callable[..., Result]


def model(result: Result) -> dict[str, np.ndarray]:
    return load_file(result.folder / "model.safetensors")


def same(one: Result, other: Result) -> bool:
    a, b = model(one), model(other)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def times(result: Result) -> list[Any]:
    return [(row["simulated_hours"], row["work"]) for row in result.rounds]


def works(result: Result) -> list[dict[str, Any]]:
    return [one for row in result.rounds for one in row["work"]]


def test_without_a_clock_a_line_has_no_hours(run_tiny: Run) -> None:
    assert times(run_tiny("rounds=1")) == [(None, None)]


def test_a_synchronous_clock_changes_no_bit_and_waits_for_the_slowest(run_tiny: Run) -> None:
    plain = run_tiny()
    speeds = "{client-0: 10, client-1: 20, client-2: 40, client-3: 5}"
    timed = run_tiny(f"{CLOCK}.kind=synchronous", f"{CLOCK}.speed={{clients: {speeds}}}")
    assert same(plain, timed)
    record = json.loads((timed.folder / "run.json").read_text())
    sizes = [one["train"] for one in record["data"]["sizes_by_client"].values()]
    slowest = max(n / v for n, v in zip(sizes, (10, 20, 40, 5), strict=True)) / 3600
    assert [hours for hours, _ in times(timed)] == pytest.approx([slowest, 2 * slowest])
    assert [one["outcome"] for one in works(timed)] == ["used"] * 8


def test_messages_take_time_by_their_counted_bytes(run_tiny: Run) -> None:
    timed = run_tiny(f"{CLOCK}={{kind: synchronous, speed: 1.0e+9, bandwidth: 0.001}}", "rounds=1")
    rows = [json.loads(line) for line in (timed.folder / "traffic.jsonl").open()]
    most = max(sum(row["bytes"] for row in rows if row["client"] == c) for c in range(4))
    assert timed.rounds[0]["simulated_hours"] == pytest.approx(most / 1000 / 3600, rel=1e-3)


def test_a_deadline_that_nobody_misses_changes_nothing(run_tiny: Run) -> None:
    waits = run_tiny(f"{CLOCK}.kind=synchronous", SLOW)
    limited = run_tiny(f"{CLOCK}={{kind: deadline, deadline: 1.0e+6}}", SLOW)
    assert same(waits, limited)
    assert times(waits) == times(limited)


def test_who_misses_the_deadline_is_left_out_and_the_round_ends_there(run_tiny: Run) -> None:
    speeds = "{client-0: 1000, client-1: 1000, client-2: 1000, client-3: 0.1}"
    result = run_tiny(
        f"{CLOCK}={{kind: deadline, deadline: 60, speed: {{clients: {speeds}}}}}", "rounds=2"
    )
    assert [hours for hours, _ in times(result)] == pytest.approx([60 / 3600, 120 / 3600])
    for row in result.rounds:
        (late,) = row["failed"]
        assert (late["client"], late["kind"]) == (3, "late")
        assert [one["outcome"] for one in row["work"]] == ["used", "used", "used", "late"]
        assert set(row["metrics_by_client"]) == {"0", "1", "2"}


@pytest.mark.parametrize("words", [BUFFERED, ASYNCHRONOUS], ids=["buffered", "asynchronous"])
def test_a_run_can_be_repeated_and_ray_gives_the_same_bits(
    run_tiny: Run, words: tuple[str, ...]
) -> None:
    first, again = run_tiny(*words), run_tiny(*words, seed=0)
    assert same(first, again)
    assert times(first) == times(again)
    on_ray = run_tiny(*words, backend="ray")
    assert same(first, on_ray)
    assert times(first) == times(on_ray)


def test_a_buffer_of_all_clients_is_synchronous(run_tiny: Run) -> None:
    waits = run_tiny(f"{CLOCK}.kind=synchronous")
    buffered = run_tiny(f"{CLOCK}={{kind: buffered, buffer: 4}}")
    assert same(waits, buffered)
    assert times(waits) == times(buffered)


def test_a_buffer_of_the_cohort_is_synchronous_where_all_are_alike(run_tiny: Run) -> None:
    words = ("federation.participation=0.5", "client.steps=2", "rounds=3")
    waits = run_tiny(f"{CLOCK}.kind=synchronous", *words)
    buffered = run_tiny(f"{CLOCK}={{kind: buffered, buffer: 2}}", *words)
    assert same(waits, buffered)
    assert times(waits) == times(buffered)


def test_a_step_of_a_buffer_sees_so_many_replies_and_old_ones_later(run_tiny: Run) -> None:
    result = run_tiny(*BUFFERED)
    used = [[one for one in row["work"] if one["outcome"] == "used"] for row in result.rounds]
    assert [len(some) for some in used] == [2] * 4
    for row, some in zip(result.rounds, used, strict=True):
        assert row["simulated_hours"] == max(one["to"] for one in some)
        assert all(one["asked"] <= row["round"] for one in some)
    assert any(
        one["asked"] < row["round"]
        for row, some in zip(result.rounds, used, strict=True)
        for one in some
    )
    # Nobody works on two things at a time.
    for client in range(4):
        mine = sorted((one["from"], one["to"]) for one in works(result) if one["client"] == client)
        assert all(a[1] <= b[0] for a, b in zip(mine, mine[1:], strict=False))
    asked = sum(len(row["clients"]) for row in result.rounds)
    assert asked == len(works(result))
    assert {one["outcome"] for one in works(result)} == {"used", "unused"}


def test_asynchronous_steps_see_one_reply_and_take_less_time(run_tiny: Run) -> None:
    result = run_tiny(*ASYNCHRONOUS)
    used = [[one for one in row["work"] if one["outcome"] == "used"] for row in result.rounds]
    assert [len(some) for some in used] == [1] * 6
    hours = [row["simulated_hours"] for row in result.rounds]
    assert hours == sorted(hours)
    waits = run_tiny(f"{CLOCK}.kind=synchronous", SLOW, "rounds=6")
    assert hours[-1] < waits.rounds[-1]["simulated_hours"]
    assert not same(result, waits)
