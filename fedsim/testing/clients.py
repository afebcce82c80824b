"""Checks of a client method."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any
from unittest import mock

from flwr.app import Message

from fedsim.engine.loop import Rounds
from fedsim.folder.storing import decode
from fedsim.method.capabilities import capabilities
from fedsim.method.faults import Failure
from fedsim.testing import strategies
from fedsim.testing.bench import Bench, Draws, difference, undisturbed
from fedsim.testing.verdicts import ON_RAY, CheckFailed, NotApplicable
from fedsim.wire.flower import tensors


def learned(bench: Bench) -> str:
    """What the clients send must change the model."""
    return strategies.require_learned(bench.run)


def counts(bench: Bench) -> str:
    """Each reply says how many records it stands for."""
    for row in bench.run.rounds:
        for client in row["clients"]:
            heard = row["metrics_by_client"].get(str(client), {})
            # Of an exchange of another kind the number has that kind before it.
            if not any(name.endswith("num-examples") for name in heard):
                raise CheckFailed(
                    f"the reply of client {client} in round {row['round']} has no num-examples in "
                    "a MetricRecord: averages need it"
                )
    return "each reply has num-examples"


def order(bench: Bench) -> str:
    """Nothing of one client is left on the object for the next."""

    def backwards(rounds: Rounds) -> None:
        grid: Any = rounds.grid
        execute = grid._execute

        def other(messages: list[Message]) -> Generator[Message | Failure]:
            yield from list(execute(messages[::-1]))[::-1]

        grid._execute = other

    if where := difference(bench.run, bench.go(around=backwards)):
        raise CheckFailed(
            f"clients that run in another order give other bits: {where} differs; what one site "
            "leaves on self, on the class or in a module, the next one meets"
        )
    return "clients in the reverse order: the same bits"


def fresh(bench: Bench) -> str:
    """A client object may be another one for each message."""

    def renewed(rounds: Rounds) -> None:
        grid: Any = rounds.grid
        execute = grid._execute

        def other(messages: list[Message]) -> Generator[Message | Failure]:
            for message in messages:
                grid._worker.forget_method()
                yield from execute([message])

        grid._execute = other

    if where := difference(bench.run, bench.go(around=renewed)):
        raise CheckFailed(
            f"with a new client object for each message {where} differs: what must survive a "
            "message goes into site.state"
        )
    return "a new object for each message: the same bits"


def randomness(bench: Bench) -> str:
    """Chance comes from the site's streams."""
    draws = Draws()
    with undisturbed("making or running it"), _watched(bench, draws.watch):
        bench.go()
    if used := draws.words("random", "numpy.random"):
        raise CheckFailed(
            f"it draws from a global generator ({used}): draw from site.numpy_generator(purpose)"
        )
    if used := draws.words("torch"):
        return f"none disturbed; {used}: as initialisation and dropout do; fedsim seeds it"
    return "none used, none disturbed"


def untouched(bench: Bench) -> str:
    """What the server sent is shared with other clients, and stays as it is."""
    edited: set[str] = set()

    def watch(method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(self: Any, content: Any, site: Any) -> Any:
            records = {
                key: {n: value.tobytes() for n, value in tensors(record).items()}
                for key, record in content.array_records.items()
            }
            kept = dict(content.array_records.items())
            reply = method(self, content, site)
            for key, values in records.items():
                now = {n: value.tobytes() for n, value in tensors(kept[key]).items()}
                if now != values:
                    edited.add(f"{key!r} in {name}")
            return reply

        return watched

    with _watched(bench, watch):
        bench.go(last=1)
    if edited:
        raise CheckFailed(
            f"it writes into the arrays that the server sent ({', '.join(sorted(edited))}): copy "
            "them first"
        )
    return "what the server sent stayed as it was"


@contextlib.contextmanager
def _watched(bench: Bench, watch: Callable[[Callable[..., Any], str], Any]) -> Iterator[None]:
    """Watch `train` and `evaluate` of the client's class."""
    if not isinstance(bench.factory, type):
        raise NotApplicable("a Flower ClientApp brings its own data and randomness")
    with contextlib.ExitStack() as stack:
        for name in ("train", "evaluate"):
            method = getattr(bench.factory, name)
            stack.enter_context(mock.patch.object(bench.factory, name, watch(method, name)))
        yield


def payload(bench: Bench) -> str:
    """What it sends is declared, so that a strategy that cannot read it is refused."""
    if not isinstance(bench.factory, type):
        raise NotApplicable("a Flower ClientApp declares nothing")
    can = capabilities(bench.factory)
    declared = can.payload
    sent = {name for row in bench.run.traffic if row["direction"] == "up" for name in row["fields"]}
    kept = {
        name
        for state in bench.run.states.values()
        for name in decode(state)
        if not name.startswith("fedsim.")  # fedsim's own: parameters that stay at the client
    }
    if kept and can.keeps_state is False:
        raise CheckFailed(
            f"it declares keeps_state = False, and site.state keeps {', '.join(sorted(kept))}"
        )
    if declared == "nothing" and sent - {"metrics"}:
        raise CheckFailed(f'it declares payload "nothing" and sends {", ".join(sorted(sent))}')
    if declared:
        return f"payload {declared!r}: {', '.join(sorted(sent))}"
    return f"sends {', '.join(sorted(sent))}; payload is not declared, so nothing is refused"


CHECKS: dict[str, Callable[[Bench], str]] = {
    "rounds with different clients": strategies.rounds,
    "something is learned": learned,
    "num-examples are reported": counts,
    "what it sends": payload,
    "the same seed, the same bits": strategies.same_bits,
    "clients in another order": order,
    "nothing is kept on the object": fresh,
    "state survives a checkpoint": strategies.state,
    "no global randomness": randomness,
    "the broadcast stays as it is": untouched,
    "bytes are counted": strategies.traffic,
    ON_RAY: strategies.on_ray,
}
