"""Who is asked when, and whose replies a step sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedsim.clock import Agenda, Task, plan


def step(
    seconds: Sequence[float],
    *,
    wanted: int,
    at_work: int = 99,
    now: float = 0.0,
    going_on: Sequence[Task] = (),
    asked: int = 1,
    lost: Sequence[int] = (),
    there: Sequence[float] | None = None,
) -> Agenda:
    """A step in which each client needs so many seconds, and the first of all who may are drawn."""
    return plan(
        now,
        going_on,
        wanted=wanted,
        at_work=at_work,
        clients=range(len(seconds)),
        begin=lambda c, at: Task(c, asked, at, at + seconds[c], c in lost),
        present_from=lambda c, at: max(at, there[c]) if there else at,
        draw=lambda of, some, nth: range(some),
    )


def clients(tasks: Sequence[Task]) -> list[int]:
    return [task.client for task in tasks]


def test_a_step_is_over_when_so_many_replies_are_there() -> None:
    found = step([3, 1, 2], wanted=2)
    assert found.clients == [0, 1, 2]
    assert clients(found.arrived) == [1, 2]
    assert clients(found.waiting) == [0]
    assert found.end == 2


def test_who_is_free_is_asked_at_once_but_gives_one_reply_to_a_step() -> None:
    found = step([3, 1, 1], wanted=3, at_work=2)
    # Client 1 is done at 1 and not asked again; client 2 takes its place.
    assert [(task.client, task.start) for task in found.asked] == [(0, 0), (1, 0), (2, 1)]
    assert [(task.client, task.end) for task in found.arrived] == [(1, 1), (2, 2), (0, 3)]


def test_replies_of_one_moment_come_before_anybody_else_is_asked() -> None:
    found = step([1, 1, 1, 1], wanted=2, at_work=2)
    assert clients(found.asked) == [0, 1]
    assert clients(found.arrived) == [0, 1]
    assert not found.waiting


def test_what_goes_on_arrives_in_a_later_step() -> None:
    first = step([5, 1], wanted=1)
    second = step([5, 1], wanted=1, now=first.end, going_on=first.waiting, asked=2)
    assert [(t.client, t.asked) for t in second.arrived] == [(1, 2)]
    third = step([5, 2.5], wanted=2, now=second.end, going_on=second.waiting, asked=3)
    assert [(t.client, t.asked, t.end) for t in third.arrived] == [(1, 3, 4.5), (0, 1, 5)]


def test_lost_tasks_fill_no_place_and_their_clients_are_not_asked_again() -> None:
    found = step([1, 2, 3], wanted=2, lost=[0])
    assert clients(found.arrived) == [0, 1, 2]
    assert found.end == 3
    nobody = step([1, 2], wanted=2, lost=[0, 1])
    assert clients(nobody.arrived) == [0, 1]
    assert nobody.end == 2


def test_who_is_away_is_asked_when_it_comes() -> None:
    found = step([1, 1], wanted=2, there=[0.0, 10.0])
    assert [(task.client, task.start) for task in found.asked] == [(0, 0), (1, 10)]
    assert found.end == 11
    alone = step([1, 1], wanted=1, there=[7.0, 10.0])
    assert (clients(alone.asked), alone.end) == ([0], 8)
    assert not math.isinf(alone.end)
