"""What is learned from records without labels, as a term of a loss on labelled ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from fedsim.method.updates import Penalty

Told = Mapping[str, float]
"""What is reported of a step, by name."""


class UnlabelledTerm:
    """A loss on unlabelled records, times a weight that grows: a penalty of training loops.

    Args:
        loss: what a model loses on the next unlabelled batch, a scalar; and what to report.
        weight: of the loss in each step, from 0.
    """

    def __init__(
        self,
        loss: Callable[[nn.Module], tuple[Tensor, Told]],
        weight: Callable[[int], float],
    ) -> None:
        self._loss, self._weight = loss, weight
        self._step = 0
        self._sums: dict[str, float] = {}

    def __call__(self, model: nn.Module) -> Tensor:
        """The weighted loss of the next step."""
        loss, told = self._loss(model)
        weight = self._weight(self._step)
        self._step += 1
        for name, value in {"unlabelled-loss": loss.item(), **told}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return weight * loss

    def means(self) -> dict[str, float]:
        """Means over the steps so far of the loss without its weight, and of what was reported."""
        return {name: total / self._step for name, total in self._sums.items()}


def added(*penalties: Penalty | None) -> Penalty | None:
    """The sum of those penalties that there are; None where there is none."""
    wanted = [penalty for penalty in penalties if penalty is not None]
    if len(wanted) < 2:
        return wanted[0] if wanted else None
    first, *others = wanted

    def total(model: nn.Module) -> Tensor:
        found = first(model)
        for other in others:
            found = found + other(model)
        return found

    return total
