"""Supervised training of a segmentation network: one loop for all methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from fedsim.method.updates import Correction
from fedsim.wire import tensor_record, tensors

Batch = tuple[Tensor, Tensor]
Objective = Callable[[Tensor, Sequence[Tensor], Tensor], Mapping[str, Tensor]]
"""Maps images [B, 1, *patch], the model's outputs for them (logits, full resolution first) and
labels [B, *patch] to scalars: `loss`, which is minimised, and others that are only reported."""

OPTIMISER = "optimiser"
"""Under this name a client's state holds its optimiser."""


def fit(
    model: nn.Module,
    batches: Iterator[Batch],
    steps: Iterable[int],
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    *,
    device: torch.device,
    clip: float | None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    after: Callable[[], None] | None = None,
    correct: Correction | None = None,
) -> dict[str, float]:
    """Minimise an objective for as many steps as `steps` yields.

    Args:
        model: see `fedsim.tasks.segmentation`; trained in place.
        batches: yields (images, labels).
        steps: one item a step, such as `scheduled` gives.
        optimizer: holds the model's parameters.
        objective: what is minimised.
        device: where to compute.
        clip: largest norm of the gradient of all parameters together; None: any.
        penalty: of the model alone, added to the loss (FedProx).
        after: called after each step (a teacher follows).
        correct: changes the gradients before each step, after they are clipped.

    Returns:
        Means over the steps of all that the objective gives, and `num-steps`, how many there were.
    """
    model.to(device).train()
    sums: dict[str, float] = {}
    count = 0
    for _ in steps:
        images, labels = (part.to(device) for part in next(batches))
        terms = dict(objective(images, outputs_of(model(images)), labels))
        if penalty is not None:
            terms["loss"] = terms["loss"] + penalty(model)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if correct is not None:
            correct(model)
        optimizer.step()
        if after is not None:
            after()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        count += 1
    return {name: total / count for name, total in sums.items()} | {"num-steps": float(count)}


def scheduled(
    steps: Iterable[int], optimizer: torch.optim.Optimizer, rate: Callable[[int], float]
) -> Iterator[int]:
    """The same steps, with an optimiser's learning rate set before each."""
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        yield step


def outputs_of(result: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """A model's outputs: several where it is deeply supervised, else one."""
    return (result,) if isinstance(result, Tensor) else result


def mirrored(images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
    """A copy of a batch, each record flipped along its last axis at even chance."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images, labels = images.clone(), labels.clone()
    images[flip], labels[flip] = images[flip].flip(-1), labels[flip].flip(-1)
    return images, labels


def restore_optimiser(
    optimizer: torch.optim.Optimizer, model: nn.Module, state: RecordDict
) -> None:
    """Give an SGD optimiser the momentum that `keep_optimiser` left in a client's state."""
    if OPTIMISER not in state:
        return
    parameters = dict(model.named_parameters())
    for name, buffer in tensors(state.array_records[OPTIMISER]).items():
        parameter = parameters[name]
        momentum = torch.tensor(buffer, dtype=parameter.dtype, device=parameter.device)
        optimizer.state[parameter]["momentum_buffer"] = momentum


def keep_optimiser(optimizer: torch.optim.Optimizer, model: nn.Module, state: RecordDict) -> None:
    """Leave an SGD optimiser's momentum in a client's state, under the parameters' names."""
    buffers = {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }
    if buffers:
        state[OPTIMISER] = tensor_record(buffers)
