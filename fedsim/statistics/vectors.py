"""The vectors that a model's last layer sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.errors import InputError
from fedsim.wire.sharing import head_paths

_CHUNK = 64  # records at a time
_RECORDS = 4
_TOLERANCE = 1e-5  # Far above what rounding does in a batch of the same size.


def head_of(model: nn.Module) -> nn.Linear:
    """The model's last layer.

    Raises:
        InputError: the model does not say which one that is, or it is not one linear layer.
    """
    paths, modules = head_paths(model), dict(model.named_modules())
    heads = [modules.get(path) for path in paths]
    if len(heads) == 1 and isinstance(heads[0], nn.Linear) and heads[0].bias is not None:
        return heads[0]
    name = type(model).__name__
    if len(heads) == 1 and isinstance(heads[0], nn.Linear):
        why = f"the head of {name} has no bias"
    elif not paths:
        why = f"{name} does not say which its last layer is"
    else:
        kinds = ", ".join(f"{path!r} ({type(modules.get(path)).__name__})" for path in paths)
        why = f"the head of {name} is {kinds}"
    raise InputError(
        f"a model's head must be one linear layer with a bias, torch.nn.Linear, but {why}",
        hint="choose a model whose head is one, such as model.name=convnet",
    )


def head_path(model: nn.Module) -> str:
    """Where in the model its last layer is; InputError as `head_of`."""
    head = head_of(model)
    return next(path for path, module in model.named_modules() if module is head)


@dataclass
class Seen:
    """What a model and its last layer saw in the latest forward pass.

    Attributes:
        inputs: of the model, [n, ...].
        vectors: of its last layer, [n, k], with their gradients' graph.
    """

    inputs: Tensor
    vectors: Tensor


@contextmanager
def watched_head(model: nn.Module) -> Iterator[Seen]:
    """Keep what the model's last layer sees of each forward pass inside.

    Raises:
        InputError: the model has no head, see `head_of`.
    """
    seen = Seen(torch.empty(0), torch.empty(0))

    def enters(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.inputs = inputs[0]

    def reaches(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.vectors = inputs[0]

    head = head_of(model)
    hooks = [
        model.register_forward_pre_hook(enters),
        head.register_forward_pre_hook(reaches),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def head_inputs(
    model: nn.Module,
    read: Callable[[np.ndarray], Tensor],
    positions: np.ndarray,
    device: torch.device,
) -> np.ndarray:
    """What the model's last layer sees of some records, in evaluation mode.

    Args:
        model: with a head, see `head_of`; it is left in evaluation mode.
        read: positions [b] -> inputs [b, ...] of the model.
        positions: of the records [n].
        device: where to compute.

    Returns:
        float64 [n, k].

    Raises:
        InputError: the head sees no vectors, but something of another shape.
    """
    head, seen = head_of(model), list[Tensor]()
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    rows = [np.zeros((0, head.in_features))]
    model.to(device).eval()
    try:
        with torch.no_grad():
            for start in range(0, len(positions), _CHUNK):
                chosen = positions[start : start + _CHUNK]
                seen.clear()
                model(read(chosen).to(device))
                if len(seen) != 1 or seen[0].shape != (len(chosen), head.in_features):
                    shapes = ", ".join(str(list(one.shape)) for one in seen) or "nothing"
                    raise InputError(
                        f"the head of {type(model).__name__} must see one vector of "
                        f"{head.in_features} numbers for each record, but of {len(chosen)} "
                        f"records it sees {shapes}",
                        hint="choose a model that classifies images, such as model.name=convnet",
                    )
                rows.append(seen[0].double().cpu().numpy())
    finally:
        hook.remove()
    return np.concatenate(rows)


def require_own_features(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Refuse a model with which one record's vector depends on others.

    Args:
        model: with a head, see `head_of`; it is left in evaluation mode.
        shape: of one record's input.

    Raises:
        InputError: it does.
    """
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(_RECORDS, *shape, generator=draws)
    others = torch.randn(_RECORDS, *shape, generator=draws)
    others[0] = inputs[0]
    device, all_of_them = next(model.parameters()).device, np.arange(_RECORDS)
    first = head_inputs(model, lambda chosen: inputs[chosen], all_of_them, device)[0]
    again = head_inputs(model, lambda chosen: others[chosen], all_of_them, device)[0]
    if not np.allclose(first, again, rtol=_TOLERANCE, atol=_TOLERANCE * np.abs(first).max()):
        raise InputError(
            "private statistics need a model that treats every record by itself, but with "
            f"{type(model).__name__} a record's vector depends on the others of its batch",
            hint="replace what computes over the batch (dimension 0)",
        )
