"""Which backend `resources.backend: auto` takes, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.grid import choosing
from fedsim.grid.choosing import Choice, choose, settled, start_seconds
from fedsim.scenario import load
from tests.grid.test_machine import TINY

SECONDS = st.floats(0, 1e6)
WORKERS = st.integers(2, 64)


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.mark.parametrize(
    ("words", "workers", "backend", "why"),
    [
        ([], 4, None, ""),
        ([], 1, "inline", "one client works at a time"),
        (["backend=inline"], 4, "inline", "resources.backend=inline"),
        (["backend=ray"], 1, "ray", "resources.backend=ray"),
        (["workers=3"], 3, "ray", "resources.workers=3"),
        (["workers=1"], 1, "inline", "one client works at a time"),
        (["ray_address=10.0.0.1:6379"], 1, "ray", "resources.ray_address names its cluster"),
        (["gpus=0.5"], 4, None, ""),
        (["fast=true"], 4, None, ""),
        (["fast=true", "threads=2"], 4, "inline", "the fast mode has 2 threads for clients"),
    ],
)
def test_what_resources_settle(
    tiny: str, words: list[str], workers: int, backend: str | None, why: str
) -> None:
    choice = settled(load(tiny, [f"resources.{word}" for word in words]), workers)
    found = (None, "") if choice is None else (choice.backend, choice.why)
    assert found == (backend, why)


@pytest.mark.parametrize("word", ["faults.client_timeout=5", "faults.on_client_error=skip"])
def test_who_may_have_to_end_a_client_or_outlive_one_takes_ray(tiny: str, word: str) -> None:
    choice = settled(load(tiny, [word]), 2)
    assert choice is not None
    assert choice.backend == "ray"
    assert word.partition("=")[0] in choice.why


@pytest.mark.parametrize(
    ("seconds", "messages", "workers", "backend"),
    [
        (4, 50, 2, "inline"),  # Ray's start alone takes longer.
        (15.9, 0, 2, "inline"),  # 8 + 15.9 / 2 = 15.95
        (16.1, 0, 2, "ray"),  # 8 + 16.1 / 2 = 16.05
        (16.1, 50, 2, "inline"),  # ... and half a second for the messages.
        (11, 0, 4, "ray"),
        (1e5, 10, 1, "inline"),  # Alone, Ray gains nothing.
    ],
)
def test_the_shorter_one_is_taken(
    seconds: float, messages: int, workers: int, backend: str
) -> None:
    assert choose(seconds, messages, workers, start=8.0).backend == backend


@given(SECONDS, SECONDS, st.integers(0, 10_000), WORKERS, st.floats(0, 100))
def test_more_work_never_speaks_against_ray(
    less: float, more: float, messages: int, workers: int, start: float
) -> None:
    less, more = sorted((less, more))
    if choose(less, messages, workers, start=start).backend == "ray":
        assert choose(more, messages, workers, start=start).backend == "ray"


def test_memory_that_is_not_there_keeps_clients_in_one_process() -> None:
    enough = choose(1000, 10, 4, process_mb=500, free_mb=2400)
    assert (enough.backend, enough.workers) == ("ray", 4)
    short = choose(1000, 10, 4, process_mb=500, free_mb=2399)
    assert short == Choice("inline", "4 workers would take 2,400 MB, and 2,399 MB are free")


def test_the_line_says_where_and_why() -> None:
    assert choose(3.6, 50, 2, start=8.0).line() == (
        "clients run in this process: their work takes about 4 s here, 10 s on Ray"
    )
    ray = choose(1234, 100, 2, start=8.0)
    assert ray.line() == (
        "clients run on Ray, 2 at a time: their work takes about 1,234 s here, 626 s on Ray"
    )
    assert ray.record() == {
        "used": "ray",
        "workers": 2,
        "why": "their work takes about 1,234 s here, 626 s on Ray",
    }


def test_a_ray_that_runs_costs_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ray:
        up = False

        def is_initialized(self) -> bool:
            return self.up

    ray = Ray()
    monkeypatch.setitem(choosing.sys.modules, "ray", ray)  # type: ignore[arg-type]
    cold = start_seconds()
    ray.up = True
    assert start_seconds() < 1 < cold == choosing.START_SECONDS
