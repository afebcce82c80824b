"""One step of MiLeNAS on a toy: L_tr = (aw - 1)^2 / 2, L_val = (aw - 2)^2 / 2."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import MetricRecord, RecordDict

from fedsim.clients.fedautomri import HEARD, MEAN, FedAutoMRI, Mean, Order, milenas_step
from fedsim.wire import tensor_record


def stepped(beta: float, order: Order) -> tuple[float, float]:
    """w and alpha after a step of gradient descent from w = 1, alpha = 0.5, rates 0.1."""
    w, a = torch.tensor(1.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    losses = (lambda: (a * w - 1).square() / 2, lambda: (a * w - 2).square() / 2)
    on_w, on_a = torch.optim.SGD([w], lr=0.1), torch.optim.SGD([a], lr=0.1)
    milenas_step(losses, [w], a, on_w, on_a, beta, order)
    return float(w.detach()), float(a.detach())


def test_both_at_one_point() -> None:
    assert stepped(1.0, "together") == pytest.approx((1.025, 0.7))


def test_weights_by_the_new_logits() -> None:
    # w' = 1 - 0.1 (0.7 - 1) 0.7, by hand.
    assert stepped(1.0, "architecture_first") == pytest.approx((1.021, 0.7))


def test_without_beta_the_validation_loss_has_no_part() -> None:
    assert stepped(0.0, "together") == pytest.approx((1.025, 0.55))


@pytest.mark.parametrize(
    ("mean", "want"),
    [("corrected", [1, 1.526316, 2.439114]), ("plain", [1, 1.1, 1.39])],
)
def test_where_a_client_begins(mean: Mean, want: list[float]) -> None:
    """By hand: 0.9 * 1 + 0.1 * 2 = 1.1, and 0.9 * 1.1 + 0.1 * 4 = 1.39."""
    client, site = FedAutoMRI(decay=0.9, mean=mean), SimpleNamespace(state=RecordDict())
    found = []
    for heard in (1.0, 2.0, 4.0):
        sent = RecordDict({"arrays": tensor_record({"w": np.float32([heard])})})
        start, kept, count = client._start(sent, site, ["w"])
        site.state[MEAN] = tensor_record(kept)
        site.state[HEARD] = MetricRecord({"count": count})
        found.append(float(start["w"][0]))
    assert found == pytest.approx(want, abs=1e-5)


def test_a_decay_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="decay must be below 1"):
        FedAutoMRI(decay=1.0)
