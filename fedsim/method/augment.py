"""Random changes of images: Siamese augmentation, and perturbed channel statistics.

Everything is differentiable with respect to the images, draws from a generator that is handed in,
and works on float32 images [N, C, H, W] of any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")


@dataclass(frozen=True)
class Transform:
    """One operation with its parameters, to be applied to as many batches as needed.

    Attributes:
        operation: one of `OPERATIONS`.
        parameters: float32 [k, p] on the CPU. k = 1 changes all images alike; otherwise k is the
            number of images. The values are, by operation, vertical before horizontal:
            "color": brightness that is added, factor of saturation, factor of contrast;
            "crop": 0 (up, left) to 1 (down, right) twice, and the farthest move as a fraction of
            the image, 0.5 does not move;
            "cutout": centre of the hole, 0 to 1, twice, and its side as a fraction of the image;
            "flip": 1 to mirror, 0 not to;
            "scale": part of the image that is shown, twice, 0.5 enlarges twice;
            "rotate": degrees.
    """

    operation: str
    parameters: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Change images [N, C, H, W].

        Raises:
            ValueError: the parameters were drawn for another number of images.
        """
        if len(self.parameters) not in (1, len(images)):
            raise ValueError(
                f"This transform was drawn for {len(self.parameters)} images, not {len(images)}."
            )
        return _FUNCTIONS[self.operation](images, self.parameters)


