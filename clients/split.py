"""Split-federated segmentation: front end and back end at the client, over a lossy channel.

Shiranthika, C., Kafshgari, Z. H., Saeedi, P., Bajić, I. V.: "SplitFed resilience to packet loss:
where to split, that is the question" (2023). The server's half is a strategy that averages models:
`fedavg`, `strategies/auto_fedavg.py` or `strategies/fed_ncl.py`. The method card is
`docs/methods/split.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flwr.app import ArrayRecord, RecordDict
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from fedsim import Site
from fedsim.clients.segmentation import Segmentation
from fedsim.method import staying
from fedsim.splitting import (
    LINK,
    Activations,
    Channel,
    Link,
    crossed,
    crossing,
    link_record,
    require_cut,
)


@dataclass(eq=False)
class SplitSegmentation(Segmentation):
    """Train a model that is cut in three, whose parts talk over a channel that loses rows.

    The client and its own copy of the server's part are computed in one process, with the bits of
    two that exchange messages in each step. The traffic of a round is that of the messages: the
    server's part does not travel, and features and gradients of all steps do.

    Args:
        cut: where the model is cut, one of those that it has: "shallow" or "deep" of `split_unet`.
        packet_loss: share of the packets that are lost, each way; 0: the model in one piece.
        lossy: how many clients have that channel, the first ones; all others lose nothing. None:
            all have it.
        burst: packets in an average run of lost ones; None: they are lost independently.
        activations: how features travel: "float32", or "uint8" in 255 steps of each image's range.
        lossy_scores: whether lossy clients lose packets, too, where they score a model
            (`evaluation.on_clients`). The test split is scored beside the federation, without loss.
        loss, steps, batch_size, learning_rate, last_learning_rate, momentum, weight_decay,
            foreground, mirror, dice, cross_entropy, optimizer: as of `Segmentation`.
        clip: None alone: nobody knows the norm of the gradients of all three parts.
    """

    side_by_side = True
    private = "none"
    simulates = "the channel between a client and its part of the model, and computes both"
    exact = "parts of the messages do not cross, and are taken off the traffic as they are"

    loss: Literal["marginal", "plain", "dice"] = "dice"
    learning_rate: PositiveFloat = 0.0001
    last_learning_rate: NonNegativeFloat = 0.0001
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = None
    batch_size: PositiveInt = 8
    optimizer: Literal["sgd", "adamw"] = "adamw"
    cut: str = "shallow"
    packet_loss: NonNegativeFloat = 0.0
    lossy: NonNegativeInt | None = None
    burst: PositiveFloat | None = None
    activations: Activations = "float32"
    lossy_scores: bool = False
    _channel: Channel = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._channel = Channel(self.packet_loss, self.burst)
        if self.clip is not None:
            raise ValueError(
                f"clip is {self.clip}, but the norm of all gradients is known to neither side of a "
                "cut: leave it out."
            )

    def private_steps(self, units: int, expected_batch: int) -> int:
        """Refused: features of single records cross the cut without noise."""
        raise ValueError(
            "it has no private form: features of single records cross the cut, and no noise is "
            "added to them"
        )

    def check_fits(self, model: nn.Module, task: Any, clients: Sequence[str]) -> None:
        """Refuse a model without this cut, and more lossy clients than there are."""
        require_cut(model, self.cut)
        if self.lossy is not None and self.lossy > len(clients):
            raise ValueError(f"lossy is {self.lossy}, but there are {len(clients)} clients")

    @property
    def discloses(self) -> tuple[str, ...]:
        """What crosses the cut is of single images."""
        return (f"features of single images at the cut {self.cut!r}, and their gradients",)

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained model; what crossed the cut is told to the ledger."""
        with crossing(site.new_model(), self.cut, self._link(site)):
            reply = super().train(content, site)
        return self._told(content, reply, site, self.steps * self.batch_size)

    def validate(self, content: RecordDict, site: Site) -> RecordDict:
        """The gradient of the loss on validation patches, computed over the same channel."""
        with crossing(site.new_model(), self.cut, self._link(site)):
            reply = super().validate(content, site)
        return self._told(content, reply, site, self.steps * self.batch_size)

    def evaluate(self, content: RecordDict, site: Site) -> RecordDict:
        """Scores on the site's validation cases; all features arrive but with `lossy_scores`."""
        link = self._link(site, "scored-", self.lossy_scores)
        with crossing(site.new_model(), self.cut, link):
            reply = super().evaluate(content, site)
        return self._told(content, reply, site, link.images, ("features",))

    def ascend(self, content: RecordDict, site: Site) -> RecordDict:
        """Refused: what it would send over the cut is not counted."""
        raise ValueError(
            "unlearning by ascent has no form for split models: type client.name=segmentation"
        )

    def _link(self, site: Site, purpose: str = "", lossy: bool = True) -> Link:
        """The site's way to its part of the model; its streams' names begin with a purpose."""
        loses = lossy and (self.lossy is None or site.client < self.lossy)
        channel = self._channel if loses else Channel()
        return Link(channel, lambda name: site.generator(f"{purpose}{name}"), self.activations)

    def _told(
        self,
        content: RecordDict,
        reply: RecordDict,
        site: Site,
        images: int,
        fields: Sequence[str] = ("features", "gradients"),
    ) -> RecordDict:
        """The reply, with what crossed for so many images."""
        model = site.new_model()
        each = crossed(model, self.cut, site.task.input_shape, self.activations)
        total = {
            name: images * size for name, size in each.items() if name.partition("/")[2] in fields
        }
        sent, answered = (dict[str, ArrayRecord](one.array_records) for one in (content, reply))
        parts = require_cut(model, self.cut)
        reply[LINK] = link_record(total, parts, sent, answered, staying(content))
        return reply
