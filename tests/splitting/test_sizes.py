"""Bytes that cross a cut: the paper's table, and what tensors really have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord

from fedsim.models.split_unet import SplitUNet
from fedsim.splitting import crossed, link_record, step_bytes
from fedsim.wire import encode_tensors, pack_state, tensor_record

MIB = 2**20
PAPER = (32, 64, 128, 256, 512)


@pytest.mark.parametrize(("cut", "mib", "epoch"), [("shallow", 32.0, 18.9), ("deep", 12.0, 7.1)])
def test_the_table_of_the_paper(cut: str, mib: float, epoch: float) -> None:
    model = SplitUNet(5, 3, (256, 256), PAPER)
    total = sum(crossed(model, cut, (3, 256, 256)).values())
    assert total == mib * MIB
    assert round(total * 604 / 2**30, 1) == epoch  # 604 training images of five clients


def test_packets_of_the_paper() -> None:
    shallow, deep = (32, 256, 256), (32, 128, 128)
    assert shallow[0] * shallow[1] == 8192
    assert step_bytes(shallow, shallow)["up/features"] == 8192 * 1024
    assert step_bytes(deep, (64, 128, 128))["up/features"] == 4096 * 512


def test_each_direction_by_itself() -> None:
    assert step_bytes((2, 4, 4), (3, 4, 4)) == {
        "up/features": 128,
        "down/features": 192,
        "up/gradients": 192,
        "down/gradients": 128,
    }
    # A byte a value, and the range of the image; gradients as before.
    assert step_bytes((2, 4, 4), (3, 4, 4), "uint8") == {
        "up/features": 32 + 8,
        "down/features": 48 + 8,
        "up/gradients": 192,
        "down/gradients": 128,
    }


@pytest.mark.parametrize("cut", SplitUNet.cuts)
def test_the_bytes_are_those_of_the_tensors_and_the_model_is_left_alone(cut: str) -> None:
    model = SplitUNet(2, 1, (16, 24), (4, 8)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counted = crossed(model, cut, (1, 16, 24))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    parts = model.parts(cut)
    up, _ = parts.front(torch.zeros(1, 1, 16, 24))
    down = parts.server(up)
    assert counted["up/features"] == counted["down/gradients"] == up.numel() * 4
    assert counted["down/features"] == counted["up/gradients"] == down.numel() * 4


def test_the_servers_part_is_taken_off_both_messages() -> None:
    model = SplitUNet(2, 1, (16, 16), (4, 8))
    parts, record = model.parts("deep"), pack_state(model.state_dict())
    travels = ArrayRecord()
    for name in record:
        if not name.endswith("num_batches_tracked"):
            travels[name] = record[name]
    found = link_record({"up/features": 7}, parts, {"arrays": travels}, {"arrays": record})
    held = sum(
        value.numel() * 4
        for name, value in model.state_dict().items()
        if name.startswith("down.1.") and not name.endswith("num_batches_tracked")
    )
    assert held > 0
    assert dict(found) == {"up/features": 7, "down/arrays": -held, "up/arrays": -held}


def test_integer_tensors_of_the_server_are_not_taken_off_where_they_did_not_travel() -> None:
    parts = SplitUNet(2, 1, (16, 16), (4, 8)).parts("deep")
    # A client has kept `table` from the first message: it is in all later ones, and in replies.
    weights = {"down.1.weight": np.ones((5, 2), np.float32), "down.1.table": np.arange(9)}
    coded = encode_tensors({"down.1.weight": weights["down.1.weight"]}, "uint8")
    plain = tensor_record(weights)
    found = link_record({}, parts, {"arrays": plain}, {"arrays": plain})
    assert dict(found) == {"down/arrays": -40, "up/arrays": -40}
    rounded = tensor_record(coded | {"down.1.table": np.arange(9)})
    found = link_record({}, parts, {"arrays": rounded}, {"arrays": rounded})
    assert dict(found) == {"down/arrays": -50, "up/arrays": -50}  # Ten bytes, and five ranges.
