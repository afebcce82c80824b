"""A crew: threads of one process that train clients beside each other, a core for each.

Two threads on two clients do more than two on one: nobody waits for the other at the end of every
loop, which on a busy machine takes many times as long. Each has a worker, and a model, of its own,
and computes with one thread, so that bits do not depend on how many there are.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import torch
from flwr.app import Context, Message

from fedsim.grid.worker import Job, Spent, Worker
from fedsim.wire import flower

_POLL_SECONDS = 0.05


class Answer(NamedTuple):
    """What a client gave back: its reply, its context, and what it cost."""

    reply: Message
    context: Context
    spent: Spent


Outcome = Answer | BaseException
"""An answer, or what the client raised; its state is as it was then."""


class Crew:
    """Trains groups of clients, in as many threads as `resources.threads`.

    Args:
        job: what the clients do.
        tick: called while the caller waits.
    """

    def __init__(self, job: Job, tick: Callable[[], None] | None = None) -> None:
        self.size = job.scenario.resources.threads
        self._tick = tick
        self._ended = threading.Event()
        self._workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        if self.size == 1:  # Nobody to work beside: the caller's thread does it.
            self._workers.put(Worker(job, tick, threads=1))
            return
        for _ in range(self.size):
            self._workers.put(Worker(job, self._require_going_on, threads=1))
        self._threads = ThreadPoolExecutor(self.size, "crew", torch.set_num_threads, (1,))

    def begin(
        self, messages: Sequence[Message], contexts: Sequence[Context], round: int, exchange: int
    ) -> Callable[[], list[Outcome]]:
        """Let the clients of a group train; what is returned waits for their outcomes, in order.

        Args:
            messages: to each client, its own: it may edit the content.
            contexts: of each client.
        """
        if self._threads is None:
            return lambda: self._outcomes(messages, contexts, round, exchange)
        begun = self._threads.submit(self._outcomes, messages, contexts, round, exchange)
        return lambda: self._awaited(begun)

    def close(self) -> None:
        """Stop at the next step of whoever is at work."""
        self._ended.set()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def _awaited(self, begun: Future[list[Outcome]]) -> list[Outcome]:
        while not wait([begun], _POLL_SECONDS).done:
            if self._tick is not None:
                self._tick()
        return begun.result()

    def _outcomes(
        self, messages: Sequence[Message], contexts: Sequence[Context], round: int, exchange: int
    ) -> list[Outcome]:
        worker = self._workers.get()
        try:
            return outcomes(worker, messages, contexts, round, exchange)
        finally:
            self._workers.put(worker)

    def _require_going_on(self) -> None:
        if self._ended.is_set():
            raise RuntimeError("the run has ended")


def outcomes(
    worker: Worker,
    messages: Sequence[Message],
    contexts: Sequence[Context],
    round: int,
    exchange: int,
) -> list[Outcome]:
    """Let a group of clients train: in one call or, where that cannot be, one after another."""
    if len(messages) > 1:
        try:
            found = worker.run_stacked(messages, contexts, round, exchange)
        except Exception:  # Whose fault it is, each by itself shows.
            found = None
        if found is not None:
            return [Answer(*one) for one in found]
    each: list[Outcome] = []
    for message, context in zip(messages, contexts, strict=True):
        before = flower.shallow(context.state)
        try:
            each.append(Answer(*worker.run(message, context, round, exchange, beside=True)))
        except BaseException as error:
            # What the client wrote before it failed is lost.
            context.state = before
            each.append(error)
    return each
