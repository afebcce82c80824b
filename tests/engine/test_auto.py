"""`resources.backend: auto`: one decision, said and kept, and the bits of both backends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim import Result
from fedsim.engine.running import resume
from fedsim.errors import RunError
from fedsim.grid import auto
from fedsim.grid import ray as grid
from fedsim.observers.standard import starter
from fedsim.terminal.console import Console
from tests.engine.test_bits import METHODS, assert_same
from tests.plugins.watchers import Stops

AUTO = ("resources.backend=auto", "resources.workers=null")
# Without it, what is measured of four small clients would decide.
RAY, HERE = 0.0, 1e9


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has Ray's start take so many seconds, of two cores, and a message none."""
    monkeypatch.setattr("fedsim.engine.assembly.cores", lambda: 2)
    monkeypatch.setattr("fedsim.grid.choosing._MESSAGE_SECONDS", 0.0)

    def go(seconds: float) -> None:
        monkeypatch.setattr(auto, "start_seconds", lambda on_gpu: seconds)

    return go


def backend(result: Result) -> dict[str, Any]:
    found = json.loads((result.folder / "run.json").read_text())["backend"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("method", ["fedavg", "fedavg-uint8", "gdd"])
def test_auto_gives_the_bits_of_both(
    method: str,
    run_tiny: Callable[..., Result],
    decided: Callable[[float], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    inline = run_tiny(*METHODS[method])
    assert backend(inline) == {"used": "inline", "workers": 1, "why": "resources.backend=inline"}
    assert "clients run" not in capsys.readouterr().out
    decided(HERE)
    here = run_tiny(*METHODS[method], *AUTO, quiet=False)
    said = capsys.readouterr().out
    decided(RAY)
    there = run_tiny(*METHODS[method], *AUTO, quiet=False)
    assert_same(inline, here)
    assert_same(inline, there)
    assert backend(here)["used"] == "inline"
    assert said.count("clients run in this process: their work takes") == 1
    found = backend(there)
    assert (found["used"], found["workers"]) == ("ray", 2)
    said = capsys.readouterr().out
    assert said.index(f"clients run on Ray, 2 at a time: {found['why']}") < said.index("round 1/")


def test_who_trains_in_one_call_is_measured_together(
    monkeypatch: pytest.MonkeyPatch,
    run_tiny: Callable[..., Result],
    decided: Callable[[float], None],
) -> None:
    monkeypatch.setattr("fedsim.method.stacking.WIDTH", 2)
    words = ("resources.fast=true", "federation.clients=5")
    inline = run_tiny(*words)
    computing = json.loads((inline.folder / "run.json").read_text())["computing"]
    assert computing["together"] == "stacked: 5 of 5 clients"
    for start, used in ((HERE, "inline"), (RAY, "ray")):
        decided(start)
        found = run_tiny(*words, *AUTO)
        assert backend(found)["used"] == used
        assert_same(inline, found)


def test_a_slow_first_client_is_left_off_and_asked_again(
    monkeypatch: pytest.MonkeyPatch,
    run_tiny: Callable[..., Result],
    decided: Callable[[float], None],
) -> None:
    overrides = ("client.epochs=4",)
    inline = run_tiny(*overrides)
    left_off = []

    class Noted(auto.LeftOffError):
        def __init__(self, choice: auto.Choice) -> None:
            super().__init__(choice)
            left_off.append(choice)

    decided(RAY)
    monkeypatch.setattr(auto, "LeftOffError", Noted)
    monkeypatch.setattr(auto, "_SECONDS", 0.0)
    there = run_tiny(*overrides, *AUTO)
    assert [choice.backend for choice in left_off] == ["ray"]
    assert_same(inline, there)


def test_where_ray_does_not_start_clients_work_here(
    monkeypatch: pytest.MonkeyPatch,
    run_tiny: Callable[..., Result],
    decided: Callable[[float], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RunError("Ray did not start on this machine\nstart it elsewhere")

    decided(RAY)
    grid.shutdown()
    monkeypatch.setattr(grid, "_start_ray", refuse)
    result = run_tiny(*AUTO, quiet=False)
    assert_same(run_tiny(), result)
    assert backend(result)["why"] == "Ray did not start on this machine"
    assert "clients run in this process: Ray did not start" in capsys.readouterr().out


def test_a_resumed_run_decides_anew(
    run_tiny: Callable[..., Result], decided: Callable[[float], None]
) -> None:
    inline = run_tiny("rounds=3")
    decided(HERE)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run_tiny("rounds=3", *AUTO, observers=[Stops(after=1)])
    decided(RAY)
    resumed = resume(Path(str(stopped.value)), [], starter(Console(quiet=True)))
    assert backend(resumed)["used"] == "ray"
    assert_same(inline, resumed)


def test_a_client_that_dies_ends_no_run_that_skips_failures(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    dies = f"client={{name: 'misbehaving:Dies', marks: {marks}}}"
    result = run_tiny(dies, "faults.on_client_error=skip", *AUTO)
    assert len(list(marks.iterdir())) == 1, "no worker died"
    assert backend(result)["why"] == "with faults.on_client_error=skip a client may die alone"
