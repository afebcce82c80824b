"""What is stored comes back to the bit, and bytes that are not ours are refused, never executed."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, seed
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fedsim.folder.storing import (
    FORMAT,
    DamagedError,
    OtherFormatError,
    UnstorableError,
    decode,
    encode,
    require_storable,
)
from fedsim.wire.flower import tensor_record, tensors


def back(value: Any) -> Any:
    return decode(bytes(encode(value)))


def same(one: Any, other: Any) -> bool:
    """Equal in type and in every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        a, b = np.asarray(one), np.asarray(other)
        layout = a.flags.f_contiguous == b.flags.f_contiguous or not b.flags.forc
        return a.dtype == b.dtype and a.shape == b.shape and layout and a.tobytes() == b.tobytes()
    if isinstance(one, torch.Tensor):
        bits = [t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (one, other)]
        alike = one.dtype == other.dtype and one.requires_grad == other.requires_grad
        return alike and one.shape == other.shape and torch.equal(*bits)
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(list(a), list(b)) for a, b in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other if isinstance(one, int) else repr(one) == repr(other)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
)
KEYS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.tuples(inner, inner),
    max_leaves=3,
)
DTYPES = st.one_of(
    arrays_of.scalar_dtypes(),
    arrays_of.floating_dtypes(),
    arrays_of.integer_dtypes(endianness=">"),
    arrays_of.unicode_string_dtypes(),
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0))
)
VALUES = st.recursive(
    st.one_of(SCALARS, ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
    max_leaves=8,
)


@seed(0)
@given(VALUES)
def test_every_value_comes_back_to_the_bit(value: Any) -> None:
    assert same(back(value), value)


BITS = np.random.default_rng(0).integers(0, 256, 96).astype(np.uint8)


@pytest.mark.parametrize(
    "value",
    [
        np.array(7, dtype=np.int64),
        np.array(2.5, dtype=">f8"),
        np.zeros((0, 3), np.float16),
        np.array([True, False]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24).reshape(4, 6)[::2, ::3],
        np.arange(6)[::-1],
        BITS.view(np.float64),
        np.float32(0.1),
        np.int64(-3),
        np.longdouble(1) / 3,
        np.array(["a", "bc"]),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.from_numpy(BITS.copy()).view(torch.bfloat16).reshape(2, 3, -1),
        torch.from_numpy(BITS.copy()).view(torch.float8_e4m3fn),
        torch.arange(6).reshape(2, 3).t(),
        torch.zeros(0, 2, dtype=torch.float16),
        torch.ones(2, requires_grad=True),
        torch.complex(torch.ones(2), torch.zeros(2)).conj().resolve_conj(),
        -0.0,
        5e-324,
        0.1 + 0.2,
        math.nan,
        -math.inf,
        10**5000,
        {3: "client", "3": "text", 3.5: 1, None: 2, (1, "a"): 3},
        OrderedDict(b=1, a=2),
        "\ud800",
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')!s}"[:40],
)
def test_kinds_that_other_formats_lose(value: Any) -> None:
    assert same(back({"x": value}), {"x": value})


def test_what_was_one_array_stays_one_and_can_be_written() -> None:
    array = np.zeros(3)
    found = back({"a": array, "b": [array], "c": array.copy(), "t": torch.from_numpy(array)})
    found["a"][0] = 1.0
    assert found["b"][0][0] == found["t"][0] == 1.0
    assert found["c"][0] == 0.0


def test_records_come_back_with_the_bytes_that_travel() -> None:
    shared = torch.arange(4, dtype=torch.float16)
    content = RecordDict(
        {
            "lazy": tensor_record({"w": torch.ones(2, 2).t(), "n": np.int64(5), "v": shared}),
            "plain": ArrayRecord([np.ones(3, ">f4"), np.array(2)]),
            "foreign": ArrayRecord({"x": Array("uint8", (3,), "custom.bytes", b"abc")}),
            "metrics": MetricRecord({"loss": math.nan, "n": 3, "list": [1.5, 2.5]}),
            "config": ConfigRecord({"b": b"\x00\xff", "s": ["a"], "t": True, "none": []}),
        }
    )
    found = back({"state": content})["state"]
    assert type(found) is RecordDict
    assert list(found) == list(content)
    for name, record in content.items():
        assert type(found[name]) is type(record)
        if isinstance(record, ArrayRecord):
            assert {k: (a.dtype, a.shape, a.stype, a.data) for k, a in record.items()} == {
                k: (a.dtype, a.shape, a.stype, a.data) for k, a in found[name].items()
            }
        else:
            assert repr(found[name]) == repr(record)
    assert not tensors(found["lazy"])["w"].flags.writeable


def _holds_itself() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"velocity": {"w": {1, 2}}}, "state['velocity']['w'] is of type set"),
        ({"a": [1, object()]}, "state['a'][1] is of type object"),
        ({"a": lambda: None}, "state['a'] is of type function"),
        ({"a": np.array([None])}, "state['a'] is an array of Python objects"),
        ({"a": Path("x")}, "state['a'] is of type"),
        ({"a": defaultdict(int)}, "state['a'] is of type defaultdict"),
        ({"a": torch.nn.Linear(1, 1)}, "state['a'] is of type Linear"),
        ({"a": torch.eye(2).to_sparse()}, "state['a'] is a tensor of layout"),
        ({frozenset(): 1}, "the key frozenset() of state is of type frozenset"),
        ({"a": _holds_itself()}, "state['a'][1] is a list that holds itself"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_its_key(value: Any, where: str) -> None:
    for check in (encode, require_storable):
        with pytest.raises(UnstorableError) as error:
            check(value, "state")
        assert str(error.value).startswith(where)
        assert "lists, tuples and dictionaries" in str(error.value)


STORED = bytes(encode({"a": np.arange(5), "b": [1, "x"], "c": 0.5}))


@pytest.mark.parametrize("place", range(len(STORED)))
def test_a_changed_byte_is_found_wherever_it_is(place: int) -> None:
    data = bytearray(STORED)
    data[place] ^= 1
    with pytest.raises(DamagedError):
        decode(bytes(data))


@pytest.mark.parametrize("length", [*range(0, len(STORED), 7), len(STORED) - 1])
def test_a_cut_is_found_wherever_it_is(length: int) -> None:
    for data in (STORED[:length], STORED[:length] + b"\xff" * (len(STORED) - length)):
        with pytest.raises(DamagedError):
            decode(data)
    with pytest.raises(DamagedError):
        decode(STORED + b"\0")


@seed(0)
@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedError):
        decode(data)
    with pytest.raises(DamagedError):  # Even with a checksum that holds.
        decode(_headed(data + b"{"))


def _headed(body: bytes, version: int = FORMAT) -> bytes:
    return f"fedsim {version} {hashlib.sha256(body).hexdigest()}\n".encode() + body


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = np.empty(1, object)
    evil[0] = Evil(mark)
    array = tmp_path / "evil.npy"
    np.save(array, evil, allow_pickle=True)
    for data in (
        pickle.dumps(Evil(mark)),
        _headed(pickle.dumps(Evil(mark))),
        _headed(b'{"array":0}\n' + array.read_bytes()),
        _headed(b'{"tensor":[0,"load","cpu",false]}\n' + STORED[STORED.index(b"\x93NUMPY") :]),
        _headed(b'{"__import__":"os"}\n'),
        _headed(b"[" * 100_000),
    ):
        with pytest.raises(DamagedError):
            decode(data)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the pickle would have run"


def test_another_format_says_which() -> None:
    with pytest.raises(OtherFormatError, match=f"of format 3; this .* reads format {FORMAT}"):
        decode(_headed(STORED, version=3))
