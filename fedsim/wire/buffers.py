"""Buffers are not weights: what of a model's state a strategy is handed, and what the engine keeps.

A strategy optimises, extrapolates or adds noise to what it is handed: the parameters. The rest of a
model's state is carried past it:

* floating buffers (running statistics) go down with every model and come back; the engine averages
  them. In a private run they stay as they are at the server;
* integer and bool tensors (tables of positions, counters) go down to a client that does not have
  them yet, once, and do not come back: the server's value is the only one;
* counters of batch normalisation (`num_batches_tracked`) and buffers that are not part of the
  state do not travel.

Beside a strategy goes also what does not travel at all (`fedsim.wire.sharing`): parts of the model
that stay at each client, in its state, and frozen ones, which all have from the first arrays. A
client method gets a whole model, and may send one back: what stays is added to what came, and taken
out of what goes.

No strategy, codec or client method needs to know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedsim.errors import DivergedError
from fedsim.wire import add_scaled, flower
from fedsim.wire.sharing import Sharing

HELD = "fedsim.constants"
"""The record of a client's state with the integer tensors that it was sent."""
LOCAL = "fedsim.local"
"""The record of a client's state with its own parts of the model, once it has trained."""
STAYS = "fedsim.stays"
"""The record of a client's message with the names of what was added at the client."""


@dataclass(frozen=True)
class Roles:
    """What the tensors of a model's state are, by the names that they travel under.

    Attributes:
        order: all names that travel, in the state's order.
        parameters: floating (or complex) parameters.
        frozen: those of them that no gradient moves.
        averaged: floating (or complex) buffers.
        constants: integer and bool tensors.
        silent: names of the state that do not travel: further names of tied tensors, and counters.
        record: the record of a message that holds the model.
        local: what stays at each client, which has its own.
        fixed: what nobody trains and all have.
        whole: the names of the whole model, in the state's order; `order`, `local` and `fixed`.
    """

    order: tuple[str, ...] = ()
    parameters: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    averaged: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    record: str = "arrays"
    local: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    whole: tuple[str, ...] = ()

    @property
    def stays(self) -> frozenset[str]:
        """All that has a place in the model, and does not travel."""
        return self.local | self.fixed

    @property
    def buffers(self) -> frozenset[str]:
        """All that travels and is no parameter."""
        return self.averaged | self.constants

    def model_in(self, content: RecordDict, *, trained: bool = True) -> str | None:
        """The name of the record that holds the model: the agreed one, or the only one that can.

        Args:
            content: of a message or a reply.
            trained: whether it answers training, or asks for it. An answer to something else may
                have another record with the names of the parameters, such as a gradient: no record
                but the agreed one is a model then.
        """
        found = self.models_in(content)
        if not trained:
            return self.record if self.record in found else None
        return found[0] if len(found) == 1 else None

    def models_in(self, content: RecordDict) -> list[str]:
        """The name of that record or, where none is agreed, all that can hold a model.

        What lies beside the agreed record is none, though it may have the names of the parameters,
        as a control variate has.
        """
        records = content.array_records if self.parameters else {}
        whole = [name for name, record in records.items() if self.parameters <= set(record)]
        return [self.record] if self.record in whole else whole


def roles_of(
    model: torch.nn.Module, record: str = "arrays", sharing: Sharing | None = None
) -> Roles:
    """What the tensors of a model's state are.

    Args:
        model: the model; its `named_parameters` and its state say what is what.
        record: the record of a message that holds the model.
        sharing: what of it does not travel; None: all of it does.
    """
    sharing = sharing or Sharing()
    state = model.state_dict()
    carriers = flower.carriers(state)
    whole = tuple(dict.fromkeys(carriers.values()))
    order = tuple(name for name in whole if name not in sharing.stays)
    parameters = flower.parameter_names(model) - sharing.stays
    named = dict(model.named_parameters(remove_duplicate=False))
    trained = {carriers[n] for n, p in named.items() if n in carriers and p.requires_grad}
    inexact = frozenset(name for name in order if flower.is_inexact(state[name]))
    return Roles(
        order=order,
        parameters=parameters,
        frozen=parameters - trained,
        averaged=inexact - parameters,
        constants=frozenset(order) - inexact,
        silent=frozenset(state) - set(whole),
        record=record,
        local=sharing.local,
        fixed=sharing.frozen,
        whole=whole,
    )


