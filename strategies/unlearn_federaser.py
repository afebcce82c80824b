"""FedEraser: the lengths of old updates along new directions.

Liu et al., "FedEraser: Enabling Efficient Client-Level Data Removal from Federated Learning Models"
(2021). Method card: `docs/methods/unlearning.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from flwr.app import ConfigRecord, Message, MessageType, MetricRecord
from pydantic import PositiveInt

from fedsim import Exchange, RoundState
from fedsim.method import Aggregated, Arrays, MetricMeans
from fedsim.strategies.unlearning import Unlearning
from fedsim.unlearning import (
    FirstAndNorms,
    Memory,
    Norms,
    calibrated,
    moved,
    weighted_mean,
    without,
)
from fedsim.wire import Codec, tensors


class FedEraser(Unlearning):
    """Go through the training again in steps of `every` rounds, with the old updates' lengths.

    The first step takes the others' updates of the first round as they are. In each later one the
    others train from the model so far as long as in any round, and what they changed is scaled to
    the length of their update of back then. Only lengths are kept, not the updates.

    Args:
        train_rounds, client, codec, weighting: as of `Unlearning`.
        every: Delta t: of so many rounds of the training, one is gone through again.
        norms: lengths of a client's whole update ("client"), of each of its arrays ("layer"), or of
            each array of the others' mean ("pooled", as the authors' public code).
    """

    def __init__(
        self,
        train_rounds: PositiveInt,
        client: str | None = None,
        every: PositiveInt = 2,
        norms: Norms = "client",
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "uniform",
    ) -> None:
        super().__init__(train_rounds, client, codec, weighting)
        self.every = every
        self.norms: Norms = norms

    @property
    def unlearn_rounds(self) -> int:
        """The retained rounds, T over Delta t rounded up; in the first nobody works."""
        return -(-self.train_rounds // self.every)

    def unlearning_asks(self, left: int) -> int:
        """All that stay, but in the first of these rounds."""
        return (self.unlearn_rounds - 1) * left

    def memories(self, leavers: Sequence[int], clients: int) -> list[Memory]:
        """The first updates, and the lengths of all."""
        return [FirstAndNorms(leavers, clients, self.norms)]

    def unlearned(self, arrays: Arrays) -> Arrays:
        """The first model after the others' first updates."""
        kept, leaver = self.memory(FirstAndNorms), self.leaver
        assert leaver is not None
        assert self.server.first_arrays is not None
        first = without(kept.first, leaver)
        start = tensors(self.server.first_arrays)
        return moved(start, weighted_mean(first, kept.first_weights)) if first else start

    def unlearn(self, state: RoundState, step: int) -> Exchange:
        """The first updates, or a calibrated step."""
        if step == 0:
            return super().unlearn(state, step)
        return Exchange(
            MessageType.TRAIN,
            lambda: self.configure_train(state.round, state.arrays, ConfigRecord(), state.grid),
            lambda replies: self._calibrate(state, step * self.every + 1, replies),
        )

    def _calibrate(self, state: RoundState, number: int, replies: Iterable[Message]) -> Aggregated:
        """A step with the lengths of a round of the training, from 1."""
        sent, leaver, means = tensors(state.arrays), self.leaver, MetricMeans()
        assert leaver is not None
        updates: dict[int, Arrays] = {}
        weights: dict[int, float] = {}
        for reply in self.heard(replies):
            client, received = self.server.client_of(reply), self.received(reply)
            updates[client], weights[client] = received.change(sent), received.weight
            means.add(reply.content)
        kept = self.memory(FirstAndNorms).of_round(number, leaver)
        metrics: MetricRecord = means.record()
        if not updates.keys() & kept.keys():  # Nobody who answered was in that round.
            return None, metrics
        found = calibrated(sent, updates, kept, weights, self.norms)
        return self.of_model(found, state.arrays), metrics
