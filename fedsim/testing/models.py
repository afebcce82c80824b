"""Checks of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fedsim.method.capabilities import capabilities
from fedsim.models.build import build_model
from fedsim.randomness import Streams, isolated
from fedsim.testing import strategies
from fedsim.testing.bench import Bench, Draws, undisturbed
from fedsim.testing.verdicts import ON_RAY, CheckFailed, NotApplicable
from fedsim.wire import flower

_ROUNDING = 1e-3


def _made(bench: Bench, seed: int = 0) -> tuple[torch.nn.Module, Any]:
    scenario = bench.scenario()
    task = bench.federation(scenario).task
    with isolated(Streams(seed).sequence("model")):
        return build_model(scenario, task), task


def _inputs(task: Any, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *task.input_shape, generator=generator)


def shape(bench: Bench) -> str:
    """Inputs become what the task wants: logits, as a rule."""
    model, task = _made(bench)
    with torch.no_grad():
        found = model.eval()(_inputs(task))
    wanted = tuple(found.shape) if task.output_shape is None else (4, *task.output_shape)
    if tuple(found.shape) != wanted:
        raise CheckFailed(f"its output has shape {tuple(found.shape)}, not {wanted}")
    if not torch.isfinite(found).all():
        raise CheckFailed("its output holds NaN or infinite values")
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{tuple(_inputs(task).shape)} to {wanted}, {count:,} parameters"


def first_weights(bench: Bench) -> str:
    """The first weights come from torch's global generator, which fedsim seeds, and no other."""
    draws = Draws()
    scenario = bench.scenario()
    task = bench.federation(scenario).task
    with undisturbed("making it"), isolated(Streams(0).sequence("model")):
        draws.watch(build_model, "its constructor")(scenario, task)
    if used := draws.words("random", "numpy.random"):
        raise CheckFailed(
            f"it draws from a global generator ({used}): initialise with torch.nn.init"
        )
    one, other = _made(bench)[0].state_dict(), _made(bench)[0].state_dict()
    for name, value in one.items():
        if not torch.equal(value, other[name]) and not torch.isnan(value).any():
            raise CheckFailed(f"made twice from one seed, {name!r} differs")
    return "made twice from one seed: the same bits"


def travels(bench: Bench) -> str:
    """What travels is the whole model."""
    model, task = _made(bench)
    other, _ = _made(bench, seed=1)
    flower.load_state(other, flower.pack_state(model.state_dict()))
    with torch.no_grad():
        here, there = model.eval()(_inputs(task)), other.eval()(_inputs(task))
    if not torch.equal(here, there):
        raise CheckFailed(
            "a model that was loaded with the state of another predicts otherwise: something that "
            "it needs is neither a parameter nor a buffer"
        )
    return "state_dict() holds all that it predicts with"


def by_itself(bench: Bench) -> str:
    """A prediction does not hang on what else is in the batch."""
    model, task = _made(bench)
    inputs = _inputs(task)
    with torch.no_grad():
        together = model.eval()(inputs)
        alone = torch.cat([model(one[None]) for one in inputs])
    far = float((together - alone).abs().max())
    if far > _ROUNDING * max(1.0, float(together.abs().max())):
        raise CheckFailed(
            f"in eval() a record's output differs by {far:.2g} with the batch that it is in"
        )
    return "alone or in a batch, the same output"


def gradients(bench: Bench) -> str:
    """What travels as a parameter learns."""
    if capabilities(bench.factory).payload_kind:
        raise NotApplicable(
            "it is not trained: no model travels with the methods that it goes with"
        )
    model, task = _made(bench)
    found = model.train()(_inputs(task))
    found = found[0] if isinstance(found, tuple | list) else found
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weight).sum().backward()
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    if idle:
        raise CheckFailed(
            f"no gradient reaches {', '.join(idle[:3])}: they travel in every round and never learn"
        )
    broken = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
    if broken:
        raise CheckFailed(f"the gradient of {', '.join(broken[:3])} is NaN or infinite")
    return f"reach all {len(list(model.parameters()))} parameters"


def buffers(bench: Bench) -> str:
    """After training, running statistics are finite."""
    bad = [n for n, v in bench.run.arrays.items() if v.dtype.kind == "f" and np.isnan(v).any()]
    if bad:
        raise CheckFailed(f"after training {', '.join(bad[:3])} hold NaN")
    return strategies.require_learned(bench.run)


CHECKS: dict[str, Callable[[Bench], str]] = {
    "inputs to outputs": shape,
    "first weights": first_weights,
    "its state travels": travels,
    "one record at a time": by_itself,
    "gradients": gradients,
    "federated training learns": buffers,
    "the same seed, the same bits": strategies.same_bits,
    ON_RAY: strategies.on_ray,
}