class Buffers:
    """The server's side: what goes past the strategy, for the length of a run.

    Args:
        roles: of the run's model.
        average: whether what clients send of floating buffers counts. Not in a private run: no
            mechanism covers it.
        weighted: the number in a reply's metrics that weights it; None counts every client once.
    """

    def __init__(
        self, roles: Roles, average: bool = True, weighted: str | None = "num-examples"
    ) -> None:
        self.roles = roles
        self._average, self._weighted = average, weighted
        self._arrays = ArrayRecord()
        self._sums: dict[str, np.ndarray] = {}
        self._weights: dict[str, float] = {}
        self._moved: set[str] = set()

    @property
    def current(self) -> dict[str, np.ndarray]:
        """What of the server's arrays goes past the strategy, by name."""
        found = flower.tensors(self._arrays)
        wanted = (self.roles.buffers | self.roles.stays) & set(found)
        return {name: found[name] for name in self.roles.whole or found if name in wanted}

    @property
    def stays(self) -> ArrayRecord:
        """The server's arrays of what does not travel: the first ones, for they never change."""
        return record_of({n: self._arrays[n] for n in self.roles.whole if n in self.roles.stays})

    def note(self) -> str:
        """What travels of the model, in a line; "" where all of it does."""
        roles = self.roles
        if not roles.stays:
            return ""
        sizes = {name: array.nbytes / 1e6 for name, array in flower.tensors(self._arrays).items()}
        parts = []
        for names, what in ((roles.local, "stay at each client"), (roles.fixed, "are frozen")):
            if names:
                size = sum(sizes[name] for name in names)
                parts.append(f"{len(names)} ({size:.3f} MB) {what}")
        size = sum(sizes[name] for name in roles.order)
        return f"{len(roles.order)} arrays of the model travel ({size:.3f} MB); {', '.join(parts)}"

    def begin(self, arrays: ArrayRecord) -> ArrayRecord:
        """Take the global arrays; what the strategy is handed of them."""
        self._arrays = arrays
        self._sums, self._weights, self._moved = {}, {}, set()
        return self._only_parameters(arrays)

    def complete(
        self, messages: Iterable[Message], states: Mapping[int, RecordDict]
    ) -> list[Message]:
        """The messages, with the buffers added to each model in them.

        Args:
            messages: from a strategy; contents that they share stay shared.
            states: node id -> the state of the client there.
        """
        roles = self.roles
        if not roles.buffers:
            return list(messages)
        made: dict[tuple[int, bool], RecordDict] = {}
        completed = []
        for message in messages:
            node, content = message.metadata.dst_node_id, message.content
            send = bool(roles.constants) and not self._holds(states[node])
            if (id(content), send) not in made:
                made[id(content), send] = self._completed(content, send)
            completed.append(flower.make_message(made[id(content), send], message.metadata))
        return completed

    def take(self, content: RecordDict, *, trained: bool = True) -> None:
        """Leave only parameters in the model of a reply, and keep the buffers for the average.

        Args:
            content: of the reply.
            trained: whether it answers training.
        """
        name = self.roles.model_in(content, trained=trained)
        if name is None or not self.roles.buffers:
            return
        record = content.array_records[name]
        if self._average:
            weight = self._weight(content)
            values = flower.tensors(record)
            for buffer in self.roles.averaged & set(record):
                self._add(buffer, values[buffer], weight)
        content[name] = self._only_parameters(record)

    def restored(self, arrays: ArrayRecord) -> ArrayRecord:
        """What a strategy returned, with what it was not handed and did not return itself."""
        stays = self.roles.stays
        if not self.roles.buffers | stays:
            return arrays
        found, current = dict(arrays), self.current
        found |= {name: self._arrays[name] for name in stays}
        kept = flower.tensors(arrays)
        missing: dict[str, np.ndarray] = {}
        for name, value in current.items():
            if name in stays:
                continue
            constant = name in self.roles.constants
            if name not in found or (constant and kept[name].dtype != value.dtype):
                missing[name] = value if constant else self._mean(name, value)
        found |= dict(flower.tensor_record(missing))
        return record_of(found, self.roles.whole or self.roles.order)

    def of_client(self, arrays: ArrayRecord, state: RecordDict) -> ArrayRecord:
        """The whole model of a client: the global arrays, and its own parts of the model."""
        own = dict(state.array_records.get(LOCAL, {}))
        return record_of(dict(arrays) | own, self.roles.whole)

    def like(self, arrays: ArrayRecord, model: ArrayRecord) -> ArrayRecord:
        """A model whose frozen parts are the very arrays of another: they are stored once."""
        if not self.roles.fixed:
            return model
        return record_of(dict(model) | {name: arrays[name] for name in self.roles.fixed})

    def give(self, model: torch.nn.Module) -> torch.nn.Module:
        """Write what goes past the strategy into a model, and return it."""
        state = model.state_dict()
        for name, value in self.current.items():
            state[name].copy_(torch.tensor(value))
        return model

    def _only_parameters(self, arrays: ArrayRecord) -> ArrayRecord:
        beside = self.roles.buffers | self.roles.stays
        if not beside & set(arrays):
            return arrays
        return record_of({n: array for n, array in arrays.items() if n not in beside})

    def _completed(self, content: RecordDict, send: bool) -> RecordDict:
        wanted = self.roles.buffers if send else self.roles.averaged
        fresh = RecordDict(dict(content.items()))
        for name in self.roles.models_in(content):
            record = dict(content.array_records[name])
            record |= {n: self._arrays[n] for n in wanted if n not in record}
            fresh[name] = record_of(record, self.roles.order)
        return fresh

    def _holds(self, state: RecordDict) -> bool:
        """Whether a client has the server's integer tensors."""
        if HELD not in state.array_records:
            return False
        held, current = flower.tensors(state.array_records[HELD]), self.current
        return all(
            name in held
            and held[name].dtype == current[name].dtype
            and np.array_equal(held[name], current[name])
            for name in self.roles.constants
        )

    def _weight(self, content: RecordDict) -> float:
        if self._weighted is None:
            return 1.0
        for metrics in content.metric_records.values():
            value = metrics.get(self._weighted)
            if isinstance(value, int | float):
                return float(value)
        return 1.0

    def _add(self, name: str, value: np.ndarray, weight: float) -> None:
        if not np.array_equal(value, flower.tensors(self._arrays)[name], equal_nan=True):
            self._moved.add(name)
        add_scaled(self._sums, name, value, weight)
        self._weights[name] = self._weights.get(name, 0.0) + weight

    def _mean(self, name: str, value: np.ndarray) -> np.ndarray:
        """The clients' mean of a floating buffer; `value`, the server's, where it did not move."""
        if name not in self._moved or not self._weights[name]:
            return value
        return np.asarray(self._sums[name] / self._weights[name]).astype(value.dtype)


