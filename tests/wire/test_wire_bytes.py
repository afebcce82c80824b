"""Bytes on the wire: computed without serialising, equal to what Flower serialises."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
    Reconnect,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim.models import ResNet18
from fedsim.wire import flower

MAKERS: dict[str, Callable[[dict[str, Any]], ArrayRecord]] = {
    "lazy": flower.tensor_record,
    "plain": lambda values: ArrayRecord({k: Array(np.asarray(v)) for k, v in values.items()}),
}


def cnn() -> dict[str, torch.Tensor]:
    layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 10))
    return layers.state_dict()


def resnet18() -> dict[str, torch.Tensor]:
    return ResNet18(num_classes=2, in_channels=3, image_size=64).state_dict()


def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8),
        "labels": np.arange(20, dtype=np.int64) % 2,
    }


def over_one_chunk() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "noise": rng.standard_normal(1_500_000, dtype=np.float32),  # 6 MB: two chunks
        "zeros": np.zeros((2, 2_200_000), np.float32),  # 17.6 MB: equal chunks in the middle
        "also zeros": np.zeros(3_000_000, np.float32),  # shares a middle chunk with "zeros"
        # Equal at both ends, different in between.
        "almost": np.where(np.arange(3_000_000) == 2_000_000, 1, 0).astype(np.float32),
        "exactly one": np.zeros(5_242_880 - 128, np.uint8),
        "one byte more": np.zeros(5_242_880 - 127, np.uint8),
    }


def odd_shapes() -> dict[str, np.ndarray]:
    return {
        "scalar": np.array(3.5, np.float16),
        "one": np.ones(1, np.float16),
        "none": np.zeros((0, 4), np.float32),
        "flags": np.array([True, False]),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "strided": np.arange(12.0).reshape(3, 4)[:, ::2],
        "complex": np.ones(3, np.complex64),
        "same values, other shape": np.ones((1, 1), np.float16),
        "naïve": np.arange(3, dtype=np.int32),
    }


ZOO = [cnn, resnet18, images, over_one_chunk, odd_shapes]

CONFIG = ConfigRecord(
    {
        "lr": 0.1,
        "round": 3,
        "nesterov": True,
        "name": "größe",
        "blob": b"\x00" * 300,
        "layers": [1, 2, 3],
        "flags": [True, False],
        "words": ["a", "bc", ""],
        "blobs": [b"", b"x"],
        "nothing": [],
        "seed": 2**63 + 1,
    }
)


def with_ids(content: RecordDict | Error, reply: bool, ids: list[int]) -> Message:
    """A message as a SuperLink or SuperNode would have it, with these run, node and task ids."""
    run, node, task = ids
    metadata = Metadata(
        run_id=run,
        message_id="",
        src_node_id=node if reply else 1,
        dst_node_id=1 if reply else node,
        reply_to_message_id="f" * 64 if reply else "",
        group_id="3",
        created_at=1.7e9,
        ttl=43_200.0,
        message_type="train",
        src_task_id=None if reply else task,
        dst_task_id=task if reply else None,
    )
    if isinstance(content, Error):
        return make_message(metadata, error=content)
    return make_message(metadata, content=content)


def by_flower(message: Message, node: int) -> tuple[int, int]:
    """Bytes up and down by serialising everything and filling in the requests of the Fleet API."""
    with no_object_id_recompute():
        objects = {key: len(o.deflate()) for key, o in get_all_nested_objects(message).items()}
        message.metadata.__dict__["_message_id"] = message.object_id
        tree = get_object_tree(message)
    body = message_to_proto(remove_content_from_message(message))
    total = sum(objects.values())
    if message.metadata.dst_node_id != 1:
        answer = PullMessagesResponse(messages_list=[body], message_object_trees=[tree])
        request = PullMessagesRequest(node=Node(node_id=node))
        return request.ByteSize(), answer.ByteSize() + total
    push = PushMessagesRequest(
        node=Node(node_id=node),
        messages_list=[body],
        message_object_trees=[tree],
        clientapp_runtime_list=[0.25],
    )
    acknowledgement = PushMessagesResponse(
        reconnect=Reconnect(reconnect=5),
        results={message.metadata.message_id: 0},
        objects_to_push=list(objects),
        session_id="0190d3a1-1111-4222-8333-444455556666",
    )
    return push.ByteSize() + total, acknowledgement.ByteSize()


def objects_by_flower(content: RecordDict) -> tuple[int, int]:
    with no_object_id_recompute():
        sizes = {key: len(o.deflate()) for key, o in get_all_nested_objects(content).items()}
    return sum(sizes.values()), len(sizes)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("zoo", ZOO, ids=lambda zoo: zoo.__name__)
def test_objects_are_counted_to_the_byte(zoo: Callable[[], dict], make: Callable) -> None:
    values = zoo()
    content = RecordDict({"arrays": make(values), "metrics": MetricRecord({"loss": 0.5})})
    size = flower.measure(content)
    # Flower is asked afterwards and about other arrays: nothing of ours may help it.
    plain = RecordDict({"arrays": MAKERS["plain"](values), "metrics": content["metrics"]})
    assert (size.object_bytes, size.objects) == objects_by_flower(plain)


def test_equal_tensors_of_a_fresh_resnet_travel_once() -> None:
    state = resnet18()
    content = RecordDict({"arrays": flower.pack_state(state)})
    raw = flower.payload_bytes(content)
    assert raw == sum(4 * tensor.numel() for tensor in state.values())
    # GroupNorm starts with ones and zeros of four widths: 40 tensors, 8 of them distinct.
    distinct = len(state) - 40 + 8
    chunks = sum(-(-(4 * t.numel() + 128) // 5_242_880) - 1 for t in state.values())
    assert flower.measure(content).objects == 2 * distinct + chunks + 2
    assert flower.measure(content).object_bytes - raw < 10_000


def records() -> dict[str, RecordDict]:
    x = {"x": torch.arange(5.0)}
    same = flower.tensor_record(x)
    empty_data = ArrayRecord({"x": Array("float32", (0,), "my.codec", b"")})
    return {
        "nothing": RecordDict(),
        "empty records": RecordDict(
            {"a": ArrayRecord(), "b": MetricRecord(), "c": ConfigRecord(), "d": ConfigRecord()}
        ),
        "config": RecordDict({"config": CONFIG}),
        "metrics": RecordDict({"metrics": MetricRecord({"n": 3, "loss": [0.1, 0.2], "e": []})}),
        "equal metrics": RecordDict({"a": MetricRecord({"n": 1}), "b": MetricRecord({"n": 1})}),
        "one record twice": RecordDict({"a": same, "b": same}),
        "equal records": RecordDict({"a": flower.tensor_record(x), "b": flower.tensor_record(x)}),
        "equal arrays, other names": RecordDict(
            {"a": same, "b": flower.tensor_record({"y": x["x"]})}
        ),
        "equal arrays in one record": RecordDict(
            {"a": flower.tensor_record({"x": torch.zeros(9), "y": torch.zeros(9)})}
        ),
        "lazy and plain": RecordDict({"a": same, "b": ArrayRecord({"z": Array(np.arange(5.0))})}),
        "other codec": RecordDict({"a": empty_data}),
        "large config": RecordDict({"c": ConfigRecord({"b": b"x" * 300_000, "l": [1] * 5_000})}),
    }


@pytest.mark.parametrize("name", records().keys())
@pytest.mark.parametrize("reply", [False, True], ids=["instruction", "reply"])
def test_messages_are_counted_to_the_byte_for_ids_of_our_width(name: str, reply: bool) -> None:
    ids = [2**62 + 5] * 3
    message = with_ids(records()[name], reply, ids)
    assert flower.wire_bytes(message) == by_flower(message, ids[1])


@pytest.mark.parametrize("zoo", [cnn, resnet18], ids=lambda zoo: zoo.__name__)
@pytest.mark.parametrize("reply", [False, True], ids=["instruction", "reply"])
def test_states_are_counted_to_the_byte_for_ids_of_our_width(zoo: Callable, reply: bool) -> None:
    ids = [2**62 + 5] * 3
    content = RecordDict({"arrays": flower.pack_state(zoo()), "config": CONFIG})
    message = with_ids(content, reply, ids)
    counted = flower.wire_bytes(message)
    assert counted == by_flower(message, ids[1])


def test_random_ids_change_a_message_by_at_most_16_bytes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        ids = [int(i) for i in rng.integers(1, 2**64 - 1, 3, dtype=np.uint64)]
        for reply in (False, True):
            message = with_ids(RecordDict({"config": CONFIG}), reply, ids)
            counted = np.array(flower.wire_bytes(message))
            assert np.abs(counted - by_flower(message, ids[1])).max() <= 16


def test_small_ids_of_a_simulation_are_counted_as_wide_ones() -> None:
    content = RecordDict({"config": CONFIG})
    for reply in (False, True):
        small = flower.wire_bytes(with_ids(content, reply, [1, 1001, 1]))
        assert small == flower.wire_bytes(with_ids(content, reply, [2**62 + 5] * 3))


def test_error_replies_are_counted() -> None:
    ids = [2**62 + 5] * 3
    message = with_ids(Error(2, "Traceback: no images" * 20), True, ids)
    assert flower.wire_bytes(message) == by_flower(message, ids[1])


small_arrays = st.builds(
    lambda dtype, shape, value: np.full(shape, value, dtype),
    st.sampled_from(["float32", "int32", "uint8"]),
    st.sampled_from([(), (1,), (2, 3), (3, 2), (6,), (0,), (2000,)]),
    st.integers(0, 1),
)


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.dictionaries(st.text(max_size=5), small_arrays, max_size=4),
        max_size=3,
    ),
    st.booleans(),
)
def test_any_content_is_counted_to_the_byte(
    values: dict[str, dict[str, np.ndarray]], lazy: bool
) -> None:
    make = MAKERS["lazy" if lazy else "plain"]
    size = flower.measure(RecordDict({name: make(arrays) for name, arrays in values.items()}))
    plain = RecordDict({name: MAKERS["plain"](arrays) for name, arrays in values.items()})
    assert (size.object_bytes, size.objects) == objects_by_flower(plain)
    assert size.tree.ByteSize() == get_object_tree(plain).ByteSize()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_counting_leaves_the_message_as_it_was(make: Callable) -> None:
    content = RecordDict({"arrays": make(cnn()), "config": CONFIG})
    message = with_ids(content, False, [1, 1001, 1])
    before = pickle.dumps(message)
    flower.wire_bytes(message)
    assert pickle.dumps(message) == before


def test_a_measured_content_serves_every_message_that_carries_it() -> None:
    content = RecordDict({"arrays": flower.pack_state(cnn())})
    size = flower.measure(content)
    for node in (1001, 1002):
        for reply in (False, True):
            message = with_ids(content, reply, [1, node, 1])
            assert flower.wire_bytes(message, size) == flower.wire_bytes(message)
