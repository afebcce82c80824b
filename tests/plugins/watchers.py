"""Observers for tests: one that keeps what it is told, and some that misbehave."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import numpy as np
import torch

from fedsim import Observer
from fedsim.observers import End, Exchange, Finished, Progress, Reply, Row, Run


class Keeps(Observer):
    """Keeps all that it is told, for all runs of the process, newest last."""

    made: ClassVar[list[Keeps]] = []

    def __init__(self, tag: str = "") -> None:
        self.tag = tag
        self.told: list[tuple[str, Any]] = []
        self.values: list[dict[str, Any]] = []
        self.made.append(self)

    def of(self, method: str) -> list[Any]:
        """What one method was told."""
        return [what for name, what in self.told if name == method]

    def note(self, text: str) -> None:
        self.told.append(("note", text))

    def begin(self, run: Run) -> None:
        self.told.append(("begin", run))

    def exchange(self, exchange: Exchange) -> None:
        self.told.append(("exchange", exchange))

    def message(self, row: Row) -> None:
        self.told.append(("message", row))

    def reply(self, reply: Reply) -> None:
        self.told.append(("reply", reply))
        self.values.append(reply.values())

    def round(self, row: Row) -> None:
        self.told.append(("round", row))

    def finish(self, finished: Finished) -> None:
        self.told.append(("finish", finished))

    def done(self, finished: Finished) -> None:
        self.told.append(("done", finished))

    def end(self, end: End) -> None:
        self.told.append(("end", end))


class Draws(Observer):
    """Draws from all global generators, whatever it is told."""

    def draw(self, what: object) -> None:
        random.random(), np.random.rand(), torch.rand(1)

    note = begin = exchange = message = reply = round = finish = done = end = draw

    def working(self, progress: Progress) -> None:
        self.draw(progress())


class Raises(Observer):
    """Raises in one method, and counts how often it is told anything."""

    def __init__(self, where: str) -> None:
        self.where, self.count = where, 0
        if where == "init":
            raise ValueError("the store is not there")

    def tell(self, method: str) -> None:
        self.count += 1
        if method == self.where:
            raise SystemExit("the store is full")

    def begin(self, run: Run) -> None:
        self.tell("begin")

    def reply(self, reply: Reply) -> None:
        self.tell("reply")

    def round(self, row: Row) -> None:
        self.tell("round")

    def finish(self, finished: Finished) -> None:
        self.tell("finish")

    def done(self, finished: Finished) -> None:
        self.tell("done")

    def end(self, end: End) -> None:
        self.tell("end")


class Stops(Observer):
    """Essential, and fails after a round: as a kill would, the run stops."""

    essential = True

    def __init__(self, after: int = 1) -> None:
        self.after = after

    def round(self, row: Row) -> None:
        if row["round"] == self.after:
            raise KeyboardInterrupt
