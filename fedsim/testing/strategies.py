"""Checks of a strategy."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import numpy as np
from flwr.app import Message

from fedsim.engine.loop import Rounds
from fedsim.ledger.traffic import LINK, fields
from fedsim.method.capabilities import capabilities
from fedsim.method.exchanges import Exchange, RoundState
from fedsim.method.faults import Simulated
from fedsim.method.strategy import Strategy, makes_exchanges
from fedsim.testing.bench import Bench, Draws, Ran, difference, finite, undisturbed
from fedsim.testing.verdicts import ON_RAY, CheckFailed, NotApplicable
from fedsim.wire.flower import tensor_record, tensors

_ROUNDING = 1e-4  # of an array's largest value
_METHODS = (
    "configure_train",
    "aggregate_train",
    "configure_evaluate",
    "aggregate_evaluate",
    "state_dict",
)


def rounds(bench: Bench) -> str:
    """Two tiny rounds with different clients."""
    ran = bench.run
    asked = [row["clients"] for row in ran.rounds]
    names = " then ".join(f"{len(one)} client(s)" for one in asked)
    if len(asked) == 1:
        return f"one round, {names}"
    if asked[0] != asked[1]:
        return f"two rounds, {names}, not the same ones"
    return f"two rounds, {names}, the same ones each time: it does not sample"


def learned(bench: Bench) -> str:
    """A run must leave another model than it began with."""
    return require_learned(bench.run)


def require_learned(ran: Ran) -> str:
    """Raise CheckFailed where no bit of a model changed."""
    if not ran.learned:
        raise CheckFailed(
            f"nothing was learned: after {len(ran.rounds)} round(s) the model has the very bits "
            "that it began with"
        )
    if len(ran.models) > 1:
        return f"{len(ran.models)} models, one a client, changed"
    moved = [n for n, v in ran.arrays.items() if v.tobytes() != ran.first[n].tobytes()]
    return f"{len(moved)} of {len(ran.arrays)} arrays changed"


def same_bits(bench: Bench) -> str:
    """The same seed gives the same bits."""
    if where := difference(bench.run, bench.go()):
        raise CheckFailed(
            f"two runs with the same seed differ in {where}: draw from self.server.generator(...) "
            "or site.generator(...), and keep nothing on a class or in a module"
        )
    return "two runs agree in every bit"


def on_ray(bench: Bench) -> str:
    """Ray gives the bits of this process."""
    other = bench.go("resources.backend=ray", "resources.workers=2")
    if where := difference(bench.run, other):
        raise CheckFailed(
            f"a run on Ray differs from one in this process in {where}: something passes between "
            "strategy and clients, or between clients, that is in no message and no site.state"
        )
    return "this process and two workers of Ray agree in every bit"


def state(bench: Bench) -> str:
    """A run that is cut after a round goes on to the same bits."""
    if len(bench.run.rounds) < 2:
        raise NotApplicable("there is one round: replies are stored as they arrive")
    if where := difference(bench.run, bench.resumed()):
        what = "its clients" if where.startswith("what client") else "the strategy"
        raise CheckFailed(
            f"a run that was cut after round 1 and resumed differs in {where}: "
            + (
                "what must survive a round goes into state_dict and load_state_dict"
                if what == "the strategy"
                else "what a client must keep goes into site.state"
            )
        )
    return "cut after round 1 and resumed: the same bits"


def order(bench: Bench) -> str:
    """Replies in another order give the same model."""
    if capabilities(bench.run.made).order_matters:
        raise NotApplicable("it declares order_matters: replies come in client order in every run")
    if len(bench.run.models) > 1:
        raise NotApplicable("there is no global model")

    def turned(rounds: Rounds) -> None:
        aggregate = rounds.strategy.aggregate_train

        def other(number: int, replies: Iterable[Message]) -> Any:
            return aggregate(number, list(replies)[::-1])

        _replace(rounds.strategy, "aggregate_train", other)

    # All clients: of three, two are each other's nearest, and a choice between them is a tie.
    everybody = "federation.participation=1.0"
    straight = bench.go(everybody, last=1)
    reverse = bench.go(everybody, last=1, around=turned)
    far, where = 0.0, ""
    for name, value in straight.arrays.items():
        gap = _gap(value, reverse.arrays[name])
        if gap > far:
            far, where = gap, name
    if far > _ROUNDING:
        raise CheckFailed(
            f"replies in the reverse order give another model: {where!r} differs by {far:.2g} of "
            "its largest value; if that is meant, write order_matters = True into the class"
        )
    if far:
        return f"the reverse order differs by rounding alone ({far:.1g})"
    return "the reverse order gives the same bits"


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, over the largest value."""
    if one.dtype.kind not in "fc":
        return float((one != other).any())
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.abs(a - b).max(initial=0.0) / max(np.abs(a).max(initial=0.0), 1e-30))


