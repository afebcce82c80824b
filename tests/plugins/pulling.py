"""A client method whose result is known in closed form, for tests of asynchrony."""

from __future__ import annotations

from flwr.app import MetricRecord, RecordDict

from fedsim import Client, Site
from fedsim.wire import tensor_record, tensors


class Pull(Client):
    """One step of gradient descent on (w - target)^2 / 2 in each parameter; its work is a record.

    Args:
        targets: of each client.
        rate: of the step.
    """

    payload = "arrays"
    keeps_state = True

    def __init__(self, targets: list[float], rate: float = 0.5) -> None:
        self.targets, self.rate = targets, rate

    def workload(self, records: int) -> float:
        """One record."""
        return 1.0

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """The parameters, nearer to the target; the state counts how often it trained."""
        count = site.state.metric_records.get("count", MetricRecord({"times": 0}))["times"]
        assert isinstance(count, int)
        site.state["count"] = MetricRecord({"times": count + 1})
        target = self.targets[site.client]
        arrays = {
            name: value + value.dtype.type(self.rate) * (value.dtype.type(target) - value)
            for name, value in tensors(content.array_records["arrays"]).items()
        }
        told = MetricRecord({"num-examples": 1, "times": count + 1})
        return RecordDict({"arrays": tensor_record(arrays), "metrics": told})
