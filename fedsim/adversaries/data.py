"""Data poisoning: wrong labels, and a backdoor by a pixel pattern.

Tolpegin et al., "Data Poisoning Attacks Against Federated Learning Systems" (2020); Gu et al.,
"BadNets" (2017); Bagdasaryan et al., "How To Backdoor Federated Learning" (2020).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from numpy.typing import NDArray
from pydantic import Field

from fedsim.adversaries.base import DataPoisoning
from fedsim.errors import nearest

if TYPE_CHECKING:
    import torch

    from fedsim.tasks.task import Task

Part = Annotated[float, Field(gt=0, le=1)]
Pixels = Annotated[int, Field(ge=1)]


class LabelFlip(DataPoisoning):
    """Give a share of the training images the label of the next class.

    Args:
        share: of the images of each colluder, the same in all rounds.
    """

    made_for = ("images", "features")

    def __init__(self, share: Part = 1.0) -> None:
        self.share = share

    def poisoned(self, view: Any, task: Task, generator: torch.Generator) -> Any:
        """The same records with wrong labels."""
        import torch

        found = copy.copy(view)
        flipped = torch.rand(len(view), generator=generator) < self.share
        found.labels = torch.where(flipped, (view.labels + 1) % task.num_classes, view.labels)
        return found


class Backdoor(DataPoisoning):
    """Teach the model to see a class wherever a small chequered square is in the corner.

    The metric `backdoor_success` is the share of the test images of other classes that the model
    takes for the class once the square is on them.

    Args:
        target: the class, by name or number.
        share: of the images of each colluder that get the square and that label.
        pixels: height and width of the square, at the lower right corner.
    """

    made_for = "images"

    def __init__(self, target: str | int = 0, share: Part = 0.5, pixels: Pixels = 4) -> None:
        self.target = target
        self.share = share
        self.pixels = pixels

    def require(self, task: Task) -> None:
        """The class must be one, and the square smaller than an image."""
        self._label(task)
        edge = min(task.input_shape[1:])
        if self.pixels >= edge:
            raise ValueError(f"a square of {self.pixels} pixels covers images of {edge}")

    def poisoned(self, view: Any, task: Task, generator: torch.Generator) -> Any:
        """The same records, some with the square and the label."""
        import torch

        from fedsim.adversaries.stamped import StampedView

        marked = torch.rand(len(view), generator=generator) < self.share
        found = StampedView(view, marked.numpy(), self.pixels)
        found.labels = torch.where(marked, self._label(task), view.labels)
        return found

    def scores(
        self, predict: Callable[[Any], NDArray[Any]], view: Any, task: Task
    ) -> dict[str, float | None]:
        """The success rate on test images that are not of the class."""
        from fedsim.adversaries.stamped import StampedView

        target = self._label(task)
        others = view.labels.numpy() != target
        taken = predict(StampedView(view, others, self.pixels)).argmax(axis=1) == target
        return {"backdoor_success": float(taken[others].mean()) if others.any() else None}

    def _label(self, task: Task) -> int:
        classes: tuple[str, ...] = tuple(task.classes)
        if isinstance(self.target, str):
            if self.target not in classes:
                near = nearest(self.target, classes)
                raise ValueError(f"target {self.target!r} is no class of the data{near}")
            return classes.index(self.target)
        if not 0 <= self.target < len(classes):
            last = len(classes) - 1
            raise ValueError(f"target {self.target} is none of the classes 0 to {last}")
        return self.target
