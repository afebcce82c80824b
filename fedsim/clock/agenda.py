"""Who is asked when, and whose replies a step of the server sees: decided before anybody works.

A task's length is known before it is done: it follows from records, speeds and bytes. So a step is
planned at its beginning, and all who are asked in it can work at the same time, on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flwr.app import RecordDict

Draw = Callable[[int, int, int], Iterable[int]]
"""Picks so many of so many; the third number counts the draws of a step from 0."""


@dataclass(eq=False)
class Task:
    """What a client was asked for.

    Attributes:
        client: who.
        asked: the server's step in which it was asked.
        start, end: seconds of simulated time; the reply is there at `end`.
        lost: nothing comes.
        content: the reply, once the client has worked; None where there is none.
        state: what the client keeps afterwards; None: as it was.
    """

    client: int
    asked: int
    start: float
    end: float
    lost: bool = False
    content: RecordDict | None = field(default=None, repr=False)
    state: RecordDict | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Agenda:
    """One step of the server.

    Attributes:
        asked: tasks that begin in it, in the order of time.
        arrived: tasks whose end the server waits for, in the order of time; of lost ones nothing
            comes.
        waiting: tasks that are still going on when the step is over.
        end: when it is over, seconds.
    """

    asked: list[Task]
    arrived: list[Task]
    waiting: list[Task]
    end: float

    @property
    def clients(self) -> list[int]:
        """Who is asked, ascending."""
        return sorted(task.client for task in self.asked)


def plan(
    now: float,
    going_on: Iterable[Task],
    *,
    wanted: int,
    at_work: int,
    clients: Iterable[int],
    begin: Callable[[int, float], Task],
    present_from: Callable[[int, float], float],
    draw: Draw,
) -> Agenda:
    """Plan one step: it is over when so many replies are there.

    Whenever a client ends its task, another one is asked with the current model, until the step is
    over. A client gives at most one reply to a step. The replies of one moment are taken in client
    order, and before anybody else is asked.

    Args:
        now: seconds.
        going_on: tasks of earlier steps.
        wanted: replies that the server waits for.
        at_work: clients that work at a time.
        clients: who may be asked.
        begin: makes the task of a client that is asked at a moment.
        present_from: the first moment, not before another one, at which a client is there.
        draw: picks who is asked.
    """
    waiting = list(going_on)
    asked: list[Task] = []
    arrived: list[Task] = []
    may, draws = sorted(clients), 0
    while True:
        busy = {task.client for task in (*waiting, *arrived)}
        idle = [client for client in may if client not in busy]
        there = [client for client in idle if present_from(client, now) <= now]
        free = at_work - len(waiting)
        if there and free > 0:
            drawn = sorted(draw(len(there), min(free, len(there)), draws))
            begun = [begin(there[position], now) for position in drawn]
            asked += begun
            waiting += begun
            draws, free = draws + 1, free - len(begun)
            idle = sorted(set(idle) - {task.client for task in begun})
        moments = [task.end for task in waiting]
        if free > 0:
            moments += [present_from(client, now) for client in idle]
        if not moments:
            break
        now = max(now, min(moments))
        for task in sorted(waiting, key=lambda one: (one.end, one.client)):
            if task.end <= now and _usable(arrived) < wanted:
                waiting.remove(task)
                arrived.append(task)
        if _usable(arrived) >= wanted:
            break
    return Agenda(asked, arrived, waiting, now)


def _usable(arrived: Iterable[Task]) -> int:
    return sum(not task.lost for task in arrived)
