"""SCAFFOLD: it reaches the optimum of the mean loss, where FedAvg comes to rest beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from torch import nn

from fedsim import InputError
from fedsim.clients.scaffold import CONTROL, PREFIX, Control
from fedsim.method import fit
from fedsim.strategies.scaffold import Scaffold
from fedsim.wire import tensor_record
from tests.strategies.quadratics import (
    OPTIMUM,
    SILENT,
    SILENT_AVERAGE,
    averaged,
    weights_after,
)

SCAFFOLD = ("strategy=scaffold", "client.name=tests.strategies.quadratics.Controlled")


def test_it_reaches_the_optimum_where_fedavg_does_not(tmp_path: Path) -> None:
    plain = weights_after(tmp_path)
    assert plain == pytest.approx(averaged(), abs=1e-4)
    assert abs(averaged() - OPTIMUM).max() > 0.1
    assert weights_after(tmp_path, *SCAFFOLD) == pytest.approx(OPTIMUM, abs=1e-4)


def test_with_part_of_the_clients_a_round_it_reaches_the_optimum_too(tmp_path: Path) -> None:
    some = ("rounds=60", "federation.participation=0.67")
    assert weights_after(tmp_path, *SCAFFOLD, *some) == pytest.approx(OPTIMUM, abs=1e-3)


def test_momentum_at_the_client_changes_the_way_and_not_the_end(tmp_path: Path) -> None:
    fast = ("client.momentum=0.5", "client.learning_rate=0.02")
    assert weights_after(tmp_path, *SCAFFOLD, *fast) == pytest.approx(OPTIMUM, abs=1e-4)


def test_the_control_variate_is_that_of_option_two() -> None:
    # c_i - c + (x - y_i) / (K eta), of two steps on 1/2 |w - b|^2.
    model, centre = nn.Linear(1, 1, bias=False), 3.0
    start = model.weight.item()
    sent = {PREFIX + "weight": np.array([[0.5]], np.float32)}
    own = {PREFIX + "weight": np.array([[-0.25]], np.float32)}
    content = RecordDict({CONTROL: tensor_record(sent)})
    control = Control(content, RecordDict({CONTROL: tensor_record(own)}))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        ((model.weight - centre).square() / 2).sum().backward()
        control(model)
        optimizer.step()
    wanted = -0.25 - 0.5 + (start - model.weight.item()) / (2 * 0.1)
    assert control.learned()["weight"].item() == pytest.approx(wanted, abs=1e-5)


def test_the_control_variate_survives_a_restart() -> None:
    before, after = Scaffold(), Scaffold()
    before._control = {"w": np.array([1 / 3])}
    after.load_state_dict(before.state_dict())
    arrays = tensor_record({"w": np.zeros(1, np.float32)})
    sent = after.content(1, arrays, ConfigRecord()).array_records[CONTROL][PREFIX + "w"]
    assert sent.numpy() == np.float32(1 / 3)


@pytest.mark.parametrize(("half", "silent"), [(SCAFFOLD[0], SILENT), (SCAFFOLD[1], SILENT_AVERAGE)])
def test_one_half_without_the_other_is_one_error(half: str, silent: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of the kind 'control variates'"):
        weights_after(tmp_path, "rounds=1", half)
    with pytest.raises(InputError, match="control variate"):
        weights_after(tmp_path, "rounds=1", half, silent)


def test_a_correction_of_nothing_changes_no_bit_and_is_called_before_each_step() -> None:
    ends, seen = [], []
    for correct in (None, lambda model: seen.append(model.weight.grad.clone())):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        batches = iter([(torch.randn(3, 4), torch.tensor([0, 1, 1])) for _ in range(3)])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, batches, range(3), optimizer, device=torch.device("cpu"), correct=correct)
        ends.append(model.weight.detach().clone())
    assert torch.equal(*ends)
    assert len(seen) == 3
