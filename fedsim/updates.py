"""A client's side of averaging: the model it received, and the update that it sends back.

Where the server's `config` names a codec, the broadcast is encoded, and clients answer with the
encoded difference to what they received; otherwise both ways carry the model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor, nn

from fedsim.codecs import Codec, decode_tensors, encode_tensors
from fedsim.flower import load_state, pack_state, tensor_record, tensors

Penalty = Callable[[nn.Module], Tensor]
"""A scalar of a model's parameters alone, added to a loss."""


def load_received(model: nn.Module, content: RecordDict) -> None:
    """Write the weights that a training message brought into a model.

    Raises:
        ValueError: they are another model's.
    """
    received = tensors(content.array_records["arrays"])
    if _codec(content) is not None:
        received = decode_tensors(received)
    load_state(model, tensor_record(received))


def update(model: nn.Module, content: RecordDict) -> ArrayRecord:
    """What a client that received `content` answers once its model is trained."""
    trained = pack_state(model.state_dict())
    codec = _codec(content)
    if codec is None:
        return trained
    received = decode_tensors(tensors(content.array_records["arrays"]))
    change = {name: value - received[name] for name, value in tensors(trained).items()}
    return tensor_record(encode_tensors(change, codec))


def proximal_term(model: nn.Module, content: RecordDict) -> Penalty | None:
    """FedProx's term mu/2 |w - w0|^2, w0 being the model's weights now.

    Li et al., "Federated Optimization in Heterogeneous Networks" (2020), Eq. 2. None unless the
    server's `config` has a `proximal-mu` above 0, as that of Flower's FedProx has.
    """
    mu = cast(float, content.config_records["config"].get("proximal-mu", 0.0))
    if not mu:
        return None
    start = [parameter.detach().clone() for parameter in model.parameters()]

    def term(model: nn.Module) -> Tensor:
        pairs = zip(model.parameters(), start, strict=True)
        return mu / 2 * torch.stack([(now - then).square().sum() for now, then in pairs]).sum()

    return term


def _codec(content: RecordDict) -> Codec | None:
    return cast(Codec | None, content.config_records["config"].get("codec"))