def randomness(bench: Bench) -> str:
    """Chance comes from the streams that fedsim gives."""
    draws = Draws()

    def watched(rounds: Rounds) -> None:
        for name in _METHODS:
            if hasattr(rounds.strategy, name):
                _replace(rounds.strategy, name, draws.watch(getattr(rounds.strategy, name), name))

    with undisturbed("making or running it"):
        ran = bench.go(around=watched)
    if used := draws.words("random", "numpy.random"):
        if isinstance(ran.made, Strategy):
            raise CheckFailed(
                f"it draws from a global generator ({used}): draw from "
                "self.server.numpy_generator(purpose)"
            )
        return f"none disturbed; {used}, which fedsim seeds around the call"
    if used := draws.words("torch"):
        return f"none disturbed; {used}: as initialisation and dropout do; fedsim seeds it"
    return "none used, none disturbed"


def traffic(bench: Bench) -> str:
    """Every message, and every byte of its payload, is in the ledger.

    What a reply says never crossed the link that one process stands for (`LINK`) is left out.
    """
    sent: dict[tuple[int, int, str], list[int]] = {}
    spared: Counter[tuple[int, int, str]] = Counter()

    def watched(rounds: Rounds) -> None:
        def note(message: Message, client: int, direction: str) -> None:
            number = sum(fields(message.content).values())
            sent.setdefault((rounds.server.round, client, direction), []).append(number)

        counting = rounds.ledger.exchange

        def exchange(round: int, client: int, message: Message, reply: Message) -> Any:
            if reply.has_content():
                for name, count in reply.content.config_records.get(LINK, {}).items():
                    spared[round, client, name.partition("/")[0]] -= min(cast(int, count), 0)
            return counting(round, client, message, reply)

        _replace(rounds.ledger, "exchange", exchange)
        strategy: Any = rounds.strategy
        asks, hears = ["configure_evaluate"], ["aggregate_evaluate"]
        if makes_exchanges(strategy):
            _replace(strategy, "next", exchanging(strategy.next, rounds, note))
        else:
            asks, hears = [*asks, "configure_train"], [*hears, "aggregate_train"]
        for name in asks:
            _replace(strategy, name, asking(getattr(strategy, name), rounds, note))
        for name in hears:
            _replace(strategy, name, hearing(getattr(strategy, name), rounds, note))

    ran = bench.go(around=watched)
    counted: dict[tuple[int, int, str], list[int]] = {}
    for row in ran.traffic:
        key = (row["round"], row["client"], row["direction"])
        counted.setdefault(key, []).append(sum(row["fields"].values()))
        if row["bytes"] <= 0:
            raise CheckFailed(f"a message of {key} was counted with {row['bytes']} bytes")
    for key in sorted(sent | counted):
        travelled, noted = sum(sent.get(key, [])) - spared[key], sum(counted.get(key, []))
        number, client, direction = key
        if len(sent.get(key, [])) != len(counted.get(key, [])) or travelled > noted:
            raise CheckFailed(
                f"round {number}, client {client}, {direction}: {len(sent.get(key, []))} "
                f"message(s) with {travelled} bytes of payload travelled, "
                f"{len(counted.get(key, []))} with {noted} were counted"
            )
    total = sum(row["bytes"] for row in ran.traffic)
    return f"{len(ran.traffic)} messages, {total} bytes on the wire, all counted"


def asking(
    method: Callable[..., Iterable[Message]], rounds: Rounds, note: Callable[..., None]
) -> Callable[..., list[Message]]:
    """A `configure_...` whose messages are noted."""

    def noted(*args: Any, **kwargs: Any) -> list[Message]:
        messages = list(method(*args, **kwargs))
        for message in messages:
            note(message, rounds.grid.client(message), "down")
        return messages

    return noted


def hearing(
    method: Callable[..., Any], rounds: Rounds, note: Callable[..., None]
) -> Callable[..., Any]:
    """An `aggregate_...` whose replies are noted."""

    def noted(number: int, replies: Iterable[Message]) -> Any:
        def each() -> Iterable[Message]:
            for reply in replies:
                note(reply, rounds.grid.client_of(reply.metadata.src_node_id), "up")
                yield reply

        return method(number, each())

    return noted


