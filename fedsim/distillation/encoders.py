"""Networks under which images are distilled: fresh ones, or stages of one trained on the site."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.method.optimisers import SGD
from fedsim.method.training import Batch, endless_batches, fit

State = dict[str, Tensor]

# SGD of the trained network: balanced batches of so many images, a rate that falls along a cosine.
_BATCH = 64
_LEARNING_RATE, _FINAL_RATE = 0.02, 0.01
_MOMENTUM, _WEIGHT_DECAY = 0.9, 1e-4


def redraw(network: nn.Module, generator: torch.Generator) -> None:
    """Draw a new network in place: PyTorch's default initialisation, from a CPU generator."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # kaiming_uniform_ with a = sqrt(5) is uniform within 1 / sqrt(fan in), as is the bias.
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    values = torch.empty(parameter.shape).uniform_(
                        -bound, bound, generator=generator
                    )
                    parameter.data.copy_(values)
        elif isinstance(module, nn.GroupNorm):
            module.reset_parameters()


def train_with_snapshots(
    network: nn.Module,
    read: Callable[[np.ndarray], Tensor],
    members: dict[int, np.ndarray],
    steps: Iterable[int],
    total: int,
    generator: torch.Generator,
    *,
    device: torch.device,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> list[State]:
    """Train a classifier in place and keep it at several stages.

    Encoders of several stages of training are the idea of Zhao et al., "Improved Distribution
    Matching for Dataset Condensation" (CVPR 2023), here trained on real images.

    Args:
        network: maps float32 [n, C, H, W] to logits [n, classes].
        read: returns the images [n, C, H, W] at positions.
        members: label -> the positions of that class, at least one each. Batches hold equally many
            images of every class (fewer where a pass over a class ends).
        steps: one item a step; a trial's may end early.
        total: steps of the whole training.
        generator: a CPU generator; decides the batches.
        device: where to compute.
        augment: applied to each batch.

    Returns:
        The network's states after the steps `snapshot_steps(total)`; those that `steps` reached,
        at least the last one.
    """
    wanted = snapshot_steps(total)
    kept: list[State] = []

    def keep() -> None:
        kept.append({name: value.detach().clone() for name, value in network.state_dict().items()})

    def watched() -> Iterator[int]:
        for step in steps:
            yield step
            if step + 1 in wanted:  # `fit` has made this step when it asks for the next.
                keep()

    optimizer = SGD(
        network.parameters(), lr=_LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, total, eta_min=_LEARNING_RATE * _FINAL_RATE
    )
    fit(
        network,
        _balanced_batches(read, members, generator),
        watched(),
        optimizer,
        device=device,
        augment=augment,
        scheduler=scheduler,
    )
    if not kept:
        keep()
    return kept


def snapshot_steps(total: int) -> list[int]:
    """At most five steps from a thirtieth of `total` to `total`, ascending, in equal ratios."""
    return sorted({max(1, round(float(step))) for step in np.geomspace(total / 30, total, 5)})


def _balanced_batches(
    read: Callable[[np.ndarray], Tensor], members: dict[int, np.ndarray], generator: torch.Generator
) -> Iterator[Batch]:
    share = -(-_BATCH // len(members))
    orders = {
        label: endless_batches(len(positions), share, generator)
        for label, positions in members.items()
    }
    while True:
        chosen = {label: members[label][next(order).numpy()] for label, order in orders.items()}
        counts = torch.tensor([len(positions) for positions in chosen.values()])
        labels = torch.tensor(list(chosen)).repeat_interleave(counts)
        yield read(np.concatenate(list(chosen.values()))), labels
