"""The tensors of an ONNX file, without the package onnx: protobuf's wire format.

ONNX: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; the wire format:
https://protobuf.dev/programming-guides/encoding. Nothing is allocated that the file does not hold:
every length is checked against what is left, and a tensor's shape against its bytes.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Numbers of fields.
_GRAPH, _NODE, _INITIALISER = 7, 1, 5
_INPUT, _NODE_NAME, _OPERATION = 1, 3, 4
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
# data_type -> type, and the field that holds its values where they are not raw bytes.
_TYPES = {1: ("<f4", 4), 7: ("<i8", 7), 10: ("<f2", 5), 11: ("<f8", 10)}
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_MOST_AXES = 16


class _Span(NamedTuple):
    """Bytes of the file, from `start` to before `end`."""

    start: int
    end: int


def initialisers(path: Path) -> dict[str, NDArray[Any]]:
    """The initialisers of an ONNX file: float32, float16, float64 and int64, by name.

    Tensors of other types are left out. An exporter folds the transposition of a linear layer's
    weights into a nameless initialiser, `onnx::MatMul_<number>`, and names the node that uses it by
    the layer's path: such an initialiser gets the name `<path>.weight` and a linear layer's shape
    [out, in] again.

    Raises:
        ValueError: the file is cut off or malformed, or keeps its tensors in other files.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ValueError("it is empty") from None
        with content:
            return _initialisers(content)


def _initialisers(content: mmap.mmap) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    layers: dict[str, str] = {}
    for graph in _spans(content, _Span(0, len(content)), _GRAPH):
        for field, value in _fields(content, graph):
            if not isinstance(value, _Span):
                continue
            if field == _INITIALISER:
                name, array = _tensor(content, value)
                if array is not None:
                    arrays[name] = array
            elif field == _NODE:
                layers |= _linear(content, value)
    named = {layers.get(name, name): name for name in arrays}
    if len(named) < len(arrays):  # A layer that is used twice keeps its number.
        return arrays
    return {
        new: np.ascontiguousarray(arrays[old].T) if new != old and arrays[old].ndim == 2 else a
        for new, old in named.items()
        for a in (arrays[old],)
    }


def _linear(content: mmap.mmap, node: _Span) -> dict[str, str]:
    """The nameless initialisers that a node multiplies with -> the name of the layer's weights."""
    inputs, path, operation = [], "", ""
    for field, value in _fields(content, node):
        if isinstance(value, _Span) and field in (_INPUT, _NODE_NAME, _OPERATION):
            text = _text(content, value)
            if field == _INPUT:
                inputs.append(text)
            elif field == _NODE_NAME:
                path = text
            else:
                operation = text
    if operation != "MatMul" or not path.endswith("/MatMul"):
        return {}
    layer = path.removesuffix("/MatMul").strip("/").replace("/", ".")
    return {one: f"{layer}.weight" for one in inputs if one.startswith("onnx::MatMul_")}


def _tensor(content: mmap.mmap, span: _Span) -> tuple[str, NDArray[Any] | None]:
    """Name and values of a TensorProto; None for a type that is left out."""
    dims: list[int] = []
    kind, name = 0, ""
    raw: _Span | None = None
    pieces: dict[int, list[int | _Span]] = {}
    for field, value in _fields(content, span):
        if field == _DIMS:
            dims += [value] if isinstance(value, int) else _varints(content, value).tolist()
        elif field == _TYPE and isinstance(value, int):
            kind = value
        elif field == _NAME and isinstance(value, _Span):
            name = _text(content, value)
        elif field == _RAW and isinstance(value, _Span):
            raw = value
        elif field == _EXTERNAL or (field == _LOCATION and value):
            raise ValueError("it keeps its tensors in other files; have it saved as one file")
        else:
            pieces.setdefault(field, []).append(value)
    if kind not in _TYPES:
        return name, None
    code, field = _TYPES[kind]
    if len(dims) > _MOST_AXES or any(size < 0 for size in dims):
        raise ValueError(f"{name!r} has the shape {dims[:_MOST_AXES]}")
    found = (
        np.frombuffer(content[raw.start : raw.end], np.uint8)
        if raw is not None
        else _listed(content, kind, pieces.get(field, []))
    )
    wanted = math.prod(dims) * np.dtype(code).itemsize
    if found.nbytes != wanted:
        raise ValueError(f"{name!r} of shape {dims} has {found.nbytes} bytes instead of {wanted}")
    # A copy: torch wants memory that can be written to.
    values = found.view(code).reshape(dims).copy()
    return name, values.astype(values.dtype.newbyteorder("="), copy=False)


def _listed(content: mmap.mmap, kind: int, pieces: list[int | _Span]) -> NDArray[Any]:
    """The bytes of values that are listed, packed together or one by one."""
    varints = kind in (7, 10)
    found = []
    for piece in pieces:
        if isinstance(piece, int):
            found.append(np.array([piece % 2**64], np.uint64).view(np.int64))
        elif varints:
            found.append(_varints(content, piece))
        else:
            found.append(np.frombuffer(content[piece.start : piece.end], np.uint8))
    if not found:
        return np.zeros(0, np.uint8)
    joined = np.concatenate(found)
    if kind == 10:  # The bits of each float16 are an integer.
        joined = joined.astype(np.uint16)
    return joined.view(np.uint8)


def _spans(content: mmap.mmap, span: _Span, wanted: int) -> Iterator[_Span]:
    """The fields of a message that have this number and hold bytes."""
    for field, value in _fields(content, span):
        if field == wanted and isinstance(value, _Span):
            yield value


def _fields(content: mmap.mmap, span: _Span) -> Iterator[tuple[int, int | _Span]]:
    """The fields of a message: their number, and an integer or where their bytes lie."""
    at, end = span
    while at < end:
        key, at = _varint(content, at, end)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            number, at = _varint(content, at, end)
            yield field, number - 2**64 if number >= 2**63 else number
            continue
        if kind == _BYTES:
            size, at = _varint(content, at, end)
        elif kind in (_FOUR, _EIGHT):
            size = 4 if kind == _FOUR else 8
        else:
            raise ValueError(f"byte {at}: there is no wire type {kind}")
        if not field or size > end - at:
            raise ValueError(f"byte {at}: {size} bytes should follow, but {end - at} are left")
        yield field, _Span(at, at + size)
        at += size


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """An integer of 1 to 10 bytes, without its sign, and where the next field begins."""
    value = 0
    for place in range(10):
        if at + place >= end:
            raise ValueError(f"byte {at}: the file ends in a number")
        byte = content[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value % 2**64, at + place + 1
    raise ValueError(f"byte {at}: a number has more than 10 bytes")


def _varints(content: mmap.mmap, span: _Span) -> NDArray[np.int64]:
    """Integers that are packed together, int64."""
    found = np.frombuffer(content[span.start : span.end], np.uint8)
    last = np.flatnonzero(found < 128)
    if len(found) and (not len(last) or last[-1] != len(found) - 1):
        raise ValueError(f"byte {span.start}: packed numbers are cut off")
    lengths = np.diff(last, prepend=-1)
    if len(lengths) and lengths.max() > 10:
        raise ValueError(f"byte {span.start}: a number has more than 10 bytes")
    first = last - lengths + 1
    values = np.zeros(len(last), np.uint64)
    for place in range(int(lengths.max(initial=0))):
        here = lengths > place
        part = (found[first[here] + place] & 127).astype(np.uint64)
        values[here] |= part << np.uint64(7 * place)
    return values.view(np.int64)


def _text(content: mmap.mmap, span: _Span) -> str:
    return content[span.start : span.end].decode("utf-8", "replace")
