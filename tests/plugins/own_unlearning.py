"""A procedure of unlearning that somebody else wrote, as the card of unlearning shows it."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.method import Arrays
from fedsim.strategies.unlearning import Unlearning
from fedsim.unlearning import LastModels, Memory, weighted_mean, without


class LastMean(Unlearning):
    """The mean of what the others sent last."""

    def memories(self, leavers: Sequence[int], clients: int) -> list[Memory]:
        return [LastModels(leavers, clients)]

    def unlearned(self, arrays: Arrays) -> Arrays:
        kept = self.memory(LastModels)
        return weighted_mean(without(kept.last, self.leaver or 0), kept.weights)
