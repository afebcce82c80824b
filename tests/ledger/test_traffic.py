"""The traffic ledger: rows, totals and fields."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.ledger import traffic
from fedsim.ledger.traffic import TrafficLedger, fields
from fedsim.wire import flower


def content() -> RecordDict:
    shared = torch.zeros(10, 3)
    return RecordDict(
        {
            "arrays": flower.tensor_record({"w": shared, "tied": shared, "b": torch.zeros(10)}),
            "images": flower.tensor_record({"x": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}),
            "plain": ArrayRecord({"x": Array(np.zeros((2, 2), np.float16))}),
            "metrics": MetricRecord({"loss": 0.5, "history": [1, 2, 3]}),
            "config": ConfigRecord(
                {
                    "lr": 0.1,
                    "on": True,
                    "word": "größe",
                    "blob": b"123",
                    "flags": [True, False],
                    "words": ["a", "ß"],
                    "empty": [],
                }
            ),
            "nothing": ArrayRecord(),
        }
    )


@pytest.fixture
def exchange() -> tuple[Message, Message]:
    flower.configure_identity()
    message = flower.stamp(Message(content(), flower.node_id(0), "train"), "m1")
    return message, Message(RecordDict({"metrics": MetricRecord({"n": 1})}), reply_to=message)


def test_fields_are_payload_bytes_after_the_codec() -> None:
    assert fields(content()) == {
        "arrays": 4 * (10 * 3 + 10),
        "images": 4 * 3 * 8 * 8,
        "plain": 2 * 4,
        "metrics": 8 * 4,
        "config": 8 + 1 + 7 + 3 + 2 + 3,
        "nothing": 0,
    }


def test_exchange_writes_one_row_a_direction(exchange: tuple[Message, Message]) -> None:
    rows: list[dict[str, Any]] = []
    ledger = TrafficLedger(rows.append)
    assert ledger.exchange(2, 5, *exchange) == tuple(rows)
    sent, received = (flower.wire_bytes(message) for message in exchange)
    down, up = rows
    assert down == {
        "round": 2,
        "exchange": 0,
        "client": 5,
        "direction": "down",
        "bytes": sent.down + received.down,
        "fields": fields(content()),
    }
    assert up == {
        "round": 2,
        "exchange": 0,
        "client": 5,
        "direction": "up",
        "bytes": sent.up + received.up,
        "fields": {"metrics": 8},
    }
    json.dumps(rows)


def test_error_reply_has_bytes_but_no_fields(exchange: tuple[Message, Message]) -> None:
    _, up = TrafficLedger().exchange(1, 0, exchange[0], flower.error_reply(exchange[0], "x" * 1000))
    assert up["fields"] == {}
    assert up["bytes"] > 1000


def test_totals_are_sums_of_the_rows() -> None:
    rows: list[dict[str, Any]] = []
    ledger = TrafficLedger(rows.append)
    ledger.add(1, 0, "down", 1_000_000, {"arrays": 999_000})
    ledger.add(1, 1, "down", 2_000_000, {})
    ledger.add(1, 0, "up", 500_000, {})
    ledger.add(2, 0, "up", 250_000, {})
    assert ledger.round_megabytes(1) == (0.5, 3.0)
    assert ledger.round_megabytes(2) == (0.25, 0.0)
    assert ledger.round_megabytes(3) == (0.0, 0.0)
    assert ledger.total_megabytes() == (0.75, 3.0)
    assert [row["bytes"] for row in rows] == [1_000_000, 2_000_000, 500_000, 250_000]


def test_totals_survive_a_checkpoint() -> None:
    ledger, resumed = TrafficLedger(), TrafficLedger()
    ledger.add(1, 0, "down", 10, {})
    ledger.add(2, 0, "up", 5, {})
    resumed.add(9, 0, "up", 1, {})
    resumed.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    resumed.add(2, 1, "up", 7, {})
    ledger.add(2, 1, "up", 7, {})
    assert resumed.state_dict() == ledger.state_dict()
    assert resumed.total_megabytes() == ledger.total_megabytes()


def test_a_broadcast_is_measured_once(
    exchange: tuple[Message, Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[RecordDict] = []

    def counting(content: RecordDict) -> flower.ContentSize:
        measured.append(content)
        return flower.measure(content)

    monkeypatch.setattr(traffic, "measure", counting)
    ledger = TrafficLedger()
    first = ledger.exchange(1, 0, *exchange)
    second = ledger.exchange(1, 1, *exchange)
    assert len(measured) == 1
    assert [row["bytes"] for row in first] == [row["bytes"] for row in second]
    ledger.forget_contents()
    ledger.exchange(2, 0, *exchange)
    assert len(measured) == 2


def test_a_link_is_counted_beside_the_messages_and_its_record_is_not(
    exchange: tuple[Message, Message],
) -> None:
    message, reply = exchange
    plain = TrafficLedger().exchange(1, 0, message, reply)
    assert traffic.LINK not in reply.content
    link = {"up/features": 1000, "down/features": 500, "down/arrays": -40, "up/metrics": -8}
    reply.content[traffic.LINK] = ConfigRecord(link)
    linked = TrafficLedger().exchange(1, 0, message, reply)
    assert [row["bytes"] for row in linked] == [plain[0]["bytes"] + 460, plain[1]["bytes"] + 992]
    assert linked[0]["fields"] == plain[0]["fields"] | {
        "features": 500,
        "arrays": plain[0]["fields"]["arrays"] - 40,
    }
    assert linked[1]["fields"] == {"metrics": 0, "features": 1000}
    assert traffic.LINK not in reply.content, "the strategy is handed the simulator's record"


@pytest.mark.parametrize("link", [{"sideways/features": 1}, {"up": 1}, {"up/features": 0.5}])
def test_a_link_that_says_no_bytes_is_refused(
    exchange: tuple[Message, Message], link: dict[str, Any]
) -> None:
    message, reply = exchange
    reply.content[traffic.LINK] = ConfigRecord(link)
    with pytest.raises(ValueError, match="no bytes of a field"):
        TrafficLedger().exchange(1, 0, message, reply)
