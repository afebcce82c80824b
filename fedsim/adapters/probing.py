"""What layers of a model do, seen by letting it look at a record of zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fedsim.adapters.paths import UnfitError
from fedsim.raising import one_line, reraise_interruption


def outputs_of(
    model: nn.Module, layers: Mapping[str, nn.Module], input_shape: tuple[int, ...], key: str
) -> dict[str, Any]:
    """What each layer gives for one record of zeros in evaluation, by path; the last time it runs.

    Layers that are not called are left out, also where the model uses their weights otherwise.

    Args:
        model: stays as it is.
        layers: some of its layers, by path.
        input_shape: of a record.
        key: the adapter's parameter that is at fault where the model cannot be tried.

    Raises:
        UnfitError: the model refuses the record.
    """
    found: dict[str, Any] = {}
    with _watching(layers, found), _evaluating(model), torch.random.fork_rng(devices=()):
        try:
            with torch.no_grad():
                like = next(model.parameters())
                model(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
        except BaseException as error:
            reraise_interruption(error)
            raise UnfitError(
                key,
                [f"the model cannot be tried with a record of zeros: {one_line(error)}"],
                "choose another model, or leave the adapter out",
            ) from error
    return found


@contextmanager
def _watching(layers: Mapping[str, nn.Module], found: dict[str, Any]) -> Iterator[None]:
    """Write into `found` what each layer gives, as long as the context lasts.

    Without hooks: where there are some, torch's transformer does not take its short cut past the
    layers, which is one of the things to be seen.
    """
    watched: list[tuple[nn.Module, Any]] = []
    try:
        for path, layer in layers.items():

            def note(
                *given: Any, path: str = path, forward: Any = layer.forward, **named: Any
            ) -> Any:
                found[path] = forward(*given, **named)
                return found[path]

            watched.append((layer, vars(layer).get("forward")))
            layer.forward = note  # type: ignore[method-assign]
        yield
    finally:
        for layer, own in watched:
            del layer.forward
            if own is not None:
                layer.forward = own


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, as long as the context lasts."""
    before = [(module, module.training) for module in model.modules()]
    for module, _ in before:
        module.training = False
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
