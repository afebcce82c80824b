"""torch's SGD, Adam and AdamW as they are written, without the import of torch's compiler.

torch's optimisers import `torch._dynamo`, and SymPy with it, when the first is made: some two
seconds of each process that trains, and of each worker, for a compiler that nothing here uses.
These are the same optimisers, step for step; only what is wrapped around them for it is left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method without what torch has wrapped around it."""
    return inspect.unwrap(method)


def _step(kind: type[torch.optim.Optimizer]) -> Callable[..., Any]:
    """One step, with gradients followed through it only where the optimiser was made for that."""
    inner = _plain(kind.step)

    def step(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return inner(self, closure)

    return step


class _Eager(torch.optim.Optimizer):
    """What all of them share."""

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)


class SGD(_Eager, torch.optim.SGD):
    """`torch.optim.SGD`."""

    step = _step(torch.optim.SGD)


class Adam(_Eager, torch.optim.Adam):
    """`torch.optim.Adam`."""

    step = _step(torch.optim.Adam)


class AdamW(_Eager, torch.optim.AdamW):
    """`torch.optim.AdamW`."""

    step = _step(torch.optim.AdamW)
