"""Probes of frozen features: how far simple classifiers come on them, on all records at once.

Both are trained by scikit-learn on the pooled training records. No federation does that: what they
reach is an upper reference for a federation's head on the same features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import InputError

NEIGHBOURS = 20
"""Of the probe by nearest neighbours."""
ITERATIONS = 1000
"""Of the logistic regression, at most."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """What one probe says of test records.

    Attributes:
        name: "knn" or "linear".
        about: what it is, with its parameters, in words.
        test: metrics on the test split.
        external: metrics on records of elsewhere; None where there are none.
    """

    name: str
    about: str
    test: dict[str, float | None]
    external: dict[str, float | None] | None


def nearest_neighbours(
    vectors: Floats,
    labels: NDArray[np.int64],
    asked: Floats,
    classes: int,
    neighbours: int = NEIGHBOURS,
) -> Floats:
    """Share of each class among the nearest training vectors, by Euclidean distance.

    Of vectors of length 1 these are those of the largest cosine.

    Args:
        vectors: float32 [n, d], to learn from.
        labels: int64 [n].
        asked: float32 [m, d].
        classes: how many there are.
        neighbours: how many count, at least 1; with n or more, all do.

    Returns:
        float32 [m, classes].
    """
    from sklearn.neighbors import KNeighborsClassifier

    fitted = KNeighborsClassifier(min(neighbours, len(vectors)), algorithm="brute")
    fitted.fit(vectors, labels)
    return _of_all(fitted, asked, classes)


def logistic_regression(
    vectors: Floats, labels: NDArray[np.int64], asked: Floats, classes: int
) -> Floats:
    """Class probabilities of a logistic regression with the penalty of `penalty`.

    Args:
        vectors: float32 [n, d], to learn from.
        labels: int64 [n], at least two classes.
        asked: float32 [m, d].
        classes: how many there are.

    Returns:
        float32 [m, classes].
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(
        C=1 / penalty(vectors.shape[1], classes), max_iter=ITERATIONS, tol=1e-4
    )
    fitted.fit(vectors.astype(np.float64), labels)
    return _of_all(fitted, asked.astype(np.float64), classes)


def penalty(length: int, classes: int) -> float:
    """lambda = 100 / (d * classes): the sum of losses gets lambda / 2 times the squared weights.

    Of the pathology models' papers (UNI; DINOv2 fine-tuned in histopathology), read as the inverse
    of scikit-learn's C: 384 numbers and 9 classes have 0.0289, and C is 34.56.
    """
    return 100 / (length * classes)


def _of_all(fitted: Any, asked: NDArray[np.floating], classes: int) -> Floats:
    """Probabilities of all classes, also of those that were not there to learn from."""
    found = np.zeros((len(asked), classes), dtype=np.float32)
    if len(asked):
        found[:, fitted.classes_] = fitted.predict_proba(asked)
    return found


def probe(federation: Any) -> list[Probe]:
    """Probe the vectors of a federation (`fedsim.federation.holdings.Federation`).

    Both probes learn from the pooled training split, and are scored by the task's metrics.

    Raises:
        InputError: its records are no vectors, or all training records are of one class.
    """
    from fedsim.tasks.classification.vectors import VectorClassification

    task = federation.task
    if not isinstance(task, VectorClassification):
        raise InputError(
            "there are no features to probe: the scenario has no data.features",
            hint="name a network, such as data.features=dinov2_vits14 (fedsim weights ls), or "
            "'data.features={network: convnet, weights: FILE}'",
        )
    train, test = federation.view("train"), federation.view("test")
    vectors, labels = _arrays(train)
    if len(np.unique(labels)) < 2:
        raise InputError("all training records are of one class: there is nothing to tell apart")
    length, classes = vectors.shape[1], task.num_classes
    elsewhere = federation.external_view()
    strength = penalty(length, classes)
    makers: dict[str, tuple[str, Callable[..., Floats]]] = {
        "knn": (f"{min(NEIGHBOURS, len(vectors))} nearest neighbours", nearest_neighbours),
        "linear": (
            f"logistic regression, lambda = 100 / ({length} numbers * {classes} classes) = "
            f"{strength:.4g}, scikit-learn's C = {1 / strength:.4g}",
            logistic_regression,
        ),
    }
    found = []
    for name, (about, maker) in makers.items():
        scores = [
            None
            if view is None
            else task.score(maker(vectors, labels, _arrays(view)[0], classes), view)
            for view in (test, elsewhere)
        ]
        assert scores[0] is not None
        found.append(Probe(name, about, scores[0], scores[1]))
    return found


def _arrays(view: Any) -> tuple[Floats, NDArray[np.int64]]:
    """Vectors and labels of all records of a view."""
    return view.images().numpy(), view.labels.numpy()
