"""DISBELIEVE: a model trained to fail, as near to the colluders' own as they are to each other.

Joshi et al., "DISBELIEVE: Distance Between Client Models is Very Essential for Effective Local
Model Poisoning Attacks", MICCAI workshops 2023, arXiv:2308.07387. What is wrong in its algorithms,
and what is done here, is in `docs/methods/adversaries.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from fedsim.adversaries import vectors
from fedsim.adversaries.base import Forgery, Lab, ModelPoisoning, Scene
from fedsim.method.received import Arrays

if TYPE_CHECKING:
    import torch

_PASSES = 10
_LEAST_SCALE = 1e-3


class Disbelieve(ModelPoisoning):
    """Train a model on the colluders' pooled data to the largest loss within a ball.

    On parameters (Algorithm 1), gradient ascent begins at the mean of the colluders' models, and
    goes on while the squared distance to it is at most the largest between two of them; the last
    iterate inside is sent. It is not feasible where the first step leaves the ball: the mean is
    sent.

    On gradients (Algorithm 2), a model is trained to a larger loss without a bound, and the
    gradient of its loss is sent, at the largest length at which the squared distance to the mean
    change is at most the smallest between two changes. It is not feasible where no positive length
    is: a thousandth of the unit vector is sent.

    Args:
        works_on: "parameters" or "gradients".
        learning_rate: of the ascent.
        batch_size: images in a step.
        steps: at most; null: ten passes over the pooled data on parameters, one on gradients.
        projection: on parameters, send the first iterate outside, drawn back to the border.
    """

    made_for = ("images", "features")
    least = 2

    def __init__(
        self,
        works_on: Literal["parameters", "gradients"] = "parameters",
        learning_rate: PositiveFloat = 0.01,
        batch_size: Annotated[int, Field(ge=1)] = 32,
        steps: PositiveInt | None = None,
        projection: bool = False,
    ) -> None:
        if projection and works_on == "gradients":
            raise ValueError("projection has no effect with works_on: gradients: leave it out")
        self.works_on = works_on
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.steps = steps
        self.projection = projection

    def forge(self, scene: Scene) -> Forgery:
        """See the class."""
        middle = vectors.mean(scene.own)
        pool = _Pool(scene, self.batch_size)
        steps = self.steps or pool.batches * (_PASSES if self.works_on == "parameters" else 1)
        counted = scene.lab.steps(steps, "poison")
        f = len(scene.own)
        if self.works_on == "parameters":
            bound = vectors.farthest_pair(scene.own)
            found, inside = ascend(
                middle,
                pool.gradient,
                self.learning_rate,
                counted,
                bound=bound,
                projection=self.projection,
            )
            told = {"bound": bound, "distance": vectors.apart(found, middle), "steps": inside}
            return Forgery([found] * f, inside > 0, told)
        bound = vectors.nearest_pair(scene.own)
        model, _ = ascend(middle, pool.gradient, self.learning_rate, counted)
        upward = pool.whole_gradient(model)
        length = math.sqrt(vectors.square(upward))
        unit = vectors.scaled(1 / length, upward) if length else upward
        scale, feasible = largest_scale(unit, middle, bound)
        found = vectors.scaled(scale, unit)
        told = {"bound": bound, "distance": vectors.apart(found, middle), "scale": scale}
        return Forgery([found] * f, feasible, told)


def ascend(
    start: Arrays,
    gradient: Callable[[Arrays], Arrays],
    rate: float,
    steps: Iterable[int],
    *,
    bound: float | None = None,
    projection: bool = False,
) -> tuple[Arrays, int]:
    """Gradient ascent from the middle of a ball, while it is inside.

    Args:
        start: the middle, float64.
        gradient: of the loss, at a point.
        rate: what the gradient is multiplied by in a step.
        steps: one item a step.
        bound: the squared radius; None: there is none.
        projection: return the first point outside, drawn back to the border.

    Returns:
        The last point inside, and the steps that led to it.
    """
    here, inside = start, 0
    for _ in steps:
        found = vectors.moved(here, rate, gradient(here))
        away = vectors.apart(found, start)
        if bound is not None and not away <= bound:
            if projection and math.isfinite(away):
                change = vectors.moved(found, -1.0, start)
                here = vectors.moved(start, math.sqrt(bound / away), change)
            break
        here, inside = found, inside + 1
    return here, inside


def scales(unit: Arrays, middle: Arrays, bound: float) -> tuple[float, float] | None:
    """All s with |s u - middle|^2 <= bound, u of length 1: an interval; None where there is none.

    s^2 - 2 a s + |middle|^2 <= bound, a = <u, middle>: the ends are a -+ sqrt(a^2 - |middle|^2 +
    bound).
    """
    along = vectors.dot(unit, middle)
    left = along**2 - vectors.square(middle) + bound
    if left < 0:
        return None
    return along - math.sqrt(left), along + math.sqrt(left)


def largest_scale(unit: Arrays, middle: Arrays, bound: float) -> tuple[float, bool]:
    """The largest of `scales`, and whether it is above 0; 0.001 where it is not."""
    interval = scales(unit, middle, bound)
    if interval is None or interval[1] <= 0 or not vectors.square(unit):
        return _LEAST_SCALE, False
    return interval[1], True


class _Pool:
    """The colluders' records together, and the loss of a model on them.

    Attributes:
        batches: of a pass.
    """

    def __init__(self, scene: Scene, batch_size: int) -> None:
        from fedsim.method.training import endless_batches

        self._lab: Lab = scene.lab
        self._sent, self._size = scene.sent, batch_size
        self._model = scene.lab.new_model().to(scene.lab.device).train()
        counts = [len(view) for view in scene.lab.views]
        self._ends = np.cumsum(counts)
        self.batches = -(-int(self._ends[-1]) // batch_size)
        self._order = endless_batches(int(self._ends[-1]), batch_size, scene.generator("pool"))

    def gradient(self, change: Arrays) -> Arrays:
        """Of the mean cross-entropy of the next batch, by the model's parameters."""
        self._load(change)
        return self._gradient(next(self._order))

    def whole_gradient(self, change: Arrays) -> Arrays:
        """Of the mean cross-entropy of all records."""
        import torch

        self._load(change)
        total: Arrays = {name: np.zeros(value.shape) for name, value in change.items()}
        count = int(self._ends[-1])
        for positions in torch.arange(count).split(self._size):
            total = vectors.moved(total, len(positions) / count, self._gradient(positions))
        return total

    def _load(self, change: Arrays) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if name in change:
                    value = self._sent[name] + change[name]
                    parameter.copy_(torch.from_numpy(np.asarray(value, np.float64)))

    def _gradient(self, positions: torch.Tensor) -> Arrays:
        import torch.nn.functional as F

        images, labels = self._records(positions.numpy())
        device = self._lab.device
        self._model.zero_grad(set_to_none=True)
        F.cross_entropy(self._model(images.to(device)), labels.to(device)).backward()
        return {
            name: parameter.grad.cpu().numpy().astype(np.float64)
            if parameter.grad is not None
            else np.zeros(tuple(parameter.shape))
            for name, parameter in self._model.named_parameters()
            if name in self._sent
        }

    def _records(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        owners = np.searchsorted(self._ends, positions, side="right")
        images, labels = [], []
        for owner, view in enumerate(self._lab.views):
            first = int(self._ends[owner]) - len(view)
            mine = torch.from_numpy(positions[owners == owner] - first)
            if len(mine):
                images.append(view.images(mine))
                labels.append(view.labels[mine])
        return torch.cat(images), torch.cat(labels)
