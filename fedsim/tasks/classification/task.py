"""The task of classifying images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedsim.tasks.images import ImageTask
from fedsim.tasks.keys import GROUPS, POSITIVE, WINDOW
from fedsim.tasks.metric import Metric, fraction
from fedsim.tasks.words import apart, some

if TYPE_CHECKING:
    import torch

    from fedsim.scenario.schema import Scenario
    from fedsim.tasks.task import Task

_FEW = 10  # records of a class, below which a person is told


@dataclass(frozen=True)
class Classification(ImageTask):
    """To tell classes of images apart; a model gives logits [n, classes].

    Attributes:
        classes: class names in label order.
        in_channels: channels of an image.
        image_size: height and width in pixels.
        groups: classes that are scored by themselves, by the group's name; see
            `evaluation.groups`.
    """

    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    name: ClassVar[str] = "image-classification"
    made_for: ClassVar[str] = "images"
    learns_from: ClassVar[str] = "images to classify"
    headline: ClassVar[str] = "auc"
    metrics: ClassVar[Sequence[Metric]] = (
        fraction("auc", "AUC", chance=0.5),
        fraction("pr_auc", "PR-AUC"),
        fraction("accuracy", "accuracy"),
        fraction("precision", "weighted precision", "P"),
        fraction("recall", "weighted recall", "R"),
        fraction("f1", "weighted F1", "F1"),
        fraction("balanced_accuracy", "balanced accuracy", "bal.acc"),
        fraction("macro_f1", "macro F1"),
        Metric("ece", "calibration error", "%", "lower", 100.0, 1, short="ECE"),
        fraction("sensitivity", "sensitivity"),
        fraction("specificity", "specificity"),
    )
    in_rounds: ClassVar[tuple[str, ...]] = ("auc", "balanced_accuracy")
    # In the order of the paper's table (GDD-FL).
    in_tables: ClassVar[tuple[str, ...]] = (
        "auc",
        "precision",
        "recall",
        "f1",
        "balanced_accuracy",
        "pr_auc",
    )
    keys: ClassVar[tuple[str, ...]] = (POSITIVE, WINDOW, GROUPS)
    file: ClassVar[str] = "predictions.npz"
    gives_probabilities: ClassVar[bool] = True
    hides_labels: ClassVar[bool] = True
    compares_images: ClassVar[bool] = True

    @classmethod
    def of(cls, scenario: Scenario, store: Any, clients: Sequence[str]) -> Classification:
        """The classes and the size of the images."""
        _, height, _, channels = store.images.shape
        return cls(tuple(store.classes), channels, height, groups_of(scenario, store))

    @classmethod
    def on_features(cls) -> type[Task]:
        """To tell vectors apart."""
        from fedsim.tasks.classification.vectors import VectorClassification

        return VectorClassification

    @classmethod
    def beside_features(cls) -> type[Task]:
        """To tell images apart that have vectors beside them."""
        from fedsim.tasks.classification.vectors import BesideVectors

        return BesideVectors

    @classmethod
    def empty_classes(cls, store: Any) -> list[str]:
        """Classes without a record."""
        counts = np.bincount(store.labels, minlength=len(store.classes))
        return [name for name, count in zip(store.classes, counts, strict=True) if not count]

    @classmethod
    def goal_of(cls, classes: Sequence[str]) -> str:
        """Which classes are told apart."""
        return apart(classes)

    @property
    def positive(self) -> str | None:  # type: ignore[override]
        """Of two classes the positive one, which is the second; None for more."""
        return self.classes[1] if self.num_classes == 2 else None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return self.in_channels, self.image_size, self.image_size

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Logits."""
        return (self.num_classes,)

    @property
    def model_arguments(self) -> dict[str, Any]:
        """Classes, channels and size."""
        return {
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "image_size": self.image_size,
        }

    def unlabelled_view(self, store: Any, positions: np.ndarray, client: str) -> Any:
        """The images at these positions, without labels."""
        from fedsim.data.views import UnlabelledView

        return UnlabelledView(store, positions)

    def predict(self, model: torch.nn.Module, view: Any, device: torch.device) -> np.ndarray:
        """Class probabilities, float32 [n, classes]."""
        from fedsim.tasks.evaluation import predict

        return predict(model, view, device)

    def score(
        self, predicted: np.ndarray, view: Any, per_site: bool = False
    ) -> dict[str, float | None]:
        """See `fedsim.tasks.classification.metrics`."""
        from fedsim.tasks.evaluation import score

        return score(predicted, view, per_site=per_site, groups=self.groups)

    def predictions(self, predicted: np.ndarray, view: Any) -> tuple[str, dict[str, np.ndarray]]:
        """Labels and probabilities [models, n, classes]."""
        arrays = {
            "labels": view.labels.numpy(),
            "records": view.indices,
            "groups": view.groups,
            "probabilities": predicted,
        }
        return self.file, arrays

    def counts_by_client(
        self, store: Any, clients: Mapping[str, np.ndarray]
    ) -> dict[str, list[int]] | None:
        """Training records of each class."""
        return {
            name: np.bincount(store.labels[positions], minlength=self.num_classes).tolist()
            for name, positions in clients.items()
        }

    def notes(self, store: Any, clients: Mapping[str, np.ndarray]) -> list[str]:
        """Classes of few records; clients with one class only; groups that tell none apart."""
        single = [
            f"{name} ({self.classes[store.labels[held[0]]]})"
            for name, held in clients.items()
            if len(held) and (store.labels[held] == store.labels[held[0]]).all()
        ]
        told = [f"clients with records of one class only: {some(single)}"] if single else []
        counts = np.bincount(store.labels, minlength=len(self.classes))
        few = [
            f"{name} ({count})"
            for name, count in zip(self.classes, counts, strict=True)
            if count < _FEW
        ]
        if few:
            told.append(
                f"classes with fewer than {_FEW} records, whose scores say little: {some(few)}"
            )
        if len(self.groups) == 1:
            told.append(self._one_group(counts))
        return told

    def _one_group(self, counts: np.ndarray) -> str:
        """Why the scores of groups say nothing where all classes are of one, and what to type."""
        (name,), least, most = self.groups, int(counts.min()), int(counts.max())
        if least == most:
            return f"evaluation.groups tells no classes apart: each has {most} records"
        low, high = (int(np.quantile(counts, share)) for share in (1 / 3, 2 / 3))
        tail, head = (low + 1, high) if low < high else (least, least)
        return (
            f"evaluation.groups tells no classes apart: all are {name!r}, with {least} to {most} "
            f"records; type evaluation.groups='{{head: {head}, tail: {tail}}}'"
        )


def groups_of(scenario: Scenario, store: Any) -> dict[str, tuple[int, ...]]:
    """Frequent, medium and rare classes by `evaluation.groups`; of these groups those with any."""
    limits = scenario.evaluation.groups
    if limits is None:
        return {}
    counts = np.bincount(store.labels, minlength=len(store.classes))
    head, tail = counts > limits.head, counts < limits.tail
    kinds = {"head": head, "medium": ~head & ~tail, "tail": tail}
    return {name: tuple(np.flatnonzero(k).tolist()) for name, k in kinds.items() if k.any()}
