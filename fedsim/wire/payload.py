"""Compression around a method: its models are made smaller where they leave, and whole on arrival.

A strategy and a client method know nothing of it (`wire` of a scenario):

* up: of the model in an answer to training, the change against the model that the client received
  is compressed. The server adds what arrives to the model that it sent, so a strategy is handed a
  model as without compression;
* down: parameters are encoded as they are, where `wire.down` says so;
* records that a strategy declares as changes (`Strategy.changes`): both ways alike. The server adds
  them up, so what is left out of one always stays with the client and is added to its next one:
  else its errors would add up, too;
* error feedback: what compression left out of a change stays with the client, in its state, and is
  added to its next one (Seide et al., 2014; Karimireddy et al., "Error Feedback Fixes SignSGD and
  other Gradient Compression Schemes", 2019, Algorithm 2).

Buffers, integer tensors, and other records beside the model travel as they are. So does a model
that is no numbers: who receives it must see that.

Compression comes after all that a client does: where its answer has noise, it is compressed noise
and all, which costs no epsilon (post-processing).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from numpy.typing import NDArray

from fedsim.randomness import SERVER, Streams
from fedsim.wire import flower
from fedsim.wire.buffers import Roles, record_of
from fedsim.wire.codecs import BYTES_PER_VALUE, RANGE_SUFFIX, decode_tensors, encode_tensors
from fedsim.wire.compression import CODES, POSITIONS, RANGES, Compression, rows_of

if TYPE_CHECKING:
    from fedsim.scenario.schema import Wire

RESIDUAL = "fedsim.residual"
"""The record of a client's state with what compression left out of what it sent."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_Model = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Payload:
    """What is done to the models in messages, at both ends.

    Attributes:
        settings: the scenario's `wire`; None leaves all messages as they are.
        roles: what the tensors of the model's state are.
        seed: of the run.
        changes: records beside the model that are changes, as the strategy declares them.
    """

    settings: Wire | None
    roles: Roles
    seed: int
    changes: tuple[str, ...] = ()

    def sizes(self, model: Mapping[str, NDArray[Any]]) -> tuple[int, int]:
        """Bytes of a model's arrays in a message, and in the answer to training.

        Args:
            model: name -> array, as the server has it.
        """
        travels = [name for name in self.roles.order if name not in self.roles.constants]
        whole = sum(model[name].nbytes for name in travels)
        coded = [model[n] for n in travels if n in self.roles.parameters and _has_codes(model[n])]
        if self.settings is None or not coded:
            return whole, whole
        rest = whole - sum(value.nbytes for value in coded)
        rows, down = rows_of([value.shape for value in coded]), self.settings.down
        sent = BYTES_PER_VALUE[down] * sum(value.size for value in coded)
        if down == "uint8":
            sent += 8 * sum(count for count, _ in rows)
        compression = Compression(self.settings)
        return (
            whole if down == "float32" else rest + sent,
            whole if compression.lossless else rest + compression.bytes(rows),
        )

    # --- The server's side -----------------------------------------------------------------------

    def sent(self, messages: Iterable[Message]) -> list[Message]:
        """The messages as they leave; contents that they share stay shared."""
        if self.settings is None or self.settings.down == "float32":
            return list(messages)
        made: dict[int, tuple[RecordDict, RecordDict]] = {}
        leaving = []
        for message in messages:
            content = message.content
            # The content is kept so that nothing else can take its id.
            if id(content) not in made:
                made[id(content)] = content, self._encoded(content)
            leaving.append(flower.make_message(made[id(content)][1], message.metadata))
        return leaving

    def arrived(self, message: Message, reply: Message, round: int) -> Message:
        """A reply with its model as a client without compression would have sent it.

        Args:
            message: that it answers, as the strategy made it.
            reply: as it arrived; stays as it is.
            round: the current one.

        Raises:
            ValueError: what arrived was not made by `compress`.
        """
        if self.settings is None or not reply.has_content():
            return reply
        arrived = reply.content.array_records
        coded = [n for n in (self.roles.record, *self.changes) if CODES in arrived.get(n, ())]
        if not coded:
            return reply
        content = RecordDict(dict(reply.content.items()))
        for name in coded:
            model = name == self.roles.record
            start = self._model_in(message.content) if model else _values(message.content, name)
            if start is None:
                raise ValueError(f"a compressed record {name!r} answers a message that had none.")
            content[name] = self._decoded(arrived[name], start, round, moved=model)
        return flower.make_message(content, reply.metadata)

    # --- The client's side -----------------------------------------------------------------------

    def opened(self, content: RecordDict) -> _Model | None:
        """Decode the model of a message in place; its parameters, {} where it has no model.

        What comes back is what `compress` needs; None where nothing is compressed.
        """
        if self.settings is None:
            return None
        record = content.array_records.get(self.roles.record)
        ranges = {} if record is None else {n for n in record if n.endswith(RANGE_SUFFIX)}
        if record is not None and self.settings.down != "float32":
            found = {n: v for n, v in flower.tensors(record).items() if self._coded(n)}
            plain = {n: a for n, a in record.items() if n not in found and n not in ranges}
            content[self.roles.record] = _joined(decode_tensors(found), plain, self.roles)
        for name in self.changes if self.settings.down != "float32" else ():
            if (beside := content.array_records.get(name)) is not None:
                content[name] = flower.tensor_record(decode_tensors(flower.tensors(beside)))
        return self._model_in(content) or {}

    def compress(
        self,
        content: RecordDict,
        start: Mapping[str, NDArray[Any]] | None,
        state: RecordDict,
        round: int,
        rounding: np.random.Generator,
    ) -> None:
        """Compress the model of an answer to training, in place.

        Args:
            content: of the reply, without what does not travel.
            start: the parameters that the client received, as `opened` gave them.
            state: of the client; has, and takes, what was left out.
            round: the current one.
            rounding: the client's own draws.
        """
        if self.settings is None or not start or Compression(self.settings).lossless:
            return

        def compress(name: str, changes: _Model, residual: str) -> None:
            coded = self._coded_change(changes, state, residual, round, rounding)
            if coded is None:
                return
            plain = {n: a for n, a in content.array_records[name].items() if n not in changes}
            content[name] = record_of(dict(flower.tensor_record(coded, copy=False)) | plain)

        after = self._model_in(content)
        if after is None or not _alike(after, start):
            return
        change = {n: after[n].astype(np.float64) - start[n] for n in start}
        compress(self.roles.record, change, RESIDUAL if self.settings.error_feedback else "")
        for name in self.changes:
            if beside := _values(content, name):
                compress(name, beside, f"{RESIDUAL}.{name}")

    def _coded_change(
        self,
        changes: _Model,
        state: RecordDict,
        residual: str,
        round: int,
        rounding: np.random.Generator,
    ) -> _Model | None:
        """The arrays that stand for changes; None where they are no numbers.

        Args:
            changes: one after another.
            state: of the client; has, and takes, what was left out.
            residual: the record of the state with that; "": it is forgotten.
            round: the current one.
            rounding: the client's own draws.
        """
        assert self.settings is not None
        compression = Compression(self.settings)
        change = np.concatenate(
            [value.astype(np.float64).reshape(-1) for value in changes.values()]
        )
        if residual in state.array_records:
            change += flower.tensors(state.array_records[residual])["residual"]
        if not np.isfinite(change).all():
            return None
        vector = np.clip(change, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)
        rows = rows_of([value.shape for value in changes.values()])
        coded = compression.encode(vector, rows, rounding, lambda: self._hashes(round))
        if residual:
            left = vector - compression.decode(coded, rows, lambda: self._hashes(round))
            state[residual] = flower.tensor_record({"residual": left}, copy=False)
        return coded

    # --- Both ------------------------------------------------------------------------------------

    def _model_in(self, content: RecordDict) -> _Model | None:
        """The floating parameters of the model in a message, in the state's order; None: no model.

        Parameters without values are left to travel as they are.
        """
        record = content.array_records.get(self.roles.record)
        if record is None or not self.roles.parameters <= set(record):
            return None
        values = flower.tensors(record)
        named = (name for name in self.roles.order if name in self.roles.parameters)
        return {n: values[n] for n in named if _has_codes(values[n])}

    def _decoded(self, record: ArrayRecord, start: _Model, round: int, moved: bool) -> ArrayRecord:
        """A record as it was before it was compressed.

        Args:
            record: as it arrived.
            start: the arrays of the message that it answers.
            round: the current one.
            moved: whether it holds a model: then the changes are added to `start`.

        Raises:
            ValueError: it was not made by `compress`.
        """
        assert self.settings is not None
        values = flower.tensors(record)
        coded = {name: values[name] for name in (CODES, RANGES, POSITIONS) if name in values}
        rows = rows_of([value.shape for value in start.values()])
        change = Compression(self.settings).decode(coded, rows, lambda: self._hashes(round))
        plain = {name: array for name, array in record.items() if name not in coded}
        base = start if moved else {n: np.zeros_like(value) for n, value in start.items()}
        return _joined(_moved(base, change), plain, self.roles if moved else Roles())

    def _encoded(self, content: RecordDict) -> RecordDict:
        """A content with its model's parameters encoded; the same one where it has no model."""
        assert self.settings is not None
        model = self._model_in(content)
        if model is None or not _finite(model):
            return content
        fresh = RecordDict(dict(content.items()))
        record = content.array_records[self.roles.record]
        coded = flower.tensor_record(encode_tensors(model, self.settings.down), copy=False)
        fresh[self.roles.record] = record_of(dict(record) | dict(coded), self.roles.order)
        for name in self.changes:
            if (beside := _values(content, name)) and _finite(beside):
                encoded = flower.tensor_record(encode_tensors(beside, self.settings.down))
                fresh[name] = record_of(dict(content.array_records[name]) | dict(encoded))
        return fresh

    def _coded(self, name: str) -> bool:
        """Whether an array of a message is one that `_encoded` may have made."""
        return name.removesuffix(RANGE_SUFFIX) in self.roles.parameters

    def _hashes(self, round: int) -> np.random.Generator:
        """The draws of a round's sketches, which the server and all clients make alike."""
        return Streams(self.seed).numpy("wire-sketch", round, SERVER)


