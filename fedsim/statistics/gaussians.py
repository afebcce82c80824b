"""Gaussians of classes out of sums, vectors drawn from them, and a linear layer that learns these.

Beitollahi et al., "Parametric Feature Transfer: One-shot Federated Learning with Foundation Models"
(FedPFT, 2024), with one Gaussian a class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.statistics.linear import Linear
from fedsim.statistics.sums import Floats, Sums, unpack

_ABSENT = -1e4
_TOLERANCE = 1e-8
_FLOOR = 1e-6  # Variances, at least, as a share of the vectors' mean variance.
_NOISE_FLOOR = 0.1  # The same as a share of the spectral norm of the noise.


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of vectors of one class.

    Attributes:
        label: the class.
        mean: float64 [k].
        root: float64 [k, k], the symmetric root of the covariance, or [k], standard deviations.
        count: records that it stands for.
    """

    label: int
    mean: Floats
    root: Floats
    count: float


def class_gaussians(sums: Sums) -> list[Gaussian]:
    """The Gaussian of each class that is present.

    Variances, those along the covariance's eigenvectors, have a floor: a share of the mean variance
    and of the noise. So a class with one record has a Gaussian, too.

    Args:
        sums: with second moments by class.
    """
    full, size = sums.layout.second == "full", sums.layout.size
    second, noise = sums.values["second"], sums.noise["second"]
    found = []
    for label in np.flatnonzero(sums.present):
        count = max(float(sums.counts[label]), 1.0)
        mean = sums.values["sums"][label] / count
        level = noise * (math.sqrt(2 * size) if full else 1.0) / count
        if full:
            values, vectors = np.linalg.eigh(unpack(second[label]) / count - np.outer(mean, mean))
        else:
            values, vectors = second[label] / count - np.square(mean), None
        middle = max(float(values.mean()), float(np.square(mean).mean()) * _FLOOR)
        floor = max(_FLOOR * middle, _NOISE_FLOOR * level, 1e-12)
        deviations = np.sqrt(np.maximum(values, floor))
        # The symmetric root: eigenvectors alone are those of rounding where variances are alike.
        root = deviations if vectors is None else (vectors * deviations) @ vectors.T
        found.append(Gaussian(int(label), mean, root, count))
    return found


def draw(
    gaussians: Sequence[Gaussian], samples: int, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.int64]]:
    """Vectors of each class, shared out to its Gaussians by their counts.

    Args:
        gaussians: one or several of a class.
        samples: of each class.
        rng: draws.

    Returns:
        Vectors [n, k] and labels [n].
    """
    vectors, labels = [], []
    for label in sorted({one.label for one in gaussians}):
        own = [one for one in gaussians if one.label == label]
        shares = np.cumsum([one.count for one in own])
        ends = np.rint(samples * shares / shares[-1]).astype(int)
        for one, count in zip(own, np.diff(ends, prepend=0), strict=True):
            drawn = rng.standard_normal((int(count), len(one.mean)))
            spread = drawn * one.root if one.root.ndim == 1 else drawn @ one.root.T
            vectors.append(one.mean + spread)
            labels.append(np.full(int(count), label, dtype=np.int64))
    return np.concatenate(vectors), np.concatenate(labels)


def logistic(
    vectors: Floats, labels: NDArray[np.int64], classes: int, strength: float, iterations: int
) -> Linear:
    """Multinomial logistic regression with a penalty on the squared weights.

    Coordinates are brought to mean 0 and standard deviation 1 before, and the layer is that of the
    vectors as they are: else L-BFGS stops where rounding lets it.

    Args:
        vectors: [n, k].
        labels: [n]; a class that does not occur is never predicted.
        classes: how many there are.
        strength: the inverse of the penalty, scikit-learn's C.
        iterations: of L-BFGS, at most.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    held = np.unique(labels)
    weight, bias = np.zeros((classes, vectors.shape[1])), np.full(classes, _ABSENT)
    if len(held) < 2:
        bias[held] = 0.0
        return Linear(weight, bias)
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=strength, max_iter=iterations, tol=_TOLERANCE)
        fitted.fit((vectors - mean) / deviation, labels)
    rows, offsets = fitted.coef_ / deviation, fitted.intercept_
    if len(held) == 2:  # scikit-learn has one row, of the second class.
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.array([-0.5, 0.5]) * offsets
    weight[held], bias[held] = rows, offsets - rows @ mean
    return Linear(weight, bias)
