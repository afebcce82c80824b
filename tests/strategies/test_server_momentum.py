"""Server momentum: golden steps, and that it is FedAvg without momentum."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedsim.strategies.fedavg import FedAvg
from fedsim.strategies.server_momentum import ServerMomentum
from fedsim.wire.flower import tensor_record, tensors


def replies(*models: np.ndarray) -> Any:
    return iter(
        SimpleNamespace(
            content=RecordDict(
                {
                    "arrays": tensor_record({"w": np.float32(model)}),
                    "metrics": MetricRecord({"num-examples": 1 + number}),
                }
            )
        )
        for number, model in enumerate(models)
    )


def step(strategy: FedAvg, number: int, arrays: ArrayRecord, *changes: float) -> ArrayRecord:
    strategy.content(number, arrays, ConfigRecord())
    weights = tensors(arrays)["w"]
    moved, _ = strategy.aggregate_train(number, replies(*(weights + c for c in changes)))
    assert moved is not None
    return moved


def server(strategy: Any, rounds: int) -> Any:
    strategy.server = SimpleNamespace(rounds=rounds)
    return strategy


def test_three_rounds_of_an_update_of_one() -> None:
    # v = 1, 1.6, 1.96; learning rates 1, 0.999983, 0.999931 of a cosine over 120 rounds.
    strategy, arrays = server(ServerMomentum(), 120), tensor_record({"w": np.zeros(2, np.float32)})
    found = []
    for number in (1, 2, 3):
        arrays = step(strategy, number, arrays, 1.0)
        found.append(tensors(arrays)["w"][0])
    assert found == pytest.approx([1.0, 2.599973, 4.559838], abs=1e-6)


def test_it_is_fedavg_without_momentum_at_rate_one_to_the_bit() -> None:
    draws = np.random.default_rng(0)
    start = tensor_record({"w": draws.standard_normal(500).astype(np.float32)})
    changes = draws.standard_normal(2) * 1e-3
    ours = step(server(ServerMomentum(0.0, 1.0, 1.0), 3), 1, start, *changes)
    assert np.array_equal(tensors(ours)["w"], tensors(step(FedAvg(), 1, start, *changes))["w"])


def test_identical_clients_are_as_one_and_weighting_is_fedavgs() -> None:
    start = tensor_record({"w": np.zeros(3, np.float32)})
    one, four = (step(server(ServerMomentum(), 5), 1, start, *[0.5] * n) for n in (1, 4))
    assert np.array_equal(tensors(one)["w"], tensors(four)["w"])
    uniform = step(server(ServerMomentum(weighting="uniform"), 5), 1, start, 0.0, 1.0)
    samples = step(server(ServerMomentum(), 5), 1, start, 0.0, 1.0)
    assert tensors(uniform)["w"][0] == pytest.approx(1 / 2)
    assert tensors(samples)["w"][0] == pytest.approx(2 / 3)


def test_the_velocity_survives_a_restart() -> None:
    start = tensor_record({"w": np.zeros(1, np.float32)})
    before = server(ServerMomentum(), 5)
    middle = step(before, 1, start, 1.0)
    after, forgetful = server(ServerMomentum(), 5), server(ServerMomentum(), 5)
    after.load_state_dict(before.state_dict())
    wanted = tensors(step(before, 2, middle, 1.0))["w"]
    assert np.array_equal(tensors(step(after, 2, middle, 1.0))["w"], wanted)
    assert not np.array_equal(tensors(step(forgetful, 2, middle, 1.0))["w"], wanted)


def test_without_momentum_there_is_nothing_to_keep() -> None:
    start = tensor_record({"w": np.zeros(2, np.float32)})
    strategy = server(ServerMomentum(momentum=0.0, learning_rate=0.5), 5)
    assert tensors(step(strategy, 1, start, 1.0))["w"].tolist() == [0.5, 0.5]
    assert strategy.state_dict() == {"velocity": {}}


def test_a_momentum_that_never_forgets_is_refused() -> None:
    with pytest.raises(ValueError, match="below 1"):
        ServerMomentum(momentum=1.0)


def test_integers_do_not_move_and_keep_their_type() -> None:
    values = {"w": np.zeros(1, np.float32), "table": np.array([16_777_217])}
    strategy = server(ServerMomentum(learning_rate=3.0), 5)
    strategy.content(1, tensor_record(values), ConfigRecord())
    content = RecordDict(
        {
            "arrays": tensor_record(values | {"w": np.ones(1, np.float32)}),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    moved, _ = strategy.aggregate_train(1, iter([SimpleNamespace(content=content)]))
    assert tensors(moved)["w"].tolist() == [3.0]
    assert tensors(moved)["table"].dtype == np.int64
    assert tensors(moved)["table"].tolist() == [16_777_217]
