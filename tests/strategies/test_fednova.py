"""FedNova: unequal steps do not move the answer, and equal ones make it FedAvg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim import InputError, RunError
from fedsim.clients.fednova import FedNovaSegmentation, reach
from tests.strategies.quadratics import (
    CENTRE,
    CURVATURE,
    RATE,
    SILENT,
    averaged,
    weights_after,
)

NOVA = "strategy={name: fednova, weighting: uniform}"
COUNTED = "client.name=tests.strategies.quadratics.Counted"
UNEQUAL = [2, 20, 5]
_OWN = ", ".join(f"client-{i}: {{client: {{steps: {n}}}}}" for i, n in enumerate(UNEQUAL))
OVERRIDES = f"federation.overrides={{{_OWN}}}"


def test_with_unequal_steps_it_ends_where_each_step_counts_alike(tmp_path: Path) -> None:
    # A client's mean gradient over its steps is (1 - (1 - rate h)^k) / (rate k) times (w - b).
    steps = np.array(UNEQUAL)[:, None]
    pull = (1 - (1 - RATE * CURVATURE) ** steps) / steps
    wanted = (pull * CENTRE).sum(0) / pull.sum(0)
    assert weights_after(tmp_path, NOVA, COUNTED, OVERRIDES) == pytest.approx(wanted, abs=1e-4)
    assert weights_after(tmp_path, OVERRIDES) == pytest.approx(
        averaged(np.array(UNEQUAL)), abs=1e-4
    )
    assert abs(wanted - averaged(np.array(UNEQUAL))).max() > 0.1


def test_with_equal_steps_it_is_fedavg(tmp_path: Path) -> None:
    found = weights_after(tmp_path, NOVA, COUNTED, "rounds=3")
    assert found == pytest.approx(weights_after(tmp_path, "rounds=3"), abs=1e-6)


def test_the_reach_of_momentum_is_the_papers() -> None:
    # |a|_1 = (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho).
    tau, rho = 7, 0.9
    wanted = (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
    assert reach([0.1] * tau, rho) == pytest.approx(0.1 * wanted)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_reach_is_how_far_torchs_sgd_goes(nesterov: bool) -> None:
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.8, nesterov=nesterov)
    rates = [0.3, 0.2, 0.1, 0.05]
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert -weight.item() == pytest.approx(reach(rates, 0.8, nesterov))


def test_adamw_is_refused() -> None:
    with pytest.raises(ValueError, match="optimizer must be sgd"):
        FedNovaSegmentation(optimizer="adamw")


def test_a_client_that_says_no_reach_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="with 'fednova' type client=fednova"):
        weights_after(tmp_path, "rounds=1", NOVA)
    with pytest.raises((InputError, RunError), match="reach"):
        weights_after(tmp_path, "rounds=1", NOVA, SILENT)
