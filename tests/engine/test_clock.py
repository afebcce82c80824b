"""Simulated time: synchronous, deadline, buffered and asynchronous runs of the tiny federation."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.cli import main
from fedsim.clients.supervised import Supervised
from fedsim.errors import Interruption
from fedsim.folder.runfolder import RunFolder
from fedsim.report.text import closing_lines
from tests.engine.conftest import GDD
from tests.engine.test_bits import assert_same
from tests.engine.test_privacy import PRIVATE
from tests.engine.test_resume import QUIET, only, start, wait_for
from tests.strategies.quadratics import CENTRE, CURVATURE, RATE, STEPS, weights_after

CLOCK = "federation.clock"
SLOW = f"{CLOCK}.speed={{lognormal: [20, 1.0]}}"
BUFFERED = (f"{CLOCK}={{kind: buffered, buffer: 2}}", SLOW, "rounds=4")
ASYNCHRONOUS = (f"{CLOCK}.kind=asynchronous", SLOW, "rounds=6")

FLIPPED = "federation.overrides={client-0: {wrapper: {name: flip_labels}}}"

Run = Callable[..., Result]


class Rests(Supervised):
    """A client method that adds no proximal term."""

    proximal = False


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


@pytest.mark.parametrize(
    "wire",
    ["{codec: int4, sparsify: {topk: 0.05}}", "{codec: uint8, down: uint8}", "{down: float16}"],
)
def test_a_buffer_counts_messages_as_the_wire_makes_them(run_tiny: Run, wire: str) -> None:
    clock = f"{CLOCK}={{kind: buffered, buffer: 4, speed: 1.0e+9, bandwidth: 0.001}}"
    timed = run_tiny(clock, f"wire={wire}", "rounds=1")
    rows = [json.loads(line) for line in (timed.folder / "traffic.jsonl").open()]
    sizes = {row["direction"]: row["fields"]["arrays"] for row in rows}
    seconds = 3600 * timed.rounds[0]["simulated_hours"]
    assert seconds == pytest.approx((sizes["down"] + sizes["up"]) / 1000, rel=1e-4)


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
    # The server gives it up at the deadline: nobody works on two things at a time.
    slow = [(one["from"], one["to"]) for one in works(result) if one["client"] == 3]
    assert slow == [(0.0, 60 / 3600), (60 / 3600, 120 / 3600)]
    assert closing_lines(result.summary, result.folder, Path())[0] == (
        "LATE: 2 client message(s) came after the deadline, see rounds.jsonl"
    )


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
        assert all(a[1] <= b[0] for a, b in pairwise(mine))
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


def pulled(*targets: float) -> tuple[str, ...]:
    """The tiny federation, where each client has a known optimum."""
    return (
        f"client={{name: pulling.Pull, targets: [{', '.join(map(str, targets))}]}}",
        f"federation.clients={len(targets)}",
        "strategy={name: fedavg, weighting: uniform}",
    )


def assert_moved(run_tiny: Run, result: Result, share: float, shift: float, *words: str) -> None:
    """Each parameter is `share` of what it was at first, plus `shift`."""
    # A step of rate 0 leaves the first model as it is.
    first = model(run_tiny(*words, "client.rate=0.0", "rounds=1", "federation.clock=null"))
    for name, value in model(result).items():
        np.testing.assert_allclose(value, share * first[name] + shift, atol=1e-6, err_msg=name)


def test_fedasync_is_what_one_computes_by_hand(run_tiny: Run) -> None:
    """Client 0 needs 1 s, client 1 needs 2.5 s; alpha = 0.5, weights (1 + tau)^-0.5."""
    words = pulled(1.0, -1.0)
    clock = (
        f"{CLOCK}={{kind: asynchronous, mixing: 0.5, speed: {{clients: {{client-0: 1.0, "
        "client-1: 0.4}}}"
    )
    result = run_tiny(*words, clock, "rounds=4")
    used = [[one for one in row["work"] if one["outcome"] == "used"] for row in result.rounds]
    # At 1, 2 and 3 s client 0, with the models 0, 1 and 2; at 2.5 s client 1, with model 0.
    assert [(one["client"], one["asked"]) for (one,) in used] == [(0, 1), (0, 2), (1, 1), (0, 3)]
    seconds = [3600 * row["simulated_hours"] for row in result.rounds]
    assert seconds == pytest.approx([1, 2, 2.5, 3])
    # x = share * x_0 + shift; client k sends x / 2 + target / 2 of the model x that it had.
    models = [(1.0, 0.0)]
    for version, target, tau in ((0, 1.0, 0), (1, 1.0, 0), (0, -1.0, 2), (2, 1.0, 1)):
        share, shift = models[version]
        sent = share / 2, shift / 2 + target / 2
        alpha = 0.5 / (1 + tau) ** 0.5
        share, shift = models[-1]
        models.append((share + alpha * (sent[0] - share), shift + alpha * (sent[1] - shift)))
    assert_moved(run_tiny, result, *models[-1], *words)


def test_fedbuff_is_what_one_computes_by_hand(run_tiny: Run) -> None:
    """Clients need 1, 2 and 4.5 s; the server waits for two replies."""
    words = pulled(1.0, 0.0, -3.0)
    clock = (
        f"{CLOCK}={{kind: buffered, buffer: 2, speed: {{clients: {{client-0: 1.0, client-1: 0.5, "
        f"client-2: {1 / 4.5!r}}}}}}}"
    )
    result = run_tiny(*words, clock, "rounds=3")
    used = [[one for one in row["work"] if one["outcome"] == "used"] for row in result.rounds]
    assert [[(one["client"], one["asked"]) for one in some] for some in used] == [
        [(0, 1), (1, 1)],
        [(0, 2), (1, 2)],
        [(0, 3), (2, 1)],
    ]
    assert [3600 * row["simulated_hours"] for row in result.rounds] == pytest.approx([2, 4, 5])
    assert result.rounds[2]["metrics_by_client"]["2"]["times"] == 1
    assert result.rounds[2]["metrics_by_client"]["0"]["times"] == 3
    models = [(1.0, 0.0)]
    targets = (1.0, 0.0, -3.0)
    for replies in ([(0, 0, 0), (1, 0, 0)], [(0, 1, 0), (1, 1, 0)], [(0, 2, 0), (2, 0, 2)]):
        share, shift = models[-1]
        for client, version, tau in replies:
            weight = (1 + tau) ** -0.5 / len(replies)
            # The change that the client made: half of the way to its target.
            share -= weight * models[version][0] / 2
            shift += weight * (targets[client] - models[version][1]) / 2
        models.append((share, shift))
    assert_moved(run_tiny, result, *models[-1], *words)


LONG = {
    "deadline": (f"{CLOCK}={{kind: deadline, deadline: 3}}", SLOW, "rounds=4"),
    "buffered": BUFFERED,
    "asynchronous": (*ASYNCHRONOUS[:2], "rounds=4"),
    "buffers": (*BUFFERED, "model={name: odd_models.Odd}", "strategy=server_momentum"),
    "local": (*BUFFERED, "federation.local=head"),
    "compressed": (*BUFFERED, "wire={codec: int4, sparsify: {topk: 0.1}, error_feedback: true}"),
    "state": (*BUFFERED, *pulled(1.0, 2.0, 3.0, 4.0)),
}


@pytest.mark.parametrize("kind", LONG)
def test_a_run_cut_after_any_round_goes_on_to_the_same_bits(
    kind: str, run_tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*LONG[kind], "faults.min_clients=0")
    whole = run_tiny(*overrides)
    append = RunFolder.append
    first = functools.partial(run, tmp_path / "tiny.yaml", *overrides, runs=tmp_path / "cut")
    # One run, that is cut twice.
    for moment, begin in ((1, first), (3, lambda: resume(only(tmp_path / "cut"), [], QUIET))):

        def stopping(self: RunFolder, name: str, row: dict, at: int = moment) -> None:
            append(self, name, row)
            if name == "rounds.jsonl" and row["round"] == at:
                raise Interruption

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "append", stopping)
            with pytest.raises(KeyboardInterrupt):
                begin()
    resumed = resume(only(tmp_path / "cut"), [], QUIET)
    if kind != "local":
        assert_same(whole, resumed)
        return
    assert whole.metrics == resumed.metrics
    for name in [path.name for path in (whole.folder / "models").iterdir()]:
        one, other = (load_file(done.folder / "models" / name) for done in (whole, resumed))
        assert all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_sigkill_loses_no_reply_that_is_on_its_way(
    tiny: Path, run_tiny: Run, tmp_path: Path
) -> None:
    overrides = (*BUFFERED[:2], "rounds=8", "client.epochs=3")
    whole = run_tiny(*overrides)
    process = start(tiny, tmp_path / "killed", *overrides)

    def three_rounds() -> bool:
        folder = only(tmp_path / "killed")
        return folder is not None and (folder / "checkpoint" / "round-000003.ckpt").exists()

    wait_for(three_rounds, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    folder = only(tmp_path / "killed")
    assert folder is not None
    assert_same(whole, resume(folder, [], QUIET))


def test_the_ledger_charges_what_is_asked_however_late_it_comes(run_tiny: Run) -> None:
    result = run_tiny(*PRIVATE, *BUFFERED)
    rows = [json.loads(line) for line in (result.folder / "privacy.jsonl").open()]
    charged = sorted((row["round"], row["client"]) for row in rows)
    asked = sorted((one["asked"], one["client"]) for one in works(result))
    assert charged == asked
    assert any(one["outcome"] == "unused" for one in works(result))
    assert (
        result.summary["epsilon"]
        <= json.loads((result.folder / "run.json").read_text())["privacy"]["epsilon_planned"]
    )


def test_dropouts_and_delays_are_simulated_in_time(run_tiny: Run) -> None:
    faults = "faults={on_client_error: skip, dropout: 0.4, delay: 20.0, min_clients: 0}"
    result = run_tiny(*BUFFERED, faults, "rounds=6")
    lost = sorted((w["asked"], w["client"]) for w in works(result) if w["outcome"] == "lost")
    failed = [(row["round"], one["client"]) for row in result.rounds for one in row["failed"]]
    assert lost
    assert set(lost) <= set(failed)
    prompt = run_tiny(*BUFFERED, faults.replace("20.0", "0.0"), "rounds=6")
    assert prompt.rounds[-1]["simulated_hours"] < result.rounds[-1]["simulated_hours"]
    assert_same(result, run_tiny(*BUFFERED, faults, "rounds=6"))


def test_fedasyncs_clients_are_held_near_the_model_that_they_were_sent(tmp_path: Path) -> None:
    # Client 2 is first, and takes k steps of gradient descent on h/2 (w - b)^2 + mu/2 w^2 from 0.
    mu, mixing, speeds = 2.0, 0.5, "{client-0: 1, client-1: 1, client-2: 1000}"
    clock = f"kind: asynchronous, mixing: {mixing}, speed: {{clients: {speeds}}}"
    curvature, centre = CURVATURE[2], CENTRE[2]
    for held in (0.0, mu):
        told = f", proximal: {held}" if held else ""
        rest = curvature * centre / (curvature + held)
        reached = rest * (1 - (1 - RATE * (curvature + held)) ** STEPS)
        found = weights_after(tmp_path, "rounds=1", f"{CLOCK}={{{clock}{told}}}")
        assert found == pytest.approx(mixing * reached, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((*GDD, f"{CLOCK}.kind=asynchronous"), "is one-shot"),
        ((f"{CLOCK}.kind=asynchronous", "strategy=local_only", "client=local"), "keeps a model at"),
        ((*BUFFERED, "strategy=scaffold", "client=scaffold"), "takes_older"),
        ((*BUFFERED, "strategy.codec=uint8"), "has codec uint8"),
        (
            (*BUFFERED, f"{CLOCK}.proximal=0.1", "client.name=tests.engine.test_clock.Rests"),
            "'tests.engine.test_clock.Rests' does not declare that it adds a proximal term",
        ),
        (
            (
                *BUFFERED,
                f"{CLOCK}.proximal=0.1",
                FLIPPED,
                "client.name=tests.engine.test_clock.Rests",
            ),
            "does not declare that it adds a proximal term",
        ),
        ((*BUFFERED, "strategy={name: flwr.serverapp.strategy.FedAvg}"), "rules of its own"),
        ((f"{CLOCK}={{kind: buffered, buffer: 5}}",), "there are 4 clients"),
        ((*BUFFERED, "faults.min_clients=3"), "asks for more"),
        (
            (f"{CLOCK}={{kind: synchronous, speed: 1.0e-6}}", "client.steps=1000000"),
            "would not train within 1e.12 simulated seconds",
        ),
        (
            (f"{CLOCK}={{kind: deadline, deadline: 1}}", "faults={delay: 1.0, deadline: 2.0}"),
            "faults.deadline",
        ),
        (
            (f"{CLOCK}.kind=synchronous", f"{CLOCK}.speed={{clients: {{client-0: 1}}}}"),
            "every client",
        ),
        (
            (*PRIVATE, "privacy.unit=client", "strategy.weighting=uniform", *BUFFERED),
            "privacy.unit=client needs the replies",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(run_tiny: Run, words: tuple[str, ...], why: str) -> None:
    with pytest.raises(InputError, match=why):
        run_tiny(*words)


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("{kind: buffered}", "needs buffer"),
        ("{kind: deadline}", "needs deadline"),
        ("{kind: synchronous, deadline: 3}", "deadline is of kind deadline"),
        ("{kind: synchronous, proximal: 1.0}", "proximal is of kind buffered and asynchronous"),
        ("{kind: buffered, buffer: 2, mixing: 0.5}", "mixing is of kind asynchronous"),
        ("{kind: synchronous, period: 24}", "period is of a trace"),
        ("{kind: synchronous, speed: {uniform: [2, 1]}}", "low, high"),
        ("{kind: synchronous, speed: {uniform: [1, 2], by_size: 1}}", "expected one of"),
        ("{kind: synchronous, speed: {by_size: 1, others: 1}}", "others goes with clients"),
        ("{kind: synchronous, speed: {others: 1}}", "expected one of"),
        ("{kind: asynchronous, staleness: {name: constant, a: 1}}", "constant has no a"),
        ("{kind: synchronous, trace: nowhere.csv}", "there is no file"),
        ("{kind: synchronous, speed: 1.0e-300}", "at least 1e-06"),
        ("{kind: synchronous, available: {share: 1.0e-300}}", "at least 0.001"),
        ("{kind: synchronous, available: {share: 0.5, period: 1.0e-300}}", "at least 0.001"),
    ],
)
def test_keys_of_another_kind_are_refused(run_tiny: Run, block: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        run_tiny(f"{CLOCK}={block}")


def test_a_trace_that_was_changed_is_found_on_resume(
    run_tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace.csv"
    lines = ["client,hour,speed", *(f"client-{c},0,{c + 1}" for c in range(4))]
    trace.write_text("\n".join(lines) + "\n")
    words = (f"{CLOCK}={{kind: buffered, buffer: 2, trace: {trace}}}", "rounds=3")
    append = RunFolder.append

    def stopping(self: RunFolder, name: str, row: dict) -> None:
        append(self, name, row)
        if name == "rounds.jsonl":
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "tiny.yaml", *words, runs=tmp_path / "cut")
    folder = only(tmp_path / "cut")
    assert folder is not None
    trace.write_text(trace.read_text().replace("client-3,0,4", "client-3,0,5"))
    with pytest.raises(InputError, match="not as fast as when the run began"):
        resume(folder, [], QUIET)


def test_exchanges_of_a_round_follow_each_other(run_tiny: Run) -> None:
    words = (
        "strategy=exchanging.Twice",
        "client={name: exchanging.Draws, batch_size: 16, steps: 2, class_balanced: false}",
    )
    timed = run_tiny(*words, f"{CLOCK}={{kind: synchronous, speed: 32}}")
    assert same(timed, run_tiny(*words))
    # Each exchange takes two batches of 16 at 32 records a second.
    exchanges = [len(row["exchanges"]) for row in timed.rounds]
    assert all(count > 1 for count in exchanges)
    hours = [row["simulated_hours"] for row in timed.rounds]
    assert hours == pytest.approx([sum(exchanges[: k + 1]) / 3600 for k in range(len(hours))])


def test_flowers_own_strategies_have_a_deadline_too(run_tiny: Run) -> None:
    words = ("strategy={name: flwr.serverapp.strategy.FedAvg}", "federation.participation=0.5")
    result = run_tiny(
        *words, f"{CLOCK}={{kind: deadline, deadline: 2}}", SLOW, "rounds=3", "faults.min_clients=0"
    )
    assert {one["outcome"] for one in works(result)} == {"used", "late"}
    assert [len(row["work"]) for row in result.rounds] == [2, 2, 2]


def test_a_clock_can_be_checked_before_it_runs(tiny: Path) -> None:
    assert main(["check", str(tiny), *BUFFERED]) == 0
