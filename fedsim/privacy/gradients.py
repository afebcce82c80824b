"""Per-sample gradients: parts of a batch, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.privacy.factored import FactoredGradients, add_rows, row_norms

Part = Tensor | FactoredGradients
"""Per-sample gradients [b, d], b >= 0, of some records."""

Gradients = Part | Iterable[Part]
"""Per-sample gradients [B, d] of one logical batch, or its parts, in order.

Parts are iterated as often as the mechanism has `passes`: hand over a list, or an object whose
`__iter__` computes them again. One part at least, so that d is known.
"""


def parts(gradients: Gradients) -> Iterator[Part]:
    """The parts of a logical batch.

    Raises:
        ValueError: a one-way iterator, no part, or a part that is not a float matrix.
    """
    if isinstance(gradients, Part):
        gradients = (gradients,)
    elif isinstance(gradients, Iterator):
        raise ValueError("Parts of a batch must be iterable again: hand over a list of them.")
    empty = True
    for part in gradients:
        if isinstance(part, Tensor) and (part.ndim != 2 or not part.is_floating_point()):
            raise ValueError(
                f"Per-sample gradients must be a float matrix [B, d], not {part.dtype} "
                f"{list(part.shape)}."
            )
        empty = False
        yield part
    if empty:
        raise ValueError("A logical batch needs one part at least, if need be of shape [0, d].")


def written(part: Part) -> Tensor:
    """The rows [b, d] of a part."""
    return part if isinstance(part, Tensor) else part.rows()


class Clipped(NamedTuple):
    """Gradients ready for a sum in which no record counts more than C: `factors @ gradients`.

    Attributes:
        gradients: [b, d], zero where the norm was not finite.
        factors: [b] min(1, C / (norm + 1e-6)), as in Opacus.
        norms: [b] of `gradients`.
        finite: bool [b].
    """

    gradients: Part
    factors: Tensor
    norms: Tensor
    finite: Tensor


def clip(gradients: Part, max_grad_norm: float) -> Clipped:
    """Clip per-sample gradients [b, d] to the norm C; what has no finite norm counts as zero.

    That comes before clipping: 0 * infinity would be NaN and show that the record was there.
    """
    norms = row_norms(gradients) if isinstance(gradients, Tensor) else gradients.norms()
    finite = norms.isfinite()
    if not bool(finite.all()):
        if isinstance(gradients, Tensor):
            gradients = torch.where(finite[:, None], gradients, 0.0)
        else:
            gradients = gradients.only(finite)
        norms = torch.where(finite, norms, 0.0)
    return Clipped(gradients, (max_grad_norm / (norms + 1e-6)).clamp(max=1.0), norms, finite)


def zeros(part: Part) -> Tensor:
    """A sum [d] of nothing yet, float64."""
    if isinstance(part, Tensor):
        return part.new_zeros(part.shape[1], dtype=torch.float64)
    return part.zeros()


def add_weighted(total: Tensor, weights: Tensor, gradients: Part) -> None:
    """Add `weights @ gradients` to `total` [d], float64, so that one record moves it by no more.

    See `fedsim.privacy.factored.add_rows`.
    """
    if isinstance(gradients, Tensor):
        add_rows([total], weights, gradients)
    else:
        gradients.add_to(total, weights)


def require_multipliers(**values: float) -> None:
    """Raise ValueError unless all are finite and at least 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be at least 0 and finite, not {value}.")
