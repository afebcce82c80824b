"""Arrays and messages: what goes in comes out, nothing leaks, nothing is written by accident."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from fedsim.wire import flower

NUMBERS = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(sizes=(64, 128)),
)
ARRAYS = hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


class Tied(nn.Module):
    """An output layer that shares its weight with the input layer, and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.outer = nn.Linear(3, 4, bias=False)
        self.outer.weight = self.inner.weight


def tied(seed: int) -> Tied:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Tied()
        model.norm.running_mean += torch.randn(4)
        return model


# --- Lazy arrays --------------------------------------------------------------------------------


@given(ARRAYS, st.booleans())
def test_lazy_array_is_a_plain_array_to_flower(values: np.ndarray, transposed: bool) -> None:
    values = values.T if transposed else values
    lazy, plain = flower.tensor_record({"x": values})["x"], Array(values)
    assert isinstance(lazy, Array)
    assert (lazy.dtype, lazy.shape, lazy.stype) == (plain.dtype, plain.shape, plain.stype)
    assert lazy.data == plain.data
    assert lazy.object_id == plain.object_id
    assert lazy.deflate() == plain.deflate()


def test_lazy_record_inflates_to_plain_arrays() -> None:
    record = flower.tensor_record({"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)})
    contents = {key: o.deflate() for key, o in get_all_nested_objects(record).items()}
    inflated = inflate_object_from_contents(record.object_id, contents)
    assert inflated["w"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert inflated["n"].numpy().item() == 3


def test_record_is_a_copy_unless_asked_otherwise() -> None:
    values = torch.zeros(3)
    copied = flower.tensor_record({"x": values})
    shared = flower.tensor_record({"x": values}, copy=False)
    values += 1
    assert flower.tensors(copied)["x"].tolist() == [0, 0, 0]
    assert flower.tensors(shared)["x"].tolist() == [1, 1, 1]


def test_arrays_of_a_record_cannot_be_written_by_accident() -> None:
    mine = np.zeros(3)
    lazy = flower.tensor_record({"x": mine}, copy=False)
    plain = ArrayRecord({"x": Array(mine)})
    for record in (lazy, plain):
        with pytest.raises(ValueError, match="read-only"):
            flower.tensors(record)["x"][0] = 1
        record["x"].numpy()[0] = 1  # Flower's own reader gives a copy.
        assert flower.tensors(record)["x"][0] == 0
    with pytest.raises(AttributeError):
        lazy["x"].data = b""
    mine[0] = 2  # The caller's own array stays writeable.


def test_record_pickles_without_copying_its_arrays() -> None:
    values = np.arange(100_000, dtype=np.float32)
    content = RecordDict({"arrays": flower.tensor_record({"x": values, "same": values})})
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    assert len(data) < 2_000
    assert len(buffers) == 1
    back = pickle.loads(data, buffers=buffers)
    assert flower.tensors(back["arrays"])["x"].tolist() == values.tolist()
    assert back["arrays"]["x"] is back["arrays"]["same"]
    assert flower.measure(back) == flower.measure(content)


def test_fortran_order_travels_as_it_is() -> None:
    values = torch.arange(6.0).reshape(2, 3).T
    record = flower.tensor_record({"x": values})
    assert flower.tensors(record)["x"].flags.f_contiguous
    assert flower.tensors(record)["x"].tolist() == values.tolist()


def test_numpy_scalars_travel_as_arrays_without_axes() -> None:
    record = flower.tensor_record({"x": np.zeros(()) + 1})
    assert flower.tensors(record)["x"].shape == ()


@pytest.mark.parametrize(
    "value",
    [torch.zeros(2, dtype=torch.bfloat16), np.array(["a"]), np.array([None]), 1.0],
    ids=["bfloat16", "text", "objects", "float"],
)
def test_what_is_no_tensor_of_numbers_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"'layer\.weight'.*cannot travel"):
        flower.tensor_record({"layer.weight": value})  # type: ignore[dict-item]


# --- States of modules --------------------------------------------------------------------------


def test_tied_tensors_travel_once_and_counters_not_at_all() -> None:
    record = flower.pack_state(tied(0).state_dict())
    assert list(record) == [
        "inner.weight",
        "inner.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
    ]


def test_state_is_restored_with_its_ties() -> None:
    source, target = tied(0), tied(1)
    target.norm.num_batches_tracked += 7
    flower.load_state(target, flower.pack_state(source.state_dict()))
    assert torch.equal(target.outer.weight, source.inner.weight)
    assert torch.equal(target.norm.running_mean, source.norm.running_mean)
    assert target.outer.weight is target.inner.weight
    assert target.norm.num_batches_tracked == 7


def test_unpacked_state_is_new_memory_with_all_names_and_ties() -> None:
    source, like = tied(0), tied(1).state_dict()
    record = flower.pack_state(source.state_dict())
    before = {name: tensor.clone() for name, tensor in like.items()}
    state = flower.unpack_state(record, like)
    assert list(state) == list(like)
    assert state["outer.weight"] is state["inner.weight"]
    for name, tensor in source.state_dict().items():
        assert torch.equal(state[name], tensor)
    for tensor in state.values():
        tensor += 1
    assert all(torch.equal(like[name], before[name]) for name in like)
    assert torch.equal(flower.unpack_state(record, like)["inner.bias"], source.inner.bias)


def test_loading_shares_no_memory_and_does_not_warn() -> None:
    model, record = tied(0), flower.pack_state(tied(1).state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flower.load_state(model, record)
    with torch.no_grad():
        model.inner.weight += 1
    assert torch.equal(
        torch.tensor(flower.tensors(record)["inner.weight"]), tied(1).inner.weight.detach()
    )


def test_records_of_flowers_own_making_load() -> None:
    source, target = tied(0), tied(1)
    record = ArrayRecord(source.state_dict())
    # Flower's averages turn the counter into float64.
    record["norm.num_batches_tracked"] = Array(np.asarray(3.0))
    flower.load_state(target, record)
    assert torch.equal(target.outer.weight, source.outer.weight)
    assert target.norm.num_batches_tracked == 3


def test_target_in_another_dtype_takes_the_values() -> None:
    record = flower.tensor_record({"weight": torch.ones(1, 2), "bias": torch.ones(1)})
    model = nn.Linear(2, 1).to(torch.bfloat16)
    flower.load_state(model, record)
    assert model.weight.dtype == torch.bfloat16
    assert model.weight.tolist() == [[1, 1]]


def test_all_that_does_not_fit_is_listed_and_nothing_is_written() -> None:
    model = nn.Linear(2, 3)
    before = model.bias.detach().clone()
    record = flower.tensor_record({"weight": torch.ones(2, 3), "extra": torch.ones(1)})
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        flower.load_state(model, record)
    for part in ("unexpected 'extra'", "missing 'bias'", "'weight' has shape (2, 3) instead of"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="missing 'bias'"):
        flower.unpack_state(record, model.state_dict())
    assert torch.equal(model.bias, before)


def test_one_of_tied_names_is_enough() -> None:
    model = tied(0)
    record = flower.pack_state(tied(1).state_dict())
    record["outer.weight"] = record.pop("inner.weight")
    flower.load_state(model, record)
    assert torch.equal(model.inner.weight, tied(1).inner.weight)


# --- Messages -----------------------------------------------------------------------------------


@pytest.fixture
def message() -> Message:
    flower.configure_identity()
    content = RecordDict(
        {
            "arrays": flower.tensor_record({"x": torch.zeros(2)}),
            "plain": ArrayRecord({"x": Array(np.zeros(2))}),
            "config": ConfigRecord({"lr": 0.1, "layers": [1, 2]}),
        }
    )
    return flower.stamp(Message(content, flower.node_id(2), MessageType.TRAIN), "m1")


def test_reply_answers_the_stamped_message(message: Message) -> None:
    reply = Message(RecordDict(), reply_to=message)
    assert message.metadata.dst_node_id == 1003
    assert reply.metadata.reply_to_message_id == "m1"
    assert reply.metadata.src_node_id == 1003


def test_message_is_made_of_its_two_parts(message: Message) -> None:
    again = flower.make_message(message.content, message.metadata)
    assert again.content is message.content
    assert again.metadata == message.metadata


def test_error_reply_carries_the_reason(message: Message) -> None:
    reply = flower.error_reply(message, "Traceback: no images")
    assert reply.has_error()
    assert reply.error.reason == "Traceback: no images"
    assert reply.metadata.reply_to_message_id == "m1"


def test_edits_of_a_shallow_copy_stay_there(message: Message) -> None:
    content = message.content
    before = pickle.dumps(content)
    copy = flower.shallow(content)
    assert pickle.dumps(copy) == before
    assert np.shares_memory(
        flower.tensors(copy["arrays"])["x"], flower.tensors(content["arrays"])["x"]
    )
    copy["config"]["lr"] = 1.0
    copy["config"]["layers"].append(3)
    copy["plain"]["x"].data = b"compressed"
    copy["arrays"]["y"] = copy["arrays"].pop("x")
    copy["new"] = ConfigRecord()
    del copy["plain"]
    assert pickle.dumps(content) == before


def test_shallow_copy_pickles_even_after_flower_has_hashed_the_original(message: Message) -> None:
    get_all_nested_objects(message)
    with pytest.raises(TypeError, match="memoryview"):
        pickle.dumps(message.content)
    pickle.dumps(flower.shallow(message.content))
