"""q-FedAvg: a step by hand, FedAvg at q = 0, and a worst client that is better off."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedsim import InputError, RunError
from fedsim.strategies.q_fedavg import FLOOR, QFedAvg
from fedsim.wire import tensor_record
from fedsim.wire.flower import configure_identity
from tests.strategies import quadratics
from tests.strategies.quadratics import (
    CENTRE,
    CURVATURE,
    RATE,
    SILENT,
    STEPS,
    averaged,
    losses,
    weights_after,
)

WEIGHED = "client.name=tests.strategies.quadratics.Weighed"


def q(value: float) -> tuple[str, str]:
    return f"strategy={{name: q_fedavg, q: {value}}}", WEIGHED


def trained(weights: np.ndarray) -> np.ndarray:
    """Where each client's steps end, [clients, 2]."""
    return np.asarray(CENTRE + (1 - RATE * CURVATURE) ** STEPS * (weights - CENTRE))


def test_the_first_round_is_the_step_of_the_paper(tmp_path: Path) -> None:
    start, power = np.zeros(2), 1.5
    moved = (start - trained(start)) / RATE
    loss = losses(start) + FLOOR
    bound = power * loss ** (power - 1) * (moved**2).sum(1) + loss**power / RATE
    wanted = start - (loss[:, None] ** power * moved).sum(0) / bound.sum()
    assert weights_after(tmp_path, *q(power), "rounds=1") == pytest.approx(wanted, abs=1e-5)


def test_without_q_it_is_fedavg(tmp_path: Path) -> None:
    found = weights_after(tmp_path, *q(0), "rounds=3")
    assert found == pytest.approx(weights_after(tmp_path, "rounds=3"), abs=1e-6)


def test_it_rests_where_the_weighted_changes_cancel_and_the_worst_client_gains(
    tmp_path: Path,
) -> None:
    found = weights_after(tmp_path, *q(2), "rounds=60")
    pulls = losses(found)[:, None] ** 2 * (found - trained(found))
    assert pulls.sum(0) == pytest.approx(0, abs=1e-2 * abs(pulls).max())
    plain = averaged()
    assert losses(found).max() < 0.9 * losses(plain).max()
    assert losses(found).std() < losses(plain).std()


def test_clients_that_say_no_loss_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="with 'q_fedavg' type client=q_fedavg"):
        weights_after(tmp_path, "rounds=1", q(1)[0])
    with pytest.raises(InputError, match="needs of each client the loss"):
        weights_after(tmp_path, "rounds=1", q(1)[0], SILENT)


@pytest.mark.parametrize(
    ("loss", "power"), [(-0.1, 1), (float("nan"), 1), (float("inf"), 0), (1e18, 20)]
)
def test_a_loss_without_a_power_is_refused(loss: float, power: float) -> None:
    configure_identity()  # Else a message cannot be made before a run.
    arrays = tensor_record({"w": np.zeros(1, np.float32)})
    metrics = MetricRecord({"num-examples": 1, "loss-before": loss, "rate": 0.1})
    reply = Message(RecordDict({"arrays": arrays, "metrics": metrics}), 1, "train")
    strategy = QFedAvg(power)
    strategy.server = SimpleNamespace(names=["north"], client_of=lambda _: 0)  # type: ignore[assignment]
    strategy.content(1, arrays, ConfigRecord())
    with pytest.raises(RunError, match=r"powers of losses.* 'north' is .*; its training diverged"):
        strategy.received(reply)


def test_training_that_diverged_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quadratics, "CENTRE", 1e9 * CENTRE)
    with pytest.raises(RunError, match=r"^q-FedAvg takes powers of losses.* 'client-0'"):
        weights_after(tmp_path, "rounds=1", *q(20))
