"""FedDyn: it reaches the optimum of the mean loss, where FedAvg comes to rest beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord

from fedsim import InputError, RunError
from fedsim.method import Received
from fedsim.strategies.feddyn import FedDyn
from fedsim.wire import tensor_record
from tests.strategies.quadratics import (
    CENTRE,
    CURVATURE,
    OPTIMUM,
    SILENT_AVERAGE,
    averaged,
    weights_after,
)

REGULARISED = "client.name=tests.strategies.quadratics.Regularised"
FEDDYN = (
    "strategy={name: feddyn, alpha: 1.0}",
    REGULARISED,
    "client.steps=25",
    "client.learning_rate=0.2",
)


def test_it_reaches_the_optimum_where_fedavg_does_not(tmp_path: Path) -> None:
    assert abs(averaged(100) - OPTIMUM).max() > 0.1
    assert weights_after(tmp_path, *FEDDYN) == pytest.approx(OPTIMUM, abs=1e-3)


def test_with_part_of_the_clients_a_round_it_reaches_the_optimum_too(tmp_path: Path) -> None:
    some = ("rounds=60", "federation.participation=0.67")
    assert weights_after(tmp_path, *FEDDYN, *some) == pytest.approx(OPTIMUM, abs=1e-2)


def test_the_first_round_is_the_proximal_step_less_h(tmp_path: Path) -> None:
    # From x = 0: y = h b / (h + alpha), and x' = mean y + (sum of y) / N = 2 mean y.
    many = ("rounds=1", "client.steps=400")
    local = CURVATURE * CENTRE / (CURVATURE + 1.0)
    assert weights_after(tmp_path, *FEDDYN, *many) == pytest.approx(2 * local.mean(0), abs=1e-4)


def test_h_survives_a_restart() -> None:
    class Server:
        names = ("a", "b")

    def after(strategy: FedDyn) -> np.ndarray:
        strategy.server = Server()  # type: ignore[assignment]
        strategy.content(1, tensor_record({"w": np.zeros(1, np.float32)}), ConfigRecord())
        one = Received(1.0, {"w": np.ones(1, np.float32)})
        return np.asarray(strategy.combine(iter([one]))["w"])

    before, resumed = FedDyn(alpha=0.5), FedDyn(alpha=0.5)
    assert after(before) == 1.5
    resumed.load_state_dict(before.state_dict())
    assert after(resumed) == after(before) == 2.0


def test_a_client_without_alpha_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expects models alone"):
        weights_after(tmp_path, "rounds=1", REGULARISED)
    with pytest.raises((InputError, RunError), match="needs the server's alpha"):
        weights_after(tmp_path, "rounds=1", REGULARISED, SILENT_AVERAGE)


def test_a_server_without_its_clients_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="with 'feddyn' type client=feddyn"):
        weights_after(tmp_path, "rounds=1", FEDDYN[0])
