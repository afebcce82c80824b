"""Normalisation over too few values: what it makes of rounding, and the refusal of such models.

A group of n values is divided by its standard deviation, which is small, below d, with a
probability that falls as d^(n - 1). One value becomes zero whatever it was. Of two only the order
is left, +1 and -1, and where they nearly agree rounding decides: an image's logits then change by
0.02 with the batch that it is in, where 0.00001 would do. With four values that is rarer by d^2.

Batch normalisation is not meant: it uses running statistics where models are scored, and torch
itself refuses to train it with one value a channel.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.errors import InputError, Problem
from fedsim.raising import reraise_interruption

FEWEST = 4
"""Values that a group must have to be normalised."""

_SMALL = 40_000  # values of a record that is passed through sooner than torch loads its shapes


def values_a_group(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """How many values of one record each layer normalises together, by the layer's path.

    Args:
        model: as it was made; it stays as it is.
        input_shape: of a record, without the batch.

    Returns:
        Of a model that cannot be tried with one record of zeros, the layers that it came to.
    """
    found: dict[str, int] = {}
    # Large records without memory or arithmetic, where the model allows that. Of small ones that
    # would take longer: torch then imports its compiler and SymPy, for two seconds.
    for device in ("cpu",) if math.prod(input_shape) <= _SMALL else ("meta", "cpu"):
        found.clear()
        try:
            with _counting(model, device, found) as probe:
                probe(torch.zeros(1, *input_shape, device=device))
            break
        except BaseException as error:
            reraise_interruption(error)  # What a model raises is said where it is used.
    return found


def require_conditioned(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Refuse a model that normalises groups of fewer than `FEWEST` values.

    Raises:
        InputError: names each layer, its type and the size of its groups.
    """
    kinds = {path: type(module).__name__ for path, module in model.named_modules()}
    problems = [
        Problem(path or "model", f"{kinds[path]} normalises groups of {count} value(s)")
        for path, count in values_a_group(model, input_shape).items()
        if count < FEWEST
    ]
    if problems:
        shape = " x ".join(map(str, input_shape[1:]))
        raise InputError(
            f"with images of {shape} the model normalises so few values together that rounding, "
            "and not the image, decides what comes out",
            problems[:5],
            hint="type a larger data.size, a larger model.width, or a norm with fewer groups: "
            f"{FEWEST} values or more in each",
        )


@contextlib.contextmanager
def _counting(model: nn.Module, device: str, found: dict[str, int]) -> Iterator[nn.Module]:
    """A copy of the model that writes into `found` what its layers normalise together."""
    probe = copy.deepcopy(model).to(device).eval()
    for path, module in probe.named_modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm, _InstanceNorm)):

            def note(module: Any, given: tuple[Tensor, ...], path: str = path) -> None:
                found[path] = min(_together(module, given[0]), found.get(path, 2**63))

            module.register_forward_pre_hook(note)
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        yield probe


def _together(module: Any, values: Tensor) -> int:
    """How many of one record's values [1, C, ...] are normalised together."""
    if isinstance(module, nn.GroupNorm):
        return values.numel() // module.num_groups
    if isinstance(module, nn.LayerNorm):
        return math.prod(module.normalized_shape)
    return math.prod(values.shape[2:])
