"""`InlineGrid`: this process, one client after another: the reference."""

from __future__ import annotations

from collections.abc import Callable, Generator

from flwr.app import Message

from fedsim.errors import DivergedError, FedsimError
from fedsim.grid.base import BaseGrid
from fedsim.grid.choosing import Choice
from fedsim.grid.worker import Job, Worker
from fedsim.ledger.traffic import TrafficLedger
from fedsim.method.faults import Failure
from fedsim.raising import one_line, reraise_interruption, short_traceback
from fedsim.wire import flower


class LeftOffError(BaseException):
    """A tick's way to leave a client off that is to be asked elsewhere; no client may catch it."""

    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        self.choice = choice


class InlineGrid(BaseGrid):
    """Runs every client in the calling process."""

    def __init__(
        self, job: Job, ledger: TrafficLedger, tick: Callable[[], None] | None = None
    ) -> None:
        super().__init__(job, ledger, tick)
        self._worker = Worker(job, tick)

    def _execute(self, messages: list[Message]) -> Generator[Message | Failure]:
        for message in messages:
            # All messages of a broadcast share one content: a client that edits its own must not
            # be seen by the next.
            own = flower.make_message(flower.shallow(message.content), message.metadata)
            self._at_work_are({self.client(message)})
            context = self.contexts[message.metadata.dst_node_id]
            before = flower.shallow(context.state)
            outcome: Message | Failure
            try:
                outcome, context, spent = self._worker.run(own, context, self.round, self.exchange)
                self._keep(message, outcome, context, spent, "driver")
            except DivergedError as error:
                context.state = before
                outcome = self.failure(self.client(message), "diverged", str(error))
            except FedsimError:
                raise
            except LeftOffError:
                context.state = before
                raise
            except BaseException as error:
                reraise_interruption(error)
                # What the client wrote before it failed is lost, as it is with a worker's copy.
                context.state = before
                outcome = self.failure(
                    self.client(message), "error", one_line(error), short_traceback(error)
                )
            finally:
                self._at_work_are(set())
            yield outcome