@dataclass(frozen=True)
class SiameseAugment:
    """Differentiable Siamese augmentation.

    Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation" (2021): the same
    random change is applied to real and synthetic images, and gradients flow through it. Each draw
    picks one of the operations. All parameters of an operation are drawn independently; the
    original code restarts its generator for each, so that there vertical and horizontal values are
    equal. Pixels from outside the image are 0, which is the mean colour of normalised images.

    Attributes:
        operations: names from `OPERATIONS`, or one string that joins them by "_".
        brightness: adds a number within plus and minus half of this.
        saturation: multiplies the distance from the pixel's grey value by 0 to this.
        contrast: multiplies the distance from the image's mean by this to this plus 1.
        crop: moves by at most this fraction of the image's height and width.
        cutout: blanks a rectangle of this fraction of height and width, centred anywhere.
        flip: mirrors left and right with this probability.
        scale: shows between 1 / this and this times the image's height, and of its width.
        rotate: turns by at most this many degrees, either way.

    Raises:
        ValueError: an unknown operation, none at all, or a parameter out of its range.
    """

    operations: str | Sequence[str] = "color_crop_cutout_flip_scale_rotate"
    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5
    crop: float = 0.125
    cutout: float = 0.5
    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in OPERATIONS]
        if unknown or not self.names:
            raise ValueError(
                f"Augmentation needs operations out of {', '.join(OPERATIONS)}, but got "
                f"{', '.join(map(repr, unknown)) or 'none'}."
            )
        ranges: dict[str, tuple[float, float]] = {
            "brightness": (0, math.inf),
            "saturation": (0, math.inf),
            "contrast": (0, math.inf),
            "crop": (0, 1),
            "cutout": (0, 1),
            "flip": (0, 1),
            "scale": (1, math.inf),
            "rotate": (0, 180),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"Augmentation's {name} must lie between {low} and {high}, but is "
                    f"{getattr(self, name)}."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The operations, one name each."""
        if isinstance(self.operations, str):
            return tuple(name for name in self.operations.split("_") if name)
        return tuple(self.operations)

    def draw(self, generator: torch.Generator, count: int | None = None) -> Transform:
        """Draw one operation and its parameters.

        Args:
            generator: a CPU generator; nothing else decides.
            count: None draws one set of parameters for all images (Siamese: apply the transform to
                real and synthetic images); a number draws a set for each of so many images.
        """
        chosen = int(torch.randint(len(self.names), (), generator=generator))
        operation = self.names[chosen]
        # Uniform on [0, 1); the operations need at most three numbers.
        u = torch.rand(1 if count is None else count, 3, generator=generator)
        if operation == "color":
            span = torch.tensor([self.brightness, self.saturation, 1.0])
            parameters = u * span + torch.tensor([-self.brightness / 2, 0.0, self.contrast])
        elif operation in ("crop", "cutout"):
            part = torch.tensor(self.crop if operation == "crop" else self.cutout)
            parameters = torch.cat([u[:, :2], part.expand(len(u), 1)], dim=1)
        elif operation == "flip":
            parameters = (u[:, :1] < self.flip).float()
        elif operation == "scale":
            parameters = u[:, :2] * (self.scale - 1 / self.scale) + 1 / self.scale
        else:
            parameters = (2 * u[:, :1] - 1) * self.rotate
        return Transform(operation, parameters)


def perturb_statistics(
    images: Tensor, mean_noise: Tensor, deviation_noise: Tensor, epsilon: float = 1e-6
) -> Tensor:
    """Perturb each image's channel means and standard deviations by how much they vary in a batch.

    The domain shift uncertainty of GDD-FL (Eq. 7 to 9, after Li et al., "Uncertainty Modeling for
    Out-of-Distribution Generalization", 2022). The paper prints Eq. 9 with the new mean and the
    new deviation swapped; this is the formula that returns the images when the noise is zero:

        new deviation * (x - mean) / deviation + new mean

    with new = old + noise * (standard deviation of the old values over the batch). All variances
    are biased (divided by the number of values).

    Args:
        images: [B, C, H, W], images or feature maps.
        mean_noise: [B, C], draws from a standard normal distribution.
        deviation_noise: the same, draws of its own.
        epsilon: added to every variance before its root; 0 divides by zero on constant channels.

    Returns:
        [B, C, H, W]: every channel of every image scaled and shifted.

    Raises:
        ValueError: noise of another shape than [B, C].
    """
    if not mean_noise.shape == deviation_noise.shape == images.shape[:2]:
        raise ValueError(
            f"Images of shape {tuple(images.shape)} need noise of shape {tuple(images.shape[:2])}, "
            f"but got {tuple(mean_noise.shape)} and {tuple(deviation_noise.shape)}."
        )
    variance, mean = torch.var_mean(images, dim=(2, 3), correction=0)
    deviation = (variance + epsilon).sqrt()

    def spread(values: Tensor) -> Tensor:
        return (values.var(dim=0, correction=0) + epsilon).sqrt()

    # Written as one scale and one shift, so that zero noise gives exactly the images.
    scale = 1 + deviation_noise * spread(deviation) / deviation
    shift = mean_noise * spread(mean) + mean * (1 - scale)
    return torch.addcmul(shift[:, :, None, None], images, scale[:, :, None, None])


def _color(images: Tensor, parameters: Tensor) -> Tensor:
    brightness, saturation, contrast = parameters.to(images)[..., None, None, None].unbind(1)
    images = images + brightness
    images = torch.lerp(images.mean(dim=1, keepdim=True), images, saturation)
    return torch.lerp(images.mean(dim=(1, 2, 3), keepdim=True), images, contrast)


def _crop(images: Tensor, parameters: Tensor) -> Tensor:
    height, width = images.shape[2:]
    # Moves of a whole number of pixels, all equally likely. Doubles, so that none rounds up.
    place, part = parameters[:, :2].double(), parameters[:, 2:].double()
    reach = torch.floor(torch.tensor([height, width]) * part + 0.5)
    moves = (torch.floor(place * (2 * reach + 1)) - reach).long()
    if len(moves) == 1:
        down, right = moves[0].tolist()
        # Padding by a negative number cuts off.
        return F.pad(images, (right, -right, down, -down))
    moves = moves.to(images.device)
    rows = torch.arange(height, device=images.device) - moves[:, :1]
    columns = torch.arange(width, device=images.device) - moves[:, 1:]
    inside = _between(rows, 0, height)[:, :, None] & _between(columns, 0, width)[:, None, :]
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    source = source.flatten(1)[:, None, :].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, source).view_as(images) * inside[:, None]


def _cutout(images: Tensor, parameters: Tensor) -> Tensor:
    height, width = images.shape[2:]
    place, part = parameters[:, :2].double(), parameters[:, 2:].double()
    extent = torch.tensor([height, width])
    hole = torch.floor(extent * part + 0.5)
    # A hole of odd height has a middle row, one of even height a middle line between two rows.
    start = torch.floor(place * (extent + 1 - hole % 2)) - hole // 2
    start, stop = start.to(images.device), (start + hole).to(images.device)
    rows = _between(torch.arange(height, device=images.device), start[:, :1], stop[:, :1])
    columns = _between(torch.arange(width, device=images.device), start[:, 1:], stop[:, 1:])
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _flip(images: Tensor, parameters: Tensor) -> Tensor:
    if len(parameters) == 1:
        return images.flip(3) if parameters[0, 0] else images
    mirrored = parameters.to(images.device)[:, :, None, None] > 0
    return torch.where(mirrored, images.flip(3), images)


def _scale(images: Tensor, parameters: Tensor) -> Tensor:
    zero = torch.zeros(len(parameters))
    tall, wide = parameters.unbind(1)
    return _resample(images, torch.stack([wide, zero, zero, zero, tall, zero], dim=1))


def _rotate(images: Tensor, parameters: Tensor) -> Tensor:
    angle = torch.deg2rad(parameters[:, 0])
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros(len(parameters))
    return _resample(images, torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1))


def _resample(images: Tensor, maps: Tensor) -> Tensor:
    """Bilinear values where the affine `maps` [k, 6], row by row, send each pixel; 0 outside."""
    maps = maps.view(-1, 2, 3).to(images)
    shape = (len(maps), *images.shape[1:])
    grid = F.affine_grid(maps, list(shape), align_corners=False).expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _between(values: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    return (values >= low) & (values < high)


_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
