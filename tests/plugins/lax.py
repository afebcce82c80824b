"""Plugins that each break one thing that fedsim asks of their kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim import Client, Dataset, Embedded, Manifest, Site
from fedsim.clients.supervised import Supervised
from fedsim.data.partition import Dirichlet
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire.flower import load_state, pack_state, tensor_record, tensors

Aggregated = tuple[ArrayRecord | None, MetricRecord | None]

_CALLS = itertools.count()  # Another seed for each call, as chance of its own would be.


class Odd(FedAvg):
    """Averages, and breaks the rule that it is told."""

    heard: ClassVar[int] = 0

    def __init__(self, what: str = "") -> None:
        super().__init__()
        self.what = what
        self.seen = 0.0
        if what == "seeds":
            np.random.seed(0)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the sampled clients; or all of them once before."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if self.what == "asks before":
            list(grid.send_and_receive(messages))
            messages = list(super().configure_train(server_round, arrays, config, grid))
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregated:
        """Aggregate in one of the ways that are wrong."""
        assert self._global is not None
        if self.what == "swallows":
            try:
                return super().aggregate_train(server_round, replies)
            except Exception:
                zeros = {k: np.zeros_like(v) for k, v in tensors(self._global).items()}
                return tensor_record(zeros), None
        heard = list(replies)
        if self.what == "three" and len(heard) != 3:
            raise IndexError("three replies are expected")
        if self.what == "first":
            return heard[0].content.array_records["arrays"], None
        if self.what == "median":
            models = [tensors(one.content.array_records["arrays"]) for one in heard]
            middle = {k: np.nanmedian([m[k] for m in models], axis=0) for k in models[0]}
            return tensor_record({k: v.astype(np.float32) for k, v in middle.items()}), None
        arrays, metrics = super().aggregate_train(server_round, heard)
        assert arrays is not None
        if self.what == "nothing":
            return None, metrics
        if self.what == "same":
            return self._global, metrics
        type(self).heard += 1
        self.seen += 1
        shift = {
            "forgets": self.seen,
            "class": float(type(self).heard),
            "beside": OddClient.trained / 100,
            "draws": float(np.random.normal()) if self.what == "draws" else 0.0,
        }.get(self.what, 0.0)
        moved = {k: (v + 0.01 * shift).astype(v.dtype) for k, v in tensors(arrays).items()}
        return tensor_record(moved), metrics


class OddClient(Client):
    """Trains a little, and breaks the rule that it is told."""

    trained: ClassVar[int] = 0

    def __init__(self, what: str = "") -> None:
        self.what, self.seen = what, 0

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Move the weights a little."""
        type(self).trained += 1
        model = site.new_model()
        load_state(model, content.array_records["arrays"])
        self.seen += 1
        step = {"keeps": 0.01 * self.seen, "same": 0.0}.get(self.what, 0.01)
        if self.what == "draws":
            step = float(np.random.random())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += step
        if self.what == "edits":
            for value in tensors(content.array_records["arrays"]).values():
                torch.from_numpy(value).add_(1.0)
        metrics = MetricRecord({"num-examples": len(site.train)})
        if self.what == "uncounted":
            metrics = MetricRecord({"loss": 1.0})
        return RecordDict({"arrays": pack_state(model.state_dict()), "metrics": metrics})


class SaysNothing(Supervised):
    """Declares that it sends nothing, and sends a model."""

    payload = "nothing"


class Last(FedAvg):
    """Takes the last reply's model; it declares no payload and needs no num-examples."""

    payload = ""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregated:
        """Keep the last reply's model."""
        return list(replies)[-1].content.array_records["arrays"], None


def generated(size: int, what: str = "", images: int = 60) -> Embedded:
    """Noise; drawn anew each time, of one patient, or of one class, as it is told."""
    draws = np.random.default_rng(None if what == "unseeded" else 0)
    if what == "global":
        np.random.random()
    labels = np.zeros(images, np.int64) if what == "one class" else np.arange(images) % 2
    return Embedded(
        images=draws.integers(0, 255, (images, size, size, 3)).astype(np.uint8),
        labels=labels.astype(np.int64),
        groups=["p"] * images if what == "one patient" else [f"p{i // 2}" for i in range(images)],
        sites=["a"] * images,
        classes=("no", "yes"),
    )


class OddData(Dataset):
    """A data set with a stand-in that breaks the rule that it is told."""

    classes = ("no", "yes")
    embedded = generated

    def __init__(self, what: str = "") -> None:
        self.what = what

    def manifest(self, root: Any) -> Manifest:
        """A file that is not there, and one twice."""
        name = "gone.png" if self.what == "gone" else "here.png"
        there = self.what != "twice"
        return Manifest(
            paths=[root / "here.png", root / name],
            labels=np.array([0, 1]),
            groups=["a", "b"],
            sites=["s", "s"],
            ids=["1", "2" if there else "1"],
        )


class OddModel(nn.Module):
    """A linear classifier that breaks the rule that it is told."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, what: str = "") -> None:
        super().__init__()
        self.what = what
        self.head = nn.Linear(in_channels * image_size**2, num_classes)
        if what == "idle":
            self.idle = nn.Linear(2, 2)
        if what == "numpy":
            self.head.bias.data += float(np.random.random())
        self.hidden = torch.rand(1)  # In no state_dict.

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes]."""
        logits: torch.Tensor = self.head(images.flatten(1))
        if self.what == "shape":
            return logits[:, 0]
        if self.what == "hidden":
            return logits + torch.tensor([0.0, 1.0]) * self.hidden
        if self.what == "batch":
            return logits - logits.mean(0, keepdim=True)
        return logits


class OddPartition(Dirichlet):
    """A Dirichlet partition that breaks the rule that it is told."""

    def __init__(self, what: str = "") -> None:
        super().__init__(alpha=1.0)
        self.what = what

    def assign(self, *, clients: int | None, **given: Any) -> dict[str, np.ndarray]:
        """Share out."""
        if self.what == "accepts":
            fewer = super().assign(clients=min(clients or 1, 4), **given)
            return fewer | {f"more-{i}": np.zeros(0, np.int64) for i in range((clients or 4) - 4)}
        if self.what == "raises":
            raise KeyError("labels")
        if self.what == "one more":
            clients = (clients or 1) + 1
        if self.what == "numbers":
            return dict(enumerate(super().assign(clients=clients, **given).values()))  # type: ignore[arg-type]
        if self.what == "draws":
            np.random.random()
        parts = super().assign(clients=clients, **given)
        first, second = list(parts)[:2]
        if self.what == "loses":
            parts[first] = parts[first][1:]
        if self.what == "tears":
            parts[second] = np.sort(np.append(parts[second], parts[first][-1]))
            parts[first] = parts[first][:-1]
        if self.what == "unsorted":
            parts[first] = parts[first][::-1]
        if self.what == "own chance":
            fresh = given | {"rng": np.random.default_rng(next(_CALLS))}
            return Dirichlet(1.0).assign(clients=clients, **fresh)
        return parts


class Needs(FedAvg):
    """Needs so many clients; with 0 it divides by that."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least

    def check_clients(self, clients: int) -> None:
        """Refuse fewer."""
        if self.least > clients:
            raise ValueError(f"least is {self.least}, but there are {clients} clients")
        if clients > 5:
            print(clients / self.least)


class Refuses(FedAvg):
    """Refuses its parameters."""

    def __init__(self, what: str = "", share: float = 0.1) -> None:
        super().__init__()
        if what == "value":
            raise ValueError(f"share must be below 0.5, not {share}")
        if what == "type":
            raise TypeError("what is odd")
