"""`InlineGrid`: this process, one client after another: the reference.

In a fast mode (`fedsim.grid.mode`) the clients that may train together do so in a crew's threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from functools import cached_property
from typing import NamedTuple

from flwr.app import Message

from fedsim.errors import DivergedError, FedsimError
from fedsim.grid.base import BaseGrid
from fedsim.grid.choosing import Choice
from fedsim.grid.crew import Answer, Crew, Outcome
from fedsim.grid.worker import Job, Worker
from fedsim.ledger.traffic import TrafficLedger
from fedsim.method.faults import Failure
from fedsim.raising import one_line, reraise_interruption, short_traceback
from fedsim.wire import flower

# Groups that are begun ahead of the one whose replies are handed on, for each thread.
_AHEAD = 2


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

    @cached_property
    def _crew(self) -> Crew:
        return Crew(self.job, self._tick)

    def close(self) -> None:
        """End the crew's threads."""
        if "_crew" in vars(self):
            self._crew.close()

    def _execute(self, messages: list[Message]) -> Generator[Message | Failure]:
        waiting = deque(self.groups(messages))
        begun: deque[_Begun] = deque()
        while waiting or begun:
            while waiting and self.together(waiting[0]) and len(begun) < _AHEAD * self._crew.size:
                begun.append(self._begin(waiting.popleft()))
            if begun:
                self._at_work_are({self.client(m) for one in begun for m in one.messages})
                group, outcomes = begun.popleft()
            else:
                group = waiting.popleft()
                self._at_work_are({self.client(message) for message in group})
                outcomes = self._alone(group)
            try:
                found = outcomes()
            finally:
                self._at_work_are(set())
            for message, outcome in zip(group, found, strict=True):
                yield self._settled(message, outcome)

    def _begin(self, group: list[Message]) -> _Begun:
        """Let a group of clients train in the crew."""
        contexts = [self.contexts[message.metadata.dst_node_id] for message in group]
        own = [_own(message) for message in group]
        return _Begun(group, self._crew.begin(own, contexts, self.round, self.exchange))

    def _alone(self, group: list[Message]) -> Callable[[], list[Outcome]]:
        """What runs one client in the grid's own worker."""

        def outcomes() -> list[Outcome]:
            context = self.contexts[group[0].metadata.dst_node_id]
            before = flower.shallow(context.state)
            try:
                found = self._worker.run(_own(group[0]), context, self.round, self.exchange)
                return [Answer(*found)]
            except LeftOffError:
                context.state = before
                raise
            except BaseException as error:
                # What the client wrote before it failed is lost, as it is with a worker's copy.
                context.state = before
                return [error]

        return outcomes

    def _settled(self, message: Message, outcome: Outcome) -> Message | Failure:
        """The reply, taken in, or the failure that it came to."""
        if isinstance(outcome, Answer):
            self._keep(message, *outcome, "driver")
            return outcome.reply
        if isinstance(outcome, DivergedError):
            return self.failure(self.client(message), "diverged", str(outcome))
        if isinstance(outcome, FedsimError):
            raise outcome
        reraise_interruption(outcome)
        reason, details = one_line(outcome), short_traceback(outcome)
        return self.failure(self.client(message), "error", reason, details)


class _Begun(NamedTuple):
    """A group of clients at work, and what waits for their outcomes."""

    messages: list[Message]
    outcomes: Callable[[], list[Outcome]]


def _own(message: Message) -> Message:
    """A message of the client's own.

    All messages of a broadcast share one content: a client that edits its own must not be seen by
    the next.
    """
    return flower.make_message(flower.shallow(message.content), message.metadata)
