"""What it costs to choose the best of several private runs.

Papernot & Steinke, "Hyperparameter Tuning with Renyi Differential Privacy", ICLR 2022,
arXiv:2110.03620. A run is repeated K times, each time with values and noise drawn anew, and only
the best one is published. K is random, and nobody learns it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Stopping = Literal["geometric", "logarithmic", "poisson"]

_SHAPES = {"geometric": 1.0, "logarithmic": 0.0}
_LEAST_RATE = 1e-12


def stopping_rate(stopping: Stopping, mean: float) -> float:
    """gamma of a truncated negative binomial distribution with this mean; the mean of Poisson's.

    Raises:
        ValueError: a mean that is not above 1.
    """
    if not mean > 1:
        raise ValueError(f"The mean number of runs must be above 1, not {mean}.")
    if stopping == "poisson":
        return mean
    if stopping == "geometric":
        return 1 / mean
    low, high = _LEAST_RATE, 1 - _LEAST_RATE  # The mean falls as gamma grows.
    for _ in range(200):
        gamma = math.sqrt(low * high)
        low, high = (gamma, high) if _logarithmic_mean(gamma) > mean else (low, gamma)
    return low  # Of the two the one whose bound is larger.


def _logarithmic_mean(gamma: float) -> float:
    return (1 / gamma - 1) / math.log(1 / gamma)


def draw_runs(stopping: Stopping, mean: float, generator: np.random.Generator) -> int:
    """How many runs there are: K. With "poisson" it may be 0: then nothing is published."""
    rate = stopping_rate(stopping, mean)
    if stopping == "poisson":
        return int(generator.poisson(rate))
    if stopping == "geometric":
        return int(generator.geometric(rate))
    return int(generator.logseries(1 - rate))


def rdp_of_best(
    curve: NDArray[np.float64], orders: Sequence[float], stopping: Stopping, mean: float
) -> NDArray[np.float64]:
    """Renyi divergences of the best of a random number of runs: Theorems 2 and 6.

    With K truncated negative binomial with parameters eta (1: geometric, 0: logarithmic) and gamma,
    for each order l, and the order m for which it is least:

        curve(l) + (1 + eta) ((1 - 1/m) curve(m) + log(1/gamma) / m) + log(mean) / (l - 1)

    With K Poisson, and each run (log(1 + 1 / (l - 1)), d)-private:

        curve(l) + mean d + log(mean) / (l - 1)

    Args:
        curve: divergences of one run at `orders`.
        orders: above 1.
        stopping: the distribution of K.
        mean: the mean of K, above 1.
    """
    at = np.asarray(orders, dtype=np.float64)
    rate = stopping_rate(stopping, mean)
    repeated = math.log(mean) / (at - 1)
    if stopping == "poisson":
        deltas = np.array([_delta(curve, at, math.log1p(1 / (one - 1))) for one in at])
        return np.asarray(curve + mean * deltas + repeated)
    chosen = ((1 - 1 / at) * curve - math.log(rate) / at).min()
    return np.asarray(curve + (1 + _SHAPES[stopping]) * chosen + repeated)


def _delta(curve: NDArray[np.float64], orders: NDArray[np.float64], epsilon: float) -> float:
    """The least delta at epsilon that the divergences show.

    Canonne, Kamath & Steinke, "The Discrete Gaussian for Differential Privacy", 2020, Proposition
    12: exp((a - 1) (curve - epsilon)) (1 - 1/a)^a / (a - 1) at order a.
    """
    logarithms = (orders - 1) * (curve - epsilon + np.log1p(-1 / orders)) - np.log(orders)
    return float(np.exp(min(0.0, logarithms.min())))
