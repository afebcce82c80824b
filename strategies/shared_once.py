"""What strategies share whose clients exchange something of their records once, before they train.

`fed_mix` and `fed_dg` derive from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim import Exchange, RoundState, RunError
from fedsim.method import Arrays
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import tensor_record, tensors


class SharedOnce(FedAvg):
    """Base: federated averaging, before which each client sends a record that all others get.

    All clients are asked in the first round, in an exchange of its own. What they send travels on
    with the first training message that a client answers; the client keeps it. A client that does
    not answer in the first round shares nothing.

    Args:
        codec, weighting: as of `fedavg`.
    """

    linear = False
    kind: ClassVar[str]
    """Of the exchange; the record in a reply, and in a message, has the same name. Its arrays have
    records along their first axis: those of several clients are joined there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shares: dict[int, Arrays] = {}
        self._told: set[int] = set()

    def next(self, state: RoundState) -> Exchange | None:
        """In the first round what is shared, then training; in the others training alone."""
        asking = state.round == 1
        if asking and state.exchange == 0:
            content = RecordDict({"config": ConfigRecord()})
            return state.ask(self.kind, content, self._collect, range(len(self.server.names)))
        return super().next(replace(state, exchange=state.exchange - asking))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The model to each sampled client; to one that has not got it, what others share, too."""
        config["server-round"] = server_round
        content, nodes = self.content(server_round, arrays, config), list(grid.get_node_ids())
        return [
            Message(self._with_shares(content, client), nodes[client], MessageType.TRAIN)
            for client in self.server.sample_clients()
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of the models; whoever answers has what others share."""

        def each() -> Iterator[Message]:
            for reply in replies:
                self._told.add(self.server.client_of(reply))
                yield reply

        return super().aggregate_train(server_round, each())

    def _with_shares(self, content: RecordDict, client: int) -> RecordDict:
        others = [share for other, share in sorted(self._shares.items()) if other != client]
        if client in self._told or not others:
            return content
        joined = {name: np.concatenate([one[name] for one in others]) for name in others[0]}
        return RecordDict(dict(content.items()) | {self.kind: tensor_record(joined)})

    def _collect(
        self, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep what clients send; the model stays.

        Raises:
            RunError: a client sends none, or its arrays do not go with those of the others.
        """
        for reply in replies:
            client = self.server.client_of(reply)
            record = reply.content.array_records.get(self.kind)
            share = {} if record is None else tensors(record)
            wanted = _shapes(next(iter(self._shares.values()), share))
            if not share or _shapes(share) != wanted:
                raise RunError(
                    f"site {self.server.names[client]!r} shares {_shapes(share) or 'nothing'} as "
                    f"{self.kind!r}; expected {wanted or 'arrays'}"
                )
            self._shares[client] = {name: np.array(value) for name, value in share.items()}
        return None, None

    def state_dict(self) -> dict[str, Any]:
        """What each client shares, and who has got it."""
        shares = {str(client): share for client, share in self._shares.items()}
        return {"shares": shares, "told": sorted(self._told)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._shares = {int(client): share for client, share in state["shares"].items()}
        self._told = set(state["told"])


def _shapes(share: Arrays) -> dict[str, tuple[int, ...]]:
    """The shape of a record of each array."""
    return {name: value.shape[1:] for name, value in sorted(share.items())}