def _has_codes(value: NDArray[Any]) -> bool:
    """Whether a parameter is of floating numbers: what else a model has travels as it is."""
    return value.dtype.kind == "f" and value.size > 0


def _values(content: RecordDict, name: str) -> _Model | None:
    """The floating arrays of a record that have values, in order of names; None: no such record."""
    if name not in content.array_records:
        return None
    found = flower.tensors(content.array_records[name])
    return {n: found[n] for n in sorted(found) if _has_codes(found[n])}


def _finite(model: _Model) -> bool:
    return all(np.isfinite(value).all() for value in model.values())


def _alike(model: _Model, other: Mapping[str, NDArray[Any]]) -> bool:
    """Whether two models have the same floating parameters, of the same shapes."""
    return {n: v.shape for n, v in model.items()} == {n: v.shape for n, v in other.items()}


def _moved(start: _Model, change: NDArray[np.float32]) -> _Model:
    """A model after a change, float32."""
    moved, at = {}, 0
    for name, value in start.items():
        part = change[at : at + value.size].reshape(value.shape)
        found = np.clip(value.astype(np.float64) + part, -_FLOAT32_MAX, _FLOAT32_MAX)
        moved[name] = np.asarray(found, dtype=np.float32)
        at += value.size
    return moved


def _joined(
    model: Mapping[str, NDArray[Any]], plain: Mapping[str, Array], roles: Roles
) -> ArrayRecord:
    """A record of a model's arrays and of others, in the state's order."""
    return record_of(dict(flower.tensor_record(model, copy=False)) | dict(plain), roles.order)
