"""Values as bytes and back, without pickle: reading them executes nothing and finds damage.

The bytes are three parts:

* a line `fedsim <format> <SHA-256 of all that follows>`;
* a line of JSON: the value, with each thing that JSON does not know as an object of one key, which
  names its kind;
* the arrays, one after another, each as NumPy's `.npy`.

Numbers keep every bit. Arrays keep dtype, byte order, shape and memory order, and arrays that were
one array stay one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedsim.wire import flower

FORMAT = 2
"""Version of the bytes. Version 1 was a pickle."""

STORABLE = (
    "numbers, text, bytes, bool, None, arrays, tensors, Flower's records, and lists, tuples and "
    "dictionaries of these"
)
"""What can be stored, for messages."""

_WORD = b"fedsim"
_HEAD = len(f"fedsim {FORMAT} ") + 64 + 1
# Integers above these would meet Python's limit on the digits of numbers in text.
_LONG = 2**63
# Tensors whose dtype NumPy lacks are stored as the bits of integers of that many bytes.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
_RECORDS = {"metrics": MetricRecord, "config": ConfigRecord}


class UnstorableError(TypeError):
    """A value that cannot be stored; the message says where it is and what can be."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where} is {what}, which cannot be stored; what can be: {STORABLE}")


class DamagedError(ValueError):
    """Bytes that are not what was written, and why."""


class OtherFormatError(DamagedError):
    """Bytes that another version of fedsim wrote."""


def encode(value: Any, where: str = "the value") -> bytearray:
    """The value as bytes.

    Args:
        value: see `STORABLE`; keys of dictionaries are text, numbers, bool, None or tuples of them.
        where: what the value is called in messages.

    Raises:
        UnstorableError: something in it is of another type.
    """
    data = bytearray()
    for part in encoded(value, where):
        data += part
    return data


