"""`DeployedGrid`: the clients are nodes of a federation, reached through Flower's own grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedsim.deployment.greeting import PROMISE, Greeting, address
from fedsim.grid.base import BaseGrid
from fedsim.grid.worker import Job
from fedsim.ledger.traffic import TrafficLedger
from fedsim.method.exchanges import trains
from fedsim.method.faults import Failure
from fedsim.wire import flower
from fedsim.wire.buffers import receive

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Member:
    """A node that takes part.

    Attributes:
        node: its id in the federation.
        greeting: who it said it is.
        question, answer: the messages of its greeting.
    """

    node: int
    greeting: Greeting
    question: Message
    answer: Message


class DeployedGrid(BaseGrid):
    """Sends messages to the nodes, and takes their replies as a simulation's.

    The engine knows clients by the node ids of a simulation. Here each stands for a node of the
    federation, and the traffic ledger counts what crosses: the greetings, in round 0, too.

    Args:
        job: what a simulated client would know; of records, their owners' names alone.
        ledger: counts the messages.
        tick: is called while replies are waited for.
        real: Flower's grid.
        members: the nodes, in client order.
        noise_multiplier: what private clients are told to add noise with; None where they add none.
    """

    def __init__(
        self,
        job: Job,
        ledger: TrafficLedger,
        tick: Callable[[], None] | None,
        *,
        real: Grid,
        members: Sequence[Member],
        noise_multiplier: float | None = None,
    ) -> None:
        with flower.kept_identity():
            super().__init__(job, ledger, tick)
        self._real, self._members = real, members
        self._promise = noise_multiplier
        self._greeted = False

    def begin_round(self, number: int) -> None:
        """As in a simulation; before the first round, the greetings are counted."""
        if not self._greeted:
            self._greeted = True
            for client, member in enumerate(self._members):
                self._ledger.exchange(0, client, member.question, member.answer)
            self._ledger.forget_contents()
        super().begin_round(number)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages, each with what a simulated client is told by the simulator."""
        return super().send_and_receive(self._told(messages), timeout=timeout)

    def _told(self, messages: Iterable[Message]) -> Iterator[Message]:
        contents: dict[int, tuple[RecordDict, RecordDict]] = {}
        for message in messages:
            content = message.content
            if self._promise is not None and trains(message):
                # The content is kept so that nothing else can take its id.
                if id(content) not in contents:
                    told = RecordDict(dict(content.items()))
                    told[PROMISE] = ConfigRecord({"noise-multiplier": self._promise})
                    contents[id(content)] = content, told
                content = contents[id(content)][1]
            made = flower.make_message(content, message.metadata)
            yield address(made, self.round, self.exchange)

    def _execute(self, messages: list[Message]) -> Generator[Message | Failure]:
        """Send all, wait for all, and hand the replies on in the order of the messages."""
        self.in_flight = {self.client(message) for message in messages}
        begun = time.monotonic()
        waiting: dict[str, Message] = {}
        outcomes: dict[int, Message | Failure] = {}
        for message in messages:
            # One at a time: a request with the models of all clients could be too large.
            sent = self._sent_to_node(message)
            pushed = list(self._real.push_messages([sent]))
            if pushed and pushed[0]:
                waiting[pushed[0]] = message
            else:
                outcomes[self.client(message)] = self._lost(message, "the message was not accepted")
        for message in messages:
            client = self.client(message)
            while client not in outcomes:
                outcomes |= self._arrived(waiting)
                if client in outcomes:
                    break
                limit = self._faults.client_timeout
                if limit is not None and time.monotonic() - begun > limit:
                    reason = f"did not answer within {limit:g} s"
                    outcomes[client] = self.failure(client, "timeout", reason)
                    break
                if self._tick is not None:
                    self._tick()
                time.sleep(_POLL_SECONDS)
            self.in_flight.discard(client)
            yield outcomes.pop(client)

    def _sent_to_node(self, message: Message) -> Message:
        """The message as it leaves: to the node, with arrays that may be written into."""
        member = self._members[self.client(message)]
        return Message(
            flower.shallow(message.content),
            member.node,
            message.metadata.message_type,
            group_id=message.metadata.group_id,
        )

    def _arrived(self, waiting: dict[str, Message]) -> dict[int, Message | Failure]:
        """What came back since the last time, by client."""
        found: dict[int, Message | Failure] = {}
        if not waiting:
            return found
        for reply in self._real.pull_messages(list(waiting)):
            message = waiting.pop(reply.metadata.reply_to_message_id)
            found[self.client(message)] = self._taken(message, reply)
        return found

    def _taken(self, message: Message, reply: Message) -> Message | Failure:
        """A node's reply, as a simulated client's."""
        if reply.has_error():
            reason = reply.error.reason or f"Flower's error {reply.error.code}"
            if flower.failed_at_client(reply):
                return self.failure(self.client(message), "error", reason, reason)
            return self._lost(message, reason)
        # What the node keeps of integer tensors is known here, and nothing else of its state.
        context = self.contexts[message.metadata.dst_node_id]
        receive(self.job.roles, flower.shallow(message.content), context.state, self.job.stays)
        answer = Message(reply.content, reply_to=message)
        if self.replies is not None and trains(message):
            client = self.client(message)
            self.replies.save_reply(
                self.round, client, answer.content, context.state, self.exchange
            )
        return answer

    def _lost(self, message: Message, why: str) -> Failure:
        return self.failure(self.client(message), "worker", why)
