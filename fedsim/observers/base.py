"""What watches a run: the protocol of an observer, and the plain values that it is told.

The console, the run folder, pictures, the search for leakage and trackers are observers. Whoever
starts a run registers them; the engine knows none of them by name, and no bit of a run depends on
them.

The order of a run:

    note*  begin  (exchange  (message | reply)*  exchange ...  round)*  finish  done  end

`note` may come at any time, also before `begin`; `working` comes while clients or the server
compute. `finish` comes once all rounds are done, `done` when the result is kept whatever happens.
`end` comes last, however the run ended, if `begin` came.

What a resumed run tells. A run has one `Run.id` for its whole life; a process that resumes it
begins it again under the same id, with `Run.finished` the round that it goes on from (its next
round is `finished + 1`) and `Run.rows` the lines of all rounds up to there. A kill may come after
a round was told and before its successor was, so:

- the rows of `Run.rows` may hold rounds that this observer was never told: the last one before the
  kill, or all of them where it watches only now. An observer that keeps rounds elsewhere adds those
  that it does not have;
- a round that was told may be told again under the same number, with the same values but for
  seconds and memory, where the run goes back to an earlier checkpoint. An observer that keeps
  rounds elsewhere writes by `row["round"]`, and does not append;
- exchanges, messages and replies of a round that did not end are told again with it.

A new run has `finished` 0 and no `rows`; it may be the next attempt at a scenario, and has an id of
its own.

An observer runs in the process of the server, between its steps: what it does slowly, the run
waits for. It sees what the server sees, in a private run, too (`Reply.values` of a run with
`privacy.unit: client` are updates without noise): what it passes on is published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Row = Mapping[str, Any]
"""A line of one of the run folder's files: plain values by name."""

Status = Literal["done", "failed", "interrupted"]
"""How a run ended, as run.json says it."""

Progress = Callable[[], dict[int, tuple[int, int, str]]]
"""Gives, by client number (-1: the server), the steps done, of how many, and what they are for."""


@dataclass(frozen=True)
class Run:
    """A run that begins, or goes on.

    Attributes:
        id: the run's own name, 32 hexadecimal digits; the same in every process that resumes it.
        scenario: the scenario's name.
        seed: the run's seed.
        folder: the run folder.
        clients: the clients' names, in client order.
        rounds: how many rounds are planned.
        settings: all keys of the scenario with their values, as plain lists and dictionaries.
        about: what run.json says: data, privacy, versions, `run_id`.
        budget: the epsilon that the run keeps to, or was planned for; None for none.
        resumed: whether another process began it.
        finished: rounds that are done already.
        rows: the lines of rounds.jsonl of these rounds.
        say: tells a person a line, where the console is not told to be quiet.
    """

    id: str
    scenario: str
    seed: int
    folder: Path
    clients: tuple[str, ...]
    rounds: int
    settings: Row = field(default_factory=dict, repr=False)
    about: Row = field(default_factory=dict, repr=False)
    budget: float | None = None
    resumed: bool = False
    finished: int = 0
    rows: tuple[Row, ...] = field(default=(), repr=False)
    say: Callable[[str], None] = field(default=lambda text: None, repr=False, compare=False)


@dataclass(frozen=True)
class Exchange:
    """Messages to clients that are about to be sent.

    Attributes:
        round: the number of the round.
        phase: the phase of the run, as rounds.jsonl names it.
        kind: what the clients are asked to do: "train" or "evaluate".
        clients: the clients that are asked, ascending.
        charges: what the releases cost, the lines of privacy.jsonl; they count from here on.
        number: of the exchange within its round, from 0.
    """

    round: int
    phase: str
    kind: str
    clients: tuple[int, ...]
    charges: tuple[Row, ...] = ()
    number: int = 0


@dataclass(frozen=True)
class Reply:
    """What a client answered.

    Attributes:
        round: the number of the round.
        kind: what the client was asked to do: "train" or "evaluate".
        client: its number.
        name: its name.
        metrics: the numbers that it reports, by name.
        problem: why the server does not use the reply; "" where it does.
        read: gives the values, see `values`.
    """

    round: int
    kind: str
    client: int
    name: str
    metrics: Row
    problem: str
    read: Callable[[], dict[str, NDArray]] = field(repr=False, compare=False)

    def values(self) -> dict[str, NDArray]:
        """All that the reply holds, as arrays by "record/name"; made when asked for, read-only."""
        return self.read()


@dataclass(frozen=True)
class Finished:
    """What came of a run whose rounds are done.

    Attributes:
        summary: the content of summary.json, still without an audit.
        models: the arrays of the finished model by name, or of each client's own, in client order.
        owners: whose models these are; empty where there is one for all.
        learned: whether a model differs in any bit from the one that the run began with.
        predicted: what the models say of the test split, as `Task.predict` gives it, [models, ...].
        predictions: the same as the arrays of `predicted_in`.
        predicted_in: the file of the run folder that holds them.
        build: gives a finished model by its position, see `module`.
    """

    summary: Row
    models: tuple[Mapping[str, NDArray], ...] = field(repr=False)
    owners: tuple[str, ...]
    learned: bool
    predicted: NDArray = field(repr=False)
    predictions: Mapping[str, NDArray] = field(repr=False)
    predicted_in: str
    build: Callable[[int], torch.nn.Module] = field(repr=False, compare=False)

    def module(self, position: int = 0) -> torch.nn.Module:
        """A finished model as a module of its own, with its arrays in it."""
        return self.build(position)


@dataclass(frozen=True)
class End:
    """How a run ended.

    Attributes:
        status: as run.json says it.
        folder: the run folder; of a run that is done, all files are in it.
        summary: the content of summary.json; None unless the run is done.
        error: why it failed, in one line; "" unless it did.
    """

    status: Status
    folder: Path
    summary: Row | None = None
    error: str = ""


class Observer:
    """Base of what watches a run: derive from it, and write the methods that are of use.

    A scenario names an observer in `observers:`, with the parameters of its constructor; an object
    is handed to `fedsim.run(..., observers=[...])`. A constructor raises ValueError where its
    parameters, or what it needs, are wrong: then nothing runs.

    A method that raises stops nothing. A person is told once, and the observer is told nothing more
    of this run. `essential` observers are the exception: what they raise ends the run.

    Global random generators are as they were after each call.
    """

    essential: ClassVar[bool] = False
    """Whether the run must not go on without it."""

    def note(self, text: str) -> None:
        """A line for a person."""

    def begin(self, run: Run) -> None:
        """The run begins, or goes on: see `Run`."""

    def exchange(self, exchange: Exchange) -> None:
        """Clients are about to be asked, and their releases are charged."""

    def message(self, row: Row) -> None:
        """A message was sent or came back: a line of traffic.jsonl."""

    def reply(self, reply: Reply) -> None:
        """A client answered; the strategy is handed the reply next, unless it has a problem."""

    def working(self, progress: Progress) -> None:
        """Clients or the server are at work; called often: ask `progress()` now and then."""

    def round(self, row: Row) -> None:
        """A round is done: a line of rounds.jsonl. Its checkpoint is on the disk."""

    def finish(self, finished: Finished) -> None:
        """All rounds are done; what is written into the run folder now belongs to the run."""

    def done(self, finished: Finished) -> None:
        """The run is done, and its result is told: time for pictures, and whatever takes long."""

    def end(self, end: End) -> None:
        """The run has ended; its folder is as it stays."""
