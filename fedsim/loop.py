"""The round loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim import flower
from fedsim.buffers import Buffers
from fedsim.checkpoint import (
    Checkpoint,
    Checkpoints,
    Mark,
    arrays_of,
    lost_line,
    restore_strategy,
    strategy_state,
)
from fedsim.errors import FedsimError, InputError, RunError
from fedsim.grid.base import BaseGrid
from fedsim.grid.worker import peak_rss_mb
from fedsim.ledger.privacy import NO_PRIVACY, PrivacyLedger
from fedsim.ledger.traffic import TrafficLedger
from fedsim.observers.base import Exchange, Reply
from fedsim.observers.telling import Observers
from fedsim.parameters import shown
from fedsim.raising import plugin_code
from fedsim.randomness import Streams, isolated
from fedsim.runfolder import line_of
from fedsim.scenario import Scenario
from fedsim.strategy import Server, Strategy

if TYPE_CHECKING:
    from fedsim.engine.prepare import Prepared
    from fedsim.engine.scoring import Scoring

Scores = dict[str, float | None]


def not_finite(record: ArrayRecord, known: Mapping[str, np.ndarray] | None = None) -> str:
    """Which arrays hold NaN or infinite values; "" when none does.

    Args:
        record: the arrays.
        known: arrays that may be what they are (the mask of a model may be infinite), by name.
    """
    known = known or {}
    bad = [
        f"{name} ({int((~np.isfinite(values)).sum())} of {values.size} values)"
        for name, values in flower.tensors(record).items()
        if np.issubdtype(values.dtype, np.floating)
        and not np.isfinite(values).all()
        and not (name in known and np.array_equal(values, known[name], equal_nan=True))
    ]
    return f"NaN or infinite in {', '.join(bad[:5])}" if bad else ""


def same_arrays(one: ArrayRecord, other: ArrayRecord) -> bool:
    """Whether two records have the same names and, for each, the same bits; NaN is like itself."""
    here, there = flower.tensors(one), flower.tensors(other)
    return here.keys() == there.keys() and all(
        value.dtype == there[name].dtype
        and value.shape == there[name].shape
        and value.tobytes() == there[name].tobytes()
        for name, value in here.items()
    )


@dataclass
class Rounds:
    """The loop over rounds, and what came of it.

    Attributes:
        prepared: what the run is made of.
        observers: who watches.
        scoring: what arrays of the model are worth, and whether they fit it.
        checkpoints: where the state is saved after each round; None for trials.
        traffic: the lines of traffic.jsonl of the current round; who writes them fills it.
        arrays: the current global arrays.
        buffers: what of them goes past the strategy.
        privacy: the privacy ledger; None in a run without a mechanism.
        stopped: why the run ended before its last round; "" if it did not.
        selected: the models that the scenario's selection rule chose so far: one, or one a client
            where each has its own.
        metrics: the last metrics on the test split of `selected`.
        failed: messages of all rounds that led to no usable reply.
        finished: rounds that are done, in this process or before it.
        seconds_before: time spent on the run by earlier processes.
    """

    prepared: Prepared
    grid: BaseGrid
    server: Server
    ledger: TrafficLedger
    observers: Observers
    scoring: Scoring
    checkpoints: Checkpoints | None
    traffic: list[dict[str, Any]]
    arrays: ArrayRecord
    buffers: Buffers
    privacy: PrivacyLedger | None = None
    stopped: str = ""
    selected: list[ArrayRecord] = field(init=False)
    metrics: Scores = field(default_factory=dict)
    failed: int = 0
    finished: int = 0
    seconds_before: float = 0.0
    _best: float | None = None
    _returned_nothing: bool | None = None  # None: the strategy has not been asked yet
    _begun: float = field(default_factory=time.perf_counter)
    _charged: list[dict[str, Any]] = field(default_factory=list)
    _lost: str = ""

    def __post_init__(self) -> None:
        self.selected = [self.arrays]
        self._first = self.arrays

    @property
    def scenario(self) -> Scenario:
        """What is run."""
        return self.prepared.scenario

    @property
    def strategy(self) -> FlowerStrategy:
        """The server's method."""
        return self.prepared.strategy

    @property
    def streams(self) -> Streams:
        """The run's random streams."""
        return self.prepared.streams

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, by this process and earlier ones."""
        return self.seconds_before + time.perf_counter() - self._begun

    @property
    def has_global_model(self) -> bool:
        """Whether there is one model, and not one a client."""
        return not self._averages_nothing and not self.buffers.roles.local

    @property
    def _averages_nothing(self) -> bool:
        """Whether clients share nothing of their models."""
        return isinstance(self.strategy, Strategy) and self.strategy.local

    @property
    def learned(self) -> bool:
        """Whether a model differs in any bit from the one that the run began with."""
        return any(not same_arrays(model, self._first) for model in self.models())

    def run(self, last: int | None = None) -> None:
        """Run the rounds that are not finished: of the scenario, or up to round `last`."""
        for number in range(self.finished + 1, (last or self.scenario.rounds) + 1):
            try:
                self._round(number)
            except _BudgetSpentError as stop:
                self._stop(number - 1, str(stop))
                return

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state that a checkpoint holds.

        Raises:
            InputError: it is the state of another model, or of other clients.
        """
        self._require_fitting(checkpoint)
        self.finished, self.seconds_before = checkpoint.round, checkpoint.seconds
        self.arrays = flower.tensor_record(checkpoint.arrays)
        selected = [flower.tensor_record(arrays) for arrays in checkpoint.selected]
        self.selected = [self.buffers.like(self.arrays, one) for one in selected]
        self.metrics, self._best = checkpoint.loop["metrics"], checkpoint.loop["best"]
        self.failed = checkpoint.loop["failed"]
        self._returned_nothing = checkpoint.loop.get("returned_nothing")
        with self._foreign("load_state_dict", self.finished):
            restore_strategy(self.strategy, checkpoint.strategy)
        self.grid.load_states(checkpoint.contexts)
        self.ledger.load_state_dict(checkpoint.ledger)
        if self.privacy is not None and checkpoint.privacy is not None:
            self.privacy.load_state_dict(checkpoint.privacy)

    def _require_fitting(self, checkpoint: Checkpoint) -> None:
        problem = ""
        try:
            for arrays in (checkpoint.arrays, *checkpoint.selected):
                self.scoring.fits(flower.tensor_record(arrays))
        except ValueError as error:
            problem = str(error)
        if set(checkpoint.contexts) != set(self.grid.states()):
            problem = f"it has the states of {len(checkpoint.contexts)} clients"
        if problem:
            raise InputError(
                f"the checkpoint of round {checkpoint.round} is not of this run's model and "
                f"clients: {problem}",
                hint="resume with the code that the run began with, or start again",
            )

    def trial(self) -> tuple[str, float]:
        """Exchange the messages of one round, aggregate and score; write nothing.

        Returns:
            What a person must know of a round that changed nothing, "" if it changed the model; and
            the seconds that scoring takes.
        """
        self._exchange(1, {})
        begun = time.perf_counter()
        with plugin_code("the model of round 1 could not be scored"):
            self.scoring.test(self.arrays)
        scoring = time.perf_counter() - begun
        with self._foreign("state_dict", 1):
            strategy_state(self.strategy)
        # Where every client has its own, so many models are scored.
        scoring *= 1 if self.has_global_model else len(self.server.names)
        if self._returned_nothing:
            name = self.scenario.strategy.name
            told = f"strategy {name!r} returned no arrays from aggregate_train in the tiny round"
            return told, scoring
        return "" if self.learned else "the tiny round changed no bit of the model", scoring

    def _round(self, number: int) -> None:
        begun = time.perf_counter()
        marks = self.checkpoints.marks() if self.checkpoints else {}
        self.traffic.clear()
        heard: dict[str, dict[str, Any]] = {}
        joined, reported = self._exchange(number, heard)
        failures = list(self.grid.failures)
        self.failed += len(failures)
        metrics = self._score(number, heard)
        metrics |= {f"train_{name}": v for name, v in reported.items() if not isinstance(v, list)}
        up, down = self.ledger.round_megabytes(number)
        up_total, down_total = self.ledger.total_megabytes()
        row = {
            "round": number,
            "phase": "train",
            "clients": joined,
            "failed": [failure.row() for failure in failures],
            "mb_up": up,
            "mb_down": down,
            "mb_up_total": up_total,
            "mb_down_total": down_total,
            **(self.privacy.row() if self.privacy else NO_PRIVACY),
            "metrics": metrics,
            "metrics_by_client": heard,
            "delay_seconds": self.grid.wait(),
            "seconds": time.perf_counter() - begun,
            "peak_rss_mb": self.peak_rss_mb(),
        }
        self.finished = number
        if self.checkpoints is not None:
            self.checkpoints.save(self._checkpoint(row, marks))
        self.observers.round(row)

    def _checkpoint(self, row: dict[str, Any], marks: dict[str, Mark]) -> Checkpoint:
        with self._foreign("state_dict", self.finished):
            state = strategy_state(self.strategy)
        lost = lost_line(self.strategy, state)
        if lost and lost != self._lost:
            self.observers.note(lost)
        self._lost = lost
        rows = {
            "rounds.jsonl": [row],
            "traffic.jsonl": self.traffic,
            "privacy.jsonl": self._charged,
        }
        return Checkpoint(
            round=self.finished,
            arrays=arrays_of(self.arrays),
            selected=[arrays_of(arrays) for arrays in self.selected],
            loop={
                "metrics": self.metrics,
                "best": self._best,
                "failed": self.failed,
                "returned_nothing": self._returned_nothing,
            },
            strategy=state,
            contexts=self.grid.states(),
            ledger=self.ledger.state_dict(),
            marks=marks,
            lines={name: "".join(map(line_of, some)) for name, some in rows.items()},
            seconds=self.seconds,
            privacy=self.privacy.state_dict() if self.privacy else None,
        )

    def _exchange(
        self, number: int, heard: dict[str, dict[str, Any]]
    ) -> tuple[list[int], MetricRecord]:
        """Train, aggregate and, if asked for, evaluate on the clients.

        Returns the clients that joined and the strategy's training metrics; `heard` is filled with
        the metrics of each client.
        """
        strategy, grid = self.strategy, self.grid
        self.server.round = number
        grid.begin_round(number)
        if self.privacy is not None:
            grid.charged = set()
        handed = self.buffers.begin(self.arrays)
        with self._foreign("configure_train", number):
            messages = list(strategy.configure_train(number, handed, ConfigRecord(), grid))
        messages = self._charge(number, messages)
        self._announce(number, "train", messages, self._charged)
        replies = _Replies(self, grid.send_and_receive(messages), heard)
        arrays, reported = None, None
        with contextlib.suppress(_NobodyAnsweredError), self._foreign("aggregate_train", number):
            arrays, reported = _aggregate(strategy, number, replies)
        if not replies.exhausted:
            raise RunError(
                f"strategy {self.scenario.strategy.name!r} read {replies.read} of {len(messages)} "
                f"replies in aggregate_train of round {number}: a reply that is not read is never "
                "asked for"
            )
        if arrays is not None:
            arrays = self.buffers.restored(arrays)
            self._check(arrays, number)
            self.arrays = arrays
        if not self._averages_nothing and replies.read:
            self._returned_nothing = arrays is None and self._returned_nothing is not False
            if self._returned_nothing and number == self.scenario.rounds:
                raise RunError(
                    f"strategy {self.scenario.strategy.name!r} returned no arrays from "
                    f"aggregate_train in any of {number} round(s): the model is as it was at first"
                )
        if self.scenario.evaluation.on_clients:
            handed = self.buffers.begin(self.arrays)
            with self._foreign("configure_evaluate", number):
                asked = list(strategy.configure_evaluate(number, handed, ConfigRecord(), grid))
            self._announce(number, "evaluate", asked)
            scored = _Replies(self, grid.send_and_receive(asked), heard, evaluate=True)
            with self._foreign("aggregate_evaluate", number):
                strategy.aggregate_evaluate(number, scored)
        return sorted(grid.client(message) for message in messages), reported or MetricRecord()

    def _charge(self, number: int, messages: list[Message]) -> list[Message]:
        """Charge the round's clients before they are asked; leave out who has no budget left."""
        self._charged = []
        if self.privacy is None:
            return messages
        clients = [self.grid.client(message) for message in messages]
        over = set(self.privacy.exhausted(clients))
        settings = self.privacy.plan.settings
        left = [m for m in messages if self.grid.client(m) not in over]
        if over and (settings.on_budget == "stop" or not left):
            names = ", ".join(self.grid.job.names[client] for client in sorted(over)[:5])
            raise _BudgetSpentError(
                f"round {number} would take epsilon of {names} above {settings.max_epsilon:g}"
            )
        self._charged = self.privacy.charge(number, sorted(set(clients) - over))
        self.grid.charged = set(clients) - over
        return left

    def _announce(
        self,
        number: int,
        kind: str,
        messages: Sequence[Message],
        charges: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Tell of messages before anybody is asked.

        What is released counts even if this process does not live on.
        """
        clients = tuple(sorted(self.grid.client(message) for message in messages))
        self.observers.exchange(Exchange(number, "train", kind, clients, tuple(charges)))

    def _stop(self, last: int, why: str) -> None:
        """End the run after round `last`: its model, scored if it was not, is the result."""
        self.stopped = why
        self.observers.note(f"stopped after round {last} of {self.scenario.rounds}: {why}")
        if last % self.scenario.evaluation.every:
            self._score(last, {}, final=True)

    def models(self) -> list[ArrayRecord]:
        """The global model or, where there is none, each client's own."""
        if self.has_global_model:
            return [self.arrays]
        states = self.grid.states().values()
        if not self._averages_nothing:
            return [self.buffers.of_client(self.arrays, state) for state in states]
        return [state.array_records.get("arrays", self.arrays) for state in states]

    def _score(self, number: int, heard: dict[str, dict[str, Any]], final: bool = False) -> Scores:
        """Score the models when it is their turn, and keep those that the scenario selects."""
        every, last = self.scenario.evaluation.every, final or number == self.scenario.rounds
        if number % every and not last:
            return {}
        with plugin_code(f"the models of round {number} could not be scored"):
            return self._scored(heard)

    def _scored(self, heard: dict[str, dict[str, Any]]) -> Scores:
        models = self.models()
        scores: Scores = {}
        if self.scoring.selects:
            headline = self.server.task.headline
            found = mean_scores([self.scoring.validation(arrays) for arrays in models])
            scores[f"val_{headline}"] = found.get(headline)
            merit = self.server.task.merit(found)
            if merit is None or (self._best is not None and merit <= self._best):
                return self.metrics | scores
            self._best = merit
        self.selected = models
        each = [self.scoring.test(arrays) for arrays in models]
        self.metrics = mean_scores(each)
        if len(models) > 1:
            self.metrics |= home_and_away(each, self.server.names, self.server.task.headline)
            for client, own in enumerate(each):
                values = {f"test_{name}": value for name, value in own.items()}
                heard.setdefault(str(client), {}).update(values)
        return self.metrics | scores

    def _check(self, arrays: ArrayRecord, number: int) -> None:
        """Refuse arrays that are not numbers, or not the model's."""
        problem = not_finite(arrays, self.buffers.current)
        if not problem:
            try:
                self.scoring.fits(arrays)
            except ValueError as error:
                problem = str(error)
        if problem:
            name = self.scenario.strategy.name
            raise RunError(
                f"strategy {name!r} returned arrays in round {number} that cannot be the model's: "
                f"{problem}"
            )

    @contextlib.contextmanager
    def _foreign(self, method: str, number: int) -> Iterator[None]:
        """Run a strategy's method under seeded global generators, and name it if it raises."""
        what = f"strategy {self.scenario.strategy.name!r} failed in {method} of round {number}"
        with plugin_code(what), isolated(self.streams.sequence(f"strategy-{method}", number)):
            yield

    def peak_rss_mb(self) -> float:
        """Peak memory of this process plus that of each worker process, in MB.

        An upper bound: processes share pages, and their peaks need not coincide.
        """
        workers = {k: v for k, v in self.grid.peak_rss_mb.items() if k != "driver"}
        return peak_rss_mb() + sum(workers.values())


class _Replies:
    """The replies of one exchange as a strategy reads them: checked, and noted who was heard."""

    def __init__(
        self,
        rounds: Rounds,
        replies: Iterable[Message],
        heard: dict[str, dict[str, Any]],
        evaluate: bool = False,
    ) -> None:
        self._rounds, self._heard, self._evaluate = rounds, heard, evaluate
        self._replies = self._checked(replies)
        self._examples: list[float] = []
        self.read = 0
        self.exhausted = False

    def __iter__(self) -> Iterator[Message]:
        return self._replies

    def _checked(self, replies: Iterable[Message]) -> Iterator[Message]:
        grid = self._rounds.grid
        for reply in replies:
            client = grid.client_of(reply.metadata.src_node_id)
            diverged = _diverged(reply, self._rounds.buffers.current)
            self._tell(client, reply, diverged or _miscounted(reply))
            if problem := diverged:
                grid.failures.append(grid.failure(client, "diverged", problem))
                continue
            if problem := _miscounted(reply):
                grid.failures.append(grid.failure(client, "error", problem, problem))
                continue
            self.read += 1
            self._note(reply)
            self._rounds.buffers.take(reply.content)
            yield reply
        self.exhausted = True
        self._require_weight()
        least = self._rounds.scenario.faults.min_clients
        if not self._evaluate and self.read < max(least, 1):
            if least == 0:
                raise _NobodyAnsweredError
            raise RunError(
                f"{self.read} client(s) answered in round {grid.round}, fewer than "
                f"faults.min_clients={least}:\n"
                + "\n".join(f"  client {f.client} ({f.site}): {f.reason}" for f in grid.failures)
            )

    def _tell(self, client: int, reply: Message, problem: str) -> None:
        """Let observers know of a reply as it came."""
        told: dict[str, Any] = {}
        for record in reply.content.metric_records.values():
            told |= record
        rounds, kind = self._rounds, "evaluate" if self._evaluate else "train"
        name = rounds.server.names[client]
        rounds.observers.reply(
            Reply(
                rounds.grid.round, kind, client, name, told, problem, lambda: _values(reply.content)
            )
        )

    def _require_weight(self) -> None:
        """Refuse a training round in which all clients say that they stand for no records."""
        weightless = self._examples and len(self._examples) == self.read and not any(self._examples)
        if weightless and not self._evaluate:
            raise RunError(
                f"all {self.read} client(s) reported num-examples 0 in round "
                f"{self._rounds.grid.round}: there is nothing to average"
            )

    def _note(self, reply: Message) -> None:
        """Keep the metrics that a client reports."""
        client = self._rounds.grid.client_of(reply.metadata.src_node_id)
        prefix = "val_" if self._evaluate else ""
        for record in reply.content.metric_records.values():
            if isinstance(count := record.get("num-examples"), int | float):
                self._examples.append(count)
            values = {f"{prefix}{name}": value for name, value in record.items()}
            self._heard.setdefault(str(client), {}).update(values)


class _BudgetSpentError(FedsimError):
    """The next round would cost more than is left."""


class _NobodyAnsweredError(FedsimError):
    """A round without replies that the scenario lets pass."""


def _diverged(reply: Message, known: Mapping[str, np.ndarray]) -> str:
    """Why a reply's arrays are no numbers; "" if they are, or are buffers that were sent so."""
    for name, arrays in reply.content.array_records.items():
        if problem := not_finite(arrays, known):
            return (
                f"sent {name!r} that are no numbers: {problem}; its training diverged: try a "
                "smaller learning rate"
            )
    return ""


def _miscounted(reply: Message) -> str:
    """Why a reply's `num-examples` cannot be a number of records; "" if it can, or is not there."""
    for record in reply.content.metric_records.values():
        count = record.get("num-examples", 0)
        if not isinstance(count, int | float) or not 0 <= count < np.inf:
            return f"reported num-examples {shown(count)}: expected a finite number, at least 0"
    return ""


def _values(content: RecordDict) -> dict[str, np.ndarray]:
    """All values of a reply, by record and name."""
    found = {
        f"{record}/{name}": values
        for record, arrays in content.array_records.items()
        for name, values in flower.tensors(arrays).items()
    }
    for records in (content.metric_records, content.config_records):
        for record, some in records.items():
            found |= {f"{record}/{name}": np.asarray(value) for name, value in some.items()}
    return found


def _aggregate(
    strategy: FlowerStrategy, number: int, replies: Iterable[Message]
) -> tuple[ArrayRecord | None, MetricRecord | None]:
    """What the strategy makes of the replies; TypeError where it is something else."""
    found: Any = strategy.aggregate_train(number, replies)
    types = ((ArrayRecord, type(None)), (MetricRecord, type(None)))
    if not isinstance(found, tuple) or len(found) != 2 or not all(map(isinstance, found, types)):
        raise TypeError(
            "aggregate_train must return a pair: an ArrayRecord or None, and a MetricRecord or None"
        )
    arrays, reported = found
    return arrays, reported


def home_and_away(each: Sequence[Scores], names: Sequence[str], headline: str) -> Scores:
    """How each client's own model does at its own site, and at all others, means over clients.

    Args:
        each: scores of each client's model, with `<headline>@<site>` for each site.
        names: the clients, in the same order.
        headline: the metric.

    Returns:
        `<headline>@own` and `<headline>@others`; nothing where clients are not sites.
    """
    prefix = f"{headline}@"
    own: list[Scores] = []
    for scores, name in zip(each, names, strict=True):
        sites = {k.removeprefix(prefix): v for k, v in scores.items() if k.startswith(prefix)}
        if name not in sites:
            return {}
        away = [v for site, v in sites.items() if site != name and v is not None]
        mean = sum(away) / len(away) if away else None
        own.append({f"{prefix}own": sites[name], f"{prefix}others": mean})
    return mean_scores(own)


def mean_scores(each: Sequence[Scores]) -> Scores:
    """Means of every metric over models; a metric that is None for some is averaged over others."""
    if len(each) == 1:
        return dict(each[0])
    means: Scores = {}
    for name in each[0]:
        known = [value for scores in each if (value := scores[name]) is not None]
        means[name] = float(np.mean(known)) if known else None
    return means
