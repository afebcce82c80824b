"""Strategies with several exchanges a round, clients that answer them, and wrappers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from fedsim import Client, Exchange, RoundState, Site, Wrapper
from fedsim.clients.supervised import Supervised
from fedsim.method.exchanges import Aggregated
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire.flower import tensor_record, tensors


class Twice(FedAvg):
    """Trains twice a round, with a question of its own between; remembers what it heard."""

    history = "last"

    def __init__(self, rounds: int = 9, norms: bool = True) -> None:
        super().__init__()
        self.last, self.norms, self.heard = rounds, norms, 0.0

    def next(self, state: RoundState) -> Exchange | None:
        if state.exchange > 2 or state.round > self.last:
            return None
        if state.exchange == 1:
            content = RecordDict({"arrays": state.arrays})
            return state.ask("draws", content, self.listen)
        return super().next(RoundState(**vars(state) | {"exchange": 0}))

    def listen(self, replies: Iterable[Message]) -> Aggregated:
        self.heard += sum(reply.content.metric_records["metrics"]["drawn"] for reply in replies)
        before = self.server.history.rounds
        kept = [self.server.history.norms(number) for number in before]
        norm = sum(sum(one.values()) for one in kept)
        return None, MetricRecord({"heard": self.heard, "norm": norm, "kept": len(before)})

    def phase(self, server_round: int) -> str:
        return "early" if server_round == 1 else "late"

    def exchanges(self, rounds: int) -> int:
        return 3 * rounds

    def state_dict(self) -> dict[str, Any]:
        return {"heard": self.heard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.heard = state["heard"]


class TooOften(Twice):
    """Says that clients train less often than it lets them."""

    history = "none"

    def next(self, state: RoundState) -> Exchange | None:
        return FedAvg.next(self, RoundState(**vars(state) | {"exchange": 0}))

    def exchanges(self, rounds: int) -> int:
        return rounds + 1


class Silent(TooOften):
    """Does not say it."""

    def exchanges(self, rounds: int) -> None:
        return None


class Remembers(FedAvg):
    """Keeps the history of all rounds."""

    history = "full"


class Draws(Supervised):
    """Also answers "draws"."""

    def draws(self, content: RecordDict, site: Site) -> RecordDict:
        drawn = float(site.numpy_generator("batches").random())
        metrics = {"num-examples": len(site.train), "drawn": drawn, "at": site.exchange}
        return RecordDict({"metrics": MetricRecord(metrics)})


class Forgets(Supervised):
    """Reports how much it is to forget."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        reply = super().train(content, site)
        inside = set(site.forget.indices.tolist()) <= set(site.train.indices.tolist())
        reply["more"] = MetricRecord({"forget": len(site.forget), "inside": float(inside)})
        return reply


class Negates(Wrapper):
    """Sends `times` the model."""

    def __init__(self, inner: Client, times: float = -1.0) -> None:
        super().__init__(inner)
        self.times = times

    def reply(self, content: RecordDict, site: Site, reply: RecordDict) -> RecordDict:
        arrays = tensors(reply.array_records["arrays"])
        reply["arrays"] = tensor_record(
            {name: (self.times * value).astype(np.float32) for name, value in arrays.items()}
        )
        return reply
