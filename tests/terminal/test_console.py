"""What a person sees of a run's clients: a line each while they are few, one for all of many."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedsim.observers import Run
from fedsim.terminal.console import Console

ROUND: dict[str, Any] = {
    **{"round": 1, "metrics": {}, "mb_up": 1.0, "mb_down": 1.0, "epsilon": None},
    **{"seconds": 1.0, "peak_rss_mb": 1.0},
}


def one_shot(*clients: str) -> Run:
    """A run of one round."""
    return Run("", "tiny", 0, Path(), clients, 1)


def told(capsys: pytest.CaptureFixture[str], clients: int, failed: list[dict[str, Any]]) -> str:
    """What is printed of a one-shot run in which client k sends k + 1 MB."""
    console = Console()
    console.begin(one_shot(*(f"client-{k}" for k in range(clients))))
    for client in range(clients):
        message = {"round": 1, "client": client, "fields": {"arrays": 10**6 * (client + 1)}}
        for direction in ("down", "up"):
            console.message(message | {"direction": direction, "bytes": 10**6 * (client + 1)})
    console.round(ROUND | {"clients": list(range(clients)), "failed": failed})
    return capsys.readouterr().out


def test_each_of_few_clients_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, 19, []).splitlines()
    assert len(lines) == 20
    assert lines[18] == "  client-18 sent 19.000 MB (arrays 19.000)"


def test_what_is_too_small_to_name_has_no_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.begin(one_shot("ward"))
    console.message({"client": 0, "direction": "up", "bytes": 500, "fields": {"metrics": 500}})
    assert capsys.readouterr().out == "  ward sent 0.001 MB\n"


@pytest.mark.parametrize("clients", [20, 1000])
def test_many_clients_share_a_line(capsys: pytest.CaptureFixture[str], clients: int) -> None:
    lines = told(capsys, clients, []).splitlines()
    assert len(lines) == 2
    middle = (clients + 1) / 2
    each = f"1.000 to {clients}.000 MB each, median {middle:.3f}"
    assert lines[0] == f"  {clients} clients sent {each}"


def test_what_a_client_sent_in_two_messages_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.begin(one_shot(*(f"client-{k}" for k in range(20))))
    for _ in range(2):
        for client in range(20):
            console.message({"client": client, "direction": "up", "bytes": 10**6, "fields": {}})
    console.round(ROUND | {"clients": list(range(20)), "failed": []})
    assert "  20 clients sent 2.000 to 2.000 MB each" in capsys.readouterr().out


def test_many_failures_are_told_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [
        {"client": k, "reason": "no disk" if k < 900 else f"reason {k % 9}"} for k in range(1000)
    ]
    text = told(capsys, 1000, failed)
    lines = [line for line in text.splitlines() if "failed: " in line]
    assert len(lines) == 5
    names = ", ".join(f"client-{k}" for k in range(5))
    assert lines[0] == f"  {names} and 895 more failed: no disk"
    assert "  5 more reasons are in rounds.jsonl" in text


def test_few_failures_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [{"client": k, "reason": "no disk"} for k in range(19)]
    assert told(capsys, 1000, failed).count("failed: no disk") == 19


def test_what_is_left_is_of_the_work_at_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second work of the same words is not timed from the start of the first."""
    clock = iter(range(100, 10_000, 20))
    monkeypatch.setattr("fedsim.terminal.console.time.monotonic", lambda: float(next(clock)))
    console = Console()
    for done in (50, 100):
        console.preparing(done, 100, "drawing images")
    for _ in range(50):  # half an hour of something else
        next(clock)
    for done in (60, 80):
        console.preparing(done, 100, "drawing images")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "drawing images: 60 of 100"
    assert re.fullmatch(r"drawing images: 80 of 100, about \d+ s left", lines[3])


def test_who_misses_a_deadline_is_late_and_has_not_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    late = {"kind": "late", "reason": "needed 46.1 s"}
    few = told(capsys, 4, [{"client": 1, **late}, {"client": 2, "kind": "error", "reason": "x"}])
    assert "client-1 late: needed 46.1 s" in few
    assert "client-2 failed: x" in few
    many = told(capsys, 100, [{"client": k, **late} for k in range(50)])
    assert "more late: needed 46.1 s" in many
    assert "failed" not in many
