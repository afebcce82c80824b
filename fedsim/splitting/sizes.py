"""What crosses a cut, in bytes.

Lost packets were sent, and count. All numbers are payload: no framing of the messages of a step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord
from numpy.typing import NDArray
from torch import nn

from fedsim.splitting.channel import Activations
from fedsim.splitting.parts import Parts, require_cut
from fedsim.wire.arrays import tensors
from fedsim.wire.codecs import RANGE_SUFFIX

_FLOAT32 = 4
_RANGE = 2 * _FLOAT32
"""Smallest value and step of an image whose features travel as 8 bits."""


def step_bytes(
    up: Sequence[int], down: Sequence[int], activations: Activations = "float32"
) -> dict[str, int]:
    """Bytes that cross for one image in a step of training.

    Args:
        up: shape of its features from the front end to the server, without the batch.
        down: of those from the server's part to the back end.
        activations: how features travel; gradients are float32.

    Returns:
        By direction and field, as `fedsim.ledger.traffic.LINK` has them: "up/features",
        "down/features", "up/gradients", "down/gradients". Gradients have the shapes of the
        features, on the way back.
    """

    def features(shape: Sequence[int]) -> int:
        return prod(shape) * _FLOAT32 if activations == "float32" else prod(shape) + _RANGE

    return {
        "up/features": features(up),
        "down/features": features(down),
        "up/gradients": prod(down) * _FLOAT32,
        "down/gradients": prod(up) * _FLOAT32,
    }


def crossed(
    model: nn.Module, cut: str, input_shape: Sequence[int], activations: Activations = "float32"
) -> dict[str, int]:
    """The same of a model, by the shapes of what it computes.

    Args:
        model: is left in the mode that it was in.
        cut: where it is cut.
        input_shape: of one image, [C, *patch].
        activations: how features travel.

    Raises:
        ValueError: the model has no such cut.
    """
    parts = require_cut(model, cut)
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    model.eval()  # Running statistics stay as they are.
    with torch.no_grad():
        features, _ = parts.front(torch.zeros((1, *input_shape), device=device))
        returned = parts.server(features)
    for module, mode in modes.items():
        module.training = mode
    return step_bytes(features.shape[1:], returned.shape[1:], activations)


def link_record(
    crossing: Mapping[str, int],
    parts: Parts,
    sent: Mapping[str, ArrayRecord],
    answered: Mapping[str, ArrayRecord],
    stays: Collection[str] = (),
) -> ConfigRecord:
    """What the ledger must know of an exchange that one process stands for.

    Args:
        crossing: bytes that crossed beside the messages, by "up/<field>" and "down/<field>".
        parts: of the model.
        sent: records of the message, by name, that hold a model: the server's part of it never
            left the server, and is taken off.
        answered: records of the reply, likewise.
        stays: names of what travels in neither (`federation.local`): it was not counted.

    Integer tensors of a model (`fedsim.wire.buffers`) are in each message here, but travel down
    once alone and never up: nothing is taken off for them.
    """
    counts = dict(crossing)
    travels = {name for record in sent.values() for name in record} - set(stays)
    for direction, records in (("down", sent), ("up", answered)):
        for record, arrays in records.items():
            # Counters of batch normalisation are in a state, and do not travel.
            values = {
                name: value
                for name, value in tensors(arrays).items()
                if name in travels and not _is_constant(name, value, arrays)
            }
            held = sum(values[name].nbytes for name in parts.server_names(values))
            counts[f"{direction}/{record}"] = -held
    return ConfigRecord({name: int(count) for name, count in counts.items()})


def _is_constant(name: str, value: NDArray[Any], arrays: ArrayRecord) -> bool:
    """Whether an array is an integer tensor of the model, and no parameter that a codec made of."""
    return value.dtype.kind not in "fc" and name + RANGE_SUFFIX not in arrays
