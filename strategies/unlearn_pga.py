"""PGA: who leaves maximises its loss in a ball around the others' mean.

Halimi, Kadhe, Rawat and Baracaldo, "Federated Unlearning: How to Efficiently Erase a Client in FL?"
(2022). Method card: `docs/methods/unlearning.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from flwr.app import Message, MetricRecord, RecordDict
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from fedsim import Exchange, RoundState
from fedsim.method import Aggregated, Arrays
from fedsim.strategies.unlearning import Unlearning
from fedsim.unlearning import (
    ASCEND,
    Ascent,
    LastModels,
    Memory,
    ball_radius,
    project,
    weighted_mean,
    without,
)
from fedsim.wire import Codec, pack_state, tensors


class PGA(Unlearning):
    """Ask the client that leaves to unlearn: projected gradient ascent on its own records.

    The centre of the ball is the mean of what the others sent in the last round. Its radius is a
    share of the mean distance of random models from there. The client must have a method that
    answers `ascend`: `supervised` and `segmentation` do.

    Args:
        train_rounds, client, codec, weighting: as of `Unlearning`.
        steps: of ascent, at most.
        stop: ascent ends when the score of a batch (accuracy, or Dice) is below this.
        radius_share: radius over that mean distance; the paper's 1/3.
        initialisations: random models that are measured.
    """

    def __init__(
        self,
        train_rounds: PositiveInt,
        client: str | None = None,
        steps: PositiveInt = 100,
        stop: NonNegativeFloat = 0.12,
        radius_share: PositiveFloat = 1 / 3,
        initialisations: PositiveInt = 10,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "uniform",
    ) -> None:
        super().__init__(train_rounds, client, codec, weighting)
        self.steps = steps
        self.stop = stop
        self.radius_share = radius_share
        self.initialisations = initialisations
        self._found: dict[str, float] = {}

    def memories(self, leavers: Sequence[int], clients: int) -> list[Memory]:
        """The models of the last round."""
        return [LastModels(leavers, clients)]

    def unlearning_asks(self, left: int) -> int:
        """The one that leaves."""
        return 1

    def unlearn(self, state: RoundState, step: int) -> Exchange:
        """The ball to the client that leaves; its answer is the new model."""
        kept, leaver = self.memory(LastModels), self.leaver
        assert leaver is not None
        others = without(kept.last, leaver)
        centre = weighted_mean(others, kept.weights) if others else tensors(state.arrays)
        radius = ball_radius(centre, self._random(centre), self.radius_share)
        ascent = Ascent(radius, self.steps, self.stop)
        sent = self.of_model(centre, state.arrays)
        content = RecordDict({"arrays": sent, "config": ascent.config()})

        def aggregate(replies: Iterable[Message]) -> Aggregated:
            found: Arrays = {}
            for reply in replies:
                found = tensors(reply.content.array_records["arrays"])
                told = reply.content.metric_records["metrics"]
                self._found = {
                    "radius": radius,
                    "distance": float(told["distance"]),  # type: ignore[arg-type]
                    "steps": float(told["num-steps"]),  # type: ignore[arg-type]
                    "score": float(told["score"]),  # type: ignore[arg-type]
                }
            # What a client sends need not be in the ball because it was asked to.
            inside = project(found, tensors(sent), radius)
            return self.of_model(inside, state.arrays), MetricRecord({"radius": radius})

        return state.ask(ASCEND, content, aggregate, [leaver])

    def _random(self, like: Arrays) -> list[Arrays]:
        """Random models."""
        states = [
            tensors(pack_state(self.server.new_model().state_dict()))
            for _ in range(self.initialisations)
        ]
        return [{name: state[name] for name in like} for state in states]

    def details(self) -> dict[str, Any]:
        """The ball, and how far ascent went."""
        return {"ascent": dict(self._found) or None}

    def state_dict(self) -> dict[str, Any]:
        """What is kept, and how far ascent went."""
        return super().state_dict() | {"ascent": dict(self._found)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        self._found = dict(state.get("ascent", {}))
