"""Dermoscopy-like images computed from a seed: the embedded stand-in of the skin data sets.

The pictures are drawn, not learned or copied: every number was chosen by eye, and checked by how
well a centrally trained network tells benign from malignant. No result on them says anything
about skin; they are for running, testing and comparing methods without a download.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Embedded
from fedsim.data.phantom.canvas import Floats, grid_axis
from fedsim.data.phantom.dermoscope import SHOT, STROKES, photograph, site_traits
from fedsim.data.phantom.lesion import (
    DIAGNOSES,
    LESION,
    LESION_WAVES,
    SKIN_WAVES,
    VIEW,
    Diagnosis,
    Subjects,
    reflectance,
)
from fedsim.data.processes import in_processes

Ints = NDArray[np.int64]

COARSEST = 64
"""The fewest samples a side that a picture is drawn with; always at least two a pixel."""
SAMPLES = 2**17
"""How many samples of pictures are drawn at a time, so that they stay in the processor's cache."""
LONG = 2**26
"""From how many samples on it is told how far the drawing is: it takes most of a minute."""
TASK = 2**21
"""How many samples a process draws before it tells of them: a second or two."""

PLAN, LESIONS, IMAGES = range(3)
"""What a random stream is for; every lesion and every image has its own."""


def skin_phantom(
    size: int,
    *,
    task: Literal["binary", "diagnosis"] = "binary",
    images: int = 6000,
    positives: float = 0.25,
    sites: int = 5,
    views: float = 1.3,
    site_shift: float = 1.0,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> Embedded:
    """Draw a data set of skin lesions.

    The same arguments give the same data set, and another size the same pictures at another
    resolution. Another seed gives other patients of the same sites.

    Args:
        size: height and width of the images in pixels, at least 8.
        task: "binary" labels benign 0 and malignant 1; "diagnosis" labels the same pictures with
            their position in akiec, bcc, bkl, df, mel, nv, vasc.
        images: how many, at least 2 and at least `sites`.
        positives: share of the lesions that are malignant (akiec, bcc, mel), between 0 and 1.
        sites: how many hospitals the images are from, at least 1. The first holds the most, in
            the proportions sites : ... : 2 : 1.
        views: mean number of images of one lesion, from 1 to 3. They are one group.
        site_shift: how much sites differ in light, colour, optics, hairs, skin and, a little, in
            the share of malignant lesions; from 0 (not at all) to 2.
        seed: of all random numbers, at least 0.
        workers: processes that draw, where that takes seconds.
        progress: where it takes long, called with images drawn, images in all, and what is done.

    Returns:
        Images uint8 [images, size, size, 3], labels, groups "lesion-00000" ..., sites "site-0" ...

    Raises:
        ValueError: an argument is of a wrong type or out of range; the message names all of them.
    """
    _check(size, task, images, positives, sites, views, site_shift, seed)
    plan = _plan(images, positives, sites, views, site_shift, seed)
    pictures = np.empty((images, size, size, 3), dtype=np.uint8)
    count = size * max(2, -(-COARSEST // size))
    chunk = max(1, SAMPLES // count**2)
    drawing = _Drawing(plan, size, count, chunk, seed)
    step = chunk * max(1, TASK // (chunk * count**2))
    parts = [range(start, min(start + step, images)) for start in range(0, images, step)]
    done = 0
    for rows, drawn in in_processes(drawing, parts, workers, "draws images"):
        pictures[rows] = drawn
        done += len(rows)
        if progress is not None and images * count**2 >= LONG:
            progress(done, images, "drawing images")
    diagnosis, site = plan.diagnosis[plan.lesion], plan.site[plan.lesion]
    if task == "binary":
        labels = np.array([look.malignant for look in DIAGNOSES.values()], np.int64)[diagnosis]
        classes: tuple[str, ...] = ("benign", "malignant")
    else:
        labels, classes = diagnosis, tuple(DIAGNOSES)
    return Embedded(
        images=pictures,
        labels=labels,
        groups=[f"lesion-{lesion:05d}" for lesion in plan.lesion],
        sites=[f"site-{code}" for code in site],
        classes=classes,
    )


skin_phantom.version = 1  # type: ignore[attr-defined]


def _check(
    size: int,
    task: str,
    images: int,
    positives: float,
    sites: int,
    views: float,
    site_shift: float,
    seed: int,
) -> None:
    problems = []

    def whole(name: str, value: object, least: int) -> bool:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not good:
            problems.append(f"{name} must be a whole number of at least {least}, not {value!r}.")
        return good

    def number(name: str, value: object, good: str, low: float, high: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            problems.append(f"{name} must be a number {good}, not {value!r}.")
        elif not low <= value <= high:
            problems.append(f"{name} must be {good}, not {value!r}.")

    whole("size", size, 8)
    if task not in ("binary", "diagnosis"):
        problems.append(f"task must be 'binary' or 'diagnosis', not {task!r}.")
    if whole("images", images, 2) and whole("sites", sites, 1) and sites > images:
        problems.append(f"images must be at least the number of sites, {sites}, not {images}.")
    number("positives", positives, "above 0 and below 1", np.nextafter(0, 1), np.nextafter(1, 0))
    number("views", views, "from 1 to 3", 1, 3)
    number("site_shift", site_shift, "from 0 to 2", 0, 2)
    whole("seed", seed, 0)
    if problems:
        raise ValueError(" ".join(problems))


@dataclass(frozen=True)
class _Plan:
    """Which lesion [images] is on which image, and each lesion's diagnosis and site [lesions]."""

    lesion: Ints
    diagnosis: Ints
    site: Ints
    traits: dict[str, Floats]


def _plan(
    images: int, positives: float, sites: int, views: float, site_shift: float, seed: int
) -> _Plan:
    rng = np.random.default_rng([seed, PLAN])
    copies = 1 + rng.binomial(2, (views - 1) / 2, images)
    lesion = np.repeat(np.arange(images), copies)[:images]
    count = int(lesion[-1]) + 1
    traits = site_traits(sites, site_shift)
    site = rng.permutation(_apportion(np.arange(sites, 0, -1.0), count))
    # The lesions with the highest log-odds are malignant: an exact share, uneven over sites.
    odds = rng.logistic(size=count) + 0.3 * traits["severe"][site]
    worst = np.argsort(-odds, kind="stable")
    malignant = int(np.clip(round(positives * count), 1, count - 1))
    diagnosis = np.empty(count, dtype=np.int64)
    looks = list(DIAGNOSES.values())
    for side, lesions in ((True, worst[:malignant]), (False, worst[malignant:])):
        codes = np.array([code for code, look in enumerate(looks) if look.malignant == side])
        shares = np.array([looks[code].share for code in codes])
        diagnosis[lesions] = rng.permutation(codes[_apportion(shares, len(lesions))])
    return _Plan(lesion, diagnosis, site, traits)


def _apportion(weights: Floats, total: int) -> Ints:
    """The numbers 0 ... len(weights) - 1, `total` in all, as often as weights say (sorted)."""
    exact = weights / weights.sum() * total
    often = np.floor(exact).astype(np.int64)
    often[np.argsort(often - exact, kind="stable")[: total - often.sum()]] += 1
    return np.repeat(np.arange(len(weights)), often)


@dataclass(frozen=True)
class _Drawing:
    """Draws images of a plan, `count` samples a side and `chunk` images at a time."""

    plan: _Plan
    size: int
    count: int
    chunk: int
    seed: int

    def __call__(self, rows: range) -> tuple[range, NDArray[np.uint8]]:
        axis = grid_axis(self.count)
        chunks = [
            np.arange(start, min(start + self.chunk, rows.stop))
            for start in range(rows.start, rows.stop, self.chunk)
        ]
        return rows, np.concatenate(
            [_draw(self.plan, chunk, self.size, axis, self.seed) for chunk in chunks]
        )


def _draw(plan: _Plan, rows: Ints, size: int, axis: Floats, seed: int) -> NDArray[np.uint8]:
    """The images numbered `rows`, drawn on axis x axis."""
    n, lesion = len(rows), plan.lesion[rows]
    looks = list(DIAGNOSES.values())
    normal, waves = _numbers(seed, LESIONS, lesion, len(LESION), 3 * LESION_WAVES)
    named = VIEW + SHOT
    counts = 1, 3 * SKIN_WAVES, 6 * STROKES
    shot, uniform = _numbers(seed, IMAGES, rows, len(named), sum(counts))
    turn, skin_waves, stroke = np.split(uniform, np.cumsum(counts)[:-1], axis=1)
    view = dict(zip(named, shot.T, strict=True))
    site = {name: trait[plan.site[lesion]] for name, trait in plan.traits.items()}
    look = {
        field.name: np.array([float(getattr(looks[d], field.name)) for d in plan.diagnosis[lesion]])
        for field in fields(Diagnosis)
    }
    subjects = Subjects(
        look=look,
        lesion=dict(zip(LESION, normal.T, strict=True)),
        view=view,
        site=site,
        turn=turn[:, 0],
        lesion_waves=waves.reshape(n, LESION_WAVES, 3),
        skin_waves=skin_waves.reshape(n, SKIN_WAVES, 3),
    )
    return photograph(reflectance(subjects, axis), site, view, stroke.reshape(n, STROKES, 6), size)


def _numbers(
    seed: int, purpose: int, indices: Ints, normals: int, uniforms: int
) -> tuple[Floats, Floats]:
    """Standard normals and uniforms, a row for each index, each from a stream of its own."""
    normal, uniform = np.empty((len(indices), normals)), np.empty((len(indices), uniforms))
    for row, index in enumerate(indices):
        rng = np.random.default_rng([seed, purpose, int(index)])
        rng.standard_normal(out=normal[row])
        rng.random(out=uniform[row])
    return normal, uniform
