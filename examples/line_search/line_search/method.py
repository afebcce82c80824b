"""Two exchanges a round: clients train; then all tell their loss at several steps of the mean."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from flwr.app import Message, MetricRecord, RecordDict
from pydantic import PositiveFloat

from fedsim import Exchange, RoundState, Site
from fedsim.clients.supervised import Supervised
from fedsim.method import Aggregated, MetricMeans
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import load_state, tensor_record, tensors


class LineSearch(FedAvg):
    """Federated averaging that asks all clients which of `steps` times the mean update is best."""

    def __init__(self, steps: tuple[PositiveFloat, ...] = (0.5, 1.0, 1.5)) -> None:
        super().__init__()
        self.steps, self._mean = steps, {}

    def next(self, state: RoundState) -> Exchange | None:
        """Train, then ask for losses."""
        first = super().next(state)
        if first is not None:
            return replace(first, aggregate=lambda replies: self._keep(state.round, replies))
        if state.exchange > 1 or not self._mean:  # Or nobody answered.
            return None
        start, mean = tensors(state.arrays), self._mean
        models = [{n: v + s * (mean[n] - v) for n, v in start.items()} for s in self.steps]
        content = RecordDict({f"model-{k}": tensor_record(one) for k, one in enumerate(models)})
        everybody = range(len(self.server.names))
        return state.ask("losses", content, lambda got: self._best(models, got), everybody)

    def _keep(self, server_round: int, replies: Iterable[Message]) -> Aggregated:
        """The mean model is not the next one yet."""
        self._mean = {}
        mean, metrics = self.aggregate_train(server_round, replies)
        self._mean = dict(tensors(mean))
        return None, metrics

    def _best(self, models: list[dict[str, Any]], replies: Iterable[Message]) -> Aggregated:
        """The model with the smallest mean loss over all records."""
        means = MetricMeans()
        for reply in replies:
            means.add(reply.content)
        losses = means.record()
        best = min(range(len(models)), key=lambda k: losses[f"loss-{k}"])
        return tensor_record(models[best]), MetricRecord({"step": self.steps[best], **losses})

    def state_dict(self) -> dict[str, Any]:
        """What a run that is cut between the two exchanges goes on with."""
        return {"mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._mean = state["mean"]


class WithLosses(Supervised):
    """Supervised training that also answers the exchange "losses"."""

    def losses(self, content: RecordDict, site: Site) -> RecordDict:
        """The mean cross-entropy of each model on the site's training records."""
        found = {"num-examples": len(site.train)}
        for record, arrays in content.array_records.items():
            model, total = site.new_model().to(site.device).eval(), 0.0
            load_state(model, arrays)
            with torch.no_grad():
                for images, labels in site.train.batches(256):
                    logits = model(images.to(site.device)).cpu()
                    total += F.cross_entropy(logits, labels, reduction="sum").item()
            found[record.replace("model", "loss")] = total / max(len(site.train), 1)
        return RecordDict({"metrics": MetricRecord(found)})
