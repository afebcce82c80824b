"""The round loop."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim.engine.checkpoint import (
    Checkpoint,
    Checkpoints,
    Mark,
    arrays_of,
    lost_line,
    restore_strategy,
    strategy_state,
)
from fedsim.engine.colluders import Colluders
from fedsim.engine.inspection import Inspection, Tally, inspects
from fedsim.engine.replies import NobodyAnsweredError, Replies, not_finite
from fedsim.engine.scoring import Scores, home_and_away, mean_scores
from fedsim.engine.timing import Timing, timing_of
from fedsim.errors import FedsimError, InputError, RunError
from fedsim.folder.runfolder import line_of
from fedsim.grid.base import BaseGrid
from fedsim.grid.worker import peak_rss_mb
from fedsim.ledger.privacy import NO_PRIVACY, PrivacyLedger
from fedsim.ledger.traffic import TrafficLedger
from fedsim.method.exchanges import (
    EVALUATE,
    TRAIN,
    Aggregated,
    Exchange,
    RoundSoFar,
    RoundState,
    kind_of,
    training,
    trains,
)
from fedsim.method.strategy import Server, Strategy, makes_exchanges
from fedsim.observers.base import Exchange as Asked
from fedsim.observers.telling import Observers
from fedsim.raising import plugin_code
from fedsim.randomness import Streams, isolated
from fedsim.scenario import Scenario
from fedsim.scenario.parameters import shown
from fedsim.wire import flower
from fedsim.wire.buffers import Buffers

if TYPE_CHECKING:
    from fedsim.engine.prepare import Prepared
    from fedsim.engine.scoring import Scoring

_LONGEST_PHASE = 40  # letters of a name


def digest_of(record: ArrayRecord) -> bytes:
    """Equal for two records of the same names and, for each, the same bits; NaN is like itself."""
    found = hashlib.sha256()
    for name, value in sorted(flower.tensors(record).items()):
        found.update(repr((name, value.dtype.str, value.shape)).encode())
        found.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return found.digest()


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
        trainings: exchanges so far in which clients trained.
        seconds_before: time spent on the run by earlier processes.
        so_far: what the current round has come to.
        fewest: the fewest replies that were aggregated in an exchange; 0 before the first.
        tally: how often honest clients and colluders were flagged.
        colluders: who stands between receiving and aggregating.
        inspection: what the server sees of each client.
        timing: the simulated clock; None in a run without one.
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
    trainings: int = 0
    seconds_before: float = 0.0
    so_far: RoundSoFar = field(default_factory=RoundSoFar)
    tally: Tally = field(default_factory=Tally)
    fewest: int = 0
    colluders: Colluders = field(init=False)
    inspection: Inspection = field(init=False)
    timing: Timing | None = field(init=False)
    _best: float | None = None
    _returned_nothing: bool | None = None  # None: the strategy has not been asked yet
    _begun: float = field(default_factory=time.perf_counter)
    _charged: list[dict[str, Any]] = field(default_factory=list)
    _lost: str = ""
    _ended: str = ""  # why no further round begins
    _marks: dict[str, Mark] = field(default_factory=dict)
    _round_begun: float = 0.0

    def __post_init__(self) -> None:
        self.selected = [self.arrays]
        self._first = digest_of(self.arrays)
        prepared = self.prepared
        self.colluders = Colluders(self)
        self.timing = timing_of(self)
        wanted = inspects(prepared.scenario, prepared.strategy, prepared.privacy)
        self.inspection = Inspection(prepared.strategy, wanted and not self._averages_nothing)

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
        return any(digest_of(model) != self._first for model in self.models())

    @property
    def reached(self) -> str:
        """How far the run has come, for a person."""
        if exchange := self.so_far.exchange:
            return f"exchange {exchange - 1} of round {self.finished + 1}"
        return f"round {self.finished}"

    def run(self, last: int | None = None) -> None:
        """Run the rounds that are not finished: of the scenario, or up to round `last`."""
        number = self.finished
        try:
            while not self._ended and number < (last or self.scenario.rounds):
                number += 1
                self._round(number)
        except _EndedError as end:
            self._ended = str(end)
        if self._ended:
            self._stop(self.finished, self._ended)

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
        self.trainings = checkpoint.loop.get("trainings", self.finished)
        self._ended = checkpoint.loop.get("ended", "")
        self.tally = Tally(**checkpoint.loop.get("tally", {}))
        self.fewest = checkpoint.loop.get("fewest", 0)
        with self._foreign("load_state_dict", self.finished):
            restore_strategy(self.strategy, checkpoint.strategy)
        kept = checkpoint.contexts
        self.grid.load_states({c: kept.get(c, RecordDict()) for c in self.grid.states()})
        self.ledger.load_state_dict(checkpoint.ledger)
        if self.privacy is not None and checkpoint.privacy is not None:
            self.privacy.load_state_dict(checkpoint.privacy)
        if checkpoint.so_far is not None:
            self.so_far = RoundSoFar.from_state(checkpoint.so_far, self.grid)
        if self.timing is not None:
            self.timing.load_state_dict(checkpoint.loop["clock"])
        self.server.history.cut(*checkpoint.moment)

    def _require_fitting(self, checkpoint: Checkpoint) -> None:
        problem = ""
        try:
            for arrays in (checkpoint.arrays, *checkpoint.selected):
                self.scoring.fits(flower.tensor_record(arrays))
        except ValueError as error:
            problem = str(error)
        if strangers := set(checkpoint.contexts) - set(self.grid.states()):
            problem = f"it has the state of client {min(strangers)}, and there is none"
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
        self._begin(1)
        self._exchanges(1)
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
            problem = f"strategy {name!r} returned no arrays from aggregate_train in the tiny round"
            return problem, scoring
        return "" if self.learned else "the tiny round changed no bit of the model", scoring

    def _round(self, number: int) -> None:
        self._begin(number)
        self._exchanges(number)
        found = self.so_far
        failures = list(self.grid.failures)
        self.failed += len(failures)
        metrics = self._score(number, found.by_client) | found.reported
        of_round = Tally()
        for tally in (of_round, self.tally):
            tally.add(found.seen, self.colluders.clients)
        metrics |= of_round.metrics()
        up, down = self.ledger.round_megabytes(number)
        up_total, down_total = self.ledger.total_megabytes()
        row = {
            "round": number,
            "phase": self.server.phase,
            "exchanges": found.kinds,
            "clients": found.clients,
            "failed": [failure.row() for failure in failures],
            "mb_up": up,
            "mb_down": down,
            "mb_up_total": up_total,
            "mb_down_total": down_total,
            **(self.privacy.row(found.clients) if self.privacy else NO_PRIVACY),
            "metrics": metrics,
            "metrics_by_client": found.by_client,
            "seen": found.seen or None,
            "attacks": found.attacks or None,
            "delay_seconds": self.grid.wait(),
            **self._times(number),
            "seconds": self._round_seconds,
            "peak_rss_mb": self.peak_rss_mb(),
        }
        self.finished, self.so_far = number, RoundSoFar()
        if self.checkpoints is not None:
            self.checkpoints.save(self._checkpoint([row]))
            self.server.history.prune()
        self.observers.round(row)

    def _times(self, number: int) -> dict[str, Any]:
        """What the clock says at the end of a round, and who has worked when."""
        if self.timing is None:
            return {"simulated_hours": None, "work": None}
        rest = self.timing.unfinished() if number == self.scenario.rounds else []
        return {"simulated_hours": self.timing.hours, "work": [*self.timing.work, *rest]}

    def _begin(self, number: int) -> None:
        """Begin a round, or go on with one of which there is a checkpoint."""
        self._round_begun = time.perf_counter()
        found = self.so_far
        self.server.round, self.server.exchange = number, found.exchange
        noted = list(self.grid.failures), dict(self.grid.delays)
        self.grid.begin_round(number)
        if found.exchange:
            self.grid.failures[:], self.grid.delays = noted
        self.server.history.begin(number)
        self._begin_lines()
        self.server.phase = TRAIN
        if isinstance(self.strategy, Strategy):
            with self._foreign("phase", number):
                self.server.phase = _named(self.strategy.phase(number))
        if self.timing is not None:
            self.timing.begin(number)

    def _begin_lines(self) -> None:
        """What is written from here on is the next checkpoint's."""
        self._marks = self.checkpoints.marks() if self.checkpoints else {}
        self.traffic.clear()
        self._charged = []

    def _exchanges(self, number: int) -> None:
        """Make the exchanges of a round, and evaluate on the clients if that is asked for.

        Raises:
            _EndedError: the run ends before this round.
            RunError: it ends before its first.
        """
        found = self.so_far
        while exchange := self._next(number):
            try:
                self._exchange(number, exchange)
            except _BudgetSpentError as stop:
                if not found.exchange:
                    raise
                self._ended = str(stop)
                break
            if self._several and self.checkpoints is not None:
                self.checkpoints.save(self._checkpoint([]))
                self._begin_lines()
        if not found.exchange:
            nothing = f"strategy {self.scenario.strategy.name!r} has no exchange for round {number}"
            if not self.finished:
                raise RunError(f"{nothing}: its next() returned None before anybody was asked")
            raise _EndedError(nothing)
        # What comes now belongs to the last exchange.
        self.server.exchange = found.exchange - 1
        self._require_returned(number)
        if self.scenario.evaluation.on_clients:
            self._evaluate(number)

    @property
    def _round_seconds(self) -> float:
        """Time spent on the current round, by this process and earlier ones."""
        return self.so_far.seconds + time.perf_counter() - self._round_begun

    def _checkpoint(self, rounds: list[dict[str, Any]]) -> Checkpoint:
        with self._foreign("state_dict", self.finished):
            state = strategy_state(self.strategy)
        lost = lost_line(self.strategy, state)
        if lost and lost != self._lost:
            self.observers.note(lost)
        self._lost = lost
        rows = {
            "rounds.jsonl": rounds,
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
                "trainings": self.trainings,
                "ended": self._ended,
                "tally": self.tally.state_dict(),
                "fewest": self.fewest,
                "clock": self.timing.state_dict() if self.timing else None,
            },
            strategy=state,
            contexts={client: state for client, state in self.grid.states().items() if state},
            ledger=self.ledger.state_dict(),
            marks=self._marks,
            lines={name: "".join(map(line_of, some)) for name, some in rows.items()},
            seconds=self.seconds,
            privacy=self.privacy.state_dict() if self.privacy else None,
            exchange=self.so_far.exchange,
            so_far=self.so_far.state_dict(self.grid, self._round_seconds)
            if self.so_far.exchange
            else None,
        )

    def _next(self, number: int) -> Exchange | None:
        """What the strategy makes next of a round; None where the round is over."""
        index = self.so_far.exchange
        if index and not self._several:
            return None
        self.server.exchange = index
        self.grid.begin_exchange(index)
        if self.privacy is not None:
            self.grid.charged = set()
        clock = self.scenario.federation.clock
        state = RoundState(
            round=number,
            rounds=self.scenario.rounds,
            exchange=index,
            phase=self.server.phase,
            arrays=self.buffers.begin(self.arrays),
            clients=self.server.sample_clients(),
            grid=self.grid,
            proximal=(clock and clock.proximal) or 0.0,
        )
        if not isinstance(self.strategy, Strategy):
            return training(self.strategy, state)
        with self._foreign("next", number):
            found: Any = self.strategy.next(state)
            if not isinstance(found, Exchange | None):
                raise TypeError(f"next must return an Exchange or None, not {shown(found)}")
        return found

    @property
    def _several(self) -> bool:
        """Whether a round may have several exchanges: then each is worth a checkpoint."""
        return makes_exchanges(self.strategy)

    def _exchange(self, number: int, exchange: Exchange) -> None:
        """Send an exchange's messages, and let the strategy aggregate the replies."""
        grid, found = self.grid, self.so_far
        configure, aggregate = exchange._methods
        with self._foreign(configure, number):
            messages = exchange.made()
        self._require_once(number, messages)
        charged = len(self._charged)
        messages = self._charge(number, messages)
        charges = self._charged[charged:]
        self._announce(number, exchange.kind, messages, charges)
        sent = self._sent(messages) if self._kept(exchange) else None
        self.inspection.begin()
        replies = Replies(self, self._arriving(messages), exchange, sent)
        replies.expected = bool(messages) or exchange.kind == TRAIN
        arrays, reported = None, None
        with contextlib.suppress(NobodyAnsweredError), self._foreign(aggregate, number):
            arrays, reported = _aggregate(exchange, aggregate, replies)
        if not replies.exhausted:
            raise RunError(
                f"strategy {self.scenario.strategy.name!r} read {replies.read} of {len(messages)} "
                f"replies in {aggregate} of round {number}: a reply that is not read is never "
                "asked for"
            )
        if sent is not None and self.server.history.keeps != "none":
            self.server.history.close(found.exchange)
        if seen := self.inspection.close(found.exchange, arrays):
            found.seen.append(seen)
        if arrays is not None:
            arrays = self.buffers.restored(arrays)
            self._check(arrays, number)
            self.arrays = arrays
        found.returned |= arrays is not None
        found.answered += replies.read
        if exchange.kind == TRAIN and replies.read:
            self.fewest = min(self.fewest or replies.read, replies.read)
        for name, value in (reported or {}).items():
            if not isinstance(value, list):
                found.reported[f"{exchange.metric_prefix}{name}"] = value
        found.done(exchange, [grid.client(message) for message in messages])

    def _arriving(self, messages: Sequence[Message]) -> Iterable[Message]:
        """Send messages; the replies that the server sees now."""
        if self.timing is None:
            return self.grid.send_and_receive(messages)
        return self.timing.arrivals(messages)

    def _require_once(self, number: int, messages: Sequence[Message]) -> None:
        """Refuse two messages to one client in an exchange: their replies would be one."""
        asked = Counter(self.grid.client(message) for message in messages)
        twice = sorted(client for client, count in asked.items() if count > 1)
        if twice:
            raise RunError(
                f"strategy {self.scenario.strategy.name!r} asks client {twice[0]} "
                f"({self.grid.job.names[twice[0]]}) twice in one exchange of round {number}: make "
                "an exchange for each message"
            )

    def _sent(self, messages: Sequence[Message]) -> dict[int, dict[str, np.ndarray]]:
        """Client -> the model that it was sent, by name.

        It is the server's, where the message has none, or has it encoded.
        """
        handed = self.buffers.begin(self.arrays)
        own = flower.tensors(handed)
        form = {name: (value.dtype, value.shape) for name, value in own.items()}
        models, found = {id(handed): own}, {}
        for message in messages:
            name = self.buffers.roles.model_in(message.content)
            record = message.content.array_records[name] if name else handed
            if id(record) not in models:
                sent = flower.tensors(record)
                alike = form == {n: (v.dtype, v.shape) for n, v in sent.items() if n in form}
                models[id(record)] = sent if alike else own
            found[self.grid.client(message)] = models[id(record)]
        # Replies to older models come as if they were to the current one.
        return found | dict.fromkeys(self.timing.arriving if self.timing else (), own)

    def _kept(self, exchange: Exchange) -> bool:
        """Whether the models that clients were sent are needed, to say what they changed."""
        compared = self.server.history.keeps != "none" or self.inspection.wanted
        return exchange.kind == TRAIN and (compared or self.colluders.forge)

    def _require_returned(self, number: int) -> None:
        """Refuse a strategy that in no round gave a model back."""
        found = self.so_far
        if not self._averages_nothing and found.answered:
            self._returned_nothing = not found.returned and self._returned_nothing is not False
            if self._returned_nothing and number == self.scenario.rounds:
                raise RunError(
                    f"strategy {self.scenario.strategy.name!r} returned no arrays from "
                    f"aggregate_train in any of {number} round(s): the model is as it was at first"
                )

    def _evaluate(self, number: int) -> None:
        """Let the clients evaluate the round's model, as part of the last exchange."""
        strategy, grid = self.strategy, self.grid
        grid.begin_exchange(self.server.exchange)
        handed = self.buffers.begin(self.arrays)
        with self._foreign("configure_evaluate", number):
            asked = list(strategy.configure_evaluate(number, handed, ConfigRecord(), grid))
        self._announce(number, EVALUATE, asked)
        exchange = Exchange(EVALUATE, asked, lambda replies: (None, None))
        scored = Replies(self, grid.send_and_receive(asked), exchange)
        with self._foreign("aggregate_evaluate", number):
            strategy.aggregate_evaluate(number, scored)

    def _charge(self, number: int, messages: list[Message]) -> list[Message]:
        """Charge the clients of an exchange before they are asked; leave out who has no budget.

        Raises:
            _BudgetSpentError: the run ends here.
            RunError: clients are asked for what no mechanism covers, or more often than planned.
        """
        if self.privacy is None:
            return messages
        index = self.so_far.exchange
        self._require_covered(number, messages)
        clients = [self.grid.client(message) for message in messages if trains(message)]
        over = set(self.privacy.exhausted(clients))
        settings = self.privacy.plan.settings
        left = [m for m in messages if self.grid.client(m) not in over]
        if over and (settings.on_budget == "stop" or not left):
            names = ", ".join(self.grid.job.names[client] for client in sorted(over)[:5])
            raise _BudgetSpentError(
                f"round {number} would take epsilon of {names} above {settings.max_epsilon:g}"
            )
        rows = self.privacy.charge(number, sorted(set(clients) - over), index)
        self._charged += rows
        self.trainings += bool(rows)
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
        phase, index = self.server.phase, self.server.exchange
        self.observers.exchange(Asked(number, phase, kind, clients, tuple(charges), index))

    def _require_covered(self, number: int, messages: list[Message]) -> None:
        """Refuse what a private run's noise was not planned for."""
        assert self.privacy is not None
        strategy, plan = self.scenario.strategy.name, self.privacy.plan
        asked = {kind_of(message) for message in messages if not trains(message)}
        if asked - ({EVALUATE} if self.scenario.evaluation.on_clients else set()):
            raise RunError(
                f"strategy {strategy!r} asks clients to {', '.join(sorted(asked))} in round "
                f"{number} of a private run: what they answer is computed from records without "
                "noise; evaluation.on_clients=true allows it for validation records, and says so"
            )
        if any(map(trains, messages)) and self.trainings >= plan.planned:
            raise RunError(
                f"strategy {strategy!r} lets clients train in more than {plan.planned} exchanges, "
                "for which it planned (`exchanges`): epsilon would be above what was planned"
            )

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

    def _score(
        self, number: int, by_client: dict[str, dict[str, Any]], final: bool = False
    ) -> Scores:
        """Score the models when it is their turn, and keep those that the scenario selects."""
        every, last = self.scenario.evaluation.every, final or number == self.scenario.rounds
        if number % every and not last:
            return {}
        with plugin_code(f"the models of round {number} could not be scored"):
            return self._scored(by_client)

    def _scored(self, by_client: dict[str, dict[str, Any]]) -> Scores:
        models = self.models()
        self.scoring.latest = []
        scores: Scores = {}
        if self.scoring.validates:
            headline = self.server.task.headline
            found = mean_scores([self.scoring.validation(arrays) for arrays in models])
            scores[f"val_{headline}"] = found.get(headline)
        if self.scoring.selects:
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
                by_client.setdefault(str(client), {}).update(values)
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
        draws = self.streams.sequence(f"strategy-{method}", number, exchange=self.server.exchange)
        with plugin_code(what), isolated(draws):
            yield

    def peak_rss_mb(self) -> float:
        """Peak memory of this process plus that of each worker process, in MB.

        An upper bound: processes share pages, and their peaks need not coincide.
        """
        workers = {k: v for k, v in self.grid.peak_rss_mb.items() if k != "driver"}
        return peak_rss_mb() + sum(workers.values())


class _EndedError(FedsimError):
    """The run ends before its last round."""


class _BudgetSpentError(_EndedError):
    """The next exchange would cost more than is left."""


def _aggregate(exchange: Exchange, method: str, replies: Iterable[Message]) -> Aggregated:
    """What the strategy makes of the replies; TypeError where it is something else."""
    found: Any = exchange.aggregate(replies)
    types = ((ArrayRecord, type(None)), (MetricRecord, type(None)))
    if not isinstance(found, tuple) or len(found) != 2 or not all(map(isinstance, found, types)):
        raise TypeError(
            f"{method} must return a pair: an ArrayRecord or None, and a MetricRecord or None"
        )
    arrays, reported = found
    return arrays, reported


def _named(phase: Any) -> str:
    """What a strategy calls a phase, in one line; TypeError where it is no text."""
    text = " ".join(phase.split()) if isinstance(phase, str) else ""
    if not 0 < len(text) <= _LONGEST_PHASE:
        raise TypeError(f"phase must return a short text, not {shown(phase)}")
    return text
