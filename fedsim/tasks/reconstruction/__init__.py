"""Reconstruction: images out of k-space of which a part was measured."""

from fedsim.tasks.reconstruction.sampling import (
    Sampling,
    centre_lines,
    from_kspace,
    line_mask,
    magnitude,
    model_input,
    poisson_mask,
    to_kspace,
    zero_filled,
)
from fedsim.tasks.reconstruction.task import MADE_FOR, Reconstruction, reconstruction_task

__all__ = [
    "MADE_FOR",
    "Reconstruction",
    "Sampling",
    "centre_lines",
    "from_kspace",
    "line_mask",
    "magnitude",
    "model_input",
    "poisson_mask",
    "reconstruction_task",
    "to_kspace",
    "zero_filled",
]
