"""FedNova's client: it trains as others do, and says how far its steps reach.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization"
(2020), Section 4.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import RecordDict

from fedsim import Site
from fedsim.clients.segmentation import Segmentation
from fedsim.clients.supervised import Supervised
from fedsim.method import cosine
from fedsim.tasks.segmentation import OPTIMISER


def reach(rates: Iterable[float], momentum: float, nesterov: bool = False) -> float:
    """How far SGD moves a weight whose gradient is 1 in every step: the rate times |a_i|_1.

    Args:
        rates: the learning rate of each step.
        momentum: which starts at 0.
        nesterov: whether it is Nesterov's.
    """
    moved = velocity = 0.0
    for rate in rates:
        velocity = momentum * velocity + 1
        moved += rate * (1 + momentum * velocity if nesterov else velocity)
    return moved


class FedNova(Supervised):
    """Train as `supervised` does, and report how far the steps reach (FedNova).

    Args:
        epochs, steps, batch_size, learning_rate, momentum, weight_decay, class_balanced, augment,
        class_weights: as of `supervised`.
    """

    payload_kind = "normalised_update"
    private = "none"
    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, and their reach among the metrics."""
        reply = super().train(content, site)
        rates = [self.learning_rate] * self._total(site)
        reply.metric_records["metrics"]["reach"] = reach(rates, self.momentum)
        return reply


class FedNovaSegmentation(Segmentation):
    """Train as `segmentation` does, and report how far the steps reach (FedNova).

    Momentum starts anew each round: what earlier rounds left would move the model
    by gradients that the reach does not count. All parameters are those of `segmentation`;
    `optimizer` is "sgd".
    """

    payload_kind = "normalised_update"
    private = "none"
    side_by_side = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer != "sgd":
            raise ValueError(f"optimizer must be sgd: the reach of {self.optimizer} is not known.")

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, and their reach among the metrics."""
        site.state.pop(OPTIMISER, None)
        reply = super().train(content, site)
        first, total = (site.round - 1) * self.steps, site.rounds * self.steps
        rates = (
            cosine(first + step, total, self.learning_rate, self.last_learning_rate)
            for step in range(self.steps)
        )
        found = reach(rates, self.momentum, nesterov=True)
        reply.metric_records["metrics"]["reach"] = found
        return reply
