"""Linear layers out of sums: ridge regression on one-hot targets, and nearest class means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedsim.statistics.sums import Floats, Sums, semidefinite

_ABSENT = -1e4  # Logit of a class that nobody has: its probability is 0 beside any other.
_LEAST = 1e-3  # Penalty beside noise, at least, as a share of the vectors' sum of squares.
_GRID = np.logspace(-9, 4, 53)  # Penalties to choose from, in units of the mean eigenvalue.
_STEEPEST = 1e4  # Nothing is scaled up by more.


@dataclass(frozen=True)
class Linear:
    """A linear layer: logits [classes] = weight x + bias.

    Attributes:
        weight: float64 [classes, k].
        bias: float64 [classes].
        penalty: with which it was found; 0 for none.
        scale: what logits of least squares were multiplied by.
    """

    weight: Floats
    bias: Floats
    penalty: float = 0.0
    scale: float = 1.0

    @classmethod
    def undecided(cls, classes: int, size: int) -> Linear:
        """The layer that says the same of all classes: nothing was learned."""
        return cls(np.zeros((classes, size)), np.zeros(classes))


def balanced_scales(sums: Sums) -> Floats:
    """What scales the targets of each class [classes] so that all classes weigh alike.

    n / (C n_c), with C the classes that are present, and 0 for a class that is not. One-hot targets
    scaled so need no further sum, and least squares estimates P(c | x) / (C P(c)), which is
    p(x | c) / p(x) up to a factor: the class under which x is likeliest, whatever the shares of the
    classes.
    """
    present = sums.present
    counts = np.where(present, np.maximum(sums.counts, 1.0), 1.0)
    return np.where(present, counts[present].sum() / (max(present.sum(), 1) * counts), 0.0)


def noise_penalty(sums: Sums) -> float:
    """The penalty that noise on the second moments asks for: twice its spectral norm.

    Noise of standard deviation s on a packed matrix is a symmetric one of s on the diagonal and
    s / root 2 beside it, whose spectral norm is near s root (2 k).
    """
    return 2 * sums.noise["second"] * math.sqrt(2 * sums.layout.size)


def ridge(sums: Sums, penalty: float | None = None, balance: bool = True) -> Linear:
    """Ridge regression of one-hot targets on x and an intercept, which is not penalised.

    The intercept is taken out by centring, so no constant feature is needed and n is all that it
    costs. Sums with noise are projected to what sums can be (positive semidefinite). Logits are
    those of least squares times one number, see `_scale`.

    Args:
        sums: with second moments of the matrix.
        penalty: on the squared weights, in sums; None: by `generalised_cross_validation`, or with
            noise `noise_penalty`, at least a thousandth of the vectors' sum of squares.
        balance: scale targets by `balanced_scales`.
    """
    classes, size = sums.layout.classes, sums.layout.size
    present, scales = sums.present, balanced_scales(sums)
    if not present.any():
        return Linear.undecided(classes, size)
    if not balance:
        scales = np.where(present, 1.0, 0.0)
    total = max(sums.total, 1.0)
    counts = np.where(present, sums.counts, 0.0)
    mean = sums.values["sums"].sum(axis=0) / total
    centred = sums.gram - total * np.outer(mean, mean)
    noisy = sums.noise["second"] > 0
    if noisy:
        centred = semidefinite(centred)
    targets = counts * scales
    products = scales[:, None] * sums.values["sums"] - np.outer(targets, mean)
    values, vectors = np.linalg.eigh(centred)
    values = np.maximum(values, 0.0)
    turned = products @ vectors
    if penalty is None and noisy:
        penalty = max(noise_penalty(sums), _LEAST * max(float(np.trace(sums.gram)), 0.0))
    elif penalty is None:
        energy = float((counts * scales**2).sum() - (targets**2).sum() / total)
        penalty = generalised_cross_validation(values, turned, energy, total)
    # Directions in which nothing varies have no weight.
    shrunk = values + penalty
    small = shrunk <= 1e-13 * max(float(values.max(initial=0.0)), 1e-300)
    weight = np.where(small, 0.0, turned / np.where(small, 1.0, shrunk)) @ vectors.T
    bias = targets / total - weight @ mean
    scale = _scale(sums, weight, centred, present)
    return Linear(
        np.where(present[:, None], scale * weight, 0.0),
        np.where(present, scale * bias, _ABSENT),
        float(penalty),
        scale,
    )


def generalised_cross_validation(
    eigenvalues: Floats, turned: Floats, energy: float, total: float
) -> float:
    """The penalty with the least generalised cross-validation error (Golub, Heath & Wahba, 1979).

    The residual sum of squares at each penalty follows from what is known: targets are one-hot, so
    their sum of squares is that of the counts.

    Args:
        eigenvalues: [k] of the centred Gram matrix.
        turned: [classes, k], centred products of targets and vectors along its eigenvectors.
        energy: sum of squares of the centred targets of all classes.
        total: n.
    """
    unit = float(eigenvalues.mean())
    if unit <= 0:
        return 0.0
    power = np.square(turned).sum(axis=0)
    best, found = math.inf, unit
    for penalty in unit * _GRID:
        inverse = 1 / (eigenvalues + penalty)
        left = energy - float((power * (2 * inverse - eigenvalues * inverse**2)).sum())
        free = 1 - (1 + float((eigenvalues * inverse).sum())) / total
        error = max(left, 0.0) / free**2 if free > 0 else math.inf
        if error < best:
            best, found = error, float(penalty)
    return found


def _scale(sums: Sums, weight: Floats, centred: Floats, present: np.ndarray) -> float:
    """What logits of least squares must be multiplied by so that their softmax says something.

    sum_c W_c (mu_c - mu) / sum_c W_c S W_c', with S the covariance within classes: 1 for the logits
    of linear discriminant analysis, W_c = S^-1 mu_c. Where noise, or too few records, leave nothing
    of either, 1.
    """
    counts = np.where(present, np.maximum(sums.counts, 1.0), 1.0)
    total = float(counts[present].sum())
    means = np.where(present[:, None], sums.values["sums"] / counts[:, None], 0.0)
    away = np.where(present[:, None], means - (counts * present) @ means / total, 0.0)
    between = (away * counts[:, None]).T @ away
    within = semidefinite((centred - between) / total)
    # What the noise alone would make of it.
    within = within + np.eye(len(within)) * sums.noise["second"] / total
    apart = float((weight * away).sum())
    spread = float(np.einsum("ci,ij,cj->", weight, within, weight))
    if not (apart > 0 and spread > 0):
        return 1.0
    return float(min(apart / spread, _STEEPEST))


def nearest_means(sums: Sums, sharpness: float | None = None) -> Linear:
    """The class whose mean is nearest: logits s (mu_c . x - |mu_c|^2 / 2).

    With s = k these are the logits of linear discriminant analysis for vectors of norm 1 whose
    coordinates are white, of variance 1/k. The squared norm of a mean with noise is too large by
    k times the variance of the noise, which is taken off.

    Args:
        sums: with or without second moments.
        sharpness: s; None: k.
    """
    size, present = sums.layout.size, sums.present
    if not present.any():
        return Linear.undecided(sums.layout.classes, size)
    sharp = float(size) if sharpness is None else sharpness
    counts = np.where(present, np.maximum(sums.counts, 1.0), 1.0)
    means = np.where(present[:, None], sums.values["sums"] / counts[:, None], 0.0)
    squares = np.square(means).sum(axis=1) - size * (sums.noise["sums"] / counts) ** 2
    bias = np.where(present, -sharp * np.maximum(squares, 0.0) / 2, _ABSENT)
    return Linear(sharp * means, bias, scale=sharp)
