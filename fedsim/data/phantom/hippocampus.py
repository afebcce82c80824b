"""Hippocampus MRI computed from a seed: the embedded stand-in of the decathlon's task.

Small T1-weighted-looking volumes around one hippocampus, with outlines of its anterior and
posterior part. They are drawn, not learned or copied: every number was chosen by eye, beside real
volumes, and checked against their statistics. The hippocampus is as grey as the cortex and the
amygdala beside it, so that place and shape must tell it apart, and where the anterior part ends
follows from nothing but the shape. No result on them says anything about patients; they are for
running, testing and comparing methods without a download.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data.phantom.canvas import Floats
from fedsim.data.phantom.lattice import Grid, lines, paint
from fedsim.data.volumes.dataset import EmbeddedVolumes, VolumeCase

STRUCTURES = ("anterior", "posterior")
"""Names of the label values 1 and 2."""

SITE = "hippocampus"
SPACING = (1.0, 1.0, 1.0)
_GREY, _WHITE, _FLUID = 0.56, 0.86, 0.16  # relative to the brightest white matter
_SHAPES = ((35.7, 4.0), (49.7, 3.0), (35.5, 2.0))  # voxels along D, H, W: mean, deviation


def hippocampus_stand_in(*, cases: int = 120, seed: int = 0) -> EmbeddedVolumes:
    """Draw a data set. The same arguments give the same bits; more cases change none.

    Args:
        cases: how many, at least 3.
        seed: of all random numbers, at least 0.

    Returns:
        Volumes of about 35 x 50 x 35 voxels of 1 mm, all of one site.

    Raises:
        ValueError: an argument is out of range; the message names all of them.
    """
    problems = [
        f"{name} must be a whole number of at least {least}, not {value!r}."
        for name, value, least in (("cases", cases, 3), ("seed", seed, 0))
        if not isinstance(value, int) or isinstance(value, bool) or value < least
    ]
    if problems:
        raise ValueError(" ".join(problems))
    streams = np.random.default_rng(seed).spawn(cases)
    return EmbeddedVolumes(STRUCTURES, _drawn(streams))


hippocampus_stand_in.version = 1  # type: ignore[attr-defined]


def _drawn(streams: list[np.random.Generator]) -> Iterator[VolumeCase]:
    for number, rng in enumerate(streams):
        image, label = _volume(rng)
        yield VolumeCase(image, label, SPACING, SITE, f"hippocampus-{number:03d}")


@dataclass(frozen=True)
class _Shape:
    """One hippocampus: a bent, tapering tube. Lengths in mm; z to the head, y to the back.

    Attributes:
        front, back: y of its ends.
        low, rise: z of its front end, and how much higher its back end is.
        bow: by how much its middle lies more to the side than its ends.
        head, body: half of its width and height in front and behind.
        border: y at which the posterior part begins.
    """

    front: float
    back: float
    low: float
    rise: float
    bow: float
    head: tuple[float, float]
    body: tuple[float, float]
    border: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Shape:
        """Draw a patient's."""
        size = float(np.exp(rng.normal(0, 0.035)))
        front, back = rng.normal([-19.5, 17.5], [1.0, 1.2]) * size
        low, rise, bow = rng.normal([-7.5, 15.5, 3.5], [1.0, 1.5, 0.8])
        head = rng.normal([8.9, 5.5], [0.5, 0.3]) * size
        body = rng.normal([6.5, 4.3], [0.4, 0.25]) * size
        return cls(
            float(front),
            float(back),
            float(low),
            float(rise),
            float(bow),
            (float(head[0]), float(head[1])),
            (float(body[0]), float(body[1])),
            # The head ends where the tube has become narrow.
            float(front + 0.45 * (back - front) + rng.normal(0, 0.8)),
        )

    def cross(self, y: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """At each y: z and x of the axis, half the width and half the height."""
        t = np.clip((y - self.front) / (self.back - self.front), 0, 1)
        z = self.low + self.rise * (0.55 * t + 0.45 * t**2)
        x = self.bow * (4 * t * (1 - t) - 0.6) - 5.0 * np.maximum(t - 0.8, 0) / 0.2
        behind = 1 / (1 + np.exp(-(t - 0.42) / 0.06))
        taper = np.sqrt(np.clip(np.minimum(t / 0.22, (1 - t) / 0.16), 0, 1))
        wide = (self.head[0] + (self.body[0] - self.head[0]) * behind) * taper
        high = (self.head[1] + (self.body[1] - self.head[1]) * behind) * taper
        return z, x, wide, high


def _volume(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """One case: image and label [D, H, W]."""
    counts = [
        round(float(mean + deviation * np.clip(rng.standard_normal(), -2, 2)))
        for mean, deviation in _SHAPES
    ]
    axes = [np.arange(count, dtype=np.float64) - (count - 1) / 2 for count in counts]
    grid = Grid(axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :], 1.0)
    shape = _Shape.draw(rng)
    z = grid.z + 0.9 * grid.field(rng, 14.0)
    y = grid.y + 0.9 * grid.field(rng, 14.0)
    x = grid.x + 0.9 * grid.field(rng, 14.0)
    if rng.random() < 0.5:  # the right hippocampus mirrors the left one
        x = -x
    signal, label = _tissue(rng, grid, shape, z, y, x)
    bias = 1 + 0.10 * grid.field(rng, 45.0)
    noise = rng.uniform(0.02, 0.05) * rng.standard_normal((2, *signal.shape))
    scale = float(np.exp(rng.uniform(np.log(100), np.log(3000))))
    image = scale * np.hypot(signal * bias + noise[0], noise[1])
    return image.astype(np.float32), label


def _tissue(
    rng: np.random.Generator, grid: Grid, shape: _Shape, z: Floats, y: Floats, x: Floats
) -> tuple[Floats, NDArray[np.uint8]]:
    """Paint what is around the hippocampus, then itself. Larger x is farther to the side."""
    axis_z, axis_x, wide, high = shape.cross(y)
    up, side = z - axis_z, x - axis_x
    cloud, fine = grid.field(rng, 7.0), grid.field(rng, 2.2)
    signal = _WHITE + 0.06 * cloud + 0.02 * fine

    def grey(level: float = _GREY) -> Floats:
        tissue: Floats = level * np.exp(0.06 * cloud + 0.09 * fine)
        return tissue

    # The folded cortex below and to the side, with fluid in its folds.
    folds = grid.field(rng, 9.0)
    cortex = np.maximum(-up - high - 3.0, side - wide - 4.0)
    below = grid.inside(cortex, 0.5)
    paint(signal, below * np.clip(4.0 - 4.5 * np.abs(folds), 0, 1), grey(0.52))
    paint(signal, below * lines(folds, 0.12), _FLUID)
    # The brain stem: a bright bulge in the middle, and the dark cistern around it.
    stem = (
        13.0 + rng.normal(0, 1.0) - np.sqrt((x + 22) ** 2 + (0.75 * (y - 2)) ** 2 + (0.5 * z) ** 2)
    )
    paint(signal, grid.inside(stem + 3.0 + 0.8 * folds, 0.3), _FLUID)
    paint(signal, grid.inside(stem, 0.3), _WHITE * np.exp(0.03 * fine))
    # The horn of the ventricle, a dark crescent above and beside the hippocampus.
    room = np.maximum(rng.normal(1.5, 0.5), 0.4)
    far = np.sqrt((side / (wide + room + 0.1)) ** 2 + (up / (high + room + 0.1)) ** 2)
    crescent = (1 - far) * (wide * high + 0.1) ** 0.5 + np.minimum(0, 0.5 * side + up - 1.0)
    paint(signal, grid.inside(crescent + 0.4 * folds, 0.4) * (wide > 1), _FLUID + 0.05 * fine)
    # The amygdala before and above the head is as grey as the hippocampus.
    middle = (shape.low + shape.head[1] + 5.5, shape.front + 3.0)
    nut = 7.0 - np.sqrt((z - middle[0]) ** 2 + (0.8 * (y - middle[1])) ** 2 + (0.8 * x) ** 2)
    paint(signal, grid.inside(nut + 0.5 * cloud, 0.6), grey(0.60))

    depth = 1 - np.sqrt((side / (wide + 1e-6)) ** 2 + (up / (high + 1e-6)) ** 2)
    uneven = 0.75 * np.minimum(wide / 5, 1) * grid.field(rng, 4.5)
    depth = np.maximum(depth, -4.0) * (wide * high) ** 0.5 + uneven
    depth = np.where(wide > 0.5, depth, -9.0)
    paint(signal, grid.inside(depth, 0.3), grey())
    # A thin bright sheet on its upper side.
    paint(signal, np.exp(-(((depth - 0.4) / 0.6) ** 2)) * (up > 0.4 * high) * 0.5, 0.95 * _WHITE)
    label = np.where(depth > 0, np.where(y < shape.border, 1, 2), 0).astype(np.uint8)
    return signal, label
