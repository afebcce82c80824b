"""FedProx by way of Flower and `supervised`: its closed form, and FedAvg where mu is almost 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.strategies.quadratics import CENTRE, CURVATURE, averaged, weights_after

PROX = "strategy={name: flwr.serverapp.strategy.FedProx, proximal_mu: %s}"
MANY = ("client.steps=25", "client.learning_rate=0.15", "rounds=20")


def test_it_comes_to_rest_where_its_proximal_steps_cancel(tmp_path: Path) -> None:
    # A client that is done stands at (h b + mu x) / (h + mu): the pulls are h / (h + mu).
    pull = CURVATURE / (CURVATURE + 2.0)
    wanted = (pull * CENTRE).sum(0) / pull.sum(0)
    assert weights_after(tmp_path, PROX % 2.0, *MANY) == pytest.approx(wanted, abs=1e-3)
    assert abs(wanted - averaged(200)).max() > 0.1


def test_it_tends_to_fedavg_as_mu_tends_to_nought(tmp_path: Path) -> None:
    fedavg = weights_after(tmp_path, "rounds=5")
    far, near = (
        abs(weights_after(tmp_path, PROX % mu, "rounds=5") - fedavg).max() for mu in (0.1, 1e-6)
    )
    assert far > 1e-3
    assert near < 1e-5
