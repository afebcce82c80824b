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


def sigmoid_ramp_up(step: int, steps: float) -> float:
    """exp(-5 (1 - t)^2), with t from 0 at step 0 to 1 at step `steps`; 1 from there on.

    Laine & Aila, "Temporal Ensembling for Semi-Supervised Learning" (2017): how the weight of what
    a young teacher says grows.

    Args:
        step: from 0.
        steps: how long it grows; 0: it does not, and is 1.

    Raises:
        ValueError: a negative step, or a negative length.
    """
    if step < 0 or steps < 0:
        raise ValueError(f"There is no step {step} of {steps}.")
    missing = 1.0 - min(step / steps, 1.0) if steps else 0.0
    return math.exp(-5 * missing**2)
