"""MoDL: a network and the measurement by turns.

Aggarwal, Mani & Jacob, "MoDL: Model-Based Deep Learning Architecture for Inverse Problems" (2019).
Images are float32 [n, 2, H, W], real and imaginary part; masks [n, 1, H, W].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedsim.models.classifier import require_positive
from fedsim.tasks.reconstruction import MADE_FOR, zero_filled

ITERATIONS = 10
TOLERANCE = 1e-6
LEAST = 0.01
"""What lambda stays above: below it float32 loses what the network says of k-space that was not
measured, for the tolerance is one of the whole right side."""
LAST_GAIN = 0.1
"""`begin` of a denoiser's last convolution: the network begins near to the image as it is."""

Operator = Callable[[Tensor], Tensor]


def conjugate_gradients(
    operator: Operator,
    right: Tensor,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Solve operator(x) = right for each record by itself (Hestenes & Stiefel, 1952).

    A record whose relative residual is at most `tolerance` stays as it is, whatever the others do.
    Each is solved at a size of about 1, so that no square leaves float32; of one with NaN or
    infinite values the solution is NaN.

    Args:
        operator: symmetric and positive definite, on each record by itself.
        right: [n, ...].
        iterations: at most so many.
        tolerance: of |operator(x) - right| / |right|.

    Returns:
        x, like `right`.
    """
    scale = _power_of_two(right)
    right = right / scale
    found = torch.zeros_like(right)
    residual, direction = right, right
    energy = _dot(residual, residual)
    enough = energy * tolerance**2
    for _ in range(iterations):
        open_ = (energy > enough) | ~energy.isfinite()
        if not bool(open_.any()):
            break
        image = operator(direction)
        curve = _dot(direction, image)
        step = torch.where(open_, energy / torch.where(open_, curve, 1.0), 0.0)
        found = found + step * direction
        residual = residual - step * image
        left = _dot(residual, residual)
        turn = torch.where(open_, left / torch.where(open_, energy, 1.0), 0.0)
        direction = residual + turn * direction
        energy = torch.where(open_, left, energy)
    return found * scale


def begin(layer: nn.Conv2d, gain: float) -> None:
    """Draw a convolution's weights so that its output has about the spread of its input.

    He et al., "Delving Deep into Rectifiers" (2015): normal, of variance gain / fan-in; biases are
    0. PyTorch's own are smaller, and by the last of a row of layers little is left of an image.

    Args:
        gain: 2 where a ReLU follows, 1 where none does, less where several outputs are added.
    """
    nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _power_of_two(values: Tensor) -> Tensor:
    """Of each record the power of two about its largest number, [n, 1, ...]: to divide by it
    changes no digit. 1 of zeros, and where the largest is no finite number."""
    largest = values.detach().abs().amax(dim=tuple(range(1, values.dim())), keepdim=True)
    usable = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
    return usable / (2 * usable.frexp().mantissa)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of records, [n, 1, ...]."""
    axes = tuple(range(1, one.dim()))
    return (one * other).sum(dim=axes, keepdim=True)


class _Solve(torch.autograd.Function):
    """(A^H A + weight I)^{-1} right; its gradient is another solution with the same operator.

    So no step of the iteration is kept, and none is divided by a residual that has become 0.
    """

    @staticmethod
    def forward(ctx: Any, right: Tensor, masks: Tensor, weight: Tensor) -> Tensor:
        found = conjugate_gradients(lambda x: zero_filled(x, masks) + weight * x, right)
        ctx.save_for_backward(found, masks, weight)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        found, masks, weight = ctx.saved_tensors
        back = conjugate_gradients(lambda x: zero_filled(x, masks) + weight * x, gradients[0])
        return back, None, -(back * found).sum().reshape(weight.shape)


def consistent(network: Tensor, measured: Tensor, masks: Tensor, weight: Tensor) -> Tensor:
    """Data consistency: (A^H A + weight I)^{-1} (A^H k + weight r).

    Args:
        network: r, the image that a network made.
        measured: A^H k, the zero-filled image.
        masks: zeros and ones.
        weight: lambda, a scalar above 0.
    """
    found: Tensor = _Solve.apply(measured + weight * network, masks, weight)
    return found


class Unrolled(nn.Module):
    """Unrolls of MoDL around a denoiser whose weights are the same in all of them.

    What derives from it makes `denoiser`.

    Args:
        unrolls: how many.
        weight: lambda at first; it is learned, and stays above `LEAST`.

    Raises:
        ValueError: no unrolls, or a weight that is no more than `LEAST`.
    """

    made_for: ClassVar[str] = MADE_FOR

    def __init__(self, unrolls: int, weight: float) -> None:
        super().__init__()
        require_positive(unrolls=unrolls)
        if weight <= LEAST:
            raise ValueError(f"weight must be above {LEAST}, not {weight}.")
        self.unrolls = unrolls
        # The logarithm of what is above the least: a bound at which the gradient ends would hold
        # whatever a step has brought there.
        self.log_weight = nn.Parameter(torch.tensor([math.log(weight - LEAST)]))

    @property
    def weight(self) -> Tensor:
        """Lambda, [1]."""
        return LEAST + self.log_weight.exp()

    def denoiser(self) -> Operator:
        """The denoiser D of one pass: what all unrolls share of it is computed once, here."""
        raise NotImplementedError

    def forward(self, given: Tensor) -> Tensor:
        """Complex images [n, 2, H, W] of zero-filled images and masks [n, 3, H, W]."""
        measured, masks = given[:, :2], (given[:, 2:] > 0.5).to(given.dtype)
        images, weight, denoise = measured, self.weight, self.denoiser()
        for _ in range(self.unrolls):
            images = consistent(denoise(images), measured, masks, weight)
        return images


class MoDL(Unrolled):
    """MoDL with a denoiser that is made by hand: convolutions 3x3 and ReLU, beside a shortcut.

    Args:
        in_channels: 3: real part, imaginary part, mask.
        image_size: of the slices; any.
        width: channels between the first and the last convolution.
        layers: convolutions, two or more.
        unrolls: see `Unrolled`.
        weight: lambda at first, above 0.01.

    Raises:
        ValueError: other channels, fewer than two layers, a size below one, or too small a weight.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        width: PositiveInt = 16,
        layers: PositiveInt = 5,
        unrolls: PositiveInt = 5,
        weight: PositiveFloat = 0.05,
    ) -> None:
        super().__init__(unrolls, weight)
        require_input(in_channels)
        require_positive(width=width)
        if layers < 2:
            raise ValueError(f"MoDL needs two layers or more, not {layers}.")
        sizes = [2, *[width] * (layers - 1), 2]
        parts: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(sizes)):
            parts += [nn.ReLU()] if number else []
            layer = nn.Conv2d(before, after, 3, padding=1)
            begin(layer, 2.0 if number + 1 < layers else LAST_GAIN)
            parts.append(layer)
        self.network = nn.Sequential(*parts)

    def denoiser(self) -> Operator:
        """The image less what the network takes for artefacts."""
        return lambda images: images + self.network(images)


def require_input(in_channels: int) -> None:
    """Raise ValueError unless a model is given real part, imaginary part and mask."""
    if in_channels != 3:
        raise ValueError(
            f"The model takes 3 channels (real part, imaginary part, mask), not {in_channels}."
        )
