"""The same bits however the clients are run, and no state that hides in a worker."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import Result
from tests.engine.conftest import GDD, VIEWS

METHODS = {
    "fedavg": (),
    "fedavg-uint8": ("strategy.codec=uint8", "federation.participation=0.5"),
    "gdd": GDD,
    "gdd-views": VIEWS,
    "foreign-client-app": ("client=misbehaving:foreign",),
    "flower-fedadam": ("strategy={name: flwr.serverapp.strategy.FedAdam, eta: 0.01}",),
}


def model(result: Result) -> dict[str, np.ndarray]:
    return load_file(result.folder / "model.safetensors")


def lines(result: Result, name: str) -> list[dict[str, object]]:
    """The lines of a file of the run folder without what time and memory decide."""
    rows = [json.loads(line) for line in (result.folder / name).read_text().splitlines()]
    for row in rows:
        row.pop("seconds", None)
        row.pop("peak_rss_mb", None)
    return rows


def assert_same(one: Result, other: Result) -> None:
    left, right = model(one), model(other)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), f"{name} differs"
    assert one.metrics == other.metrics
    for name in ("rounds.jsonl", "traffic.jsonl"):
        assert lines(one, name) == lines(other, name), name


@pytest.mark.parametrize("method", METHODS)
def test_inline_one_worker_and_two_give_the_same_bits(
    method: str, run_tiny: Callable[..., Result]
) -> None:
    overrides = METHODS[method]
    inline = run_tiny(*overrides)
    assert_same(inline, run_tiny(*overrides, backend="ray", workers=2))
    if method == "fedavg":
        assert_same(inline, run_tiny(*overrides, backend="ray", workers=1))


def test_global_generators_neither_matter_nor_change(run_tiny: Callable[..., Result]) -> None:
    random.seed(1)
    np.random.seed(1)
    one = run_tiny("federation.participation=0.5")
    drawn = random.random()
    random.seed(1)
    assert drawn == random.random()
    random.seed(2)
    np.random.seed(2)
    assert_same(one, run_tiny("federation.participation=0.5"))


def test_seeds_differ(run_tiny: Callable[..., Result]) -> None:
    one, other = run_tiny(seed=0), run_tiny(seed=1)
    assert any((model(one)[name] != model(other)[name]).any() for name in model(one))


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_client_state_lives_in_the_context_and_contents_are_not_shared(
    backend: str, run_tiny: Callable[..., Result]
) -> None:
    result = run_tiny("client=misbehaving:Counts", "rounds=3", backend=backend, workers=2)
    assert [row["metrics"]["train_seen"] for row in result.rounds] == [1, 2, 3]


def test_thread_counts_come_from_the_scenario_and_are_given_back(
    run_tiny: Callable[..., Result],
) -> None:
    import torch

    torch.set_num_threads(2)
    run_tiny("rounds=1")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_a_run_can_be_repeated_from_its_own_scenario_file(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    from fedsim import run

    one = run_tiny("client.learning_rate=0.02", seed=3)
    assert_same(one, run(one.folder / "scenario.yaml", seed=3, runs=tmp_path / "again"))
