"""FedAccum: the others' updates without the client's, added up.

Liu et al., "FedEraser" (2021), as a baseline; the prostate paper's code has another form. Method
card: `docs/methods/unlearning.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveInt

from fedsim.method import Arrays
from fedsim.strategies.unlearning import Unlearning
from fedsim.unlearning import Accumulated, LastModels, Memory, weighted_mean, without
from fedsim.wire import Codec


class FedAccum(Unlearning):
    """Add up what the others changed in the training, from the first model on.

    Args:
        train_rounds, client, codec, weighting: as of `Unlearning`.
        form: "liu2021" adds up all rounds; "paper_code" is the mean of what the others sent in the
            last round, as the prostate paper's code has it: nothing before that enters.
    """

    def __init__(
        self,
        train_rounds: PositiveInt,
        client: str | None = None,
        form: Literal["liu2021", "paper_code"] = "liu2021",
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "uniform",
    ) -> None:
        super().__init__(train_rounds, client, codec, weighting)
        self.form = form

    def memories(self, leavers: Sequence[int], clients: int) -> list[Memory]:
        """The sums, or the last models."""
        if self.form == "liu2021":
            return [Accumulated(leavers, clients)]
        return [LastModels(leavers, clients)]

    def unlearned(self, arrays: Arrays) -> Arrays:
        """What was added up."""
        leaver = self.leaver
        assert leaver is not None
        if self.form == "liu2021":  # Where nobody ever answered, the model is the first one still.
            return self.memory(Accumulated).sums.get(leaver, arrays)
        kept = self.memory(LastModels)
        others = without(kept.last, leaver)
        return weighted_mean(others, kept.weights) if others else arrays