def encoded(value: Any, where: str = "the value") -> list[bytes | memoryview]:
    """The same bytes in parts, which are the memory of the value's arrays: they are not copied.

    Raises:
        UnstorableError: something in it is of another type.
    """
    packing = _Packing()
    tree = packing.pack(value, where)
    parts: list[bytes | memoryview] = [
        json.dumps(tree, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    ]
    for array in packing.arrays:
        parts += _npy(array)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return [f"fedsim {FORMAT} {digest.hexdigest()}\n".encode(), *parts]


def _npy(array: np.ndarray) -> tuple[bytes, bytes | memoryview]:
    """What `numpy.lib.format.write_array` writes: the header, and the values in their order."""
    head = io.BytesIO()
    described = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(head, described)
    if not array.nbytes:
        return head.getvalue(), b""
    ordered = array.T if described["fortran_order"] else np.ascontiguousarray(array)
    return head.getvalue(), ordered.reshape(-1).view(np.uint8).data


def require_storable(value: Any, where: str) -> None:
    """Raise UnstorableError where `encode` would, without copying anything."""
    _Packing().pack(value, where)


def decode(data: bytes) -> Any:
    """The value that `encode` made the bytes from; arrays and tensors are new and writeable.

    Raises:
        OtherFormatError: another version wrote them.
        DamagedError: they are cut, changed, or something else.
    """
    head, newline, _ = data[:_HEAD].partition(b"\n")
    words = head.split(b" ")
    if words[0] != _WORD or len(words) < 2 or not words[1].isdigit():
        raise DamagedError("is empty" if not data else "does not begin as such a file does")
    if words[1] != str(FORMAT).encode():
        number = words[1].decode()[:9]
        raise OtherFormatError(f"is of format {number}; this fedsim reads format {FORMAT}")
    body = memoryview(data)[_HEAD:]
    if not newline or words[2:] != [hashlib.sha256(body).hexdigest().encode()]:
        raise DamagedError("is cut or changed: its checksum does not hold")
    try:
        file = io.BytesIO(body)
        tree = json.loads(file.readline())
        arrays = []
        while file.tell() < len(body):
            arrays.append(np.lib.format.read_array(file, allow_pickle=False))
        return _Unpacking(arrays).unpack(tree)
    except Exception as error:  # By the checksum it is as it was written, but not by us.
        raise DamagedError(f"cannot be read: {type(error).__name__}: {error}") from error


class _Packing:
    """Turns a value into what JSON can say, and a list of arrays."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._numbers: dict[Hashable, int] = {}
        self._open: set[int] = set()  # ids of the containers around the current value

    def pack(self, value: Any, where: str) -> Any:
        """The value for JSON."""
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -_LONG <= value < _LONG else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is bytes:
            return {"bytes": self._array(np.frombuffer(value, np.uint8))}
        if isinstance(value, np.generic):
            return {"scalar": self._numeric(np.asarray(value), where)}
        if kind is np.ndarray:
            return {"array": self._numeric(value, where)}
        if kind is torch.Tensor:
            return {"tensor": self._tensor(value, where)}
        if id(value) in self._open:
            raise UnstorableError(where, f"a {kind.__name__} that holds itself")
        self._open.add(id(value))
        try:
            return self._container(value, where)
        finally:
            self._open.discard(id(value))

    def _container(self, value: Any, where: str) -> Any:
        kind = type(value)
        if kind is list:
            return self._items(value, where)
        if kind is tuple:
            return {"tuple": self._items(value, where)}
        if kind in (dict, OrderedDict):
            name = "dict" if kind is dict else "ordered"
            return {name: self._pairs(value, where)}
        if kind is RecordDict:
            return {"record": self._pairs(value, where)}
        if kind is ArrayRecord:
            parts = {name: flower.dismantle(array) for name, array in value.items()}
            return {"arrays": self._pairs(parts, where)}
        for name, record in _RECORDS.items():
            if kind is record:
                return {name: self._pairs(value, where)}
        raise UnstorableError(where, f"of type {kind.__name__}")

    def _items(self, values: list[Any] | tuple[Any, ...], where: str) -> list[Any]:
        return [self.pack(item, f"{where}[{place}]") for place, item in enumerate(values)]

    def _pairs(self, values: Mapping[Any, Any], where: str) -> list[list[Any]]:
        return [
            [self._key(key, where), self.pack(item, f"{where}[{key!r}]")]
            for key, item in values.items()
        ]

    def _key(self, key: Any, where: str) -> Any:
        simple = key is None or isinstance(key, np.generic) or type(key) in (str, int, float, bool)
        if not simple and type(key) is not tuple:
            raise UnstorableError(f"the key {key!r} of {where}", f"of type {type(key).__name__}")
        if type(key) is tuple:
            return {"tuple": [self._key(item, where) for item in key]}
        return self.pack(key, f"the key {key!r} of {where}")

    def _numeric(self, array: np.ndarray, where: str) -> int:
        if array.dtype.hasobject:
            raise UnstorableError(where, "an array of Python objects")
        return self._array(array)

    def _tensor(self, tensor: torch.Tensor, where: str) -> list[Any]:
        odd = tensor.layout is not torch.strided or tensor.is_quantized
        if odd or tensor.device.type == "meta":
            raise UnstorableError(where, f"a tensor of layout {tensor.layout} on {tensor.device}")
        values = tensor.detach().cpu().resolve_conj().resolve_neg()
        try:
            array = values.numpy()
        except TypeError:
            if values.itemsize not in _BITS:
                raise UnstorableError(where, f"a tensor of {values.dtype}") from None
            array = values.view(_BITS[values.itemsize]).numpy()
        name = str(values.dtype).removeprefix("torch.")
        return [self._array(array), name, str(tensor.device), tensor.requires_grad]

    def _array(self, array: np.ndarray) -> int:
        """The number of an array among all; the same view of the same memory is stored once."""
        key: Hashable = len(self.arrays)
        if array.size:
            key = (array.ctypes.data, array.dtype.str, array.shape, array.strides)
        if key not in self._numbers:
            self._numbers[key] = len(self.arrays)
            self.arrays.append(array)  # Kept, so that no other array takes its memory meanwhile.
        return self._numbers[key]


class _Unpacking:
    """The way back. Whatever the JSON says, it makes nothing but what `STORABLE` names."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._arrays = arrays
        self._kinds: dict[str, Callable[[Any], Any]] = {
            "int": lambda text: int(text, 16),
            "float": float,
            "bytes": lambda number: arrays[number].tobytes(),
            "scalar": lambda number: arrays[number][()],
            "array": lambda number: arrays[number],
            "tensor": self._tensor,
            "tuple": lambda items: tuple(self.unpack(item) for item in items),
            "dict": self._dict,
            "ordered": lambda pairs: OrderedDict(self._dict(pairs)),
            "record": lambda pairs: RecordDict(self._dict(pairs)),
            "arrays": lambda pairs: flower.assemble(self._dict(pairs)),
            "metrics": lambda pairs: MetricRecord(self._dict(pairs)),
            "config": lambda pairs: ConfigRecord(self._dict(pairs)),
        }

    def unpack(self, node: Any) -> Any:
        """The value that a node of the JSON stands for."""
        if isinstance(node, list):
            return [self.unpack(item) for item in node]
        if isinstance(node, dict):
            ((kind, content),) = node.items()
            return self._kinds[kind](content)
        return node

    def _dict(self, pairs: Any) -> dict[Any, Any]:
        return {self.unpack(key): self.unpack(item) for key, item in pairs}

    def _tensor(self, parts: Any) -> torch.Tensor:
        number, name, device, grad = parts
        dtype = getattr(torch, name)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"torch has no dtype {name!r}")
        tensor = torch.from_numpy(self._arrays[number])
        tensor = tensor if tensor.dtype == dtype else tensor.view(dtype)
        tensor = tensor if device == "cpu" else tensor.to(device)
        return tensor.requires_grad_() if grad else tensor
