"""Fed-NCL: clients that moved far from the global model count less.

Tam, K., Li, L., Han, B., Xu, C., Fu, H.: "Federated noisy client learning" (2021). Two of the
aggregators that Shiranthika et al., "SplitFed resilience to packet loss" (2023), compare; the card
`docs/methods/split.md` says how their names are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from fedsim.method import Arrays, Received, examples
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import add_scaled, tensors

_ROUNDING = 1e-12


def divergences(
    sent: Mapping[str, NDArray[np.float32]], models: Sequence[Arrays], layers: Sequence[str]
) -> NDArray[np.float64]:
    """How far each layer of each client moved, and 1: |w_global - w_client| + 1.

    Args:
        sent: the global model, by name.
        models: those of the clients.
        layers: names; each tensor of a model is a layer.

    Returns:
        [clients, layers], at least 1.
    """
    wide = np.float64
    return np.array(
        [
            [np.linalg.norm((model[n].astype(wide) - sent[n].astype(wide)).ravel()) for n in layers]
            for model in models
        ]
    ) + np.ones((len(models), 1))


def qualities(
    moved: NDArray[np.float64], counts: Sequence[float], losses: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """The score q of each client: (sum of its divergences) x loss / records; larger is worse.

    Args:
        moved: [clients, layers], of `divergences`.
        counts: records of each client.
        losses: mean training loss of each; None: 1.
    """
    scale = np.ones(len(moved)) if losses is None else np.asarray(losses, dtype=np.float64)
    return moved.sum(axis=1) * scale / np.asarray(counts, dtype=np.float64)


def penalised(
    moved: NDArray[np.float64], scores: NDArray[np.float64], deviations: float, penalty: float
) -> NDArray[np.float64]:
    """Divergences, times `penalty` of clients whose score is an outlier.

    An outlier is further from the mean than `deviations` standard deviations of all scores. Two
    clients are one deviation away each, so with 1.0 neither is one, whatever is rounded.
    """
    limit = deviations * scores.std() + _ROUNDING * np.abs(scores).max()
    outlying = np.abs(scores - scores.mean()) > limit
    return moved * np.where(outlying, penalty, 1.0)[:, None]


def layer_weights(moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each layer by itself: 1/d over the sum of it; [clients, layers], columns add up to 1."""
    return (1 / moved) / (1 / moved).sum(axis=0)


def model_weights(moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """All layers alike: 1 / (sum of d) over the sum of it; [clients, 1], adds up to 1."""
    return layer_weights(moved.sum(axis=1, keepdims=True))


class FedNCL(FedAvg):
    """Weight clients by the inverse of how far they moved from the global model.

    Running statistics are averaged by the number of records.

    Args:
        version: "v2" has one weight for all layers of a client, and outliers by the score with the
            training loss; "v4" weights each layer by itself, and its score has no loss.
        penalty: what the divergence of outliers is multiplied by.
        since: the round from which there is a penalty.
        deviations: standard deviations beyond which a client is an outlier; not given in the paper.
    """

    linear = False
    needs_losses = True

    def __init__(
        self,
        version: Literal["v2", "v4"] = "v2",
        penalty: Annotated[float, Field(ge=1)] = 50.0,
        since: PositiveInt = 10,
        deviations: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        self.version, self.penalty = version, penalty
        self.since, self.deviations = since, deviations
        self._counts: list[float] = []
        self._losses: list[float] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The weighted models.

        Raises:
            ValueError: a client reports no loss.
        """
        self._counts, self._losses = [], []

        def heard() -> Iterator[Message]:
            for reply in replies:
                metrics = reply.content.metric_records["metrics"]
                loss = metrics.get("loss")
                if self.version == "v2" and not isinstance(loss, int | float):
                    raise ValueError("a client reports no loss, which strategy.version v2 needs")
                self._counts.append(max(examples(metrics), 1.0))
                self._losses.append(float(loss) if isinstance(loss, int | float) else 1.0)
                yield reply

        return super().aggregate_train(server_round, heard())

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The weighted mean, float64."""
        models = [one.arrays for one in received]
        if not models:
            return {}
        assert self._global is not None
        sent = tensors(self._global)
        layers = [name for name, value in models[0].items() if value.dtype.kind == "f"]
        moved = divergences(sent, models, layers)
        if self.server.round >= self.since:
            losses = self._losses if self.version == "v2" else None
            scores = qualities(moved, self._counts, losses)
            moved = penalised(moved, scores, self.deviations, self.penalty)
        weights = model_weights(moved) if self.version == "v2" else layer_weights(moved)
        combined: Arrays = {}
        for layer, name in enumerate(layers):
            for weight, model in zip(np.broadcast_to(weights, moved.shape), models, strict=True):
                add_scaled(combined, name, model[name], float(weight[layer]))
        return combined
