"""Models and losses that mix records: differential privacy needs every record by itself.

A record's clipped gradient bounds what the record can change only where no other record's gradient
depends on it. Batch statistics break that, and so does a loss that is computed over the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.errors import InputError, Problem
from fedsim.privacy.per_sample import Loss, PerSampleGradients
from fedsim.randomness import isolated

_RECORDS = 4
# Far above what rounding does to a record whose batch stays the same size.
_TOLERANCE = 1e-5


def require_uncoupled(model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> None:
    """Refuse a model or a loss in which one record's gradient depends on another record.

    Layers with batch statistics are found by their type, whatever they hold; all else by changing
    the other records of a small batch and looking at what happens to one. The model is tried as it
    trains; it stays as it is.

    Args:
        model: maps [n, ...] to outputs.
        loss: see `fedsim.privacy.per_sample.Loss`.
        inputs: [n, ...] a few records, n >= 1; the first four count.
        targets: [n, ...].

    Raises:
        InputError: names each layer (type and path), or the loss, and what to do; or the model has
            no per-sample gradients.
    """
    known = list(_batch_statistics(model))
    if known:
        raise InputError(
            "private training needs a model that treats every record by itself",
            known,
            hint="use a model with group norm, for instance: model.name=resnet18 model.norm=group",
        )
    probe = copy.deepcopy(model).train()
    device = next(probe.parameters()).device
    places = torch.arange(_RECORDS) % len(inputs)
    inputs, targets = inputs[places].to(device), targets[places].to(device)
    with torch.no_grad(), isolated(np.random.SeedSequence(0)):
        before = {name: buffer.clone() for name, buffer in probe.named_buffers()}
        outputs = probe(inputs)
    _require_still_buffers(probe, before)
    others = _other_inputs(inputs), _other_targets(targets, outputs)
    _require_loss_a_record(loss, outputs, targets, others[1])

    with PerSampleGradients(probe) as per_sample:
        expected = _rows(per_sample, inputs, targets, loss)
        for record in range(_RECORDS):
            changed = _around(record, inputs, others[0]), _around(record, targets, others[1])
            found = _rows(per_sample, *changed, loss)
            if not _same(found[record], expected[record]):
                raise InputError(
                    "private training needs a model that treats every record by itself",
                    [_culprit(probe, inputs, others[0])],
                    hint="replace what computes over the batch (dimension 0)",
                )


def _batch_statistics(model: nn.Module) -> Iterator[Problem]:
    """Layers that are known to mix records, or to keep what they saw of them, in training."""
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            yield Problem(
                _place(path, module),
                "normalises with statistics of the batch in training, also with frozen weights or "
                "none",
            )
        elif isinstance(module, _InstanceNorm) and module.track_running_stats:
            yield Problem(
                _place(path, module),
                "keeps running statistics of the records, which leave the site without noise "
                "(track_running_stats=True)",
            )


def _require_still_buffers(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Refuse a model whose buffers remember the records: they travel, and nothing adds noise."""
    moved = [n for n, b in model.named_buffers() if not torch.equal(b, before[n])]
    if moved:
        raise InputError(
            "private training needs a model that keeps nothing of the records it saw",
            [Problem(name, "a buffer that changes in training") for name in moved],
            hint="keep no running statistics",
        )


def _require_loss_a_record(loss: Loss, outputs: Any, targets: Tensor, others: Tensor) -> None:
    """Refuse a loss that is not a value a record, or in which records meet."""
    with torch.no_grad():
        losses = loss(outputs, targets)
    shape = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
    if shape != [_RECORDS]:
        raise InputError(
            "private training needs a loss that gives one value a record",
            [Problem("loss", f"gives {shape} for {_RECORDS} records, not [{_RECORDS}]")],
            hint='compute it without reduction over the batch, such as reduction="none"',
        )
    if not isinstance(outputs, Tensor):
        return
    for record in range(_RECORDS):
        with torch.no_grad():
            found = loss(
                _around(record, outputs, _other_inputs(outputs)), _around(record, targets, others)
            )
        if not _same(found[record], losses[record]):
            raise InputError(
                "private training needs a loss that treats every record by itself",
                [Problem("loss", f"the value of record {record} changes with other records")],
                hint="compute it record by record: a Dice loss with batch=False, no batch weights",
            )


def _culprit(model: nn.Module, inputs: Tensor, others: Tensor) -> Problem:
    """The first layer whose output for a record changes although its input does not."""
    for record in range(_RECORDS):
        before = _trace(model, inputs, record)
        after = _trace(model, _around(record, inputs, others), record)
        for (path, module, *one), (_, _, *other) in zip(before, after, strict=False):
            entered, left = (all(map(_same, *pair)) for pair in zip(one, other, strict=True))
            if one[0] and entered and not left:
                return Problem(
                    _place(path, module),
                    f"its output for record {record} of a batch changes with the other records",
                )
    return Problem("model", "the gradient of a record changes with the other records of its batch")


def _trace(
    model: nn.Module, inputs: Tensor, record: int
) -> list[tuple[str, nn.Module, list[Tensor], list[Tensor]]]:
    """What enters and leaves each layer for one record, in the order in which layers finish."""
    seen: list[tuple[str, nn.Module, list[Tensor], list[Tensor]]] = []

    def of_record(values: Any) -> list[Tensor]:
        values = values if isinstance(values, (tuple, list)) else [values]
        tensors = (v for v in values if isinstance(v, Tensor) and len(v.shape) > 0)
        return [v[record].clone() for v in tensors if len(v) == _RECORDS]

    with ExitStack() as hooks, torch.no_grad(), isolated(np.random.SeedSequence(0)):
        for path, module in model.named_modules():

            def note(
                module: nn.Module, given: Any, named: Any, left: Any, path: str = path
            ) -> None:
                entered = of_record([*given, *named.values()])
                seen.append((path, module, entered, of_record(left)))

            hooks.callback(module.register_forward_hook(note, with_kwargs=True).remove)
        model(inputs)
    return seen


def _rows(per_sample: PerSampleGradients, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    # The same draws each time, should the model drop units out.
    with isolated(np.random.SeedSequence(0)):
        try:
            return per_sample.gradients(inputs, targets, loss)
        except ValueError as error:
            raise InputError(
                "private training needs per-sample gradients, and this model has none",
                [Problem("model", str(error))],
                hint="use each parameter in a layer of its own; `fedsim plugins` lists models",
            ) from error


def _around(record: int, values: Tensor, others: Tensor) -> Tensor:
    """One record among other ones."""
    mixed = others.clone()
    mixed[record] = values[record]
    return mixed


def _other_inputs(values: Tensor) -> Tensor:
    if not values.is_floating_point():
        return values.roll(1, 0)
    return 0.25 - 1.5 * values.flip(-1)


def _other_targets(targets: Tensor, outputs: Any) -> Tensor:
    """Different targets that are as valid: the next class, or the complement of a probability."""
    if targets.is_floating_point():
        return 1 - targets
    if targets.dtype == torch.bool:
        return ~targets
    several = isinstance(outputs, Tensor) and outputs.ndim > 1 and outputs.shape[1] > 1
    classes = outputs.shape[1] if several else 2
    valid = (targets >= 0) & (targets < classes)
    return torch.where(valid, (targets + 1) % classes, targets)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not bool(one.isfinite().all() & other.isfinite().all()):
        return torch.equal(one.isfinite(), other.isfinite())
    return bool((one - other).norm() <= _TOLERANCE * one.norm())


def _place(path: str, module: nn.Module) -> str:
    return f"{type(module).__name__} {path!r}" if path else f"{type(module).__name__}, the model"