def exchanging(
    method: Callable[..., Exchange | None], rounds: Rounds, note: Callable[..., None]
) -> Callable[..., Exchange | None]:
    """A `next` whose exchanges' messages and replies are noted."""

    def noted(state: RoundState) -> Exchange | None:
        found = method(state)
        if found is None:
            return None
        made, aggregate = found.made, found.aggregate

        def heard(replies: Iterable[Message]) -> Any:
            return hearing(lambda _, each: aggregate(each), rounds, note)(state.round, replies)

        return replace(found, messages=asking(made, rounds, note), aggregate=heard)

    return noted


class _Gone(Simulated):
    """Clients that drop out as they are told: of round 1 all, or the first that is asked."""

    def __init__(self, rounds: Rounds, all_of_them: bool) -> None:
        super().__init__(rounds.scenario.faults, rounds.streams)
        self._all, self._first = all_of_them, -1

    def drops_out(self, round: int, client: int, exchange: int = 0) -> bool:
        """Whether the client never answers."""
        if round != 1:
            return False
        if self._first < 0:
            self._first = client
        return self._all or client == self._first


def missing(bench: Bench) -> str:
    """A client that never answers is left out of its round."""

    def gone(rounds: Rounds) -> None:
        rounds.grid._simulated = _Gone(rounds, all_of_them=False)

    ran = bench.go("faults.min_clients=0", around=gone)
    _require_finite(ran, "a client that never answered")
    failed = [row["client"] for row in ran.rounds[0]["failed"]]
    if not failed:
        raise NotApplicable("it asks no client in round 1")
    return f"client {failed[0]} never answered in round 1, the run went on"


def empty(bench: Bench) -> str:
    """A round in which nobody answers leaves the model as it is."""

    def gone(rounds: Rounds) -> None:
        rounds.grid._simulated = _Gone(rounds, all_of_them=True)

    alone = bench.go("faults.min_clients=0", around=gone, last=1)
    if alone.learned:
        raise CheckFailed("a round in which nobody answered changed the model")
    if len(bench.run.rounds) < 2:
        return "nobody answered: the model stayed"
    ran = bench.go("faults.min_clients=0", around=gone)
    _require_finite(ran, "a round in which nobody answered")
    if not ran.learned:
        raise CheckFailed("after a round in which nobody answered, the next one learned nothing")
    return "nobody answered in round 1: the model stayed, and round 2 learned"


def nan(bench: Bench) -> str:
    """A NaN that reaches the strategy is refused or survived, never averaged in silently."""
    from fedsim.errors import RunError

    spoilt: list[str] = []

    def poisoned(rounds: Rounds) -> None:
        aggregate = rounds.strategy.aggregate_train

        def other(number: int, replies: Iterable[Message]) -> Any:
            heard = list(replies)
            if number == 1 and heard:
                spoilt.extend(_spoil(heard[0]))
            return aggregate(number, heard)

        _replace(rounds.strategy, "aggregate_train", other)

    try:
        ran = bench.go(around=poisoned)
    except RunError as error:
        if not spoilt:
            raise
        return f"refused, the run stops: {textwrap.shorten(str(error).splitlines()[0], 120)}"
    if not spoilt:
        raise NotApplicable("no reply carries floating numbers")
    _require_finite(ran, "a reply with NaN")
    if any(value is None for row in ran.rounds for value in row["metrics"].values()):
        return f"survived (NaN in {spoilt[0]!r} of one reply), but a metric became undefined"
    return f"survived: NaN in {spoilt[0]!r} of one reply, and the model is finite"


def _spoil(reply: Message) -> list[str]:
    """Put NaN into all floating arrays of a reply; the names of the records."""
    names = []
    for name, record in list(reply.content.array_records.items()):
        values = {key: np.array(value) for key, value in tensors(record).items()}
        floats = [value for value in values.values() if value.dtype.kind == "f" and value.size]
        for value in floats:
            value.flat[0] = np.nan
        if floats:
            reply.content[name] = tensor_record(values)
            names.append(name)
    return names


def _require_finite(ran: Ran, after: str) -> None:
    if not all(finite(model) for model in ran.models):
        raise CheckFailed(f"after {after} the model holds NaN or infinite values, and nobody said")


def _replace(strategy: Any, name: str, method: Callable[..., Any]) -> None:
    """Put a function in the place of a method of this object."""
    try:
        setattr(strategy, name, method)
    except AttributeError as error:
        raise NotApplicable(f"its class does not let {name} be watched") from error


CHECKS: dict[str, Callable[[Bench], str]] = {
    "rounds with different clients": rounds,
    "something is learned": learned,
    "the same seed, the same bits": same_bits,
    "replies in another order": order,
    "state survives a checkpoint": state,
    "no global randomness": randomness,
    "bytes are counted": traffic,
    "a client that is missing": missing,
    "a round without replies": empty,
    "an update that is NaN": nan,
    ON_RAY: on_ray,
}
