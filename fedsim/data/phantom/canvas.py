"""What a drawn picture is made of: smooth random fields, thin strokes, and a lens.

Everything lives in a frame with corners (-1, -1) and (1, 1), x to the right and y down, and is
only then sampled on a square grid: the same numbers at another image size draw the same picture.
Computing in float64 keeps the last bits, in which machines differ, far away from a uint8 step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def grid_axis(count: int) -> Floats:
    """The centres of `count` samples on one side of the frame."""
    axis: Floats = (np.arange(count, dtype=np.float64) + 0.5) * (2 / count) - 1
    return axis


def at(value: Floats) -> Floats:
    """One number an image, [n], shaped to combine with samples [n, len, len]."""
    return value[:, None, None]


def step(x: Floats) -> Floats:
    """The logistic function: a soft step from 0 to 1."""
    soft = np.minimum(-x, 500)
    np.exp(soft, out=soft)
    soft += 1
    return np.reciprocal(soft, out=soft)


def ridges(field: Floats, width: float) -> Floats:
    """Thin lines where a field of variance 1 crosses zero: from 0 to 1, then less their mean."""
    mean = width / np.sqrt(2 + width**2)
    lines: Floats = np.exp(field * field * -(width**-2)) - mean
    return lines


@dataclass(frozen=True)
class Band:
    """A random field of mean 0 and variance 1, as a sum of plane waves.

    Their frequencies lie between low and high, in radians; every octave has as many waves, of
    size frequency**-decay.
    """

    waves: int
    low: float
    high: float
    decay: float = 0.0


def random_fields(
    bands: Mapping[str, Band],
    uniform: Floats,
    axis: Floats,
    pose: tuple[Floats, Floats, Floats] | None = None,
) -> dict[str, Floats]:
    """Random fields sampled on axis x axis, [n, len, len] each.

    uniform: [n, waves of all bands, 3]. pose: where in the frame the fields' own origin, unit
    length and x axis are: centre [n, 2], radius [n], angle [n] in radians from x towards y.

    A wave cos(x kx + y ky + phase) is a sum of two products of a function of x and one of y, so
    the sum over waves is a matrix product.
    """
    frequency, angle, size = (np.empty(uniform.shape[:2]) for _ in range(3))
    columns, start = {}, 0
    for name, band in bands.items():
        columns[name] = own = np.s_[..., start : start + band.waves]
        start += band.waves
        draw = uniform[:, own[1], :]
        frequency[own] = band.low * (band.high / band.low) ** draw[..., 0]
        angle[own] = np.pi * (np.arange(band.waves) + draw[..., 1]) / band.waves
        size[own] = frequency[own] ** -band.decay
        size[own] *= np.sqrt(2 / (size[own] ** 2).sum(axis=1, keepdims=True))
    phase = 2 * np.pi * uniform[..., 2]
    if pose is not None:
        centre, radius, turn = pose
        frequency /= radius[:, None]
        angle += turn[:, None]
    kx, ky = frequency * np.cos(angle), frequency * np.sin(angle)
    if pose is not None:
        phase -= kx * centre[:, :1] + ky * centre[:, 1:]
    cos_x, sin_x = _waves(kx, axis, np.zeros_like(phase), np.ones_like(size))
    cos_y, sin_y = _waves(ky, axis, phase, size)
    return {
        name: cos_y[own] @ cos_x[own].swapaxes(1, 2) - sin_y[own] @ sin_x[own].swapaxes(1, 2)
        for name, own in columns.items()
    }


def _waves(k: Floats, axis: Floats, phase: Floats, size: Floats) -> tuple[Floats, Floats]:
    """size * cos and sin of (k axis + phase) on an even axis: [n, len, waves].

    By the addition theorem, because most of the time would go into cosines and sines.
    """
    stride = 8
    n, waves = k.shape
    coarse = k[:, None] * axis[::stride, None] + phase[:, None]
    fine = (k[:, None] * (axis[:stride, None] - axis[0]))[:, None]
    cos_coarse, sin_coarse = (size[:, None, None] * f(coarse)[:, :, None] for f in (np.cos, np.sin))
    cos_fine, sin_fine = np.cos(fine), np.sin(fine)
    cosine = cos_coarse * cos_fine
    cosine -= sin_coarse * sin_fine
    sine = sin_coarse * cos_fine
    sine += cos_coarse * sin_fine
    cosine, sine = (wave.reshape(n, -1, waves)[:, : len(axis)] for wave in (cosine, sine))
    return cosine, sine


def strokes(
    paths: Floats,
    width: Floats,
    widest: float,
    image: NDArray[np.int64],
    images: int,
    count: int,
) -> Floats:
    """Draw lines as covered area per sample: [images, count, count], above 1 where lines cross.

    paths: points [lines, points, 2] in the frame, no farther apart than samples. width: [lines],
    none above widest, which does not depend on the other images. image: [lines], the image that
    each line is in. Every point leaves its share of the line's area on the four nearest samples,
    so that a line thinner than a sample is faint instead of broken.
    """
    pitch = 2 / count
    tracks = int(np.ceil(widest / pitch))
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
