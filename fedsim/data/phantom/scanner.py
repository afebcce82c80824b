"""Centres and their scanners: field of view, slices, coils, noise and intensity scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data.phantom.canvas import Floats
from fedsim.data.phantom.lattice import Grid

Range = tuple[float, float]
"""The mean of a quantity over a centre's cases, and its standard deviation."""


@dataclass(frozen=True)
class Centre:
    """How a centre takes its images.

    Attributes:
        cases: how many it has in the whole federation.
        coil: whether it uses an endorectal coil.
        view: side of the field of view in mm.
        slices: how many, relative to the others.
        covered: length that the slices cover, in mm.
        hollow: how much darker the middle is than the rim, because the coils lie on the skin.
        gain: by how much an endorectal coil brightens what touches it.
        noise: standard deviation of the noise in relation to the signal of fat.
        scale: the intensity of fat.
        gas: share of patients whose rectum is distended by gas.
    """

    cases: int
    coil: bool
    view: Range
    slices: Range
    covered: float
    hollow: Range
    gain: Range
    noise: Range
    scale: Range
    gas: float


CENTRES = {
    "centre-1": Centre(
        cases=32,
        coil=False,
        view=(180, 8),
        slices=(1.0, 0.08),
        covered=68,
        hollow=(0.3, 0.15),
        gain=(0, 0),
        noise=(0.020, 0.005),
        scale=(950, 150),
        gas=0.5,
    ),
    "centre-2": Centre(
        cases=23,
        coil=True,
        view=(160, 16),
        slices=(1.5, 0.2),
        covered=84,
        hollow=(0.1, 0.1),
        gain=(6.0, 2.0),
        noise=(0.014, 0.004),
        scale=(300, 100),
        gas=0.0,
    ),
    "centre-3": Centre(
        cases=27,
        coil=False,
        view=(182, 8),
        slices=(1.2, 0.02),
        covered=76,
        hollow=(1.3, 0.4),
        gain=(0, 0),
        noise=(0.012, 0.004),
        scale=(800, 120),
        gas=0.5,
    ),
    "centre-4": Centre(
        cases=184,
        coil=False,
        view=(176, 10),
        slices=(1.0, 0.06),
        covered=70,
        hollow=(0.4, 0.2),
        gain=(0, 0),
        noise=(0.018, 0.005),
        scale=(450, 90),
        gas=0.25,
    ),
}
"""They differ as the four public sources that federations of prostate MRI are made of: the Medical
Segmentation Decathlon (32 cases), PROMISE12 with (23) and without (27) an endorectal coil, and
ProstateX (184)."""


@dataclass(frozen=True)
class Shot:
    """How one case is taken: draws of what `Centre` describes."""

    view: float
    slices: int
    covered: float
    hollow: float
    gain: float
    noise: float
    scale: float

    @classmethod
    def draw(cls, rng: np.random.Generator, centre: Centre, slices: int) -> Shot:
        """Draw a case of a centre; `slices` is the number of an average case."""

        def one(of: Range) -> float:
            return of[0] + of[1] * float(np.clip(rng.standard_normal(), -2, 2))

        return cls(
            view=one(centre.view),
            slices=max(4, round(slices * one(centre.slices))),
            covered=centre.covered,
            hollow=one(centre.hollow),
            gain=one(centre.gain),
            noise=one(centre.noise),
            scale=one(centre.scale),
        )


def expose(
    rng: np.random.Generator,
    grid: Grid,
    signal: Floats,
    shot: Shot,
    coil: tuple[float, float] | None,
) -> NDArray[np.float32]:
    """Take the image of a signal: coil sensitivities, noise and scale.

    coil: y and x of an endorectal coil's middle in mm.
    """
    far = np.hypot(grid.y + 8, grid.x) / 90
    sensitivity = (1 + shot.hollow * far**2) / (1 + shot.hollow)
    sensitivity = sensitivity * (1 + 0.06 * grid.field(rng, 70.0))
    if coil is not None:
        away = np.hypot(grid.y - coil[0], grid.x - coil[1]) / 21
        along = 1 + (grid.z / 45) ** 2
        sensitivity = sensitivity * (0.3 + shot.gain / (1 + away**2 * along) ** 1.6)
    noise = shot.noise * rng.standard_normal((2, *signal.shape))
    # A magnitude image: noise does not average out where there is no signal.
    image = shot.scale * np.hypot(signal * sensitivity + noise[0], noise[1])
    return image.astype(np.float32)
