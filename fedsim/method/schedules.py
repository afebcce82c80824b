"""Schedules: how a rate changes over a run. Functions of the step, so nothing need be kept."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Half a cosine from `first` at step 0 to `last` at step `steps`, which is no longer a step.

    Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), Eq. 5,
    without restarts.

    Args:
        step: from 0; from `steps` on the rate is `last`.
        steps: how many there are, at least 1.
        first: the rate at first.
        last: the rate in the end.

    Raises:
        ValueError: a negative step, or no steps.
    """
    if step < 0 or steps < 1:
        raise ValueError(f"There is no step {step} of {steps}.")
    return last + (first - last) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2
