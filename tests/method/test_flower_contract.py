"""What fedsim relies on in Flower's private parts, name by name.

After an upgrade of Flower this file says in one list what has gone or changed.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx, Strategy

try:
    from fedsim.wire import flower
except ImportError:  # A name is gone: the list below says which, and all others with it.
    flower = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {
    "flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.simulation",
}  # fmt: skip


# --- The list: module, name, and what must hold of the object (a reason, or nothing) ------------


def makes_a_message_of_its_parts(make_message: Any) -> bool:
    content = RecordDict()
    message = make_message(metadata=sample_message().metadata, content=content)
    return message.content is content


def is_default_chunk_size(size: Any) -> bool:
    return size == 5 * 1024 * 1024


def sets_the_source_of_new_messages(identity: Any) -> bool:
    identity.run_id, identity.task_id, identity.node_id = 7, 8, 9
    metadata = Message(RecordDict(), 3, "train").metadata
    return (metadata.run_id, metadata.src_task_id, metadata.src_node_id) == (7, 8, 9)


def takes(*fields: str) -> Callable[[Any], bool]:
    return lambda message: {field.name for field in message.DESCRIPTOR.fields} >= set(fields)


PRIVATE: dict[tuple[str, str], Callable[[Any], bool]] = {
    ("flwr.app.message", "make_message"): makes_a_message_of_its_parts,
    ("flwr.common.constant", "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"): is_default_chunk_size,
    ("flwr.common.constant", "SUPERLINK_NODE_ID"): lambda node: node == 1,
    ("flwr.common.constant", "ErrorCode"): lambda c: isinstance(c.CLIENT_APP_RAISED_EXCEPTION, int),
    ("flwr.common.serde", "message_to_proto"): lambda f: f(sample_message()).metadata.run_id == 1,
    ("flwr.proto.fleet_pb2", "PullMessagesRequest"): takes("node"),
    ("flwr.proto.fleet_pb2", "PullMessagesResponse"): takes(
        "messages_list", "message_object_trees"
    ),
    ("flwr.proto.fleet_pb2", "PushMessagesRequest"): takes(
        "node", "messages_list", "message_object_trees", "clientapp_runtime_list"
    ),
    ("flwr.proto.fleet_pb2", "PushMessagesResponse"): takes(
        "reconnect", "results", "objects_to_push", "session_id"
    ),
    ("flwr.proto.fleet_pb2", "Reconnect"): takes("reconnect"),
    ("flwr.proto.message_pb2", "ObjectTree"): takes("object_id", "children"),
    ("flwr.proto.node_pb2", "Node"): takes("node_id"),
    ("flwr.supercore.run", "Run"): lambda run: run.create_empty(run_id=5).run_id == 5,
    ("flwr.supercore.task_identity", "TaskIdentity"): sets_the_source_of_new_messages,
}


def sample_message() -> Message:
    identity = importlib.import_module("flwr.supercore.task_identity").TaskIdentity
    identity.run_id, identity.task_id, identity.node_id = 1, 1, 1
    content = RecordDict({"arrays": ArrayRecord({"x": Array(np.arange(3.0))})})
    return Message(content, 1001, "train")


# Ways in which public objects must behave although no documentation says so.


def message_id_is_kept_in_the_metadata() -> bool:
    message = sample_message()
    message.metadata.__dict__["_message_id"] = "m1"
    return Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "m1"


def array_keeps_its_four_fields_in_its_dict() -> bool:
    return set(vars(Array(np.zeros(1)))) >= {"dtype", "shape", "stype", "data"}


def object_is_class_children_length_and_body() -> bool:
    array = Array(np.arange(3.0))
    head, _, body = array.deflate().partition(b"\0")
    (child,) = array.children
    return head == f"Array {child} {len(body)}".encode() and len(child) == 64


def array_body_is_json_of_what_it_is() -> bool:
    body = Array(np.arange(3.0)).deflate().partition(b"\0")[2]
    expected = (
        b'{"dtype": "float64", "shape": [3], "stype": "numpy.ndarray", "arraychunk_ids": [0]}'
    )
    return body == expected


def record_body_is_json_of_names_and_ids() -> bool:
    array = Array(np.arange(3.0))
    head, _, body = ArrayRecord({"x": array}).deflate().partition(b"\0")
    return body == b'{"x": "%b"}' % array.object_id.encode() and head.startswith(b"ArrayRecord ")


def records_copy_without_their_caches() -> bool:
    record = ArrayRecord({"x": Array(np.arange(3.0))})
    assert record.object_id
    copied = record.copy()
    copied["y"] = Array(np.zeros(1))
    return list(record) == ["x"] and "_object_id" not in vars(copied)


def grid_has_the_methods_we_know() -> bool:
    return Grid.__abstractmethods__ == {
        "set_run",
        "run",
        "create_message",
        "get_node_ids",
        "push_messages",
        "pull_messages",
        "send_and_receive",
    }


def strategy_has_the_methods_we_know() -> bool:
    expected = {
        "configure_train": ["self", "server_round", "arrays", "config", "grid"],
        "aggregate_train": ["self", "server_round", "replies"],
        "configure_evaluate": ["self", "server_round", "arrays", "config", "grid"],
        "aggregate_evaluate": ["self", "server_round", "replies"],
        "summary": ["self"],
    }
    found = {n: list(inspect.signature(getattr(Strategy, n)).parameters) for n in expected}
    return found == expected and Strategy.__abstractmethods__ == set(expected)


BEHAVIOURS = [
    message_id_is_kept_in_the_metadata,
    array_keeps_its_four_fields_in_its_dict,
    object_is_class_children_length_and_body,
    array_body_is_json_of_what_it_is,
    record_body_is_json_of_names_and_ids,
    records_copy_without_their_caches,
    grid_has_the_methods_we_know,
    strategy_has_the_methods_we_know,
]


def complaint(check: Callable[[], Any]) -> str | None:
    """Why a check does not hold, or None."""
    try:
        return None if check() else "is there, but behaves differently"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def test_all_that_fedsim_relies_on_in_flower_is_there() -> None:
    problems = []
    for (module, name), holds in PRIVATE.items():
        found = complaint(
            lambda m=module, n=name, h=holds: h(getattr(importlib.import_module(m), n))
        )
        problems += [f"{module}.{name}: {found}"] if found else []
    for behaviour in BEHAVIOURS:
        found = complaint(behaviour)
        problems += [f"{behaviour.__name__}: {found}"] if found else []
    assert not problems, "Flower changed:\n  " + "\n  ".join(problems)


# --- The list is complete -----------------------------------------------------------------------


def flower_imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of what a file imports from Flower; the name is "" for a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if a.name.split(".")[0] == "flwr")


def test_the_list_names_each_private_import() -> None:
    imports = flower_imports(ROOT / "fedsim" / "wire" / "flower.py")
    assert {i for i in imports if i[0] not in PUBLIC} == set(PRIVATE)


def test_no_other_module_imports_private_names() -> None:
    files = [p for room in ("fedsim", "strategies", "clients") for p in (ROOT / room).rglob("*.py")]
    assert len(files) > 10
    private = [
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path in files
        if path != ROOT / "fedsim" / "wire" / "flower.py"
        for module, name in flower_imports(path)
        if module not in PUBLIC
    ]
    assert not private, "import these through fedsim.wire.flower:\n  " + "\n  ".join(private)


# --- Flower's own strategies run on a grid made of these helpers --------------------------------


class ToyGrid(Grid):
    """Runs a ClientApp in this process, one client after another."""

    def __init__(self, app: ClientApp, clients: int) -> None:
        flower.configure_identity()
        self.app, self.run_info, self.sent, self.log = app, flower.empty_run(), 0, []
        self.contexts = {
            flower.node_id(i): Context(1, flower.node_id(i), {"partition-id": i}, RecordDict(), {})
            for i in range(clients)
        }

    def set_run(self, run: Any) -> None:
        self.run_info = run

    @property
    def run(self) -> Any:
        return self.run_info

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    push_messages = pull_messages = create_message

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        for message in messages:
            self.sent += 1
            flower.stamp(message, f"m{self.sent}")
            node = message.metadata.dst_node_id
            own = flower.make_message(flower.shallow(message.content), message.metadata)
            reply = self.app(own, self.contexts[node])
            self.log.append((node, reply.metadata.src_node_id, reply.metadata.reply_to_message_id))
            yield reply


app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Move halfway to the number of the client."""
    client = int(context.node_config["partition-id"])
    config: Any = message.content["config"]
    pull = 0.5 / (1 + config.get("proximal-mu", 0.0))
    arrays = flower.tensors(message.content.array_records["arrays"])
    moved = {name: value + pull * (client - value) for name, value in arrays.items()}
    # What a client does to its own message must not reach the others.
    config["server-round"] = -1
    message.content["arrays"] = ArrayRecord()
    content = RecordDict(
        {
            "arrays": flower.tensor_record(moved),
            "metrics": MetricRecord({"num-examples": 1 + client, "loss": float(client)}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    weight = flower.tensors(message.content.array_records["arrays"])["w"]
    metrics = MetricRecord({"num-examples": 1, "mean": float(weight.mean())})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # Clients 0, 1, 2 weigh 1, 2, 3: their mean is 4/3, and every round halves the distance.
        (FedAvg, 4 / 3 * (1 - 0.5**2)),
        # The proximal term keeps clients nearer: a quarter of the way.
        (lambda **k: FedProx(proximal_mu=1.0, **k), 4 / 3 * (1 - 0.75**2)),
        (FedAdam, None),
    ],
    ids=["FedAvg", "FedProx", "FedAdam"],
)
def test_flowers_strategies_run_unmodified(strategy: Any, expected: float | None) -> None:
    grid = ToyGrid(app, 3)
    initial = flower.tensor_record({"w": np.zeros((2, 2), np.float32), "b": np.zeros(())})
    result = strategy(min_available_nodes=3).start(
        grid, initial, num_rounds=2, train_config=ConfigRecord({"lr": 0.1})
    )
    mean = float(flower.tensors(result.arrays)["w"].mean())
    if expected is None:
        assert 0 < mean < 2
    else:
        assert mean == pytest.approx(expected, rel=1e-6)
    assert result.train_metrics_clientapp[2]["loss"] == pytest.approx(8 / 6)
    assert result.evaluate_metrics_clientapp[2]["mean"] == pytest.approx(mean)
    assert flower.tensors(initial)["w"].tolist() == [[0, 0], [0, 0]]
    # Three clients, two rounds, training and evaluation; each reply answers its own message.
    assert [source for source, _, _ in grid.log] == [replied for _, replied, _ in grid.log]
    assert [message for _, _, message in grid.log] == [f"m{n}" for n in range(1, 13)]
