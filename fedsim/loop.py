"""The round loop."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim import flower
from fedsim.checkpoint import (
    Checkpoint,
    Checkpoints,
    arrays_of,
    restore_strategy,
    strategy_state,
)
from fedsim.console import Console
from fedsim.errors import FedsimError, RunError
from fedsim.grid.base import BaseGrid
from fedsim.grid.worker import peak_rss_mb
from fedsim.ledger.traffic import TrafficLedger
from fedsim.randomness import Streams, isolated
from fedsim.scenario import Scenario
from fedsim.strategy import Server

Score = Callable[[ArrayRecord], dict[str, float | None]]


def not_finite(record: ArrayRecord) -> str:
    """Which arrays hold NaN or infinite values; "" when none does."""
    bad = [
        f"{name} ({int((~np.isfinite(values)).sum())} of {values.size} values)"
        for name, values in flower.tensors(record).items()
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all()
    ]
    return f"NaN or infinite in {', '.join(bad[:5])}" if bad else ""


@dataclass
class Rounds:
    """The loop over rounds, and what came of it.

    Attributes:
        fits: raises ValueError unless arrays have the names and shapes of the model's.
        score_test: metrics of global arrays on the test split.
        score_val: metrics on the pooled validation split; None unless the scenario selects by it.
        write: takes each line of rounds.jsonl.
        checkpoints: where the state is saved after each round; None for trials.
        traffic: the lines of traffic.jsonl of the current round; who writes them fills it.
        arrays: the current global arrays.
        selected: the arrays that the scenario's selection rule chose so far.
        metrics: the last metrics on the test split of `selected`.
        finished: rounds that are done, in this process or before it.
        seconds_before: time spent on the run by earlier processes.
    """

    scenario: Scenario
    strategy: FlowerStrategy
    grid: BaseGrid
    server: Server
    ledger: TrafficLedger
    streams: Streams
    console: Console
    fits: Callable[[ArrayRecord], None]
    score_test: Score
    score_val: Score | None
    write: Callable[[dict[str, Any]], None]
    checkpoints: Checkpoints | None
    traffic: list[dict[str, Any]]
    arrays: ArrayRecord
    selected: ArrayRecord = field(init=False)
    metrics: dict[str, float | None] = field(default_factory=dict)
    finished: int = 0
    seconds_before: float = 0.0
    _best: float | None = None
    _begun: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.selected = self.arrays

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, by this process and earlier ones."""
        return self.seconds_before + time.perf_counter() - self._begun

    def run(self) -> None:
        """Run the rounds of the scenario that are not finished."""
        for number in range(self.finished + 1, self.scenario.rounds + 1):
            self._round(number)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state that a checkpoint holds."""
        self.finished, self.seconds_before = checkpoint.round, checkpoint.seconds
        self.arrays = flower.tensor_record(checkpoint.arrays)
        self.selected = flower.tensor_record(checkpoint.selected)
        self.metrics, self._best = checkpoint.loop["metrics"], checkpoint.loop["best"]
        restore_strategy(self.strategy, checkpoint.strategy)
        self.grid.load_states(checkpoint.contexts)
        self.ledger.load_state_dict(checkpoint.ledger)

    def trial(self) -> None:
        """Exchange the messages of one round, aggregate and score; write nothing."""
        self._exchange(1, {})
        self.score_test(self.arrays)

    def _round(self, number: int) -> None:
        begun = time.perf_counter()
        lengths = self.checkpoints.lengths() if self.checkpoints else {}
        self.traffic.clear()
        heard: dict[str, dict[str, Any]] = {}
        joined, reported = self._exchange(number, heard)
        metrics = self._score(number)
        metrics |= {f"train_{name}": v for name, v in reported.items() if not isinstance(v, list)}
        up, down = self.ledger.round_megabytes(number)
        up_total, down_total = self.ledger.total_megabytes()
        row = {
            "round": number,
            "phase": "train",
            "clients": joined,
            "failed": [],
            "mb_up": up,
            "mb_down": down,
            "mb_up_total": up_total,
            "mb_down_total": down_total,
            "epsilon": None,
            "epsilon_by_client": None,
            "delta": None,
            "certified": False,
            "metrics": metrics,
            "metrics_by_client": heard,
            "seconds": time.perf_counter() - begun,
            "peak_rss_mb": self.peak_rss_mb(),
        }
        self.finished = number
        if self.checkpoints is not None:
            self.checkpoints.save(self._checkpoint(row, lengths))
        self.write(row)
        self.console.round(row)

    def _checkpoint(self, row: dict[str, Any], lengths: dict[str, int]) -> Checkpoint:
        return Checkpoint(
            round=self.finished,
            arrays=arrays_of(self.arrays),
            selected=arrays_of(self.selected),
            loop={"metrics": self.metrics, "best": self._best},
            strategy=strategy_state(self.strategy),
            contexts=self.grid.states(),
            ledger=self.ledger.state_dict(),
            lengths=lengths,
            lines={"rounds.jsonl": [row], "traffic.jsonl": list(self.traffic)},
            seconds=self.seconds,
        )

    def _exchange(
        self, number: int, heard: dict[str, dict[str, Any]]
    ) -> tuple[list[int], MetricRecord]:
        """Train, aggregate and, if asked for, evaluate on the clients.

        Returns the clients that joined and the strategy's training metrics; `heard` is filled with
        the metrics of each client.
        """
        strategy, grid = self.strategy, self.grid
        grid.round = self.server.round = number
        with self._foreign("configure_train", number):
            messages = list(strategy.configure_train(number, self.arrays, ConfigRecord(), grid))
        read: list[int] = []
        replies = self._observe(grid.send_and_receive(messages), heard, read)
        with self._foreign("aggregate_train", number):
            arrays, reported = strategy.aggregate_train(number, replies)
        if len(read) < len(messages):
            raise RunError(
                f"strategy {self.scenario.strategy.name!r} read {len(read)} of {len(messages)} "
                f"replies in aggregate_train of round {number}: a reply that is not read is never "
                "asked for"
            )
        if arrays is not None:
            self._check(arrays, number)
            self.arrays = arrays
        if self.scenario.evaluation.on_clients:
            with self._foreign("configure_evaluate", number):
                asked = list(strategy.configure_evaluate(number, self.arrays, ConfigRecord(), grid))
            scored = self._observe(grid.send_and_receive(asked), heard, [], prefix="val_")
            with self._foreign("aggregate_evaluate", number):
                strategy.aggregate_evaluate(number, scored)
        return sorted(grid.client(message) for message in messages), reported or MetricRecord()

    def _score(self, number: int) -> dict[str, float | None]:
        """Score the arrays when it is their turn, and keep those that the scenario selects."""
        every, last = self.scenario.evaluation.every, number == self.scenario.rounds
        if number % every and not last:
            return {}
        scores: dict[str, float | None] = {}
        if self.score_val is None:
            self.selected = self.arrays
            self.metrics = self.score_test(self.selected)
        else:
            val = self.score_val(self.arrays).get("auc")
            scores["val_auc"] = val
            if val is not None and (self._best is None or val > self._best):
                self._best, self.selected = val, self.arrays
                self.metrics = self.score_test(self.selected)
        return self.metrics | scores

    def _check(self, arrays: ArrayRecord, number: int) -> None:
        """Refuse arrays that are not numbers, or not the model's."""
        problem = not_finite(arrays)
        if not problem:
            try:
                self.fits(arrays)
            except ValueError as error:
                problem = str(error)
        if problem:
            name = self.scenario.strategy.name
            raise RunError(
                f"strategy {name!r} returned arrays in round {number} that cannot be the model's: "
                f"{problem}"
            )

    def _observe(
        self,
        replies: Iterable[Message],
        heard: dict[str, dict[str, Any]],
        read: list[int],
        prefix: str = "",
    ) -> Iterator[Message]:
        """Hand replies on to the strategy; note who was read, and the metrics they report."""
        for reply in replies:
            client = self.grid.client_of(reply.metadata.src_node_id)
            read.append(client)
            for field_name, arrays in reply.content.array_records.items():
                if problem := not_finite(arrays):
                    raise RunError(
                        f"client {client} (site {self.server.names[client]!r}) sent {field_name!r} "
                        f"in round {self.grid.round} that are no numbers: {problem}; its training "
                        "diverged: try a smaller learning rate"
                    )
            for record in reply.content.metric_records.values():
                values = {f"{prefix}{name}": value for name, value in record.items()}
                heard.setdefault(str(client), {}).update(values)
            yield reply

    @contextlib.contextmanager
    def _foreign(self, method: str, number: int) -> Iterator[None]:
        """Run a strategy's method under seeded global generators, and name it if it raises."""
        try:
            with isolated(self.streams.sequence(f"strategy-{method}", number)):
                yield
        except FedsimError:
            raise
        except Exception as error:
            name = self.scenario.strategy.name
            raise RunError(
                f"strategy {name!r} failed in {method} of round {number}:\n{traceback.format_exc()}"
            ) from error

    def peak_rss_mb(self) -> float:
        """Peak memory of this process plus that of each worker process, in MB.

        An upper bound: processes share pages, and their peaks need not coincide.
        """
        workers = {k: v for k, v in self.grid.peak_rss_mb.items() if k != "driver"}
        return peak_rss_mb() + sum(workers.values())
