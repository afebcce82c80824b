"""How far synthetic images are from real ones, under a given network.

The images of a class are compared by the means of their embeddings (distribution matching) or by
the gradients that they give a classifier (gradient matching).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.losses.matching import gradient_distance, layer_matching
from fedsim.method.augment import perturb_statistics
from fedsim.models.classifier import AveragePool2
from fedsim.wire.codecs import decode_images

Layers = Literal["last", "all"]

_MAPS = 4 << 20  # Bytes of the maps of those images that are embedded at a time.


class Match(NamedTuple):
    """Synthetic images of one class, and the real ones that they are compared with.

    Attributes:
        label: the class.
        real: images [B, C, H, W].
        synthetic: images [I, C, H, W]; several matches may share them.
        weight: factor of the comparison.
        noise: float32 [2, B, channels] for each convolution: perturbs the statistics of what it
            makes of the real images. Empty: nothing is perturbed.
    """

    label: int
    real: Tensor
    synthetic: Tensor
    weight: float = 1.0
    noise: Sequence[Tensor] = ()


def embeddings(
    encoder: nn.Module, images: Tensor, layers: Layers = "last", noise: Sequence[Tensor] = ()
) -> list[Tensor]:
    """The images' embedding after every block of the encoder, or only after the last.

    Args:
        encoder: the `features` of a `fedsim.models.ConvNet`; any module if only its output is
            asked for and nothing is perturbed.
        images: [N, C, H, W].
        layers: "last" or "all".
        noise: [2, N, channels] for each convolution, see `perturb_statistics`, which is applied
            between the convolution and its normalisation.

    Returns:
        Flattened maps [N, D], one for each layer.
    """
    if layers == "last" and not noise:
        return [encoder(images)]
    found = []
    unused = iter(noise)
    for module in encoder.children():
        images = module(images)
        if noise and isinstance(module, nn.Conv2d):
            images = perturb_statistics(images, *next(unused))
        if isinstance(module, AveragePool2):
            found.append(images.flatten(1))
    return found if layers == "all" else found[-1:]


def matching_loss(encoder: nn.Module, matches: Sequence[Match], layers: Layers = "last") -> Tensor:
    """Weighted sum of the squared distances of mean embeddings (GDD-FL, Eq. 4 to 6).

    Gradients flow to the synthetic images only. Those that several matches share are embedded once.
    """
    synthetic = list({id(match.synthetic): match.synthetic for match in matches}.values())
    counts = [len(images) for images in synthetic]
    together = embeddings(encoder, torch.cat(synthetic), layers)
    parts = zip(*(torch.split(layer, counts) for layer in together), strict=True)
    embedded = {id(images): part for images, part in zip(synthetic, parts, strict=True)}
    with torch.no_grad():
        targets = [_target(encoder, match, layers) for match in matches]
    terms = [
        match.weight * layer_matching(target, embedded[id(match.synthetic)])
        for match, target in zip(matches, targets, strict=True)
    ]
    return torch.stack(terms).sum()


def gradient_loss(network: nn.Module, matches: Sequence[Match]) -> Tensor:
    """Weighted sum of the distances between the gradients that real and synthetic images give.

    The gradients are those of the mean cross-entropy of one class's images with respect to the
    network's weights (Zhao et al., "Dataset Condensation with Gradient Matching", 2021, Eq. 9).
    The loss has a graph to the synthetic images, through their gradients.
    """
    # Parameters with one dimension do not count in the distance.
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]

    def gradients(images: Tensor, label: int, create_graph: bool = False) -> tuple[Tensor, ...]:
        labels = torch.full((len(images),), label, device=images.device)
        loss = F.cross_entropy(network(images), labels)
        return torch.autograd.grad(loss, weights, create_graph=create_graph)

    terms = [
        match.weight
        * gradient_distance(
            gradients(match.real, match.label),
            gradients(match.synthetic, match.label, create_graph=True),
        )
        for match in matches
    ]
    return torch.stack(terms).sum()


def draw_records(positions: np.ndarray, count: int, generator: torch.Generator) -> np.ndarray:
    """Draw `count` of the positions without repetition; where there are fewer, as few as can be.

    Args:
        positions: int64 [n], n >= 1.
        count: how many.
        generator: a CPU generator.

    Returns:
        int64 [count]; each position at most ceil(count / n) times.
    """
    passes = -(-count // len(positions))
    orders = [torch.randperm(len(positions), generator=generator) for _ in range(passes)]
    return positions[torch.cat(orders)[:count].numpy()]


def picture_range(device: torch.device) -> tuple[Tensor, Tensor]:
    """What black and white are after normalisation, float32 [3, 1, 1] each.

    Between them lies what the "uint8" codec can carry.
    """
    values = np.array([[0] * 3, [255] * 3], dtype=np.uint8)[:, :, None, None]
    black, white = decode_images(values).to(device)
    return black, white


def _target(encoder: nn.Module, match: Match, layers: Layers) -> list[Tensor]:
    # Perturbed statistics are those of the whole batch, which then cannot be cut.
    size = len(match.real) if match.noise else _chunk(encoder, match.real)
    parts = [embeddings(encoder, chunk, layers, match.noise) for chunk in match.real.split(size)]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def _chunk(encoder: nn.Module, images: Tensor) -> int:
    """Images to embed at a time; on a CPU, as many as have maps that fit its caches."""
    if images.device.type != "cpu":
        return max(1, len(images))
    channels = [m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    values = max(channels, default=images.shape[1]) * images.shape[2:].numel()
    return max(1, _MAPS // (values * images.element_size()))
