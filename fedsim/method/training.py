"""Supervised training, the same loop for clients and for servers that train."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F

from fedsim.method.augment import SiameseAugment
from fedsim.method.updates import Correction

Batch = tuple[torch.Tensor, torch.Tensor]
Augmentation = Literal["none", "siamese"]
Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps logits [n, classes] and labels int64 [n] to a scalar that is minimised."""


def endless_batches(
    count: int, batch_size: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield positions [<= batch_size] of shuffled passes over `count` records, for ever.

    The last batch of a pass may be smaller. Raises ValueError for no records.
    """
    if count == 0:
        raise ValueError("there are no records to draw batches from")
    while True:
        yield from torch.randperm(count, generator=generator).split(batch_size)


def balanced_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Class weights n / (k n_c) for k present classes, float32 [num_classes]; 0 for absent ones."""
    counts = torch.bincount(labels, minlength=num_classes).float()
    present = counts > 0
    weights = torch.zeros(num_classes)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights


def augmentation(
    name: Augmentation, generator: torch.Generator
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What to do to each training batch: None, or one operation with parameters for each image."""
    if name == "none":
        return None
    operations = SiameseAugment()
    return lambda images: operations.draw(generator, len(images))(images)


def fit(
    model: torch.nn.Module,
    batches: Iterator[Batch],
    steps: Iterable[int],
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    class_weights: torch.Tensor | None = None,
    augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
    penalty: Callable[[torch.nn.Module], torch.Tensor] | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    precision: str = "float32",
    criterion: Criterion | None = None,
    after: Callable[[], None] | None = None,
    correct: Correction | None = None,
) -> float:
    """Minimise cross-entropy, or another criterion, for as many steps as `steps` yields.

    Args:
        model: maps float32 [n, C, H, W] to logits [n, classes]; trained in place.
        batches: yields (images, labels int64 [n]).
        steps: one item a step.
        optimizer: holds the model's parameters.
        device: where to compute.
        class_weights: float32 [classes] for cross-entropy.
        augment: applied to each batch of images.
        penalty: added to the loss (FedProx).
        scheduler: stepped once a step.
        precision: of the forward pass; "bfloat16" is automatic mixed precision: the weights, their
            gradients and the loss stay in float32.
        criterion: in place of cross-entropy.
        after: called after each step (a teacher follows).
        correct: changes the gradients before each step.

    Returns:
        Mean loss over all steps; 0 when there were none.
    """
    model.to(device).train()
    weights = class_weights.to(device) if class_weights is not None else None
    total, count = 0.0, 0
    for _ in steps:
        images, labels = next(batches)
        images, labels = images.to(device), labels.to(device)
        if augment is not None:
            images = augment(images)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)
        if logits.dtype == torch.bfloat16:
            logits = logits.float()
        if criterion is None:
            loss = F.cross_entropy(logits, labels, weight=weights)
        else:
            loss = criterion(logits, labels)
        if penalty is not None:
            loss = loss + penalty(model)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if correct is not None:
            correct(model)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if after is not None:
            after()
        total, count = total + loss.item(), count + 1
    return total / max(count, 1)
