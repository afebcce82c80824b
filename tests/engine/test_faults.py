"""Clients that fail, die, hang, drop out or come late: what the run does, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import ClientError, InputError, Result, RunError
from fedsim.grid import ray as ray_grid
from fedsim.method.faults import Simulated
from fedsim.randomness import Streams
from fedsim.report.text import closing_lines
from fedsim.scenario.schema import Faults
from tests.engine.conftest import GDD
from tests.engine.test_bits import assert_same

SKIP = "faults.on_client_error=skip"
RAISES = "client={name: 'misbehaving:Raises', client: 1, round: 2}"


def failures(result: Result) -> list[tuple[int, int, str, str]]:
    """(round, client, phase, kind) of all failures."""
    return [
        (row["round"], failure["client"], failure["phase"], failure["kind"])
        for row in result.rounds
        for failure in row["failed"]
    ]


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_a_client_that_raises_once_is_left_out_of_that_round_and_all_outputs_say_so(
    backend: str, run_tiny: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_tiny(RAISES, SKIP, "rounds=3", backend=backend, quiet=False)
    assert failures(result) == [(2, 1, "train", "error")]
    failure = result.rounds[1]["failed"][0]
    assert failure["site"] == "client-1"
    assert failure["reason"] == "RuntimeError: the scanner is on fire"
    assert "Traceback" in failure["details"]
    assert result.summary["failed"] == 1
    assert json.loads((result.folder / "run.json").read_text())["status"] == "done"
    shown = capsys.readouterr().out
    assert "round 2/3 | 3 of 4 clients |" in shown
    assert "client-1 failed: RuntimeError: the scanner is on fire" in shown
    assert "INCOMPLETE: 1 client message" in closing_lines(result.summary, result.folder, Path())[0]
    # The clients that were heard are the other three, and the error's text crossed the wire.
    assert set(result.rounds[1]["metrics_by_client"]) == {"0", "2", "3"}
    lines = (result.folder / "traffic.jsonl").read_text().splitlines()
    up = [json.loads(line) for line in lines]
    up = [row for row in up if (row["round"], row["direction"]) == (2, "up")]
    assert [bool(row["fields"]) for row in up] == [True, False, True, True]


def test_skipping_is_the_same_inline_and_on_ray(run_tiny: Callable[..., Result]) -> None:
    faults = (RAISES, SKIP, "rounds=3", "faults.dropout=0.2", "faults.delay=2.0")
    inline = run_tiny(*faults, "faults.deadline=4.0")
    assert {kind for *_, kind in failures(inline)} >= {"error"}
    ray = run_tiny(*faults, "faults.deadline=4.0", backend="ray")
    for row in (*inline.rounds, *ray.rounds):
        for failure in row["failed"]:  # Tracebacks name other frames.
            failure.pop("details")
    assert [row["failed"] for row in inline.rounds] == [row["failed"] for row in ray.rounds]
    assert inline.metrics == ray.metrics


def test_stop_is_the_default_and_carries_the_traceback(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(ClientError, match=r"client 1 \(site 'client-1'\) failed in round 2:\nTrac"):
        run_tiny(RAISES, "rounds=3")


def test_too_few_replies_stop_the_run_and_name_who_failed(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(RunError, match=r"3 client\(s\) answered in round 2, fewer than") as error:
        run_tiny(RAISES, SKIP, "rounds=3", "faults.min_clients=4")
    assert "client 1 (client-1): RuntimeError: the scanner is on fire" in str(error.value)


def test_a_round_without_replies_passes_only_where_the_scenario_says_so(
    run_tiny: Callable[..., Result],
) -> None:
    nobody = ("faults.dropout=0.99", "rounds=2")
    with pytest.raises(RunError, match=r"0 client\(s\) answered in round 1"):
        run_tiny(*nobody)
    result = run_tiny(*nobody, "faults.min_clients=0")
    assert len(failures(result)) == 8
    assert result.rounds[0]["metrics"]["auc"] == result.rounds[1]["metrics"]["auc"]
    assert result.summary["mb_up_total"] == 0
    assert result.summary["mb_down_total"] > 0


def test_a_client_that_diverges_is_left_out_under_skip(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("client=misbehaving:Diverges", SKIP)
    assert failures(result) == [(1, 2, "train", "diverged"), (2, 2, "train", "diverged")]
    assert "classifier.bias" in result.rounds[0]["failed"][0]["reason"]


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_what_a_client_wrote_before_it_failed_is_not_kept(
    backend: str, run_tiny: Callable[..., Result]
) -> None:
    result = run_tiny("client=misbehaving:CountsAndRaises", SKIP, "rounds=3", backend=backend)
    last = result.rounds[2]["metrics_by_client"]
    assert [last[client]["seen"] for client in "0123"] == [3, 2, 3, 3]


def test_a_one_shot_method_pools_those_who_answered(run_tiny: Callable[..., Result]) -> None:
    whole = run_tiny(*GDD, "federation.partition=iid")
    part = run_tiny(*GDD, "federation.partition=iid", "faults.dropout=0.4", "seeds=[3]", seed=3)
    gone = len(failures(part))
    assert 0 < gone < 4
    images = [result.rounds[0]["metrics"]["train_images"] for result in (whole, part)]
    assert images == [16, 16 - 4 * gone]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_client_runs_again_with_the_same_bits(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    dies = f"client={{name: 'misbehaving:Dies', marks: {marks}}}"
    killed = run_tiny(dies, "rounds=4", backend="ray")
    assert len(list(marks.iterdir())) == 1, "no worker died"
    assert failures(killed) == []
    # The mark is there, so this run kills nothing.
    assert_same(killed, run_tiny(dies, "rounds=4"))


@pytest.mark.slow
def test_a_client_whose_worker_dies_twice_has_failed(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    for number, more in enumerate([(SKIP,), ()]):
        marks = tmp_path / f"marks{number}"
        marks.mkdir()
        dies = f"client={{name: 'misbehaving:Dies', marks: {marks}, times: 2}}"
        if more:
            assert failures(run_tiny(dies, *more, backend="ray")) == [(2, 1, "train", "worker")]
        else:
            with pytest.raises(RunError, match=r"client 1 .* in round 2: its worker process died"):
                run_tiny(dies, backend="ray")


@pytest.mark.slow
def test_a_client_that_hangs_has_failed_after_its_time(run_tiny: Callable[..., Result]) -> None:
    hangs = ("client=misbehaving:Hangs", "faults.client_timeout=8")
    result = run_tiny(*hangs, SKIP, backend="ray")
    assert failures(result) == [(2, 1, "train", "timeout")]
    with pytest.raises(RunError, match="no answer within 8"):
        run_tiny(*hangs, backend="ray")


@pytest.mark.parametrize("failures", [2, 3])
def test_ray_that_does_not_start_is_started_again(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A new token, as every start has one, would lock this process out of a Ray that lives.
    ray_grid.shutdown()
    calls = []

    def init(**options: object) -> None:
        calls.append(options["address"])
        if len(calls) <= failures:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("fedsim.grid.ray.ray.init", init)
    monkeypatch.setattr("fedsim.grid.ray.ray.shutdown", lambda: None)
    with ray_grid._unchanged_environment():
        if failures < 3:
            ray_grid._start_ray(num_cpus=1)
            ray_grid._close_up()
        else:
            with pytest.raises(RunError, match=r"timed out during startup(.|\n)*--backend inline"):
                ray_grid._start_ray(num_cpus=1)
    assert calls == ["local"] * 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (("faults.client_timeout=3",), "needs resources.backend=ray"),
        (("faults.deadline=3",), "needs faults.delay above 0"),
        (("faults.min_clients=5",), "5 replies of 4 clients"),
        (("faults.dropout=1.0",), "faults.dropout"),
        (("faults.on_client_error=ignore",), "'stop' or 'skip'"),
    ],
)
def test_contradictions_are_refused(
    override: tuple[str, ...], expected: str, run_tiny: Callable[..., Result]
) -> None:
    with pytest.raises(InputError, match=expected):
        run_tiny(*override)


@given(share=st.floats(0.05, 0.95), mean=st.floats(0.1, 100), seed=st.integers(0, 2**32))
def test_simulated_faults_depend_on_seed_round_and_client_alone(
    share: float, mean: float, seed: int
) -> None:
    faults = Faults(dropout=share, delay=mean, deadline=mean)
    one, other = Simulated(faults, Streams(seed)), Simulated(faults, Streams(seed))
    places = [(round, client) for round in (1, 2) for client in range(3)]
    assert [one.drops_out(*at) for at in places] == [other.drops_out(*at) for at in places[::1]]
    delays = {at: one.delay(*at) for at in reversed(places)}
    assert delays == {at: other.delay(*at) for at in places}
    assert len(set(delays.values())) == len(delays)
    wait: Any = one.wait(list(delays.values()))
    assert wait == min(max(delays.values()), mean)


def test_simulated_faults_have_the_frequencies_they_were_asked_for() -> None:
    simulated = Simulated(Faults(dropout=0.3, delay=5.0), Streams(0))
    places = [(round, client) for round in range(40) for client in range(50)]
    dropped = sum(simulated.drops_out(*at) for at in places) / len(places)
    delay = sum(simulated.delay(*at) for at in places) / len(places)
    assert dropped == pytest.approx(0.3, abs=0.05)
    assert delay == pytest.approx(5.0, rel=0.1)
