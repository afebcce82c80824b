"""Federated averaging (McMahan et al. 2017), with an optional codec on both ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim import Strategy
from fedsim.method import Arrays, MetricMeans, Received, examples
from fedsim.wire import Codec, add_scaled, decode_tensors, encode_tensors, tensor_record, tensors


class FedAvg(Strategy):
    """Average the clients' models, weighted by their number of images.

    Replies are folded one by one into a float64 sum, so memory does not grow with the number of
    clients.

    Args:
        codec: how tensors travel. "float32" sends the models as they are. With "float16" or
            "uint8" the broadcast is encoded, and clients send back the encoded difference to what
            they received; the server keeps its own model in float32.
        weighting: "samples" weights by the number of images, "uniform" counts every client once.
    """

    payload = "arrays"
    withdrawal = "model"
    linear = True

    def __init__(
        self,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "samples",
    ) -> None:
        self.codec: Codec = codec
        self.weighting = weighting
        self._global: ArrayRecord | None = None

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """The global arrays, encoded."""
        self._global = arrays
        if self.codec != "float32":
            config["codec"] = self.codec
            arrays = tensor_record(encode_tensors(tensors(arrays), self.codec))
        return RecordDict({"arrays": arrays, "config": config})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The combination of the clients' models."""
        assert self._global is not None
        means = MetricMeans()

        def each() -> Iterator[Received]:
            for reply in replies:
                yield self.received(reply)
                means.add(reply.content)

        combined = self.combine(each())
        sent, base = tensors(self._global), self._base()
        averaged = {
            name: (value + base.get(name, 0.0)).astype(
                sent[name].dtype if name in sent else np.float32
            )
            for name, value in combined.items()
        }
        # A mean of integers is none: the server's own stay.
        kept = {name: value for name, value in sent.items() if value.dtype.kind not in "fc"}
        return tensor_record(averaged | kept, copy=False), means.record()

    def received(self, reply: Message) -> Received:
        """A client's model or, where a codec encodes it, its change; with its weight."""
        count = examples(reply.content.metric_records["metrics"])
        weight = count if self.weighting == "samples" else 1.0
        arrays = tensors(reply.content.array_records["arrays"])
        if self.codec != "float32":
            arrays = decode_tensors(arrays)
        return Received(weight, arrays, self._base())

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The weighted mean, float64, of what clients sent, in client order.

        A rule that is robust, or weights otherwise, overrides this. All are models or, with a
        codec, all are changes; where they are, the model that was sent is added afterwards.
        """
        sums: Arrays = {}
        total = 0.0
        for one in received:
            for name, value in one.arrays.items():
                if value.dtype.kind in "fc":
                    add_scaled(sums, name, value, one.weight)
            total += one.weight
        return {name: value / total for name, value in sums.items()}

    def _base(self) -> Arrays:
        """What is to be added to what clients send, to have their models."""
        assert self._global is not None
        return tensors(self._global) if self.codec != "float32" else {}
