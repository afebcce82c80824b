"""`AutoGrid`: the first clients in this process; the others where they are done first."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace

from flwr.app import Message

from fedsim.errors import RunError
from fedsim.grid.base import BaseGrid
from fedsim.grid.choosing import Choice, choose, start_seconds
from fedsim.grid.gpu import give_back, measured_share
from fedsim.grid.inline import InlineGrid, LeftOffError
from fedsim.grid.machine import available_mb
from fedsim.grid.progress import open_board
from fedsim.grid.worker import Job, peak_rss_mb
from fedsim.ledger.traffic import TrafficLedger
from fedsim.method.exchanges import trains
from fedsim.method.faults import Failure

# The first client pays for warming up: the second one shows what a client takes ...
_CLIENTS = 2
# ... unless the first takes longer than this.
_SECONDS = 2.0


class AutoGrid(BaseGrid):
    """Measures the first clients that train, at their real work, and then decides once.

    Nothing is done twice, but for a first client so slow that Ray would be faster for its own work:
    it is left off and asked again there, to the same bits.

    Args:
        job: of the run.
        ledger: counts the messages.
        tick: called by who works, often.
        workers: clients that would run at a time on Ray.
        chosen: is told the decision.
        verbose: let Ray print.
        forced: why it is Ray whatever takes less time; the first clients are measured for their
            memory on a GPU alone. "" where time decides.
    """

    def __init__(
        self,
        job: Job,
        ledger: TrafficLedger,
        tick: Callable[[], None] | None = None,
        *,
        workers: int,
        chosen: Callable[[Choice], None],
        verbose: bool = False,
        forced: str = "",
    ) -> None:
        super().__init__(job, ledger, tick)
        self._workers, self._chosen, self._verbose = workers, chosen, verbose
        self._forced = forced
        # Where the scenario leaves open what a worker gets of a GPU.
        self._shares = job.device == "cuda" and job.scenario.resources.gpus == "auto"
        self._board = open_board(job.board, len(job.train))
        self._here = InlineGrid(job, ledger, self._tock)
        self._grid: BaseGrid = self._here
        self._decided = False
        self._begun: float | None = None  # when the client began that is measured
        self._exchange: list[Message] = []
        self._left: list[Message] = []  # of it, without an answer

    def close(self) -> None:
        """Let go of what both grids hold."""
        self._here.close()
        if self._grid is not self._here:
            self._grid.close()

    def _execute(self, messages: list[Message]) -> Generator[Message | Failure]:
        if self._decided or not messages or not trains(messages[0]):
            yield from self._at_work(messages)
            return
        self._exchange, self._left = messages, messages
        # Who trains in one call is measured, and stays, together.
        group = self._here.groups(messages)[0]
        execution, taken = self._at_work(messages), 0.0
        try:
            while self._left and not self._decided:
                begun = self._begun = time.perf_counter()
                outcome = next(execution)
                seconds, self._begun = time.perf_counter() - begun, None
                taken += seconds
                first, self._left = self._left[0], self._left[1:]
                measured = len(messages) - len(self._left)
                # Before the reply is handed on: nobody may ask for more after the last one.
                if len(group) > 1:
                    if measured == len(group):
                        self._decide(self._forecast(taken, group))
                elif measured == _CLIENTS or seconds > _SECONDS or not self._left:
                    self._decide(self._forecast(seconds, [first]))
                yield outcome
            if self._here is self._grid:
                yield from execution
                return
        except LeftOffError as left_off:
            self._decide(left_off.choice)
        finally:
            self._begun = None
            execution.close()
        yield from self._at_work(self._left)

    def _at_work(self, messages: list[Message]) -> Generator[Message | Failure]:
        self._grid.share(self)
        return self._grid._execute(messages)

    def _tock(self) -> None:
        """A step is done here: leave the first client off where it is a long way from its end."""
        if self._tick is not None:
            self._tick()
        if self._begun is None or self._board is None or self.together(self._left[:1]):
            return
        seconds, first = time.perf_counter() - self._begun, self._left[0]
        done, total, _ = self._board.read(self.client(first))
        if seconds > _SECONDS and 0 < done < total:
            choice = self._forecast(seconds * total / done, [first])
            # It begins anew there: what is lost must be little beside what is left.
            if choice.backend == "ray" and done < total / 4:
                raise LeftOffError(choice)

    def _forecast(self, seconds: float, measured: list[Message]) -> Choice:
        """Where the work that is left ends first, if these messages take so many seconds."""
        rounds = self.job.scenario.rounds - self.round
        exchange = sum(map(self._records, self._exchange))
        records = sum(map(self._records, self._left)) + rounds * exchange
        workers, share = min(self._workers, len(self._exchange)), None
        if self._shares:
            share = measured_share(workers)
            workers = share.workers
        if self._forced:
            choice = Choice("ray", self._forced, workers)
        else:
            choice = choose(
                seconds * records / max(sum(map(self._records, measured)), 1),
                len(self._left) + rounds * len(self._exchange),
                workers,
                start=start_seconds(self.job.device == "cuda"),
                process_mb=peak_rss_mb(),
                free_mb=available_mb(),
            )
        if share is None or choice.backend == "inline":
            return choice
        return replace(choice, why=f"{choice.why}; {share.why}", gpus=share.gpus)

    def _decide(self, choice: Choice) -> None:
        """Say it, and start Ray if it is Ray; where Ray does not start, all clients work here."""
        self._decided = True
        self._chosen(choice)
        if choice.backend == "inline":
            return
        from fedsim.grid.ray import RayGrid

        if self._shares:
            give_back()
        try:
            self._grid = RayGrid(
                self.job,
                self._ledger,
                self._tick,
                workers=choice.workers,
                gpus=choice.gpus,
                verbose=self._verbose,
            )
        except RunError as error:
            if self._forced:
                raise
            self._chosen(Choice("inline", str(error).partition("\n")[0]))
