"""A prostate: its zones, nodules and lesions. All numbers were chosen by eye, beside real slices.

Signals are relative to that of fat in a T2-weighted image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data.phantom.canvas import Floats
from fedsim.data.phantom.lattice import Grid, lines, paint

STRUCTURES = ("peripheral_zone", "transition_zone", "lesion")
"""Names of the label values 1, 2 and 3."""


@dataclass(frozen=True)
class Gland:
    """Size and look of one gland.

    Attributes:
        centre: z, y, x in mm.
        half: half of its length, depth (front to back) and width in mm.
        hollow: how far its back is pressed in by the rectum, as a part of half its depth.
        enlarged: how much the transition zone has grown, from 0 to 1.
        peripheral, transition: the zones' signals.
        lesions: how many.
    """

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    hollow: float
    enlarged: float
    peripheral: float
    transition: float
    lesions: int

    @classmethod
    def draw(cls, rng: np.random.Generator, coil: bool) -> Gland:
        """Draw a patient's gland; a coil in the rectum flattens it."""
        enlarged = rng.uniform()
        length, depth, width = rng.normal([23.5, 18.3, 23.6], [2.0, 1.6, 1.8])
        grown = 0.92 + 0.16 * enlarged
        contrast = rng.normal(0, 0.12)
        level = 0.53 * np.exp(rng.normal(0, 0.10))
        return cls(
            centre=(rng.normal(-2.0, 3.0), rng.normal(-4.0, 4.0), rng.normal(0.0, 2.0)),
            half=(
                length * grown,
                depth * grown**1.5 * (0.92 if coil else 1.0),
                width * grown * (1.06 if coil else 1.0),
            ),
            hollow=rng.uniform(0.12, 0.26) if coil else rng.uniform(0.0, 0.16),
            enlarged=enlarged,
            peripheral=level * np.exp(0.34 + contrast),
            transition=level * np.exp(-0.10 - 0.3 * contrast),
            lesions=int(rng.choice([0, 1, 2, 3], p=[0.1, 0.45, 0.3, 0.15])),
        )

    def frame(self, z: Floats, y: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Positions in units of the gland: w along it, v to the back, u to the left.

        The gland leans back towards the head, is narrower at its apex, and its back is hollow.
        """
        w = (z - self.centre[0]) / self.half[0]
        narrow = 1 + 0.13 * np.clip(w, -1.2, 1.2)
        u = (x - self.centre[2]) / (self.half[2] * narrow)
        v = (y - self.centre[1] - 2.5 * w) / (self.half[1] * narrow)
        pressed = self.hollow * np.maximum(1 - u**2, 0) * np.maximum(v, 0)
        return w, v + pressed, u

    def radius(self, w: Floats, v: Floats, u: Floats) -> Floats:
        """1 on the gland's surface, less inside."""
        u2, v2, w2 = u * u, v * v, w * w
        # A little squarer than an ellipsoid.
        across = u2 + v2 - 0.35 * u2 * v2 / (u2 + v2 + 1e-9)
        whole: Floats = np.sqrt(across + w2 * (0.6 + 0.4 * w2))
        return whole

    def inner_radius(self, w: Floats, v: Floats, u: Floats) -> Floats:
        """1 on the surface of the transition zone, which reaches the front but not the apex."""
        wide, deep = 0.65 + 0.14 * self.enlarged, 0.70 + 0.12 * self.enlarged
        return self.radius((w - 0.20) / 0.86, (v + 0.34) / deep, u / wide)


def draw_gland(
    rng: np.random.Generator,
    grid: Grid,
    place: tuple[Floats, Floats, Floats],
    gland: Gland,
    signal: Floats,
) -> NDArray[np.uint8]:
    """Paint a gland over the signal, in place.

    place: the (warped) position of every voxel in mm, [D, H, W] each.

    Returns:
        Labels uint8 [D, H, W], positions in `STRUCTURES` from 1, and 0 outside the gland.
    """
    labels = np.zeros(signal.shape, dtype=np.uint8)
    room = grid.box(np.array(gland.centre), 1.25 * np.array(gland.half) + 8)
    grid, signal = grid.crop(room), signal[room]
    place = place[0][room], place[1][room], place[2][room]
    frame = gland.frame(*place)
    size = (gland.half[1] * gland.half[2]) ** 0.5
    border = 0.035 * grid.field(rng, 13.0)
    depth = (1 - gland.radius(*frame) + border) * size
    inner = (1 - gland.inner_radius(*frame) + 0.05 * grid.field(rng, 11.0)) * 0.7 * size
    whole = grid.inside(depth)
    middle = np.minimum(grid.inside(inner, 0.4), whole)

    fine, cloud = grid.field(rng, 2.2, 3.5), grid.field(rng, 7.0)
    outer = gland.peripheral * np.exp(0.12 * cloud + 0.16 * fine)
    outer *= 1 - 0.45 * lines(grid.field(rng, 6.0), 0.16)
    paint(signal, whole, outer)
    lesion = _lesions(rng, grid, place, gland, signal, np.minimum(whole, 1 - middle), fine)
    paint(signal, middle, _transition(rng, grid, place, gland, fine))
    # The capsule around the gland and the one around its transition zone are thin and dark.
    for surface, dark in ((depth - 0.8, 0.40), (inner - 0.5, 0.35)):
        sheet = np.exp(-((surface / (0.9 + 0.3 * grid.pitch)) ** 2)) * (depth > -2)
        paint(signal, dark * sheet, 0.12)
    _urethra(grid, place, gland, signal)

    own = labels[room]
    own[whole > 0.5] = 1
    own[(own == 1) & (lesion > 0.5)] = 3
    own[(whole > 0.5) & (inner > 0)] = 2
    return labels


def _transition(
    rng: np.random.Generator,
    grid: Grid,
    place: tuple[Floats, Floats, Floats],
    gland: Gland,
    fine: Floats,
) -> Floats:
    """The signal of the transition zone: nodules, bright and dark, with dark rims; dark front."""
    signal = gland.transition * np.exp(0.16 * fine + 0.20 * grid.field(rng, 6.0))
    front = (place[1] - gland.centre[1]) / gland.half[1]
    signal *= 1 - 0.45 * grid.inside((-0.62 - front) * gland.half[1], 2.0)
    count = int(rng.integers(5, 9) + 5 * gland.enlarged)
    spread = np.array([0.55, 0.42, 0.46])
    for turn, radius, level in zip(
        rng.uniform(-1, 1, (count, 3)),
        rng.uniform(2.8, 5.5, count) * (0.8 + 0.5 * gland.enlarged),
        rng.normal(0.05, 0.38, count),
        strict=True,
    ):
        middle = np.array(gland.centre) + np.array(gland.half) * (turn * spread + [0.1, -0.2, 0])
        box, far = _near(grid, place, middle, (1.3 * radius, radius, radius), 1.8)
        depth = (1 - far) * radius
        paint(
            signal[box],
            grid.inside(depth, 0.3),
            gland.transition * np.exp(level + 0.14 * fine[box]),
        )
        paint(signal[box], 0.5 * np.exp(-((depth / 1.0) ** 2)), 0.55 * gland.transition)
    return signal


def _lesions(
    rng: np.random.Generator,
    grid: Grid,
    place: tuple[Floats, Floats, Floats],
    gland: Gland,
    signal: Floats,
    zone: Floats,
    fine: Floats,
) -> Floats:
    """Paint dark lesions into the peripheral zone; returns how much of each voxel they are."""
    lesion = np.zeros(signal.shape)
    wobble = grid.field(rng, 5.0)
    for _ in range(gland.lesions):
        middle = _in_peripheral_zone(rng, gland)
        radius, dark = rng.uniform(6.5, 10.0), rng.uniform(0.30, 0.46)
        flat = rng.uniform(0.65, 1.0)
        box, far = _near(grid, place, middle, (0.95 * radius, flat * radius, radius), 1.6)
        cover = grid.inside((1 - far + 0.12 * wobble[box]) * radius, 0.5) * zone[box]
        paint(signal[box], cover, dark * gland.peripheral * np.exp(0.10 * fine[box]))
        lesion[box] = np.maximum(lesion[box], cover)
    return lesion


def _in_peripheral_zone(rng: np.random.Generator, gland: Gland) -> Floats:
    """A point (z, y, x) in mm well inside the peripheral zone."""
    while True:
        w, v, u = rng.uniform([-0.75, -0.1, -0.9], [0.6, 0.95, 0.9])
        at = np.array([w, v, u])
        outside = gland.inner_radius(*at) > 1.12
        if outside and gland.radius(*at) < 0.90:
            narrow = 1 + 0.13 * w
            back = v / (1 + gland.hollow * max(1 - u**2, 0))
            return np.array(
                [
                    gland.centre[0] + w * gland.half[0],
                    gland.centre[1] + 2.5 * w + back * gland.half[1] * narrow,
                    gland.centre[2] + u * gland.half[2] * narrow,
                ]
            )


def _urethra(
    grid: Grid, place: tuple[Floats, Floats, Floats], gland: Gland, signal: Floats
) -> None:
    """A small bright tube with a dark wall from the middle of the gland to its apex."""
    z, y, x = place
    far = np.hypot(y - gland.centre[1] - 0.05 * gland.half[1], x - gland.centre[2])
    below = grid.inside(gland.centre[0] - 2 - z, 1.5) * (
        np.abs(z - gland.centre[0]) < gland.half[0]
    )
    paint(signal, 0.5 * below * grid.inside(4.2 - far), 0.16)
    paint(signal, 0.8 * below * grid.inside(2.2 - far), 1.5 * gland.peripheral)


def _near(
    grid: Grid,
    place: tuple[Floats, Floats, Floats],
    middle: Floats,
    half: tuple[float, float, float],
    reach: float,
) -> tuple[tuple[slice, slice, slice], Floats]:
    """A box around an ellipsoid, and its voxels' distance from the middle, 1 on the surface.

    The box is `reach` times the ellipsoid and some mm for the warp: drawing in boxes is fast.
    """
    region = grid.box(middle, reach * np.array(half) + 9)
    far = sum(
        ((side[region] - centre) / length) ** 2
        for side, centre, length in zip(place, middle, half, strict=True)
    )
    return region, np.sqrt(far)
