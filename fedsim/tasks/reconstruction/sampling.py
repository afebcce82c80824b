"""What is measured of k-space: masks, the transform, and what a network is given.

Complex images are float32 tensors [n, 2, H, W]: real part, imaginary part. The measurement of one
coil is A = M F, with the orthonormal Fourier transform F and a mask M of zeros and ones, so that
A^H A has eigenvalues 0 and 1. The frequency 0 lies in the middle of k-space, at [H // 2, W // 2].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pattern = Literal["lines", "poisson"]

REFERENCE = 256
"""Lines of k-space that a number of centre lines is given for: at another size it is scaled."""

_BISECTIONS = 12


@dataclass(frozen=True)
class Sampling:
    """Which part of k-space is measured.

    Attributes:
        pattern: "lines": whole columns (lines along the read-out), those in the middle and others
            drawn at random, each equally likely; "poisson": points in two dimensions that keep a
            distance from each other, which grows from the middle outwards, and a square in the
            middle.
        acceleration: one part in so many of k-space is measured, at least 1.
        centre: lines in the middle that are always measured, of 256; at another size so many of
            that size, see `centre_lines`.

    Raises:
        ValueError: an acceleration below 1, or no line in the middle.
    """

    pattern: Pattern = "lines"
    acceleration: float = 4.0
    centre: int = 24

    def __post_init__(self) -> None:
        if not (math.isfinite(self.acceleration) and self.acceleration >= 1):
            raise ValueError(f"acceleration must be at least 1, not {self.acceleration}.")
        if self.centre < 1:
            raise ValueError(f"centre must be at least one line, not {self.centre}.")

    def require_fit(self, size: tuple[int, int]) -> None:
        """Raise ValueError where the middle alone is more than is measured of slices [H, W]."""
        centre = centre_lines(self.centre, size[1])
        if self.pattern == "lines":
            _lines_wanted(size[1], self.acceleration, centre)
        else:
            _points_wanted(size, self.acceleration, centre)

    def mask(self, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """One mask, float32 [H, W] of zeros and ones."""
        draw = line_mask if self.pattern == "lines" else poisson_mask
        return draw(size, self.acceleration, centre_lines(self.centre, size[1]), generator)

    def masks(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """A mask for each of `count` images, float32 [count, 1, H, W]."""
        return torch.stack([self.mask(size, generator) for _ in range(count)])[:, None]


def centre_lines(centre: int, width: int) -> int:
    """How many of `width` lines are `centre` of 256; at least one."""
    return max(1, round(centre * width / REFERENCE))


def line_mask(
    size: tuple[int, int], acceleration: float, centre: int, generator: torch.Generator
) -> Tensor:
    """Columns in the middle, and others at random: round(W / acceleration) in all.

    Args:
        size: (H, W).
        acceleration: see `Sampling`.
        centre: columns in the middle, from W // 2 - centre // 2 on.
        generator: draws the others, without repetition.

    Returns:
        float32 [H, W]; all rows are alike.

    Raises:
        ValueError: the middle alone has more columns than are measured.
    """
    height, width = size
    wanted = _lines_wanted(width, acceleration, centre)
    columns = torch.zeros(width)
    start = width // 2 - centre // 2
    columns[start : start + centre] = 1
    others = torch.nonzero(columns == 0).flatten()
    drawn = torch.randperm(len(others), generator=generator)[: wanted - centre]
    columns[others[drawn]] = 1
    return columns.expand(height, width).clone()


def poisson_mask(
    size: tuple[int, int], acceleration: float, centre: int, generator: torch.Generator
) -> Tensor:
    """Points that keep a distance which grows from the middle outwards, and a square in the middle.

    A Poisson disc of variable density (Bridson, "Fast Poisson disk sampling in arbitrary
    dimensions", 2007), by throwing darts: points are visited in random order, and one is taken
    where no point taken before lies within 1 + slope * r, with r the distance to the middle between
    0 and 1. The slope is bisected until the number of points is right to within two in a hundred,
    or twelve times.

    Args:
        size: (H, W).
        acceleration: see `Sampling`.
        centre: side of the square in the middle.
        generator: draws the order.

    Returns:
        float32 [H, W].

    Raises:
        ValueError: the square alone has more points than are measured.
    """
    height, width = size
    wanted = _points_wanted(size, acceleration, centre)
    order = torch.randperm(height * width, generator=generator).tolist()
    low, high, best = 0.0, float(max(size)), None
    for _ in range(_BISECTIONS):
        slope = (low + high) / 2
        mask = _thrown(size, order, slope)
        top, left = height // 2 - centre // 2, width // 2 - centre // 2
        mask[top : top + centre, left : left + centre] = 1
        found = int(mask.sum())
        if best is None or abs(found - wanted) < abs(int(best.sum()) - wanted):
            best = mask
        if abs(found - wanted) <= 0.02 * wanted:
            break
        low, high = (slope, high) if found > wanted else (low, slope)
    assert best is not None
    return best


def _lines_wanted(width: int, acceleration: float, centre: int) -> int:
    """How many lines are measured; ValueError where those in the middle are more."""
    wanted = round(width / acceleration)
    if centre > wanted:
        raise ValueError(
            f"{centre} lines in the middle are more than the {wanted} of {width} lines that an "
            f"acceleration of {acceleration:g} measures: choose fewer, or a smaller acceleration."
        )
    return wanted


def _points_wanted(size: tuple[int, int], acceleration: float, centre: int) -> int:
    """How many points are measured; ValueError where those in the middle are more."""
    wanted = round(size[0] * size[1] / acceleration)
    if centre**2 > wanted:
        raise ValueError(
            f"a square of {centre} x {centre} points in the middle is more than the {wanted} "
            f"points that an acceleration of {acceleration:g} measures: choose a smaller one."
        )
    return wanted


def _thrown(size: tuple[int, int], order: list[int], slope: float) -> Tensor:
    """Points in this order, each taken where none is near."""
    height, width = size
    free = torch.ones(size, dtype=torch.bool)
    mask = torch.zeros(size)
    for place in order:
        row, column = divmod(place, width)
        if not free[row, column]:
            continue
        mask[row, column] = 1
        away = math.hypot(2 * row / height - 1, 2 * column / width - 1) / math.sqrt(2)
        reach = slope * away  # A distance of 1 more than this is that of the next point.
        whole = int(reach)
        top, left = max(row - whole, 0), max(column - whole, 0)
        part = free[top : row + whole + 1, left : column + whole + 1]
        rows = torch.arange(top, top + part.shape[0])[:, None] - row
        columns = torch.arange(left, left + part.shape[1])[None] - column
        part &= rows**2 + columns**2 > reach**2
    return mask


def to_kspace(images: Tensor) -> Tensor:
    """The orthonormal Fourier transform of complex images [n, 2, H, W], the same shape."""
    both = torch.complex(images[:, 0].contiguous(), images[:, 1].contiguous())
    shifted = torch.fft.fft2(torch.fft.ifftshift(both, dim=(-2, -1)), norm="ortho")
    found = torch.fft.fftshift(shifted, dim=(-2, -1))
    return torch.stack([found.real, found.imag], dim=1)


def from_kspace(kspace: Tensor) -> Tensor:
    """The inverse of `to_kspace`."""
    both = torch.complex(kspace[:, 0].contiguous(), kspace[:, 1].contiguous())
    shifted = torch.fft.ifft2(torch.fft.ifftshift(both, dim=(-2, -1)), norm="ortho")
    found = torch.fft.fftshift(shifted, dim=(-2, -1))
    return torch.stack([found.real, found.imag], dim=1)


def zero_filled(images: Tensor, masks: Tensor) -> Tensor:
    """A^H A x: images as they are seen where what was not measured is taken as zero.

    Args:
        images: [n, 2, H, W].
        masks: [n, 1, H, W].
    """
    return from_kspace(masks * to_kspace(images))


def model_input(images: Tensor, masks: Tensor) -> Tensor:
    """What a network is given, [n, 3, H, W]: the zero-filled image, and the mask.

    The measured k-space is the transform of the first two channels, so nothing is lost.
    """
    return torch.cat([zero_filled(images, masks), masks], dim=1)


def magnitude(images: Tensor) -> Tensor:
    """|x| of complex images [n, 2, H, W], [n, H, W]."""
    return images.square().sum(dim=1).sqrt()
