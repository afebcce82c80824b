"""Colluders between receiving and aggregating: what they send in the place of what they trained."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Message
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from numpy.typing import NDArray

from fedsim.adversaries import Forgery, Lab, ModelPoisoning, Scene, Trial
from fedsim.adversaries.conspiracy import Conspiracy
from fedsim.engine.inspection import decoded
from fedsim.errors import InputError, RunError
from fedsim.method.received import Arrays, Received
from fedsim.method.strategy import Strategy
from fedsim.raising import plugin_code
from fedsim.randomness import isolated
from fedsim.wire import flower
from fedsim.wire.codecs import Codec, encode_tensors

if TYPE_CHECKING:
    from fedsim.engine.loop import Rounds


def require_trial(conspiracy: Conspiracy | None, strategy: FlowerStrategy) -> None:
    """Raise InputError where colluders know a rule that cannot be tried."""
    if conspiracy is None or conspiracy.knows != "aggregator":
        return
    if not isinstance(strategy, Strategy) or not callable(getattr(strategy, "combine", None)):
        raise InputError(
            f"adversary.name: {conspiracy.name!r} tries the rule of the server, and what stands "
            "there has none that can be tried: with privacy.unit=client its result is noise that "
            "nobody knows beforehand",
            hint="choose another adversary, or privacy.unit=record",
        )


class Colluders:
    """The colluders of one run.

    Args:
        rounds: the loop that they are in.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._conspiracy = rounds.prepared.conspiracy
        names = rounds.prepared.names
        found = self._conspiracy.clients if self._conspiracy else ()
        self.clients = frozenset(names.index(name) for name in found)

    @property
    def forge(self) -> bool:
        """Whether they change what is sent, and not their data alone."""
        plan = self._conspiracy
        return plan is not None and isinstance(plan.adversary, ModelPoisoning)

    def between(
        self,
        replies: Iterable[tuple[int, Message]],
        sent: Mapping[int, Mapping[str, NDArray[Any]]],
    ) -> Iterator[tuple[int, Message]]:
        """The replies of a training exchange, those of colluders with what they send instead.

        Args:
            replies: client and checked reply, in client order.
            sent: client -> the model that it was sent.
        """
        held = list(replies)
        ours = [at for at, (client, _) in enumerate(held) if client in self.clients]
        if ours:
            self._forge(held, ours, sent)
        yield from held

    def _forge(
        self,
        held: Sequence[tuple[int, Message]],
        ours: Sequence[int],
        sent: Mapping[int, Mapping[str, NDArray[Any]]],
    ) -> None:
        rounds, plan = self._rounds, self._conspiracy
        assert plan is not None
        assert isinstance(plan.adversary, ModelPoisoning)
        number, exchange = rounds.server.round, rounds.server.exchange
        record = rounds.buffers.roles.record
        for _, reply in held:
            if record not in reply.content.array_records:
                raise RunError(
                    f"adversary {plan.name!r} changes models, and a reply of round {number} has "
                    f"none in {record!r}"
                )
        received = [decoded(rounds.strategy, reply, record) for _, reply in held]
        changes = [
            one.change(sent[client]) for one, (client, _) in zip(received, held, strict=True)
        ]
        own = [changes[at] for at in ours]
        known = own if plan.knows == "own" else changes
        scene = Scene(
            clients=len(held),
            own=own,
            known=known,
            sent=dict(sent[held[ours[0]][0]]),
            lab=self._lab([held[at][0] for at in ours]),
            generator=lambda purpose: rounds.server.generator(f"adversary: {purpose}"),
            numpy_generator=lambda purpose: rounds.server.numpy_generator(f"adversary: {purpose}"),
            trial=self._trial(received, ours, dict(sent[held[ours[0]][0]]))
            if plan.knows == "aggregator"
            else None,
            colluders=ours,
        )
        if len(known) < plan.adversary.least:
            forgery = Forgery(own, feasible=False)
        else:
            draws = rounds.streams.sequence("adversary", number, exchange=exchange)
            what = f"adversary {plan.name!r} failed in round {number}"
            with plugin_code(what), isolated(draws):
                forgery = plan.adversary.forge(scene)
                _require_whole(forgery, own)
        told = {name: float(value) for name, value in forgery.told.items()}
        rounds.so_far.attacks.append(
            {
                "exchange": exchange,
                "clients": [held[at][0] for at in ours],
                "feasible": bool(forgery.feasible),
                **told,
            }
        )
        for at, change in zip(ours, forgery.changes, strict=True):
            client, reply = held[at]
            self._write(reply, record, change, received[at], sent[client])

    def _write(
        self,
        reply: Message,
        record: str,
        change: Arrays,
        received: Received,
        sent: Mapping[str, NDArray[Any]],
    ) -> None:
        """Put a forged change into a reply, in the form that the method sends."""
        arrays = reply.content.array_records[record]
        if received.base:
            codec: Codec = getattr(self._rounds.strategy, "codec", "float32")
            moved = {n: value.astype(sent[n].dtype) for n, value in change.items()}
            reply.content[record] = flower.tensor_record(encode_tensors(moved, codec))
            return
        moved = {n: (sent[n] + value).astype(sent[n].dtype) for n, value in change.items()}
        found = {name: moved.get(name, value) for name, value in flower.tensors(arrays).items()}
        reply.content[record] = flower.tensor_record(found)

    def _lab(self, clients: Sequence[int]) -> Lab:
        rounds = self._rounds
        federation, names = rounds.prepared.federation, rounds.prepared.names
        return Lab(
            views=[federation.client_view(names[client]) for client in clients],
            task=rounds.prepared.task,
            new_model=rounds.server.new_model,
            device=rounds.server.device,
            steps=rounds.server.steps,
        )

    def _trial(self, received: Sequence[Received], ours: Sequence[int], sent: Arrays) -> Trial:
        """What the rule makes of forged changes; the strategy is as it was afterwards."""
        strategy: Any = self._rounds.strategy

        def tried(forged: Sequence[Arrays]) -> tuple[Arrays, NDArray[np.float64] | None]:
            before = copy.deepcopy(strategy.state_dict())
            rows = list(received)
            for at, change in zip(ours, forged, strict=True):
                one = received[at]
                arrays = change if one.base else {n: sent[n] + value for n, value in change.items()}
                rows[at] = replace(one, arrays=arrays)  # What else it has of a reply stays.
            found = strategy.combine(rows)
            counted = strategy.counted()
            if counted is None:
                total = sum(one.weight for one in received)
                counted = [one.weight / total for one in received]
            strategy.load_state_dict(before)
            if not received[0].base:
                found = {name: value - sent[name] for name, value in found.items()}
            return found, np.asarray(counted, np.float64)

        return tried


def _require_whole(forgery: Forgery, own: Sequence[Arrays]) -> None:
    """Raise ValueError where a forgery cannot be sent."""
    if len(forgery.changes) != len(own):
        raise ValueError(f"it forged {len(forgery.changes)} changes for {len(own)} colluders")
    for change, honest in zip(forgery.changes, own, strict=True):
        for name, value in honest.items():
            if name not in change or change[name].shape != value.shape:
                raise ValueError(f"what it forged lacks {name!r}, or has another shape of it")
            if not np.isfinite(change[name]).all():
                raise ValueError(f"what it forged of {name!r} is no number: the attack diverged")
