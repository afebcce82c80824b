"""What surrounds a prostate: fat, muscles, bones, bladder, rectum.

Drawn as a handful of soft solids in the patient's frame, in the order from back to front. All
numbers were chosen by eye, beside real slices; signals are relative to that of fat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.data.phantom.canvas import Floats
from fedsim.data.phantom.gland import Gland
from fedsim.data.phantom.lattice import Grid, lines, paint

MUSCLE, CORTEX, AIR = 0.15, 0.05, 0.01

Place = tuple[Floats, Floats, Floats]


@dataclass(frozen=True)
class Pelvis:
    """What differs between the surroundings of two glands.

    Attributes:
        coil: whether an endorectal coil fills the rectum.
        rectum: the radius of its lumen in mm.
        filling: the signal in the lumen: gas is dark, stool and some balloons are not.
        urine: the signal of the bladder's content.
        marrow: the signal in the bones.
        front: how far in front of the origin the skin is, in mm.
        size: of everything but the gland and what touches it, relative to the mean.
        shift: [12], how far single structures are from their usual place, in mm.
    """

    coil: bool
    rectum: float
    filling: float
    urine: float
    marrow: float
    front: float
    size: float
    shift: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator, coil: bool, gas: float) -> Pelvis:
        """Draw a patient; gas is the probability that the rectum is distended by it."""
        distended, bright = rng.uniform(size=2) < (gas, 0.5)
        if coil:
            rectum, filling = rng.normal(19.5, 1.0), 0.25 if bright else 0.02
        elif distended:
            rectum, filling = rng.uniform(13, 20), AIR
        else:
            rectum, filling = rng.uniform(6, 11), rng.uniform(0.10, 0.40)
        return cls(
            coil=coil,
            rectum=rectum,
            filling=filling,
            urine=rng.uniform(0.75, 1.15),
            marrow=rng.uniform(0.40, 0.65),
            front=rng.uniform(74, 92),
            size=rng.normal(1.0, 0.04),
            shift=rng.normal(0, 2.0, 12),
        )


def draw_pelvis(
    rng: np.random.Generator, grid: Grid, place: Place, gland: Gland, pelvis: Pelvis
) -> Floats:
    """The signal [D, H, W] of everything but the gland, whose room is filled by its neighbours."""
    z, y, x = place
    side = np.abs(x - pelvis.shift[0]) / pelvis.size
    y = y / pelvis.size
    coarse, fine = grid.field(rng, 12.0), grid.field(rng, 2.5, 4.0)
    sheets = lines(grid.field(rng, 14.0, 20.0), 0.25)
    fat = 0.86 * np.exp(0.12 * coarse + 0.06 * fine)
    signal = fat * (1 - 0.4 * sheets * grid.inside(coarse - 0.3, 0.2))
    muscle = MUSCLE * np.exp(0.16 * fine + 0.16 * coarse)
    muscle += 0.45 * sheets * grid.inside(-coarse - 0.1, 0.2)

    _muscles(grid, z, y, side, gland, pelvis, muscle, signal)
    _bones(rng, grid, z, y, side, pelvis, fine, signal)
    skin = y + pelvis.front - 0.0025 * x**2
    paint(signal, grid.inside(13 - skin), fat)
    paint(signal, grid.inside(-skin), AIR)
    _around_the_gland(rng, grid, place, gland, signal, fine)
    _bladder(grid, place, gland, pelvis, fine, signal)
    _rectum(rng, grid, place, gland, pelvis, fine, signal)
    return signal


def _muscles(
    grid: Grid,
    z: Floats,
    y: Floats,
    side: Floats,
    gland: Gland,
    pelvis: Pelvis,
    muscle: Floats,
    signal: Floats,
) -> None:
    shift = pelvis.shift
    # Obturator internus, a curved band on either side, and what lies outside of it.
    band = 39 + shift[1] - 0.0085 * (y - 14) ** 2
    lower = 36 + shift[2] - y - 0.12 * (side - 40)
    paint(signal, grid.inside(np.minimum(np.minimum(side - band, y + 60), lower), 0.6), muscle)
    # Levator ani behind the gland: a sling around the rectum.
    sling = gland.half[2] + 2 + 0.20 * (z + 8) + shift[3] - 0.008 * np.maximum(y - 5, 0) ** 2
    depth = np.minimum(2.6 - np.abs(side - sling), np.minimum(y - 8, 44 - y))
    paint(signal, 0.85 * grid.inside(np.minimum(depth, 14 - z), 0.5), muscle)
    # Obturator externus and pectineus in front, towards the feet; the thin recti further up.
    turned = 0.35 * (side - 48)
    depth = (1 - np.hypot((side - 50) / 46, (y + 54 + shift[4] + turned) / 24)) * 22
    paint(signal, grid.inside(np.minimum(depth, 18 - z), 0.8), muscle)
    depth = (1 - np.hypot((side - 10) / 30, (y + 62 + shift[5]) / 8)) * 8
    paint(signal, grid.inside(np.minimum(depth, z + 6), 0.6), muscle)
    # Gluteus maximus behind, higher at its outer end.
    turned = 0.42 * (side - 60)
    depth = (1 - np.hypot((side - 64) / 56, (y - 62 - shift[6] + turned) / 20)) * 20
    paint(signal, grid.inside(depth, 0.8), muscle)


def _bones(
    rng: np.random.Generator,
    grid: Grid,
    z: Floats,
    y: Floats,
    side: Floats,
    pelvis: Pelvis,
    fine: Floats,
    signal: Floats,
) -> None:
    """Pubis, ischium and the heads of the femora: marrow in a dark shell."""
    marrow = pelvis.marrow * np.exp(0.10 * fine + 0.12 * grid.field(rng, 9.0))
    shift = pelvis.shift
    bones = (
        ((-16, -50 + shift[7], 17), (18, 9, 14)),
        ((-34, 18 + shift[8], 62), (26, 15, 13)),
        ((26, 4 + shift[8], 58), (28, 20, 9)),
        ((10, -6 + shift[9], 86), (30, 24, 22)),
    )
    for (up, back, out), (tall, deep, wide) in bones:
        far = ((z - up) / tall) ** 2 + ((y - back) / deep) ** 2 + ((side - out) / wide) ** 2
        depth = (1 - np.sqrt(far)) * min(deep, wide)
        paint(signal, grid.inside(depth + 2.2), CORTEX)
        paint(signal, grid.inside(depth, 0.3), marrow)


def _around_the_gland(
    rng: np.random.Generator,
    grid: Grid,
    place: Place,
    gland: Gland,
    signal: Floats,
    fine: Floats,
) -> None:
    """What touches the gland, as bright in the mean as the gland is.

    Fascia and veins around it, then levator ani on both sides; in front the fibromuscular stroma
    with the dorsal veins.
    """
    room = grid.box(np.array(gland.centre), 1.1 * np.array(gland.half) + 24)
    grid = grid.crop(room)
    w, v, u = gland.frame(place[0][room], place[1][room], place[2][room])
    size = (gland.half[1] * gland.half[2]) ** 0.5
    outside = (gland.radius(w, v, u) - 1) * size
    veins, uneven = grid.field(rng, 5.0), grid.field(rng, 15.0)
    beside = grid.inside((np.abs(u) - 0.35 + 0.25 * v) * size, 2.0)
    front = grid.inside((-v - 0.55) * size, 2.0)
    near, own = signal[room], 0.12 * fine[room]

    paint(near, 0.9 * front * grid.inside(9.0 + 3 * uneven - outside, 1.0), 0.17 * np.exp(own))
    band = 4.6 + 0.8 * veins - np.abs(outside - 7.2 - 1.5 * uneven)
    paint(near, 0.95 * (1 - front) * beside * grid.inside(band, 0.4), 0.8 * MUSCLE * np.exp(own))
    rim = grid.inside(2.0 + 1.0 * uneven - outside, 0.4)
    paint(near, 0.9 * rim, 0.24 * np.exp(own + 0.30 * veins))
    veined = grid.inside(veins - 1.0, 0.1) * grid.inside(9 - outside, 1.0)
    paint(near, veined, 1.30 * np.exp(own))


def _bladder(
    grid: Grid, place: Place, gland: Gland, pelvis: Pelvis, fine: Floats, signal: Floats
) -> None:
    """The bladder above the gland, and the seminal vesicles behind it."""
    z, y, x = place
    top = gland.centre[0] + gland.half[0]
    x = x - pelvis.shift[10]
    for out in (-15.0, 15.0):
        far = ((z - top - 4) / 8) ** 2 + ((y - 10) / 6) ** 2 + ((x - out) / 15) ** 2
        depth = (1 - np.sqrt(far)) * 6
        paint(signal, grid.inside(depth, 0.5), 0.75 * np.exp(0.35 * fine))
    far = ((z - top - 8) / 21) ** 2 + ((y + 20) / 21) ** 2 + (x / 31) ** 2
    depth = (1 - np.sqrt(far)) * 21
    paint(signal, grid.inside(depth + 3.0), 0.22 * np.exp(0.1 * fine))
    paint(signal, grid.inside(depth, 0.3), pelvis.urine)


def _rectum(
    rng: np.random.Generator,
    grid: Grid,
    place: Place,
    gland: Gland,
    pelvis: Pelvis,
    fine: Floats,
    signal: Floats,
) -> None:
    """The rectum: wall, lumen and what fills it, or an endorectal coil."""
    z, y, x = place
    w = np.clip((z - gland.centre[0]) / gland.half[0], -1.4, 1.4)
    wall = 2.0 if pelvis.coil else 3.5
    lumen = pelvis.rectum * (1.0 if pelvis.coil else 0.82 + 0.25 * w)
    # Its front wall touches the gland's back.
    back = gland.centre[1] + 2.5 * w + gland.half[1] * (1 - 0.75 * gland.hollow)
    middle = back + lumen + wall + (0 if pelvis.coil else 3.0 * np.abs(w))
    far = np.hypot(y - middle, (x - pelvis.shift[11]) / (1.08 if pelvis.coil else 1.15))
    depth = lumen - far
    if not pelvis.coil:
        depth = depth + 1.2 * grid.field(rng, 12.0)
    paint(signal, grid.inside(depth + wall, 0.3), 0.30 * np.exp(0.2 * fine))
    content = pelvis.filling * np.exp((0.05 if pelvis.coil else 0.35) * grid.field(rng, 5.0))
    paint(signal, grid.inside(depth, 0.2), content)
    if pelvis.coil:
        # The balloon's skin and the probe in its middle give no signal.
        paint(signal, 0.9 * np.exp(-((depth / 1.2) ** 2)), CORTEX)
        paint(signal, grid.inside(3.5 - far), CORTEX)
