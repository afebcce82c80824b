"""From an adapter's name and parameters to a model that has it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from fedsim.adapters.lora import LoRA, LoRAConv2d, LoRALinear
from fedsim.adapters.paths import UnfitError
from fedsim.adapters.probing import outputs_of
from fedsim.adapters.rein import Rein, ReinTokens

ADAPTERS = {"lora": LoRA, "rein": Rein}
"""The adapters by the names that scenarios give them."""


def attach(
    model: nn.Module,
    name: str,
    parameters: Mapping[str, Any],
    *,
    input_shape: tuple[int, ...],
    head: Collection[str] = (),
) -> nn.Module:
    """Add an adapter to a model in place, and return it; it draws from torch's global state.

    Args:
        model: with the weights that it is to keep.
        name: one of `ADAPTERS`.
        parameters: of the adapter; what is left out is its own.
        input_shape: of a record, without the batch.
        head: paths of the model's last layers, which are not adapted unless they are named.

    Raises:
        UnfitError: the adapter does not go with the model.
    """
    ADAPTERS[name](**parameters).attach(model, input_shape, head)
    return model


def adapter_names(model: nn.Module) -> frozenset[str]:
    """The names of a model's state that an adapter added."""
    found = set()
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear | LoRAConv2d):
            found |= {f"{path}.lora_a.weight", f"{path}.lora_b.weight"}
        elif isinstance(module, ReinTokens):
            found |= {f"{path}.{name}" for name in module.state_dict()}
    return frozenset(found)


def require_used(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Refuse adapted layers that the model does not call: what is trained would have no effect.

    Args:
        model: with its adapter. It is called once, with a record of zeros.
        input_shape: of a record, without the batch.

    Raises:
        UnfitError: names them.
    """
    layers = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, LoRALinear | LoRAConv2d)
    }
    if not layers:
        return
    called = outputs_of(model, layers, input_shape, "targets")
    if idle := [path for path in layers if path not in called]:
        raise UnfitError(
            "targets",
            [f"{path!r} is adapted, but the model does not call it in evaluation" for path in idle],
            "name other layers by targets",
        )
