"""The naive answer: take off what the client sent last.

No paper proposes it; it is what one would type first. Method card: `docs/methods/unlearning.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.method import Arrays
from fedsim.strategies.unlearning import Unlearning
from fedsim.unlearning import LastModels, Memory, moved


class LastUpdate(Unlearning):
    """Subtract the client's share of the last round: theta_T - p_c (theta_c - theta_{T-1}).

    Args:
        train_rounds, client, codec, weighting: as of `Unlearning`.
    """

    def memories(self, leavers: Sequence[int], clients: int) -> list[Memory]:
        """The models of the last round."""
        return [LastModels(leavers, clients)]

    def unlearned(self, arrays: Arrays) -> Arrays:
        """The trained model without the client's last update; as it is, where it was away."""
        kept, leaver = self.memory(LastModels), self.leaver
        if leaver not in kept.last:
            return arrays
        share = kept.weights[leaver] / sum(kept.weights.values())
        update = {
            name: value.astype(np.float64) - kept.sent[name]
            for name, value in kept.last[leaver].items()
        }
        return moved(arrays, update, -share)
