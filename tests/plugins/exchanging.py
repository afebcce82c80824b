"""Strategies with several exchanges a round, clients that answer them, and wrappers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim import Client, Exchange, RoundState, Site, Wrapper
from fedsim.clients.supervised import Supervised
from fedsim.method.exchanges import Aggregated
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire.flower import load_state, tensor_record, tensors


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


class Counts(Supervised):
    """Keeps how often it trained, and reports it."""

    keeps_state = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        before = site.state.metric_records.get("counts", MetricRecord({"seen": 0}))
        site.state["counts"] = MetricRecord({"seen": before["seen"] + 1})
        reply = super().train(content, site)
        reply["more"] = MetricRecord({"seen": before["seen"] + 1})
        return reply


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


class TrainsTwice(FedAvg):
    """Two trainings a round, one after the other."""

    def next(self, state: RoundState) -> Exchange | None:
        if state.exchange > 1:
            return None
        return super().next(RoundState(**vars(state) | {"exchange": 0}))

    def exchanges(self, rounds: int) -> int:
        return 2 * rounds


class Odd(FedAvg):
    """Makes an exchange that cannot be: "twice", of a "kind" that scores have, or "none" at all."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def next(self, state: RoundState) -> Exchange | None:
        if state.exchange:
            return None
        content = RecordDict({"arrays": state.arrays})
        kind, clients = "train", None
        if self.what == "twice":
            clients = [0, 0, 1]
        elif self.what == "none":
            return None
        else:
            kind = self.what
        return state.ask(kind, content, lambda replies: (None, None), clients)


class Shifted(FedAvg):
    """Sends the global model plus one."""

    history = "full"

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        moved = {name: value + 1 for name, value in tensors(arrays).items()}
        content = super().content(server_round, arrays, config)
        content["arrays"] = tensor_record(moved)
        return content


class Echoes(Supervised):
    """Learns nothing: answers with what it was sent."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        metrics = MetricRecord({"num-examples": len(site.train)})
        return RecordDict({"arrays": content.array_records["arrays"], "metrics": metrics})


class SeveralModels(FedAvg):
    """First asks for the sums of two models that one message brings, then trains."""

    def next(self, state: RoundState) -> Exchange | None:
        if state.exchange == 0:
            content = RecordDict({"one": state.arrays, "two": state.arrays})
            return state.ask("sums", content, self.read)
        if state.exchange == 1:
            return super().next(RoundState(**vars(state) | {"exchange": 0}))
        return None

    def read(self, replies: Iterable[Message]) -> Aggregated:
        sums = [reply.content.metric_records["metrics"]["sum"] for reply in replies]
        return None, MetricRecord({"spread": max(sums) - min(sums)})


class Sums(Supervised):
    """Also answers "sums": whether both models of a message can be loaded."""

    def sums(self, content: RecordDict, site: Site) -> RecordDict:
        found = []
        for name in ("one", "two"):
            model = site.new_model()
            load_state(model, content.array_records[name])
            found.append(sum(float(value.sum()) for value in model.state_dict().values()))
        assert found[0] == found[1]
        metrics = {"num-examples": len(site.train), "sum": found[0]}
        return RecordDict({"metrics": MetricRecord(metrics)})


class Quiet(Wrapper):
    """Changes nothing, and has the private form of what it wraps."""

    def private_steps(self, units: int, expected_batch: int) -> int:
        return self.inner.private_steps(units, expected_batch)


class NoPrivate(Supervised):
    """Declares that it has no private form."""

    private = "none"


class Misdeclared(FedAvg):
    """Says with a text what is true or false."""

    one_shot = "yes"  # type: ignore[assignment]


class Misspelt(FedAvg):
    """Says what clients send in a word that nobody knows."""

    payload = "array"
