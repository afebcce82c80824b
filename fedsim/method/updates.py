"""A client's side of averaging: the model it received, and the update that it sends back.

Where the server's `config` names a codec, the broadcast's parameters are encoded, and clients
answer with the encoded difference to what they received; otherwise both ways carry the model
itself. Buffers travel as they are: a running variance that a codec rounds could fall below zero.
What stays at the client (`fedsim.wire.sharing`) is part of both, as it is; the worker adds it and
takes it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.method.exchanges import PROXIMAL
from fedsim.wire.arrays import load_state, pack_state, parameter_names, tensor_record, tensors
from fedsim.wire.buffers import STAYS
from fedsim.wire.codecs import Codec, decode_tensors, encode_tensors

Penalty = Callable[[nn.Module], Tensor]
"""A scalar of a model's parameters alone, added to a loss."""

Correction = Callable[[nn.Module], None]
"""Changes the gradients of a model's parameters in place, after they are computed (and clipped) and
before a step takes them: SCAFFOLD's control variates, FedDyn's linear term."""


def load_received(model: nn.Module, content: RecordDict) -> None:
    """Write the weights that a training message brought into a model.

    Raises:
        ValueError: they are another model's.
    """
    received = content.array_records["arrays"]
    if _codec(content) is not None:
        received = tensor_record(_decoded(model, content))
    load_state(model, received)


def plain_model(model: nn.Module, content: RecordDict) -> dict[str, NDArray[Any]] | None:
    """The model's parameters that a message brought; None where it has them in another form.

    Such as encoded, of other names or shapes, or with parts that stay at the client.
    """
    arrays, expected = tensors(content.array_records["arrays"]), dict(model.named_parameters())
    alike = arrays.keys() == expected.keys() and all(
        arrays[name].shape == value.shape and arrays[name].dtype == np.float32
        for name, value in expected.items()
    )
    return arrays if alike and _codec(content) is None and not staying(content) else None


def update(model: nn.Module, content: RecordDict) -> ArrayRecord:
    """What a client that received `content` answers once its model is trained."""
    trained = pack_state(model.state_dict())
    codec = _codec(content)
    if codec is None:
        return trained
    parameters, after = parameter_names(model) - staying(content), tensors(trained)
    received = _decoded(model, content)
    change = {name: after[name] - received[name] for name in after if name in parameters}
    buffers = {name: value for name, value in after.items() if name not in parameters}
    return tensor_record(encode_tensors(change, codec) | buffers)


def proximal_term(model: nn.Module, content: RecordDict) -> Penalty | None:
    """FedProx's term mu/2 |w - w0|^2, w0 being the model's weights now.

    Li et al., "Federated Optimization in Heterogeneous Networks" (2020), Eq. 2. None unless the
    server's `config` has a `proximal-mu` above 0, as that of Flower's FedProx has. Of the
    parameters those that came from the server count: what is a client's own is near to nobody's.
    """
    mu = proximal_mu(content)
    if not mu:
        return None
    at_home = staying(content)

    def shared(model: nn.Module) -> list[nn.Parameter]:
        return [value for name, value in model.named_parameters() if name not in at_home]

    start = [parameter.detach().clone() for parameter in shared(model)]

    def term(model: nn.Module) -> Tensor:
        pairs = zip(shared(model), start, strict=True)
        return mu / 2 * torch.stack([(now - then).square().sum() for now, then in pairs]).sum()

    return term


def shared_parameters(model: nn.Module, content: RecordDict) -> dict[str, nn.Parameter]:
    """The parameters that came from the server and are trained, by name.

    What is a client's own, or frozen, is not among them.
    """
    at_home = staying(content)
    return {
        name: value
        for name, value in model.named_parameters()
        if name not in at_home and value.requires_grad
    }


def proximal_mu(content: RecordDict) -> float:
    """FedProx's mu, as the server's `config` has it; 0 for none."""
    return cast(float, content.config_records["config"].get(PROXIMAL, 0.0))


def _decoded(model: nn.Module, content: RecordDict) -> dict[str, NDArray[Any]]:
    """The arrays of an encoded broadcast; buffers and what stays are not encoded."""
    arrays = tensors(content.array_records["arrays"])
    parameters = parameter_names(model) - staying(content)
    buffers = {name: arrays[name] for name in model.state_dict() if name in arrays}
    buffers = {name: value for name, value in buffers.items() if name not in parameters}
    encoded = {name: value for name, value in arrays.items() if name not in buffers}
    return decode_tensors(encoded) | buffers


def staying(content: RecordDict) -> frozenset[str]:
    """The names of what does not travel of the model in a message: the worker added it."""
    found = content.config_records.get(STAYS)
    return frozenset() if found is None else frozenset(cast(list[str], found["names"]))


def _codec(content: RecordDict) -> Codec | None:
    return cast(Codec | None, content.config_records["config"].get("codec"))
