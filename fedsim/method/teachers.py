"""Teachers: copies of a model that follow it, as exponential means of its weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


def teacher_of(model: nn.Module) -> nn.Module:
    """A copy of a model that only predicts: without gradients, and in evaluation mode."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move a teacher's parameters: `decay` times its own plus (1 - `decay`) times the student's.

    Tarvainen & Valpola, "Mean teachers are better role models" (2017). With 0 it becomes the
    student, to the bit; a parameter in which they agree stays. Buffers, such as running means, are
    the student's.

    Args:
        teacher: changed in place.
        student: of the same form.
        decay: 0 to 1.

    Raises:
        ValueError: a decay out of its range.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"A teacher's decay lies in [0, 1], not {decay}.")
    for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
        own.lerp_(other, 1 - decay)
    for kept, seen in zip(teacher.buffers(), student.buffers(), strict=True):
        kept.copy_(seen)
