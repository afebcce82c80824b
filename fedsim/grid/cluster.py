"""A Ray cluster that the user has: where it is, what its nodes carry, and which of them live."""

from __future__ import annotations

import importlib
import os
import socket
import time
from collections import Counter
from typing import Any, NamedTuple

import ray

from fedsim.errors import InputError, RunError
from fedsim.grid.machine import asked_gpus, workers_on
from fedsim.scenario import Resources

AUTO = "auto"
"""`resources.ray_address` for the cluster that Ray itself finds on this machine."""

ANSWER_SECONDS = 10.0
"""Until a cluster answers."""
PLACING_SECONDS = 600.0
"""Until workers have started, on machines that are busy."""
# Until Ray has taken back the cores of those who have just ended.
_SETTLING_SECONDS = 5.0
_POLL_SECONDS = 0.2
_KNOCK_SECONDS = 2.0

# Private: what is free on each node is in no public place.
_state: Any = importlib.import_module("ray._private.state")
_utils: Any = importlib.import_module("ray._private.utils")


class Node(NamedTuple):
    """A node of the cluster.

    Attributes:
        id: Ray's, in hexadecimal digits.
        host, port: where its raylet listens.
        cores, gpus: all that it has.
    """

    id: str
    host: str
    port: int
    cores: float
    gpus: float

    @property
    def name(self) -> str:
        """For a person: several nodes may share a host."""
        return f"{self.host} ({self.id[:8]})"

    def lives(self) -> bool:
        """Whether Ray has it, and its raylet listens: Ray itself notices an end much later."""
        return answers(self.host, self.port) and any(node.id == self.id for node in nodes())


def address_of(resources: Resources) -> str:
    """The address of the cluster that a scenario names.

    Raises:
        InputError: it names what Ray finds here, and Ray finds nothing.
    """
    assert resources.ray_address is not None
    if resources.ray_address != AUTO:
        return resources.ray_address
    found = os.environ.get("RAY_ADDRESS", "")
    if found in ("", AUTO):
        found = _utils.read_ray_address() or ""
    if ":" not in found:
        raise InputError(
            "resources.ray_address is auto, but there is no Ray cluster here: RAY_ADDRESS names "
            "none, and ray start has left none",
            hint="type: ray start --head, or: ray start --address=HOST:PORT, or leave out "
            "resources.ray_address",
        )
    return str(found)


def require_answer(address: str) -> None:
    """Refuse an address where nothing answers: Ray itself waits long, and not for Ctrl-C."""
    import grpc

    if os.environ.get("RAY_USE_TLS") == "1":
        return
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_SECONDS)
        except grpc.FutureTimeoutError as error:
            raise no_cluster(address, f"nothing within {ANSWER_SECONDS:g} s") from error


def no_cluster(address: str, why: str) -> InputError:
    """The error of an address at which there is no cluster to join."""
    return InputError(
        f"no Ray cluster answers at {address!r}: {why}",
        hint="type: ray start --head, on other machines: ray start --address=HOST:PORT, or leave "
        "out resources.ray_address",
    )


def answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection((host, port), _KNOCK_SECONDS).close()
    except OSError:
        return False
    return True


def nodes() -> list[Node]:
    """The nodes that Ray believes to live."""
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["NodeManagerPort"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def fit(resources: Resources, workers: int) -> int:
    """How many of the workers the cluster can place; InputError where it can place too few.

    What cannot be placed would be waited for without an end.
    """
    there = nodes()
    most = sum(_slots(node, node.cores, node.gpus, resources) for node in there)
    if not most or (resources.workers is not None and workers > most):
        cores, devices = sum(node.cores for node in there), sum(node.gpus for node in there)
        share = asked_gpus(resources)
        raise InputError(
            f"the cluster at {resources.ray_address!r} has {cores:g} cores and {devices:g} GPUs: "
            f"{most} workers of {resources.threads} threads and {share:g} GPUs fit, "
            f"not {workers}",
            hint=f"type: --workers {most}" if most else "ask for fewer resources.threads or gpus",
        )
    return min(workers, most)


def free_places(resources: Resources, workers: int) -> list[Node]:
    """A node for each worker, by what is free: at most so many, spread over the nodes."""
    free = _state.available_resources_per_node()
    slots: dict[Node, int] = {}
    for node in nodes():
        has = free.get(node.id, {})
        slots[node] = _slots(node, has.get("CPU", 0.0), has.get("GPU", 0.0), resources)
    return spread(slots, workers)


def spread(slots: dict[Node, int], workers: int) -> list[Node]:
    """The nodes of at most so many workers: in turn, as long as a node has room."""
    places: list[Node] = []
    taken: Counter[Node] = Counter()
    while len(places) < workers and (open_ := [n for n in slots if taken[n] < slots[n]]):
        for node in open_[: workers - len(places)]:
            taken[node] += 1
            places.append(node)
    return places


def places(resources: Resources, workers: int) -> list[Node]:
    """A node for each worker; fewer where the scenario leaves the number open, and others work.

    Raises:
        InputError: so many workers never fit.
        RunError: for too long all that they need was taken.
    """
    workers = fit(resources, workers)
    began = time.monotonic()
    while True:
        found, waited = free_places(resources, workers), time.monotonic() - began
        enough = 1 if waited > _SETTLING_SECONDS and resources.workers is None else workers
        if len(found) >= enough:
            return found
        if waited > PLACING_SECONDS:
            raise not_placed()
        time.sleep(_POLL_SECONDS)


def not_placed() -> RunError:
    """The error of workers for which no room was made."""
    free = ray.available_resources()
    return RunError(
        f"no worker started within {PLACING_SECONDS:g} s; {free.get('CPU', 0):g} cores and "
        f"{free.get('GPU', 0):g} GPUs are free for Ray"
    )


def _slots(node: Node, cores: float, gpus: float, resources: Resources) -> int:
    return workers_on(cores, gpus, resources.threads, asked_gpus(resources))


class Watch:
    """Whether the cluster lives: its head, and the node of this machine.

    Without its head Ray waits a minute, and then ends this process.
    """

    _EVERY_SECONDS = 2.0
    # A head that is started anew, or very busy, gets a second chance.
    _KNOCKS = 3

    def __init__(self, address: str) -> None:
        self.address = address
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._head = host.strip("[]"), int(port)
        self.here = ray.get_runtime_context().get_node_id()
        self._own = next((node for node in nodes() if node.id == self.here), None)
        self._looked = time.monotonic()
        self.gone = ""

    def require_life(self) -> None:
        """Look, every other second; RunError where it has died."""
        if time.monotonic() - self._looked < self._EVERY_SECONDS:
            return
        self.require_life_now()

    def require_life_now(self) -> None:
        """RunError where the cluster has died."""
        if self.gone or (gone := self._what_died()):
            self.gone = self.gone or gone
            raise RunError(
                f"the Ray cluster at {self.address!r} is gone: {self.gone}. "
                "To go on, start Ray again and type: fedsim run --resume RUN"
            )
        self._looked = time.monotonic()

    def _what_died(self) -> str:
        if not self._listens(*self._head):
            return f"its head at {self._head[0]}:{self._head[1]} does not answer"
        if self._own is not None and not self._listens(self._own.host, self._own.port):
            return "the node of this machine died"
        return ""

    def _listens(self, host: str, port: int) -> bool:
        for knock in range(self._KNOCKS):
            if answers(host, port):
                return True
            if knock < self._KNOCKS - 1:
                time.sleep(_POLL_SECONDS)
        return False
