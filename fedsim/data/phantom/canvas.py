"""What a drawn picture is made of: smooth random fields, thin strokes, and a lens.

Everything lives in a frame with corners (-1, -1) and (1, 1), x to the right and y down, and is
only then sampled on a square grid: the same numbers at another image size draw the same picture.
Computing in float64 keeps the last bits, in which machines differ, far away from a uint8 step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def grid_axis(count: int) -> Floats:
    """The centres of `count` samples on one side of the frame."""
    return (np.arange(count) + 0.5) * (2 / count) - 1


def step(x: Floats) -> Floats:
    """The logistic function: a soft step from 0 to 1."""
    soft: Floats = 1 / (1 + np.exp(np.minimum(-x, 500)))
    return soft


def ridges(field: Floats, width: float) -> Floats:
    """Thin lines where a field of variance 1 crosses zero: from 0 to 1, then less their mean."""
    mean = width / np.sqrt(2 + width**2)
    lines: Floats = np.exp(-((field / width) ** 2)) - mean
    return lines


@dataclass(frozen=True)
class Waves:
    """Plane waves size * cos(x * kx + y * ky + phase), each array [n, waves]; kx, ky in radians."""

    kx: Floats
    ky: Floats
    phase: Floats
    size: Floats

    @classmethod
    def draw(cls, uniform: Floats, low: float, high: float, decay: float = 0.0) -> Waves:
        """Waves in all directions with frequencies in [low, high], from uniforms [n, waves, 3].

        Every octave has as many waves, of size frequency**-decay; the squares of the sizes add up
        to 2, so that the field has mean 0 and variance 1.
        """
        count = uniform.shape[1]
        frequency = low * (high / low) ** uniform[..., 0]
        angle = np.pi * (np.arange(count) + uniform[..., 1]) / count
        size = frequency**-decay
        size *= np.sqrt(2 / (size**2).sum(axis=1, keepdims=True))
        phase = 2 * np.pi * uniform[..., 2]
        return cls(frequency * np.cos(angle), frequency * np.sin(angle), phase, size)

    def posed(self, centre: Floats, radius: Floats, angle: Floats) -> Waves:
        """The waves in the frame, when their own origin, unit and x axis are at this pose.

        centre: [n, 2]. radius, angle: [n], the angle in radians from x towards y.
        """
        cosine, sine, unit = (f[:, None] for f in (np.cos(angle), np.sin(angle), 1 / radius))
        kx = (self.kx * cosine - self.ky * sine) * unit
        ky = (self.kx * sine + self.ky * cosine) * unit
        phase = self.phase - kx * centre[:, :1] - ky * centre[:, 1:]
        return Waves(kx, ky, phase, self.size)

    def field(self, axis: Floats) -> Floats:
        """Their sum on axis x axis: [n, len, len].

        exp(i (x kx + y ky)) is a function of x times one of y, so that the sum over the waves is
        one matrix product.
        """
        along_x = _turns(self.kx, axis)
        along_y = _turns(self.ky, axis) * (self.size * np.exp(1j * self.phase))[..., None]
        left = np.concatenate([along_y.real, -along_y.imag], axis=1)
        right = np.concatenate([along_x.real, along_x.imag], axis=1)
        total: Floats = left.transpose(0, 2, 1) @ right
        return total


def _turns(k: Floats, axis: Floats) -> NDArray[np.complex128]:
    """exp(i k axis) on an even axis: [n, waves, len], with few sines and cosines."""
    stride = 8
    coarse = np.exp(1j * k[..., None] * axis[::stride])
    fine = np.exp(1j * k[..., None] * (axis[:stride] - axis[0]))
    turns = coarse[..., :, None] * fine[..., None, :]
    return turns.reshape(*k.shape, -1)[..., : len(axis)]


def strokes(
    paths: Floats, width: Floats, image: NDArray[np.int64], images: int, count: int
) -> Floats:
    """Draw lines as covered area per sample: [images, count, count], above 1 where lines cross.

    paths: points [lines, points, 2] in the frame. width: [lines]. image: [lines], the image that
    each line is in. Every point leaves its share of the line's area on the four nearest samples,
    so that a line thinner than a sample is faint instead of broken.
    """
    pitch = 2 / count
    tracks = max(1, int(np.ceil(width.max(initial=0.0) / pitch)))
    along = np.gradient(paths, axis=1)
    length = np.hypot(along[..., 0], along[..., 1])
    across = np.stack([-along[..., 1], along[..., 0]], -1) / np.maximum(length, 1e-12)[..., None]
    offset = width[:, None] * ((np.arange(tracks) + 0.5) / tracks - 0.5)
    points = paths[:, None] + offset[..., None, None] * across[:, None]
    weight = np.repeat((length * width[:, None])[:, None], tracks, axis=1) / (tracks * pitch**2)
    place = (points + 1) / pitch - 0.5
    corner = np.floor(place).astype(np.int64)
    rest = place - corner
    first = image[:, None, None] * count * count
    canvas = np.zeros(images * count * count)
    for right in (0, 1):
        for down in (0, 1):
            x, y = corner[..., 0] + right, corner[..., 1] + down
            share = np.abs(1 - right - rest[..., 0]) * np.abs(1 - down - rest[..., 1]) * weight
            inside = (x >= 0) & (x < count) & (y >= 0) & (y < count)
            index = (first + y * count + x)[inside]
            canvas += np.bincount(index, share[inside], minlength=canvas.size)
    return canvas.reshape(images, count, count)


def develop(picture: Floats, blur: Floats, size: int) -> Floats:
    """Blur by blur [n] (about a standard deviation, in the frame), then average over pixels.

    picture: [n, channels, count, count] -> [n, channels, size, size].
    """
    count = picture.shape[-1]
    distance = grid_axis(count) - grid_axis(size)[:, None]
    # A pixel's box smoothed by the blur: the difference of two soft steps.
    slope = 1.702 / np.maximum(blur, 0.25 / count)[:, None, None, None]
    lens = step((distance + 1 / size) * slope) - step((distance - 1 / size) * slope)
    lens /= lens.sum(axis=-1, keepdims=True)
    developed: Floats = lens @ picture @ lens.swapaxes(2, 3)
    return developed
