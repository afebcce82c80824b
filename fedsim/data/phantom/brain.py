"""Complex slices that look like a brain, of three scanners: the stand-in of data of k-space.

A slice is drawn from ellipses, as Shepp and Logan's phantom is ("The Fourier reconstruction of a
head section", 1974), with folds of the cortex, and is computed from a seed. Contrast differs
between scanners, and so do the coil's shading, the phase and the noise. No result on them says
anything about patients; they are for running, testing and comparing methods without a download.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fedsim.data.phantom.canvas import Floats, grid_axis, step
from fedsim.data.slices.dataset import EmbeddedSlices

_FINE = 2
"""Samples on a side of a pixel: edges are averaged, as a scanner does."""


@dataclass(frozen=True)
class Scanner:
    """How a scanner shows a head: brightness of its tissues, and what it adds.

    Attributes:
        scalp, skull, grey, white, fluid: brightness.
        shading: how much darker the far side of the coil is.
        phase: turn of the phase across the field of view, in radians.
        noise: standard deviation of each of real and imaginary part, of the brightest tissue.
    """

    scalp: float
    skull: float
    grey: float
    white: float
    fluid: float
    shading: float
    phase: float
    noise: float


SCANNERS = {
    "scanner-1": Scanner(0.95, 0.08, 0.55, 0.85, 0.15, 0.25, 1.2, 0.010),  # T1
    "scanner-2": Scanner(0.80, 0.10, 0.60, 0.78, 0.22, 0.50, 2.5, 0.020),  # T1, other coil
    "scanner-3": Scanner(0.60, 0.06, 0.62, 0.42, 1.00, 0.15, 0.6, 0.015),  # T2
}
"""The three scanners, by the name of their site."""


def brain_stand_in(
    size: int, *, patients: int = 20, per_patient: int = 4, seed: int = 0
) -> EmbeddedSlices:
    """Draw a data set. The same arguments give the same bits; more patients change none.

    Args:
        size: height and width in pixels, at least 16.
        patients: of each scanner, at least 3.
        per_patient: slices of each patient, at least 1.
        seed: of all random numbers, at least 0.

    Raises:
        ValueError: an argument is out of range; the message names all of them.
    """
    wanted = (("size", size, 16), ("patients", patients, 3), ("per_patient", per_patient, 1))
    problems = [
        f"{name} must be a whole number of at least {least}, not {value!r}."
        for name, value, least in (*wanted, ("seed", seed, 0))
        if not isinstance(value, int) or isinstance(value, bool) or value < least
    ]
    if problems:
        raise ValueError(" ".join(problems))
    images, sites, groups = [], [], []
    for code, (site, scanner) in enumerate(SCANNERS.items()):
        for patient in range(patients):
            rng = np.random.default_rng([seed, code, patient])
            for image in _patient(rng, scanner, size, per_patient):
                images.append(image)
                sites.append(site)
                groups.append(f"{site}-{patient:03d}")
    return EmbeddedSlices(np.stack(images), sites, groups)


brain_stand_in.version = 1  # type: ignore[attr-defined]


def _patient(
    rng: np.random.Generator, scanner: Scanner, size: int, slices: int
) -> Iterator[np.ndarray]:
    """Slices of one head, from low to high."""
    wide, tall = rng.normal([0.68, 0.84], [0.03, 0.03])
    turn, shift = rng.normal(0, 0.10), rng.normal(0, 0.03, 2)
    folds = rng.uniform(0, 2 * np.pi, (3, 4))
    for number in range(slices):
        height = (number + 0.5) / slices  # 0 at the base, 1 at the top
        shrink = 1 - 0.25 * height**2
        head = (wide * shrink, tall * shrink, turn, shift)
        yield _slice(rng, scanner, size, head, height, folds)


def _slice(
    rng: np.random.Generator,
    scanner: Scanner,
    size: int,
    head: tuple[float, float, float, Floats],
    height: float,
    folds: Floats,
) -> np.ndarray:
    """One slice, complex64 [size, size]."""
    wide, tall, turn, shift = head
    fine = size * _FINE
    axis = grid_axis(fine)
    y, x = np.meshgrid(axis - shift[0], axis - shift[1], indexing="ij")
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    radius = np.hypot(u / wide, v / tall)
    angle = np.arctan2(v / tall, u / wide)
    sharp = fine / 3

    def inside(field: Floats) -> Floats:
        return step(field * sharp)

    image = scanner.scalp * inside(1 - radius)
    image += (scanner.skull - image) * inside(0.93 - radius)
    image += (scanner.grey - image) * inside(0.85 - radius)
    waves = sum(
        np.sin((9 + 5 * k) * angle + phase[0] + 2 * np.sin(3 * angle + phase[1])) / (k + 1)
        for k, phase in enumerate(folds)
    )
    border = 0.72 + 0.055 * waves
    image += (scanner.white - image) * inside(border - radius)
    # Furrows let fluid in between the folds, and the two halves of the brain are parted.
    furrow = np.exp(-(((waves + 1.2) / 0.25) ** 2)) * inside(0.85 - radius) * inside(radius - 0.66)
    image += (scanner.fluid - image) * 0.8 * furrow
    parting = inside(0.012 - np.abs(u)) * inside(np.abs(v) / tall - 0.45) * inside(0.85 - radius)
    image += (scanner.fluid - image) * 0.9 * parting
    for side in (-1, 1):
        image += _ellipse(
            image,
            scanner.fluid,
            inside,
            u - side * 0.11 * (1 + 0.3 * height),
            v + 0.02,
            (0.055 * (1.3 - height), 0.22 * (1.15 - height)),
            side * 0.25,
        )
        image += _ellipse(
            image, scanner.grey, inside, u - side * 0.22, v - 0.05, (0.07, 0.13), side * -0.3
        )
    if rng.uniform() < 0.3:  # A lesion, round and small.
        place = rng.uniform(-0.35, 0.35, 2)
        spread = rng.uniform(0.03, 0.07, 2)
        image += _ellipse(
            image,
            0.5 * (scanner.fluid + scanner.white),
            inside,
            u - place[0],
            v - place[1],
            (float(spread[0]), float(spread[1])),
            0.0,
        )
    shade = 1 - scanner.shading * 0.5 * (1 + y * np.cos(turn * 9) + x * np.sin(turn * 9))
    slope, bend = rng.normal(0, scanner.phase, 2), rng.normal(0, scanner.phase / 2, 3)
    phase = slope[0] * x + slope[1] * y + bend[0] * x * y + bend[1] * x**2 + bend[2] * y**2
    phase = phase + rng.uniform(-np.pi, np.pi)
    whole = image * np.clip(shade, 0.05, None) * np.exp(1j * phase)
    coarse = whole.reshape(size, _FINE, size, _FINE).mean(axis=(1, 3))
    noise = rng.normal(0, scanner.noise, (2, size, size))
    return np.asarray(coarse + noise[0] + 1j * noise[1]).astype(np.complex64)


def _ellipse(
    image: Floats,
    brightness: float,
    inside: Callable[[Floats], Floats],
    u: Floats,
    v: Floats,
    half: tuple[float, float],
    turn: float,
) -> Floats:
    """What an ellipse changes in an image: its inside gets this brightness."""
    along, across = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    field = (1 - np.hypot(along / half[0], across / half[1])) * min(half)
    return (brightness - image) * inside(field)
