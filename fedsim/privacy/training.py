"""DP-SGD: private training of a model, one Poisson sample and one release a step.

Abadi et al., "Deep Learning with Differential Privacy" (2016). Everything after a release is
post-processing: momentum, weight decay, the averaging of iterates. Averaging a record's gradients
over augmentations before clipping, large samples and averaged iterates follow De et al.,
"Unlocking High-Accuracy Differentially Private Image Classification through Scale" (2022).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.gradients import Part
from fedsim.privacy.per_sample import PerSampleGradients, sum_groups
from fedsim.privacy.releases import Releases

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs and targets of n records to n losses, each of its own record alone."""

# Parts that a mechanism reads twice are kept up to this size, and computed again beyond.
_KEPT_BYTES = 512 * 2**20


def fit_private(
    model: torch.nn.Module,
    read: Callable[[np.ndarray], tuple[Tensor, Tensor]],
    releases: Releases,
    steps: Iterable[int],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    *,
    device: torch.device,
    augment: Callable[[Tensor], Tensor] | None = None,
    penalty: Callable[[torch.nn.Module], Tensor] | None = None,
) -> None:
    """Train a model in place; all that it learns from records are the releases.

    Args:
        model: treats every record by itself, see `fedsim.privacy.coupling`.
        read: positions [B] -> inputs [B, ...] and targets [B, ...] of these records.
        releases: samples and releases.
        steps: one item a step.
        optimizer: holds the model's parameters.
        loss: one loss a record.
        device: where to compute.
        penalty: of the parameters alone; its gradient is added to every release (FedProx).
        augment: what to do to inputs; with `augmentations` above 1 so often to each record.
    """
    model.to(device).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    sizes = [p.numel() for p in parameters]
    settings = releases.settings
    mean = _Averaged(parameters, settings.averaging)
    with PerSampleGradients(model) as per_sample:
        for _ in steps:
            positions, places = releases.sample()
            batch = Sample(
                per_sample,
                *read(positions),
                places,
                loss,
                copies=settings.augmentations,
                size=settings.physical_batch,
                device=device,
                augment=augment,
                width=sum(sizes),
            )
            update = releases.release(batch.parts(releases.plan.mechanism.passes))
            for parameter, part in zip(parameters, update.split(sizes), strict=True):
                parameter.grad = part.view_as(parameter).to(parameter.dtype)
            if penalty is not None:
                penalty(model).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            mean.update()
    mean.apply()


class Sample:
    """The gradients of a sample's units, part by part."""

    def __init__(
        self,
        per_sample: PerSampleGradients,
        inputs: Tensor,
        targets: Tensor,
        places: np.ndarray,
        loss: Loss,
        *,
        copies: int,
        size: int,
        device: torch.device,
        augment: Callable[[Tensor], Tensor] | None,
        width: int,
    ) -> None:
        self._per_sample, self._loss, self._device, self._width = per_sample, loss, device, width
        # Copies of a record stand side by side, and draw their augmentations before any pass.
        inputs = inputs.repeat_interleave(copies, dim=0).to(device)
        if augment is not None and len(inputs):
            inputs = augment(inputs)
        self._inputs = inputs
        self._targets = targets.repeat_interleave(copies, dim=0).to(device)
        self._places = torch.from_numpy(places).repeat_interleave(copies)
        self._copies = copies
        # A part holds whole units.
        bounds = np.flatnonzero(np.diff(places, prepend=-1)) * copies
        self._cuts = _cuts(np.append(bounds, len(self._places)), size)

    def parts(self, passes: int) -> list[Part] | Sample:
        """Something to iterate `passes` times."""
        size = (len(np.unique(self._places)) or 1) * self._width * 4
        return self if passes == 1 or size > _KEPT_BYTES else list(self)

    def __iter__(self) -> Iterator[Part]:
        for start, stop in self._cuts:
            yield self._part(start, stop)

    def _part(self, start: int, stop: int) -> Part:
        places = self._places[start:stop]
        units = places - places[0] if len(places) else places
        part = self._inputs[start:stop], self._targets[start:stop], self._loss
        if len(places) == 0 or (self._copies == 1 and len(units) == int(units[-1]) + 1):
            return self._per_sample.contributions(*part)
        gradients = self._per_sample.gradients(*part)
        return sum_groups(gradients, units, int(units[-1]) + 1) / self._copies


def _cuts(bounds: np.ndarray, size: int) -> list[tuple[int, int]]:
    """Ranges that begin and end at `bounds` and, where a unit allows it, hold at most `size`."""
    cuts, start = [], 0
    for before, bound in itertools.pairwise(bounds):
        if bound - start > size and before > start:
            cuts.append((start, int(before)))
            start = int(before)
    return [*cuts, (start, int(bounds[-1]))]


class _Averaged:
    """An exponential mean of a round's iterates, without its starting point."""

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float) -> None:
        self._parameters, self._decay, self._weight = parameters, decay, 0.0
        self._means = [torch.zeros_like(p) for p in parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        self._weight = self._decay * self._weight + 1 - self._decay
        for mean, parameter in zip(self._means, self._parameters, strict=False):
            mean.mul_(self._decay).add_(parameter, alpha=1 - self._decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Set the parameters to the mean."""
        if self._means and self._weight:
            for mean, parameter in zip(self._means, self._parameters, strict=True):
                parameter.copy_(mean / self._weight)
