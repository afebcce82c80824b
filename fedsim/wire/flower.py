"""All contact with Flower's private parts; plugins need none of it.

No other module imports anything from Flower but the public names of `flwr.app`, `flwr.clientapp`,
`flwr.serverapp` and `flwr.serverapp.strategy`. Two groups of functions, and the names of
`fedsim.wire.arrays`, which once were here:

* what a Grid needs: `configure_identity`, `kept_identity`, `node_id`, `stamp`, `make_message`,
  `error_reply`, `failed_at_client`, `empty_run`, `shallow`;
* bytes: `measure`, `wire_bytes`, `array_bytes`, `payload_bytes`, `is_large`.

The private names in use are the imports below; `tests/method/test_flower_contract.py` checks each.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message as _make_message
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
    Reconnect,
)
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsim.wire.arrays import (
    LazyArray,
    assemble,
    carriers,
    dismantle,
    is_inexact,
    load_state,
    pack_state,
    parameter_names,
    tensor_record,
    tensors,
    unpack_state,
    values_of,
)

__all__ = [
    "RUN_ID",
    "ContentSize",
    "WireBytes",
    "array_bytes",
    "assemble",
    "carriers",
    "configure_identity",
    "dismantle",
    "empty_run",
    "error_reply",
    "failed_at_client",
    "is_inexact",
    "is_large",
    "kept_identity",
    "load_state",
    "make_message",
    "measure",
    "node_id",
    "pack_state",
    "parameter_names",
    "payload_bytes",
    "shallow",
    "stamp",
    "tensor_record",
    "tensors",
    "unpack_state",
    "wire_bytes",
]

RUN_ID = 1
"""The run id of every simulated run."""

_FIRST_NODE_ID = 1001


# --- Messages -----------------------------------------------------------------------------------


def configure_identity() -> None:
    """Let this process make messages: Flower asks each process for its run, task and node."""
    TaskIdentity.run_id = RUN_ID
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = SUPERLINK_NODE_ID


@contextlib.contextmanager
def kept_identity() -> Iterator[None]:
    """Give this process back afterwards the run, task and node that Flower started it for."""
    before = TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id
    try:
        yield
    finally:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = before


def node_id(client: int) -> int:
    """The node id of client 0, 1, ...: ascending, and the same in every run."""
    return _FIRST_NODE_ID + client


def empty_run() -> Run:
    """What a Grid answers when it is asked for its run."""
    return Run.create_empty(run_id=RUN_ID)


def stamp(message: Message, message_id: str) -> Message:
    """Give a message its id (in a deployment the sender's grid does) and return it."""
    message.metadata.__dict__["_message_id"] = message_id
    return message


def make_message(content: RecordDict, metadata: Metadata) -> Message:
    """A message from its two parts; they reach a worker separately, a shared content only once."""
    return _make_message(metadata=metadata, content=content)


def error_reply(message: Message, reason: str) -> Message:
    """The reply of a client that raised; `reason` is its traceback."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def failed_at_client(reply: Message) -> bool:
    """Whether a reply is the error that a client's own code led to, and not the network's."""
    return reply.has_error() and reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def shallow(content: RecordDict) -> RecordDict:
    """A copy of the records that shares the arrays' memory.

    What a client or its mods do to the content of their message stays with that client. The copy
    is also free of what Flower caches on plain arrays, which would not pickle.
    """
    fresh = RecordDict()
    arrays: dict[int, Array] = {}  # An array under two names stays one array.
    for key, record in content.items():
        copied: Any = record.copy()
        for name, value in record.items():
            if isinstance(value, Array):
                if id(value) not in arrays:
                    arrays[id(value)] = _same_array(value)
                copied[name] = arrays[id(value)]
            elif isinstance(value, list):
                copied[name] = list(value)
        fresh[key] = copied
    return fresh


def _same_array(array: Array) -> Array:
    if isinstance(array, LazyArray):
        return LazyArray(values_of(array))
    return Array(array.dtype, tuple(array.shape), array.stype, array.data)


# --- Bytes --------------------------------------------------------------------------------------
#
# Flower cuts a message into a tree of objects (message, records, arrays, chunks of arrays), names
# each by the SHA-256 of its bytes, and sends every distinct one once. An object is
#   class " " ids of its children, comma-separated " " length of the body NUL body
# so all lengths follow from which objects are equal, and no large array needs to be serialised.

_OBJECT_ID = "0" * 64
_SESSION_ID = "0" * 36
# The SuperLink draws run, node and task ids from 64 random bits: as protobuf varints nearly always
# 9 or 10 bytes, by even chance. A constant width makes the count of a run reproducible.
_RANDOM_ID = 2**62
_LARGE = 100_000


class WireBytes(NamedTuple):
    """What one message adds to the SuperLink's two traffic counters, in bytes.

    `up` is from client to server (`inbound`), `down` from server to client (`outbound`).
    """

    up: int
    down: int


@dataclass(frozen=True)
class ContentSize:
    """What a content adds to every message that carries it.

    Attributes:
        object_bytes: bytes of its distinct objects (records, arrays, chunks).
        objects: number of its distinct objects.
        tree: how they hang together, with placeholders for ids.
    """

    object_bytes: int
    objects: int
    tree: ObjectTree


def wire_bytes(message: Message, size: ContentSize | None = None) -> WireBytes:
    """The bytes that Flower's SuperLink would account for a message, without serialising it.

    Counted as the Fleet API does (`network-traffic` of `flwr ls`). A message to a client costs
    PullMessagesRequest up, PullMessagesResponse and the objects down; a reply costs
    PushMessagesRequest and the objects up, PushMessagesResponse down. An exchange is the sum.
    Not counted, there or here: HTTP headers, wrappers of single objects, heartbeats, the code.

    Exact for objects; a real SuperLink differs by a few bytes a message for the width of its random
    ids. It also spares objects it still holds from another message, which is not modelled.

    Args:
        message: an instruction or a reply, with content or an error.
        size: `measure(message.content)`, if it is already known.
    """
    if size is None and message.has_content():
        size = measure(message.content)
    frame = _frame(message)
    tree = ObjectTree(object_id=_OBJECT_ID, children=[size.tree] if size else [])
    object_bytes = len(frame.deflate()) + (size.object_bytes if size else 0)
    node = Node(node_id=_RANDOM_ID)
    messages, trees = [message_to_proto(frame)], [tree]
    if message.metadata.dst_node_id != SUPERLINK_NODE_ID:
        pulled = PullMessagesResponse(messages_list=messages, message_object_trees=trees)
        request = PullMessagesRequest(node=node)
        return WireBytes(request.ByteSize(), pulled.ByteSize() + object_bytes)
    pushed = PushMessagesRequest(
        node=node,
        messages_list=messages,
        message_object_trees=trees,
        clientapp_runtime_list=[1.0],
    )
    acknowledged = PushMessagesResponse(
        reconnect=Reconnect(reconnect=5),
        results={_OBJECT_ID: 0},
        objects_to_push=[_OBJECT_ID] * (1 + (size.objects if size else 0)),
        session_id=_SESSION_ID,
    )
    return WireBytes(pushed.ByteSize() + object_bytes, acknowledged.ByteSize())


def _frame(message: Message) -> Message:
    """The message without its content, and with ids as wide as a SuperLink's."""
    given = message.metadata
    metadata = Metadata(
        run_id=_RANDOM_ID,
        message_id=_OBJECT_ID,
        src_node_id=_wide_node(given.src_node_id),
        dst_node_id=_wide_node(given.dst_node_id),
        reply_to_message_id=_OBJECT_ID if given.dst_node_id == SUPERLINK_NODE_ID else "",
        group_id=given.group_id,
        created_at=given.created_at,
        ttl=given.ttl,
        message_type=given.message_type,
        src_task_id=None if given.src_task_id is None else _RANDOM_ID,
        dst_task_id=None if given.dst_task_id is None else _RANDOM_ID,
    )
    if message.has_error():
        return _make_message(metadata=metadata, error=message.error)
    return _make_message(metadata=metadata, content=RecordDict())


def _wide_node(node: int) -> int:
    return node if node == SUPERLINK_NODE_ID else _RANDOM_ID


_Node = tuple[Hashable, ObjectTree]


class _Objects:
    """The distinct objects of a content; two objects are equal if and only if their keys are."""

    def __init__(self) -> None:
        self.sizes: dict[Hashable, int] = {}

    def add(
        self, kind: str, body_length: int, identity: Hashable, children: Sequence[_Node] = ()
    ) -> _Node:
        """Note an object that is `identity` (its body, but for ids) above `children`."""
        key = (kind, identity, tuple(child for child, _ in children))
        distinct = dict(children)
        ids = max(len(distinct) * (len(_OBJECT_ID) + 1) - 1, 0)
        self.sizes[key] = len(kind) + ids + len(str(body_length)) + len("  0") + body_length
        return key, ObjectTree(object_id=_OBJECT_ID, children=distinct.values())

    def add_named(self, record: ArrayRecord | RecordDict, children: Sequence[_Node]) -> _Node:
        """Note a record whose body maps its names to the ids of `children`."""
        body = json.dumps(dict.fromkeys(record, _OBJECT_ID))
        return self.add(type(record).__qualname__, len(body), body, children)

    def add_array(self, array: Array, chunks: Sequence[_Node]) -> _Node:
        """Note an array whose body lists its chunks by position among the distinct ones."""
        positions = {key: position for position, key in enumerate(dict(chunks))}
        body = json.dumps(
            {
                "dtype": array.dtype,
                "shape": array.shape,
                "stype": array.stype,
                "arraychunk_ids": [positions[key] for key, _ in chunks],
            }
        )
        return self.add(type(array).__qualname__, len(body), body, chunks)


def measure(content: RecordDict) -> ContentSize:
    """The size of a content on Flower's wire, exact to the byte, without serialising its arrays.

    It depends on nothing but the content: for a broadcast, measure once and give the result to
    `wire_bytes` for every message.
    """
    records = content.values()
    arrays = {id(a): a for r in records if isinstance(r, ArrayRecord) for a in r.values()}
    pieces = {identity: list(_chunks(array)) for identity, array in arrays.items()}
    likely = Counter(chunk.sample for chunks in pieces.values() for chunk in chunks)
    objects = _Objects()
    nodes = {
        identity: objects.add_array(
            array,
            [
                objects.add("ArrayChunk", chunk.length, chunk.identity(likely[chunk.sample] > 1))
                for chunk in pieces[identity]
            ],
        )
        for identity, array in arrays.items()
    }
    branches: list[_Node] = []
    for record in records:
        if isinstance(record, ArrayRecord):
            branches.append(objects.add_named(record, [nodes[id(a)] for a in record.values()]))
        else:
            whole = record.deflate()
            objects.sizes[whole] = len(whole)
            branches.append((whole, ObjectTree(object_id=_OBJECT_ID)))
    _, tree = objects.add_named(content, branches)
    return ContentSize(sum(objects.sizes.values()), len(objects.sizes), tree)


class _Chunk:
    """A piece of an array's bytes: perhaps a .npy header, and a view of the array's memory."""

    def __init__(self, head: bytes, body: memoryview) -> None:
        self._head, self._body = head, body
        self.length = len(head) + len(body)
        # Unequal chunks nearly always differ here already, and need no hash of the whole.
        self.sample = (self.length, head, bytes(body[:512]), bytes(body[-512:]))

    def identity(self, shared_sample: bool) -> Hashable:
        """Equal for two chunks of equal bytes; `shared_sample`: another has the same sample."""
        if not shared_sample or len(self._body) <= 1024:
            return self.sample
        return self.sample, hashlib.sha256(self._body).digest()


def _chunks(array: Array) -> Iterator[_Chunk]:
    """The chunks that Flower would cut the array's data into."""
    if isinstance(array, LazyArray):
        values = values_of(array)
        fortran = not values.flags.c_contiguous
        head = _npy_header(values.dtype.str, fortran, values.shape)
        body = (values.T if fortran else values).reshape(-1).view(np.uint8).data
    else:
        head, body = b"", memoryview(array.data)
    step = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    for start in range(0, len(head) + len(body), step):
        first = max(start - len(head), 0)
        yield _Chunk(head[start : start + step], body[first : max(start + step - len(head), 0)])


@lru_cache(maxsize=4096)
def _npy_header(dtype: str, fortran: bool, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def array_bytes(record: ArrayRecord) -> int:
    """Raw bytes of a record's tensors (elements times item size); an array that is shared, once."""
    arrays = {id(array): array for array in record.values()}.values()
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)


def payload_bytes(content: RecordDict) -> int:
    """`array_bytes` of all records of a content."""
    return sum(array_bytes(r) for r in content.values() if isinstance(r, ArrayRecord))


def is_large(record: object) -> bool:
    """Whether a record is worth a place of its own in shared memory (100 kB of arrays or more)."""
    return isinstance(record, ArrayRecord) and array_bytes(record) >= _LARGE
