"""Views of images that client and server draw alike, and a network's labels for them.

Shen & Xing, "A Fast Knowledge Distillation Framework for Visual Recognition" (ECCV 2022): what a
view shows follows from a seed, so that only labels travel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fedsim.method.augment import SiameseAugment
from fedsim.randomness import Streams

SPREAD = 1.5
"""Standard deviation of the log-odds of two classes over all labelled views of a client."""

_OPERATIONS = 2  # Siamese operations of a view.
_CHUNK = 64  # Images to label at a time.


def view(images: Tensor, seed: int, number: int) -> Tensor:
    """View `number` of the images: each mixed with another of them, then augmented twice.

    Args:
        images: float32 [n, C, H, W] on the CPU, as they were decoded after the codec.
        seed: of all views, non-negative.
        number: of the view, from 0.

    Returns:
        [n, C, H, W]; depends on the arguments alone.
    """
    generator = Streams(seed).torch("view", number)
    partner = torch.randperm(len(images), generator=generator)
    part = torch.rand(len(images), 1, 1, 1, generator=generator)
    mixed = torch.lerp(images[partner], images, part)
    operations = SiameseAugment()
    for _ in range(_OPERATIONS):
        mixed = operations.draw(generator, len(mixed))(mixed)
    return mixed


@torch.no_grad()
def label_views(
    network: nn.Module,
    images: Tensor,
    numbers: Iterable[int],
    seed: int,
    classes: Sequence[int],
    *,
    device: torch.device,
) -> Tensor:
    """The network's probabilities for views of the images, brought to a fixed spread.

    Args:
        network: maps images to logits [n, all classes]; put in evaluation mode.
        images: float32 [n, C, H, W] on the CPU, as the server will decode them.
        numbers: of the views, in order from 0.
        seed: of the views.
        classes: those that the network was trained on; the others get probability 0.
        device: where to compute.

    Returns:
        float16 [views, n, all classes], see `soften`.
    """
    network.to(device).eval()
    logits = [
        torch.cat([network(part.to(device)).cpu() for part in view(images, seed, n).split(_CHUNK)])
        for n in numbers
    ]
    return soften(torch.stack(logits), classes)


def soften(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Probabilities in which no class is favoured and no network speaks louder than another.

    A network that overfits few images is surer than one that saw many. So each class's logits get
    mean 0 over all views, and all are divided by one number: the log-odds of two classes get the
    standard deviation `SPREAD` (with more classes, the root mean square over all pairs).

    Args:
        logits: [views, n, all classes], finite.
        classes: at least two; the softmax is taken over these.

    Returns:
        float16 [views, n, all classes], 0 to 1; rows sum to 1 up to rounding.
    """
    at, count = list(classes), len(classes)
    own = logits[..., at] - logits[..., at].mean(dim=-1, keepdim=True)
    own = own - own.mean(dim=(0, 1))
    # Classes that sum to 0: their differences have 2 k / (k - 1) times their mean square.
    deviation = math.sqrt(2 * count / (count - 1)) * own.square().mean().sqrt()
    found = torch.zeros_like(logits)
    found[..., at] = torch.softmax(own * (SPREAD / deviation.clamp_min(1e-6)), dim=-1)
    return found.half()
