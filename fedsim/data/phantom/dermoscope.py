"""Sites and their instruments: light, colour cast, dark corners, hairs, bubbles, and the lens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedsim.data.phantom.canvas import Floats, at, develop, grid_axis, step, strokes

TRAITS = (
    "warmth",  # colour cast from blue to yellow
    "tint",  # colour cast from green to magenta
    "exposure",
    "contrast",
    "corners",  # how dark the corners are; below about 0 they are not
    "blur",
    "zoom",
    "hair",
    "gel",  # bubbles in the contact fluid
    "tone",  # how dark the patients' skin is
    "flush",  # how red it is
    "severe",  # how many lesions are malignant
)
LAYOUT = 8
"""The stream of the traits. It was chosen by eye, so that five sites look like five clinics."""

SHOT = (
    *("exposure", "contrast", "red", "green", "blue", "slope x", "slope y", "falloff"),
    *("corners", "ring", "ring x", "ring y", "blur", "hair", "hair colour", "shaved", "bubbles"),
)
"""What varies from image to image: one standard normal each."""

HAIRS, BUBBLES = 14, 5
STROKES = HAIRS + BUBBLES
"""Rows of six uniforms that an image needs for its hairs and bubbles."""


def site_traits(sites: int, shift: float) -> dict[str, Floats]:
    """One value per trait and site, [sites], evenly spread over [-shift, shift].

    They do not depend on a seed: another seed means other patients of the same clinics.
    """
    rng = np.random.default_rng(LAYOUT)
    levels = (2 * np.arange(sites) + 1) / sites - 1
    return {trait: shift * rng.permutation(levels) for trait in TRAITS}


def photograph(
    skin: Floats,
    site: dict[str, Floats],
    shot: dict[str, Floats],
    uniform: Floats,
    size: int,
) -> NDArray[np.uint8]:
    """Take the pictures of pieces of skin under even white light.

    skin: reflectance [n, 3, count, count]. site: TRAITS [n]. shot: SHOT [n]. uniform:
    [n, STROKES, 6]. Returns uint8 [n, size, size, 3].
    """
    count = skin.shape[-1]
    hair = 0.85 - 0.85 * np.exp(-1.6 * _hairs(uniform[:, :HAIRS], site, shot, count))[:, None]
    brown = np.array([0.15, 0.09, 0.07]) * np.exp(0.45 * shot["hair colour"])[:, None]
    picture = skin + hair * (brown[:, :, None, None] - skin)
    picture *= _light(site, shot, count)
    picture += 0.30 * _bubbles(uniform[:, HAIRS:], site, shot, count)[:, None]
    blur = 0.009 * np.exp(0.7 * site["blur"] + 0.35 * shot["blur"])
    picture = np.maximum(develop(picture, blur, size), 1e-4)
    contrast = 1.05 + 0.12 * site["contrast"] + 0.07 * shot["contrast"]
    picture **= contrast[:, None, None, None]
    # Bright parts saturate softly, as on a sensor.
    bright = 0.8 + 0.2 * np.tanh((picture - 0.8) / 0.2)
    picture = np.where(picture > 0.8, bright, picture).transpose(0, 2, 3, 1)
    return np.rint(255 * picture).astype(np.uint8)


def _light(site: dict[str, Floats], shot: dict[str, Floats], count: int) -> Floats:
    """The light on the skin with its colour, gradient and dark corners: [n, 3, count, count]."""
    axis = grid_axis(count)
    x, y = axis[None, None, :], axis[None, :, None]

    warmth, tint = 0.075 * site["warmth"], 0.05 * site["tint"]
    gain = np.stack(
        [
            warmth + tint / 2 + 0.035 * shot["red"],
            -tint + 0.030 * shot["green"],
            0.04 - 1.6 * warmth + tint + 0.045 * shot["blue"],
        ],
        axis=1,
    )
    gain += (0.05 + 0.10 * site["exposure"] + 0.09 * shot["exposure"])[:, None]
    slope = at(0.06 * shot["slope x"]) * x + at(0.06 * shot["slope y"]) * y
    light = 1 + slope - at(0.03 + 0.03 * np.abs(shot["falloff"])) * (x**2 + y**2)
    far = np.hypot(x - at(0.06 * shot["ring x"]), y - at(0.06 * shot["ring y"]))
    edge = 1.30 - 0.12 * site["corners"] + 0.09 * shot["ring"]
    depth = np.clip(1.1 * site["corners"] - 0.25 + 0.2 * shot["corners"], 0, 0.93)
    light = light * (1 - at(depth) * step((far - at(edge)) / 0.05))
    coloured: Floats = light[:, None] * np.exp(gain)[:, :, None, None]
    return coloured


def _hairs(u: Floats, site: dict[str, Floats], shot: dict[str, Floats], count: int) -> Floats:
    """Body hairs, roughly parallel, as covered area."""
    expected = 3.0 * np.exp(0.9 * site["hair"] + 0.8 * shot["hair"])
    number = np.where(shot["shaved"] > 0.2 - 0.5 * site["hair"], expected, 0)
    there = np.arange(HAIRS) < number[:, None]
    image = np.nonzero(there)[0]
    turn, length, bend, x, y, width = u[there].T
    s = np.linspace(-1, 1, count)
    angle = 2 * np.pi * u[image, 0, 5] + 2.0 * (turn - 0.5)
    paths = _curves(s * (0.25 + 0.75 * length[:, None]), 0.5 * (bend[:, None] - 0.5) * s**2, angle)
    paths += np.stack([2.4 * x - 1.2, 2.4 * y - 1.2], -1)[:, None]
    return strokes(paths, 0.012 + 0.012 * width, 0.024, image, len(u), count)


def _bubbles(u: Floats, site: dict[str, Floats], shot: dict[str, Floats], count: int) -> Floats:
    """Bright rims of gel bubbles, as covered area."""
    number = np.clip(2.5 * (site["gel"] + 0.5 * shot["bubbles"]) - 1.2, 0, BUBBLES)
    there = np.arange(BUBBLES) < number[:, None]
    image = np.nonzero(there)[0]
    x, y, radius, arc, start, _ = u[there].T
    s = np.linspace(0, 1, count)
    turn = 2 * np.pi * (start[:, None] + (0.4 + 0.6 * arc[:, None]) * s)
    radius = 0.03 + 0.11 * radius[:, None] ** 2
    paths = np.stack([radius * np.cos(turn), radius * np.sin(turn)], -1)
    paths += np.stack([2.2 * x - 1.1, 2.2 * y - 1.1], -1)[:, None]
    return strokes(paths, np.full(len(image), 0.014), 0.014, image, len(u), count)


def _curves(along: Floats, across: Floats, angle: Floats) -> Floats:
    """Points [lines, points, 2] from coordinates along and across an axis at an angle [lines]."""
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.stack([cosine * along - sine * across, sine * along + cosine * across], -1)
