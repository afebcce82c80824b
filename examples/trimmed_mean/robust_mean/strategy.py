"""Coordinate-wise trimmed mean and median of what clients send.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates" (2018). Of
each weight the smallest and the largest values are left out before the mean is taken, so that a few
clients that send anything cannot move it far. What clients send arrives decoded, as models or as
changes, and the result goes through the server's momentum: codecs and momentum work unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat

from fedsim.method import Arrays, Received
from fedsim.strategies.server_momentum import ServerMomentum
from fedsim.wire import Codec


class TrimmedMean(ServerMomentum):
    """Average each weight without its smallest and largest values; clients count alike.

    Args:
        rule: "trimmed_mean", or "median", which trims all but the middle.
        trim: share of the clients that is left out at either end.
        codec, momentum, learning_rate, last_learning_rate: as of `server_momentum`; by default
            there is no momentum.
    """

    linear = False

    def __init__(
        self,
        rule: Literal["trimmed_mean", "median"] = "trimmed_mean",
        trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.25,
        codec: Codec = "float32",
        momentum: NonNegativeFloat = 0.0,
        learning_rate: PositiveFloat = 1.0,
        last_learning_rate: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(momentum, learning_rate, last_learning_rate, codec, "uniform")
        self.rule, self.trim = rule, trim

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The trimmed mean or the median of each weight, float64; holds all replies in memory."""
        sent = [one.arrays for one in received]
        cut = int(self.trim * len(sent))
        combined = {}
        for name, first in sent[0].items():
            if first.dtype.kind not in "fc":
                continue
            values = np.stack([one[name] for one in sent]).astype(np.float64)
            if self.rule == "median":
                combined[name] = np.median(values, axis=0)
            else:
                combined[name] = np.sort(values, axis=0)[cut : len(sent) - cut].mean(axis=0)
        return combined
