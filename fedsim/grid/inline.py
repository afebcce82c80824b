"""`InlineGrid`: this process, one client after another: the reference."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator

from flwr.app import Message

from fedsim import flower
from fedsim.errors import FedsimError
from fedsim.grid.base import BaseGrid
from fedsim.grid.worker import Job, Worker
from fedsim.ledger.traffic import TrafficLedger


class InlineGrid(BaseGrid):
    """Runs every client in the calling process."""

    def __init__(
        self, job: Job, ledger: TrafficLedger, tick: Callable[[], None] | None = None
    ) -> None:
        super().__init__(job, ledger, tick)
        self._worker = Worker(job, tick)

    def _execute(self, messages: list[Message]) -> Generator[tuple[Message, Message]]:
        for message in messages:
            # All messages of a broadcast share one content: a client that edits its own must not
            # be seen by the next.
            own = flower.make_message(flower.shallow(message.content), message.metadata)
            self.in_flight = {self.client(message)}
            try:
                context = self.contexts[message.metadata.dst_node_id]
                reply, context, spent = self._worker.run(own, context, self.round)
            except FedsimError:
                raise
            except Exception as error:
                raise self._failed(message, traceback.format_exc()) from error
            finally:
                self.in_flight = set()
            self._keep(message, reply, context, spent, "driver")
            yield message, reply