def receive(
    roles: Roles, content: RecordDict, state: RecordDict, first: ArrayRecord | None = None
) -> None:
    """The client's side: make each model of a message whole.

    The integer tensors that a message brings are kept, or the kept ones are added; so are the
    client's own parts of the model, and the frozen ones. A record of names says what was added.

    Args:
        roles: of the run's model.
        content: of the message.
        state: of the client.
        first: the first arrays of all that stays; needed where something does.
    """
    if not roles.constants | roles.stays:
        return
    for name in roles.models_in(content):
        record = dict(content.array_records[name])
        if roles.constants and roles.constants <= set(record):
            state[HELD] = record_of(
                {n: array for n, array in record.items() if n in roles.constants}
            )
        elif HELD in state.array_records:
            record = dict(state.array_records[HELD]) | record
        if roles.stays:
            assert first is not None
            own = state.array_records.get(LOCAL, first)
            record |= {n: own[n] if n in roles.local else first[n] for n in roles.stays}
            content[STAYS] = ConfigRecord({"names": sorted(roles.stays)})
        content[name] = record_of(record, roles.whole or roles.order)


def withhold(
    roles: Roles,
    content: RecordDict,
    state: RecordDict | None = None,
    first: ArrayRecord | None = None,
    *,
    needed: bool = True,
) -> None:
    """The client's side: leave out of a reply's models what does not travel to the server.

    Args:
        roles: of the run's model.
        content: of the reply.
        state: of the client; takes its own parts of the model, as training left them. None where
            nothing was trained.
        first: the first arrays of all that stays.
        needed: whether the reply answers training, and must hold the whole model. Where it need
            not, and does not, the client's own parts stay as they were.

    Raises:
        ValueError: the reply lacks what is to be kept, or holds it in another form.
        DivergedError: what is to be kept is no numbers.
    """
    name = roles.model_in(content, trained=needed)
    if roles.local and state is not None and (needed or name is not None):
        record = content.array_records[name] if name else ArrayRecord()
        state[LOCAL] = _own_parts(roles, record, first or ArrayRecord())
    unsent = roles.constants | roles.silent
    for one, record in list(content.array_records.items()):
        # What stays does not travel in other records of the model's form, either.
        mine = unsent if one == name else frozenset()
        mine |= roles.stays if roles.stays and roles.parameters <= set(record) else frozenset()
        if mine & set(record):
            content[one] = record_of({n: array for n, array in record.items() if n not in mine})


def _own_parts(roles: Roles, record: ArrayRecord, first: ArrayRecord) -> ArrayRecord:
    """What of a client's answer stays with it."""
    missing = roles.local - set(record)
    if missing:
        raise ValueError(
            f"the reply's model lacks {', '.join(sorted(missing)[:5])}, which stay with the client "
            "(federation.local): a client method must answer with the whole model"
        )
    own = record_of({name: record[name] for name in roles.whole if name in roles.local})
    begun = flower.tensors(first)
    for name, values in flower.tensors(own).items():
        form = values.shape, values.dtype
        if form != (begun[name].shape, begun[name].dtype):
            raise ValueError(
                f"the reply holds {name!r} as {values.dtype} {list(values.shape)}: what stays with "
                "the client is not encoded (fedsim.method.updates.update)"
            )
        # A mask may be infinite from the first.
        wrong = values.dtype.kind in "fc" and not np.isfinite(values).all()
        if wrong and not np.array_equal(values, begun[name], equal_nan=True):
            raise DivergedError
    return own


def record_of(arrays: Mapping[str, Array], order: Iterable[str] = ()) -> ArrayRecord:
    """A record of these very arrays (Flower's constructor copies them): first those of `order`."""
    record = ArrayRecord()
    for name in dict.fromkeys([*(name for name in order if name in arrays), *arrays]):
        record[name] = arrays[name]
    return record
