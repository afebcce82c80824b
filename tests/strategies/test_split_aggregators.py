"""Fed-NCL and Auto-FedAvg: numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedsim.strategies.auto_fedavg import AutoFedAvg, slope, softmax
from fedsim.strategies.fed_ncl import (
    divergences,
    layer_weights,
    model_weights,
    penalised,
    qualities,
)
from fedsim.wire import tensor_record, tensors

SENT = {"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)}
A = {"a": np.array([3, 4], np.float32), "b": np.array([1], np.float32)}
B = {"a": np.array([0, 1], np.float32), "b": np.array([3], np.float32)}


def test_fed_ncl_by_hand() -> None:
    moved = divergences(SENT, [A, B], ["a", "b"])
    assert moved.tolist() == [[6, 2], [2, 4]]
    weights = layer_weights(moved)
    assert weights == pytest.approx(np.array([[0.25, 2 / 3], [0.75, 1 / 3]]))
    mixed = [weights[:, i] @ np.array([A[n], B[n]]) for i, n in enumerate("ab")]
    assert mixed[0].tolist() == pytest.approx([0.75, 1.75])
    assert mixed[1].tolist() == pytest.approx([5 / 3])
    assert qualities(moved, [10, 20], [0.5, 1]).tolist() == pytest.approx([0.4, 0.3])
    assert model_weights(moved)[:, 0].tolist() == pytest.approx([3 / 7, 4 / 7])


def test_outliers_are_penalised_and_nobody_else() -> None:
    moved = np.ones((4, 3))
    scores = np.array([1.0, 1.0, 1.0, 9.0])
    found = penalised(moved, scores, 1.0, 50.0)
    assert found.tolist() == [[1] * 3] * 3 + [[50] * 3]
    assert penalised(moved, np.ones(4), 1.0, 50.0).tolist() == moved.tolist()


@pytest.mark.parametrize("times", [1, 2])
def test_of_two_alike_groups_neither_is_an_outlier(times: int) -> None:
    # Each score is one deviation from the mean; rounding would choose one of them at every fourth.
    draws = np.random.default_rng(0)
    for pair in draws.random((200, 2)) * 10.0 ** draws.integers(-6, 7, (200, 1)):
        scores = np.repeat(pair, times)
        assert (penalised(np.ones((2 * times, 1)), scores, 1.0, 50.0) == 1).all(), pair
        assert (penalised(np.ones((2 * times, 1)), scores, 0.999, 50.0) == 50).all(), pair


def test_the_weights_of_auto_fedavg() -> None:
    assert softmax([0.0, math.log(2)]).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert softmax([1000.0, 1000.0]).tolist() == [0.5, 0.5]


def test_the_slope_is_that_of_autograd() -> None:
    draws = torch.Generator().manual_seed(0)
    models = torch.randn(3, 5, dtype=torch.float64, generator=draws)
    beta = torch.randn(3, dtype=torch.float64, generator=draws).requires_grad_()
    average = torch.softmax(beta, 0) @ models
    average.retain_grad()
    average.square().sum().backward()
    assert average.grad is not None
    products = (models @ average.grad).numpy()
    found = slope(softmax(beta.detach().tolist()), products)
    assert beta.grad is not None
    assert found == pytest.approx(beta.grad.numpy(), abs=1e-12)
    assert abs(found.sum()) < 1e-12


def test_auto_fedavg_within_a_round_survives_a_checkpoint() -> None:
    one = AutoFedAvg()
    one._beta, one._models = {0: 0.0, 1: math.log(2)}, {0: tensor_record(A), 1: tensor_record(B)}
    other = AutoFedAvg()
    other.load_state_dict(one.state_dict())
    average = other._average()
    assert average is not None
    assert tensors(average)["a"].tolist() == pytest.approx([1, 2])
