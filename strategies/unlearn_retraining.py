"""The two procedures that need no history: training from the start, and training on.

Method card: `docs/methods/unlearning.md`.
"""

from __future__ import annotations

from typing import Any

from fedsim.method import Arrays
from fedsim.strategies.unlearning import Unlearning
from fedsim.wire import tensors


class Scratch(Unlearning):
    """Begin again with the first model, without the client: what others are measured against.

    Args:
        train_rounds, client, codec, weighting: as of `Unlearning`.
    """

    takes_records = True
    guarantee = "exact: it began with the first model, and has not seen what was taken out"

    def unlearned(self, arrays: Arrays) -> Arrays:
        """The first model."""
        assert self.server.first_arrays is not None
        return tensors(self.server.first_arrays)


class FineTuning(Unlearning):
    """Train on without the client, and let the model drift away from it.

    Args:
        train_rounds, client, codec, weighting: as of `Unlearning`.
    """

    takes_records = True

    def unlearned(self, arrays: Arrays) -> Arrays:
        """The trained model, as it is."""
        return arrays

    def details(self) -> dict[str, Any]:
        """What is known of it."""
        return {"note": "the model is the trained one, and drifts"}
