"""Per-sample gradients: parts of a batch, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Gradients = Tensor | Iterable[Tensor]
"""Per-sample gradients [B, d] of one logical batch, or its parts [b, d], b >= 0, in order.

Parts are iterated as often as the mechanism has `passes`: hand over a list, or an object whose
`__iter__` computes them again. One part at least, so that d is known.
"""


def parts(gradients: Gradients) -> Iterator[Tensor]:
    """The parts [b, d] of a logical batch.

    Raises:
        ValueError: a one-way iterator, no part, or a part that is not a float matrix.
    """
    if isinstance(gradients, Tensor):
        gradients = (gradients,)
    elif isinstance(gradients, Iterator):
        raise ValueError("Parts of a batch must be iterable again: hand over a list of them.")
    empty = True
    for part in gradients:
        if part.ndim != 2 or not part.is_floating_point():
            raise ValueError(
                f"Per-sample gradients must be a float matrix [B, d], not {part.dtype} "
                f"{list(part.shape)}."
            )
        empty = False
        yield part
    if empty:
        raise ValueError("A logical batch needs one part at least, if need be of shape [0, d].")


class Clipped(NamedTuple):
    """Gradients ready for a sum in which no record counts more than C: `factors @ gradients`.

    Attributes:
        gradients: [b, d], zero where the norm was not finite.
        factors: [b] min(1, C / (norm + 1e-6)), as in Opacus.
        norms: [b] of `gradients`.
        finite: bool [b].
    """

    gradients: Tensor
    factors: Tensor
    norms: Tensor
    finite: Tensor


def clip(gradients: Tensor, max_grad_norm: float) -> Clipped:
    """Clip per-sample gradients [b, d] to the norm C; what has no finite norm counts as zero.

    That comes before clipping: 0 * infinity would be NaN and show that the record was there.
    """
    # In blocks: float32 sums over millions of squares lose three digits, and a norm that is found
    # too small would let a gradient pass that is longer than C.
    norms = torch.stack([part.norm(dim=1) for part in gradients.split(2**16, dim=1)]).norm(dim=0)
    finite = norms.isfinite()
    if not bool(finite.all()):
        gradients = torch.where(finite[:, None], gradients, 0.0)
        norms = torch.where(finite, norms, 0.0)
    return Clipped(gradients, (max_grad_norm / (norms + 1e-6)).clamp(max=1.0), norms, finite)


def require_multipliers(**values: float) -> None:
    """Raise ValueError unless all are finite and at least 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be at least 0 and finite, not {value}.")
