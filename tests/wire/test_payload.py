"""Compression around a method, without a run: what becomes of a message, and what stays behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.scenario.schema import Wire
from fedsim.wire import tensor_record, tensors
from fedsim.wire.buffers import Roles
from fedsim.wire.flower import configure_identity, node_id
from fedsim.wire.payload import RESIDUAL, Payload

ROLES = Roles(
    order=("w", "empty", "mean", "b", "count"),
    parameters=frozenset({"w", "b", "empty"}),
    averaged=frozenset({"mean"}),
    constants=frozenset({"count"}),
)
MODEL = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "empty": np.zeros((0, 2), np.float32),
    "mean": np.full(2, 0.1, np.float32),
    "b": np.array(2.0, np.float32),
    "count": np.array([7], np.int64),
}


@pytest.fixture(autouse=True)
def _identity() -> None:
    configure_identity()


def payload(**wire: Any) -> Payload:
    return Payload(Wire(**wire), ROLES, seed=3)


def message(model: dict[str, Any] = MODEL, **beside: Any) -> Message:
    content = RecordDict({"arrays": tensor_record(model), "config": ConfigRecord({}), **beside})
    return Message(content, node_id(0), "train")


def answered(
    wire: Payload, asked: Message, model: dict[str, Any], state: RecordDict, round: int = 1
) -> tuple[RecordDict, dict[str, np.ndarray]]:
    """What a client sends that trained a model, and what the server makes of it."""
    (sent,) = wire.sent([asked])
    received = RecordDict(dict(sent.content.items()))
    start = wire.opened(received)
    content = RecordDict({"arrays": tensor_record(model), "metrics": MetricRecord({"n": 1})})
    wire.compress(content, start, state, round, np.random.default_rng(round))
    reply = Message(content, reply_to=asked)
    arrived = wire.arrived(asked, reply, round)
    assert reply.content is content
    return content, tensors(arrived.content.array_records["arrays"])


def test_parameters_are_compressed_and_all_else_travels_as_it_is() -> None:
    trained = {
        name: value + 1 if value.dtype.kind == "f" else value for name, value in MODEL.items()
    }
    sent, back = answered(payload(codec="uint8"), message(), trained, RecordDict())
    assert set(sent.array_records["arrays"]) == {"#codes", "#ranges", "mean", "count", "empty"}
    assert list(back) == list(MODEL)
    for name, value in trained.items():
        assert back[name].dtype == value.dtype
        assert back[name].shape == value.shape
        # The change is 1 everywhere: a constant has no error.
        assert (back[name] == value).all(), name


def test_down_the_model_is_rounded_and_the_change_is_against_what_was_received() -> None:
    wire = payload(codec="float16", down="uint8")
    (sent,) = wire.sent([message()])
    received = RecordDict(dict(sent.content.items()))
    start = wire.opened(received)
    assert start is not None
    assert sent.content.array_records["arrays"]["w"].dtype == "uint8"
    whole = tensors(received.array_records["arrays"])
    assert list(whole) == list(MODEL)
    for name in ("mean", "count", "empty"):
        assert (whole[name] == MODEL[name]).all()
    rough = whole["w"] + 0.5
    _, back = answered(wire, message(), MODEL | {"w": rough}, RecordDict())
    # 0.5 on top of the server's own model, and not on top of the rounded one.
    assert (back["w"] == MODEL["w"] + 0.5).all()


def test_messages_that_share_a_content_still_do() -> None:
    one, other = message(), message()
    shared = Message(one.content, node_id(1), "train")
    sent = payload(codec="uint8", down="float16").sent([one, shared, other])
    assert sent[0].content is sent[1].content
    assert sent[0].content is not sent[2].content
    assert one.content.array_records["arrays"]["w"].dtype == "float32"
    asked = [one, shared, other]
    for wire in (Payload(None, ROLES, 0), payload(codec="uint8")):
        assert [m.content for m in wire.sent(asked)] == [m.content for m in asked]


@pytest.mark.parametrize(
    "odd",
    [
        {"w": np.full((3, 4), np.nan, np.float32)},
        {"w": np.full((3, 4), np.inf, np.float32)},
        {"w": np.zeros((4, 3), np.float32)},
        {"w": np.zeros((3, 4), np.int32)},
    ],
)
def test_what_is_no_model_of_this_kind_travels_as_it_is(odd: dict[str, Any]) -> None:
    state = RecordDict()
    wire = payload(codec="int4", error_feedback=True)
    sent, back = answered(wire, message(), MODEL | odd, state)
    assert set(sent.array_records["arrays"]) == set(MODEL)
    assert back["w"].tobytes() == odd["w"].tobytes()
    assert RESIDUAL not in state


def test_a_model_that_is_no_numbers_leaves_what_was_kept_back_alone() -> None:
    wire, state = payload(sparsify={"topk": 0.1}, error_feedback=True), RecordDict()
    answered(wire, message(), MODEL | {"w": MODEL["w"] * 1.5}, state)
    kept = tensors(state.array_records[RESIDUAL])["residual"].copy()
    assert kept.any()
    answered(wire, message(), MODEL | {"w": MODEL["w"] * np.nan}, state)
    assert (tensors(state.array_records[RESIDUAL])["residual"] == kept).all()


def test_messages_without_a_model_pass() -> None:
    wire = payload(codec="uint8", down="uint8")
    asked = Message(RecordDict({"config": ConfigRecord({"a": 1})}), node_id(0), "train")
    assert wire.sent([asked])[0].content == asked.content
    assert wire.opened(asked.content) == {}
    content = RecordDict({"prototypes": tensor_record({"w": np.ones(3, np.float32)})})
    wire.compress(content, {}, RecordDict(), 1, np.random.default_rng(0))
    reply = Message(content, reply_to=asked)
    assert wire.arrived(asked, reply, 1) is reply
    assert set(content) == {"prototypes"}


def test_a_model_of_nothing_known_is_refused() -> None:
    coded = RecordDict({"arrays": tensor_record({"#codes": np.zeros(3, np.uint8)})})
    asked = Message(RecordDict({"config": ConfigRecord({})}), node_id(0), "train")
    with pytest.raises(ValueError, match="a message that had none"):
        payload(codec="uint8").arrived(asked, Message(coded, reply_to=asked), 1)


def test_records_beside_the_model_are_exact() -> None:
    wire = payload(codec="int4")
    beside = tensor_record({"w": np.array([0.123, 4.5, -6.0], np.float32)})
    content = RecordDict({"arrays": tensor_record(MODEL), "control": beside})
    wire.compress(
        content, wire.opened(message().content), RecordDict(), 1, np.random.default_rng(0)
    )
    assert content["control"] is beside
    assert isinstance(content["arrays"], ArrayRecord)
    assert "#codes" in content["arrays"]


def test_records_that_are_declared_as_changes_are_compressed_both_ways() -> None:
    size = 40
    wire = Payload(Wire(codec="int4", down="uint8"), ROLES, seed=3, changes=("control",))
    total, state = np.zeros((4, size // 4), np.float32), RecordDict()
    step = np.linspace(-1, 1, size, dtype=np.float32).reshape(4, -1) ** 3
    for round in range(1, 30):
        asked = message(control=tensor_record({"c.w": total, "c.n": np.array([3])}))
        (sent,) = wire.sent([asked])
        assert sent.content["control"]["c.w"].dtype == "uint8"  # type: ignore[index]
        received = RecordDict(dict(sent.content.items()))
        start = wire.opened(received)
        known = tensors(received.array_records["control"])
        assert np.abs(known["c.w"] - total).max() <= (np.ptp(total, axis=1).max() / 255)
        assert known["c.n"] == 3
        change = tensor_record({"c.w": step, "c.n": np.array([4])})
        content = RecordDict({"arrays": tensor_record(MODEL), "control": change})
        wire.compress(content, start, state, round, np.random.default_rng(round))
        assert set(content.array_records["control"]) == {"#codes", "#ranges", "c.n"}
        reply = wire.arrived(asked, Message(content, reply_to=asked), round)
        found = tensors(reply.content.array_records["control"])
        assert found["c.w"].shape == step.shape
        assert found["c.n"] == 4
        total = total + found["c.w"]
    # Error feedback is not asked for, and of changes it is there: the sum is right to one rounding.
    assert RESIDUAL not in state
    (left,) = tensors(state.array_records[f"{RESIDUAL}.control"]).values()
    assert np.abs(total + left.reshape(step.shape) - 29 * step).max() < 1e-4
    assert 0 < np.abs(left).max() < 0.2


def test_a_change_that_is_no_numbers_travels_as_it_is() -> None:
    wire, state = Payload(Wire(codec="int4"), ROLES, 3, ("control",)), RecordDict()
    asked = message(control=tensor_record({"c": np.zeros(3, np.float32)}))
    wrong = tensor_record({"c": np.array([1, np.nan, 2], np.float32)})
    content = RecordDict({"arrays": tensor_record(MODEL), "control": wrong})
    wire.compress(content, wire.opened(asked.content), state, 1, np.random.default_rng(0))
    assert content["control"] is wrong
    assert not state


def test_a_change_of_nothing_known_is_refused() -> None:
    coded = RecordDict({"control": tensor_record({"#codes": np.zeros(3, np.uint8)})})
    wire = Payload(Wire(codec="int4"), ROLES, 3, ("control",))
    with pytest.raises(ValueError, match="'control' answers a message that had none"):
        wire.arrived(message(), Message(coded, reply_to=message()), 1)


def test_what_is_sent_and_what_is_kept_back_are_the_change() -> None:
    for how in ({"codec": "int4"}, {"sparsify": {"topk": 0.2}}):
        wire, state = payload(error_feedback=True, **how), RecordDict()
        trained = MODEL | {"w": MODEL["w"] ** 2}
        total = np.zeros((3, 4), np.float32)
        for round in range(1, 40):
            _, back = answered(wire, message(), trained, state, round)
            total += back["w"] - MODEL["w"]
        left = tensors(state.array_records[RESIDUAL])["residual"]
        expected = 39 * (trained["w"] - MODEL["w"])
        assert np.abs(total + left[:12].reshape(3, 4) - expected).max() < 1e-2


def test_error_feedback_converges_where_plain_top_1_percent_does_not() -> None:
    """Three clients' quadratics of 100 weights, one of which travels; 1/t steps, as in the proof.

    Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory" (2018), Theorem 2.4.
    """
    size = 100
    centres = np.random.default_rng(0).normal(size=(3, size)) * np.linspace(0.5, 4, size)
    optimum = centres.mean(0)
    roles = Roles(order=("w",), parameters=frozenset({"w"}))

    def after(rounds: int, **how: Any) -> float:
        wire = Payload(Wire(sparsify={"topk": 0.01}, **how), roles, seed=0)
        model, states = np.zeros(size, np.float32), [RecordDict() for _ in centres]
        for round in range(rounds):
            asked = message({"w": model})
            each = [
                answered(
                    wire,
                    asked,
                    {"w": (model + 2 / (100 + round) * (b - model)).astype(np.float32)},
                    state,
                    round,
                )[1]["w"]
                for b, state in zip(centres, states, strict=True)
            ]
            model = np.mean(each, axis=0, dtype=np.float64).astype(np.float32)
        return float(np.linalg.norm(model - optimum) / np.linalg.norm(optimum))

    assert after(1500) > 0.8
    assert after(1500, error_feedback=True) < 0.05
