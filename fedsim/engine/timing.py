"""Simulated time in a run: who is asked, whose replies a step sees, and what the clock says then.

Clients work when they are asked, at once, and their replies are held back until the simulated
moment at which they would be there. So nobody waits, and a run has the same bits however fast its
machine is. What is held back is part of checkpoints.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from numpy.typing import NDArray

from fedsim.clock import Agenda, Task, moved, paces_of, plan, weight
from fedsim.clock.paces import HOUR, LONGEST
from fedsim.engine.strategies import is_one_shot
from fedsim.errors import InputError, RunError
from fedsim.federation.clients import make_client
from fedsim.method.capabilities import capabilities
from fedsim.method.client import Client
from fedsim.method.strategy import Strategy, makes_exchanges
from fedsim.randomness import SERVER
from fedsim.scenario.schema import Clock, Staleness, joining
from fedsim.wire import flower

if TYPE_CHECKING:
    from fedsim.engine.loop import Rounds
    from fedsim.engine.prepare import Prepared

_MIXING = 0.6  # Xie et al. (2019), section 6


class Timing:
    """The clock of one run.

    Args:
        rounds: the loop that it is of.
        settings: the scenario's.

    Attributes:
        now: seconds of simulated time since the run began.
        work: what was done, as far as it ended in the current round; rows of rounds.jsonl.
    """

    def __init__(self, rounds: Rounds, settings: Clock) -> None:
        self._rounds, self._settings = rounds, settings
        prepared = rounds.prepared
        self._paces = paces_of(settings, _records(prepared), prepared.streams)
        self._loads = workloads(prepared)
        self._tau = settings.staleness or Staleness()
        self.now = 0.0
        self.work: list[dict[str, Any]] = []
        self._agenda: Agenda | None = None
        self._waiting: list[Task] = []
        self._models: dict[int, dict[str, NDArray[Any]]] = {}

    @property
    def hours(self) -> float:
        """Simulated hours since the run began."""
        return self.now / HOUR

    @property
    def arriving(self) -> list[int]:
        """Whose replies the step sees that was planned; nobody's where the server waits for all."""
        return [] if self._agenda is None else sorted(t.client for t in self._agenda.arrived)

    def begin(self, number: int) -> None:
        """Begin a round, or go on with it: decide whom it asks, where the clock does."""
        if not self._rounds.so_far.exchange:
            self.work = []
        if self._settings.waits:
            return
        scenario, count = self._rounds.scenario, len(self._paces)
        streams = self._rounds.streams

        def draw(of: int, some: int, nth: int) -> Iterable[int]:
            # The first draw of a step is that of `Server.sample_clients`.
            draws = streams.numpy("participation", number, SERVER, nth)
            return [int(one) for one in draws.choice(of, some, replace=False)]

        self._agenda = plan(
            self.now,
            self._waiting,
            wanted=self._settings.buffer or 1,
            at_work=joining(count, scenario.federation.participation),
            clients=self._may(),
            begin=lambda client, at: self._task(number, client, at),
            present_from=lambda client, at: self._paces[client].present_from(at),
            draw=draw,
        )
        self._rounds.server.asked = self._agenda.clients

    def arrivals(self, messages: Sequence[Message]) -> Iterator[Message]:
        """Send the messages of an exchange; the replies that the server sees, in client order."""
        if self._agenda is None:
            return self._waited_for(messages)
        asked = {self._rounds.grid.client(message) for message in messages}
        if strangers := sorted(asked - set(self._agenda.clients)):
            raise RunError(
                f"strategy {self._rounds.scenario.strategy.name!r} asks client {strangers[0]}, "
                "whom the clock did not choose: with federation.clock.kind="
                f"{self._settings.kind} a strategy asks server.sample_clients()"
            )
        return self._as_they_come(self._agenda, messages)

    def unfinished(self) -> list[dict[str, Any]]:
        """Rows of the tasks that are still going on: the replies that a finished run never saw."""
        return [_row(task, "unused") for task in self._waiting]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            "now": self.now,
            "work": self.work,
            "waiting": [dict(vars(task)) for task in self._waiting],
            "models": self._models,
            "paces": self._digest(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            InputError: clients are faster or slower now: a trace was changed.
        """
        if state["paces"] != self._digest():
            raise InputError(
                "federation.clock: clients are not as fast as when the run began",
                hint="bring the trace back as it was, or start again",
            )
        self.now, self.work = state["now"], list(state["work"])
        self._waiting = [Task(**task) for task in state["waiting"]]
        self._models = dict(state["models"])

    def _digest(self) -> str:
        return hashlib.sha256(repr((self._paces, self._loads)).encode()).hexdigest()

    def _may(self) -> list[int]:
        """Who may be asked: not who has no budget left, if the others go on."""
        everyone, privacy = list(range(len(self._paces))), self._rounds.privacy
        if privacy is None or privacy.plan.settings.on_budget == "stop":
            return everyone
        over = set(privacy.exhausted(everyone))
        left = [client for client in everyone if client not in over]
        return left if left or self._waiting else everyone

    def _task(self, number: int, client: int, start: float) -> Task:
        """What a client is asked for at a moment, where its message holds the model."""
        rounds = self._rounds
        down, up = rounds.grid.payload.sizes(flower.tensors(rounds.arrays))
        end = self._end(number, client, start, down, up)
        return Task(client, number, start, end, rounds.grid.drops_out(client))

    def _end(self, number: int, client: int, start: float, down: int, up: int) -> float:
        """When a task is done that begins at `start`, in seconds."""
        load, jitter = self._loads[client], self._settings.jitter
        index = self._rounds.server.exchange
        if jitter:
            draws = self._rounds.streams.numpy("clock-jitter", number, client, index)
            load *= float(np.exp(jitter * draws.standard_normal()))
        end = self._paces[client].finish(start, down, load, up) + self._rounds.grid.delay(client)
        if end > LONGEST:
            name = self._rounds.server.names[client]
            raise RunError(
                f"federation.clock: what client {client} ({name}) is asked in round {number} would "
                f"not end within {LONGEST:g} simulated seconds: raise its speed, bandwidth or hours"
            )
        return end

    # --- The server waits ----------------------------------------------------------------------

    def _waited_for(self, messages: Sequence[Message]) -> Iterator[Message]:
        """The replies, as the grid hands them on; those after the deadline are failures.

        The server gives up a late task at the deadline, and the clock with it: the next round asks
        its client anew.
        """
        rounds, limit = self._rounds, self._settings.deadline
        grid, start, ends = rounds.grid, self.now, [self.now]
        read, number, missing = len(rounds.traffic), grid.round, len(messages)
        for reply in grid.send_and_receive(messages):
            client = grid.client_of(reply.metadata.src_node_id)
            rows = rounds.traffic[read:]
            read += len(rows)
            down, up = (_bytes(rows, client, way) for way in ("down", "up"))
            end = self._end(number, client, start, down, up)
            late = limit is not None and end - start > limit
            task = Task(client, number, start, start + limit if limit and late else end)
            self.work.append(_row(task, "late" if late else "used"))
            if late:
                reason = f"needed {end - start:.1f} s, more than the deadline of {limit:g} s"
                grid.failures.append(grid.failure(client, "late", reason))
                continue
            missing -= 1
            ends.append(end)
            yield reply
        self.now = start + limit if limit is not None and missing else max(ends)

    # --- Replies come when they come -----------------------------------------------------------

    def _as_they_come(self, agenda: Agenda, messages: Sequence[Message]) -> Iterator[Message]:
        """Let those work who are asked, and hand on the replies that are there by then."""
        grid = self._rounds.grid
        tasks = {task.client: task for task in agenda.asked}
        before = {client: flower.shallow(self._context(client).state) for client in tasks}
        for reply in grid.send_and_receive(messages) if messages else ():
            client = grid.client_of(reply.metadata.src_node_id)
            task, context = tasks[client], self._context(client)
            task.content, task.state = reply.content, context.state
            # Until its reply is there, nobody sees what the client has become.
            context.state = before[client]
        if agenda.waiting and self._settings.kind == "buffered":
            self._models[grid.round] = self._parameters()
        for task in sorted(agenda.arrived, key=lambda one: one.client):
            if task.state is not None:
                self._context(task.client).state = task.state
            self.work.append(_row(task, "lost" if task.content is None else "used"))
            if task.content is not None:
                yield self._reply(task)
        self.now, self._waiting = agenda.end, agenda.waiting
        still = {task.asked for task in self._waiting}
        self._models = {n: model for n, model in self._models.items() if n in still}

    def _reply(self, task: Task) -> Message:
        """The reply of a task as if it were one to the current model."""
        rounds = self._rounds
        tau = rounds.grid.round - task.asked
        content, share = task.content, weight(self._tau, tau)
        assert content is not None
        base: dict[str, NDArray[Any]] = {}
        if self._settings.kind == "asynchronous":
            share *= self._settings.mixing or _MIXING
        elif tau:
            base = self._models[task.asked]
        if share != 1 or base:
            content = self._moved(task, content, base, share)
        request = Message(RecordDict(), flower.node_id(task.client), MessageType.TRAIN)
        flower.stamp(request, f"asked-{task.asked}")
        return Message(content, reply_to=request)

    def _moved(
        self, task: Task, content: RecordDict, base: Mapping[str, NDArray[Any]], share: float
    ) -> RecordDict:
        rounds = self._rounds
        name = rounds.buffers.roles.model_in(content)
        if name is None:
            raise RunError(
                f"client {task.client} ({rounds.server.names[task.client]}) sent no model by the "
                f"names of the server's: federation.clock.kind={self._settings.kind} needs one"
            )
        fresh = flower.shallow(content)
        sent = flower.tensors(content.array_records[name])
        found = moved(sent, flower.tensors(rounds.arrays), base, share)
        fresh[name] = flower.tensor_record(found)
        return fresh

    def _parameters(self) -> dict[str, NDArray[Any]]:
        """What clients are sent now, without buffers."""
        roles = self._rounds.buffers.roles
        held = flower.tensors(self._rounds.arrays)
        return {name: held[name] for name in roles.order if name in roles.parameters}

    def _context(self, client: int) -> Any:
        return self._rounds.grid.contexts[flower.node_id(client)]


def timing_of(rounds: Rounds) -> Timing | None:
    """The clock of a run; None in one without."""
    settings = rounds.scenario.federation.clock
    return None if settings is None else Timing(rounds, settings)


def workloads(prepared: Prepared) -> list[float]:
    """Records that each client trains on when it is asked, each as often as it is seen."""
    scenario, privacy, found = prepared.scenario, prepared.privacy, []
    for name, records in _records(prepared).items():
        if privacy is not None and privacy.settings.unit != "client":
            own = privacy.clients[name]
            found.append(own.steps * own.sample_rate * records)
            continue
        method = make_client(scenario, name)
        found.append(method.workload(records) if isinstance(method, Client) else float(records))
    return found


def require_clock(prepared: Prepared) -> None:
    """Refuse a clock that does not go with the method, the privacy block or the clients.

    Raises:
        InputError: says what, in one sentence.
    """
    settings = prepared.scenario.federation.clock
    if settings is None:
        return
    paces = paces_of(settings, _records(prepared), prepared.streams)
    loads = workloads(prepared)
    for name, pace, load in zip(prepared.names, paces, loads, strict=True):
        if math.isinf(pace.finish(0.0, 0.0, load, 0.0)):
            raise InputError(
                f"federation.clock: client {name!r} would not train within {LONGEST:g} simulated "
                "seconds",
                hint="raise its speed, or its hours",
            )
    for why, hint in _in_the_way(prepared, settings):
        raise InputError(f"federation.clock.kind={settings.kind}: {why}", hint=hint)


def _in_the_way(prepared: Prepared, settings: Clock) -> Iterator[tuple[str, str]]:
    """What does not go with a clock, each with what to type."""
    scenario, waits = prepared.scenario, "type federation.clock.kind=synchronous"
    if scenario.faults.deadline is not None:
        yield (
            "faults.deadline counts simulated delays alone",
            "type faults.deadline=null federation.clock.kind=deadline federation.clock.deadline=60",
        )
    if settings.kind == "synchronous":
        return
    privacy = prepared.privacy
    if privacy is not None and privacy.shares_noise:
        yield (
            "the noise of privacy.trust=secure_sum is enough only in the sum of all replies",
            waits,
        )
    if privacy is not None and privacy.settings.unit == "client":
        yield "privacy.unit=client needs the replies of all who were asked, in their round", waits
    if settings.waits:
        return
    if why := older_refused(prepared.strategy):
        yield f"strategy {scenario.strategy.name!r} {why}", f"{waits}, or strategy.name=fedavg"
    if prepared.conspiracy is not None and prepared.conspiracy.knows is not None:
        yield "an adversary that changes what is sent must know all replies of a round", waits
    clients, wanted = len(prepared.names), settings.buffer or 1
    if wanted > clients:
        yield (
            f"a buffer of {wanted} replies, but there are {clients} clients, and a step takes at "
            "most one reply of each",
            f"type federation.clock.buffer={clients}",
        )
    if scenario.faults.min_clients > wanted:
        yield (
            f"a step sees {wanted} replies, and faults.min_clients={scenario.faults.min_clients} "
            "asks for more",
            f"type faults.min_clients={wanted}",
        )


def older_refused(strategy: FlowerStrategy) -> str:
    """Why a strategy cannot be handed replies to older models, in words; "" where it can.

    Where it does not say so itself (`takes_older`), it can if it averages whole models.
    """
    can = capabilities(strategy)
    if is_one_shot(strategy):
        return "is one-shot: clients send once, and there is no older model"
    if can.local:
        return "keeps a model at each client, and the server has none that ages"
    if not isinstance(strategy, Strategy) or makes_exchanges(strategy):
        return "asks clients by rules of its own, and needs them all in one round"
    if strategy.history != "none":
        return "keeps what each client changed in its round, and needs replies to the current model"
    averages = bool(can.linear) and can.payload == "arrays" and not can.payload_kind
    if not (averages if can.takes_older is None else can.takes_older):
        return "does not declare that replies to older models will do (takes_older)"
    if (codec := getattr(strategy, "codec", "float32")) != "float32":
        return f"has codec {codec}: clients send encoded changes, which cannot be weighted"
    return ""


def _records(prepared: Prepared) -> dict[str, int]:
    """Client name -> its training records; with hidden labels, both kinds."""
    hidden = prepared.federation.unlabelled
    return {
        name: len(held) + len(hidden.get(name, ()))
        for name, held in prepared.federation.train.items()
    }


def _bytes(rows: Iterable[Mapping[str, Any]], client: int, direction: str) -> int:
    """Bytes that were counted of a client, one way."""
    return sum(
        row["bytes"] for row in rows if row["client"] == client and row["direction"] == direction
    )


def _row(task: Task, outcome: str) -> dict[str, Any]:
    """A task as rounds.jsonl has it."""
    return {
        "client": task.client,
        "asked": task.asked,
        "from": task.start / HOUR,
        "to": task.end / HOUR,
        "outcome": outcome,
    }
