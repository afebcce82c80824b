"""What the tensors of a model's state are, and which of them meet a strategy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from torch import nn

from fedsim.method.updates import load_received, update
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire.buffers import HELD, Buffers, Roles, receive, roles_of, withhold
from fedsim.wire.flower import (
    configure_identity,
    load_state,
    pack_state,
    parameter_names,
    tensor_record,
    tensors,
)
from tests.plugins.odd_models import BEYOND_FLOAT32, Odd


def odd(seed: int) -> Odd:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Odd(2, 3, 8)


def test_roles_come_from_the_model() -> None:
    roles = roles_of(odd(0))
    assert roles.constants == {"table", "mask", "count"}
    assert roles.averaged == {"cover", "precise", "norm.running_mean", "norm.running_var"}
    assert roles.frozen == {"frozen.weight", "frozen.bias"}
    assert {"temperature", "second.weight", *roles.frozen} < roles.parameters
    assert roles.silent == {"tied.weight", "norm.num_batches_tracked"}
    assert set(roles.order) == roles.parameters | roles.buffers
    assert list(roles.order) == list(pack_state(odd(0).state_dict()))


class Names(nn.Module):
    """Tensors whose names promise something else than they are."""

    def __init__(self) -> None:
        super().__init__()
        self.running_var = nn.Parameter(torch.ones(2))
        self.num_batches_tracked = nn.Parameter(torch.ones(()))
        self.codes = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
        self.register_buffer("weight", torch.ones(2))
        self.register_buffer("shared", self.running_var.detach())
        self.register_buffer("unsaved", torch.ones(2), persistent=False)


def test_names_do_not_decide_what_a_tensor_is() -> None:
    model = Names()
    roles = roles_of(model)
    assert roles.parameters == parameter_names(model) == {"running_var", "num_batches_tracked"}
    assert roles.averaged == {"weight"}
    assert roles.constants == {"codes"}
    assert roles.silent == {"shared"}, "a buffer that is a parameter's memory travels with it"


def message(content: RecordDict, node: int = 1) -> Message:
    configure_identity()
    return Message(content, node, MessageType.TRAIN)


def reply(values: Mapping[str, np.ndarray], examples: int) -> RecordDict:
    metrics = MetricRecord({"num-examples": examples})
    return RecordDict({"arrays": tensor_record(values), "metrics": metrics})


def test_floating_buffers_are_means_and_all_else_stays() -> None:
    model = odd(0)
    first = pack_state(model.state_dict())
    buffers = Buffers(roles_of(model))
    assert set(buffers.begin(first)) == buffers.roles.parameters
    values = tensors(first)
    for weight, mean in ((1, 2.0), (3, 4.0)):
        content = reply(values | {"norm.running_mean": np.full(8, mean, np.float32)}, weight)
        buffers.take(content)
        assert set(content["arrays"]) == buffers.roles.parameters
    after = buffers.restored(tensor_record({"temperature": np.float32(5)}))
    found = tensors(after)
    assert found["norm.running_mean"].tolist() == [3.5] * 8
    assert found["temperature"].tolist() == 5
    for name in ("table", "mask", "count", "cover", "precise", "norm.running_var"):
        assert found[name].dtype == values[name].dtype
        assert found[name].shape == values[name].shape
        assert np.array_equal(found[name], values[name])


@pytest.mark.parametrize(("weighted", "mean"), [("num-examples", 3.5), (None, 3.0)])
def test_the_mean_is_weighted_as_the_strategy_weights(weighted: str | None, mean: float) -> None:
    values = {"w": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    roles = Roles(("w", "b"), frozenset({"w"}), averaged=frozenset({"b"}))
    buffers = Buffers(roles, weighted=weighted)
    buffers.begin(tensor_record(values))
    for weight, value in ((1, 2.0), (3, 4.0)):
        buffers.take(reply(values | {"b": np.float32([value])}, weight))
    handed = tensor_record({"w": np.ones(1, np.float32)})
    assert tensors(buffers.restored(handed))["b"].tolist() == [mean]


def test_a_private_run_keeps_the_servers_buffers() -> None:
    model = odd(0)
    first = pack_state(model.state_dict())
    buffers = Buffers(roles_of(model), average=False)
    buffers.begin(first)
    buffers.take(reply(tensors(first) | {"norm.running_mean": np.ones(8, np.float32)}, 1))
    found = tensors(buffers.restored(tensor_record({})))
    assert found["norm.running_mean"].tolist() == [0] * 8


def test_a_client_is_sent_integers_until_it_has_the_servers() -> None:
    model = odd(0)
    roles, first = roles_of(model), pack_state(model.state_dict())
    buffers, state = Buffers(roles), RecordDict()
    handed = buffers.begin(first)

    def exchange() -> bool:
        content = RecordDict({"arrays": handed, "config": ConfigRecord()})
        (sent,) = buffers.complete([message(content)], {1: state})
        assert set(content["arrays"]) == roles.parameters, "the strategy's own record was changed"
        brought = roles.constants <= set(sent.content["arrays"])
        receive(roles, sent.content, state)
        assert list(sent.content["arrays"]) == list(roles.order)
        assert tensors(sent.content["arrays"])["table"].tolist() == now["table"].tolist()
        withhold(roles, sent.content)
        assert not roles.constants & set(sent.content["arrays"])
        return brought

    now = tensors(first)
    assert exchange()
    assert not exchange()
    now = now | {"table": now["table"] + 1}
    handed = buffers.begin(tensor_record(now))
    assert exchange(), "the server's table changed"
    assert not exchange()
    del state[HELD]
    assert exchange(), "the client lost it"


def test_messages_that_share_a_content_still_share_it() -> None:
    model = odd(0)
    buffers = Buffers(roles_of(model))
    content = RecordDict({"arrays": buffers.begin(pack_state(model.state_dict()))})
    states = {node: RecordDict() for node in (1, 2, 3)}
    sent = buffers.complete([message(content, node) for node in states], states)
    assert len({id(one.content) for one in sent}) == 1


def test_only_the_record_of_the_model_is_touched() -> None:
    """A control variate has the names of the weights, and no buffers."""
    model = odd(0)
    buffers = Buffers(roles_of(model))
    handed = buffers.begin(pack_state(model.state_dict()))
    control = tensor_record({n: np.zeros_like(v) for n, v in tensors(handed).items()})
    content = RecordDict({"control": control, "arrays": handed})
    (sent,) = buffers.complete([message(content)], {1: RecordDict()})
    assert set(sent.content["control"]) == buffers.roles.parameters
    assert set(sent.content["arrays"]) == set(buffers.roles.order)
    images = RecordDict({"images": tensor_record({"table": np.zeros(2)})})
    buffers.take(images)
    withhold(buffers.roles, images)
    assert set(images["images"]) == {"table"}


def test_a_model_without_buffers_is_handed_as_it_is() -> None:
    model = nn.Linear(2, 1)
    first = pack_state(model.state_dict())
    buffers = Buffers(roles_of(model))
    assert buffers.begin(first) is first
    content = RecordDict({"arrays": first})
    sent = message(content)
    assert buffers.complete([sent], {}) == [sent]
    assert buffers.restored(first) is first


def test_parameters_alone_load_and_leave_the_buffers() -> None:
    model, other = odd(0), odd(1)
    model.norm.running_mean += 3
    buffers = Buffers(roles_of(other))
    load_state(model, buffers.begin(pack_state(other.state_dict())))
    assert torch.equal(model.first.weight, other.first.weight)
    assert model.norm.running_mean.tolist() == [3] * 8
    some = pack_state(other.state_dict())
    del some["cover"]
    with pytest.raises(ValueError, match="missing 'cover'"):
        load_state(model, some)


@pytest.mark.parametrize("codec", ["float16", "uint8"])
def test_codecs_leave_buffers_as_they_are(codec: str) -> None:
    server, client = odd(0), odd(1)
    server.norm.running_var += 1e-6
    strategy = FedAvg(codec)  # type: ignore[arg-type]
    buffers = Buffers(roles_of(server))
    handed = buffers.begin(pack_state(server.state_dict()))
    content = strategy.content(1, handed, ConfigRecord())
    (sent,) = buffers.complete([message(content)], {1: RecordDict()})
    load_received(client, sent.content)
    for name, buffer in client.named_buffers():
        assert torch.equal(buffer, dict(server.named_buffers())[name]), name
    client.norm.running_var.fill_(1e-9)
    answer = tensors(update(client, sent.content))
    assert answer["norm.running_var"].tolist() == [np.float32(1e-9)] * 8
    assert answer["temperature"].shape == ()
    assert answer["precise"].dtype == np.float64


def test_fedavg_alone_keeps_types_too() -> None:
    """On Flower's own grid nothing goes past a strategy."""
    sent = {
        "whole": np.array([BEYOND_FLOAT32]),
        "flag": np.array(True),
        "double": np.array(1 / 3),
        "single": np.array(0.5, np.float32),
    }
    strategy = FedAvg()
    strategy.content(1, tensor_record(sent), ConfigRecord())
    changed = sent | {"whole": np.array([1])}
    replies = [message(reply(values, 2)) for values in (sent, changed)]
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    for name, value in tensors(arrays).items():
        assert value.dtype == sent[name].dtype
        assert value.shape == sent[name].shape
        assert np.array_equal(value, sent[name])
