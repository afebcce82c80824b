"""Where the clients of a run work if its scenario leaves that open (`resources.backend: auto`).

The bits are the same on both backends, so only time, memory and what a client may break decide.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fedsim.scenario import Scenario

START_SECONDS = 8.0
"""From the start of Ray until its workers have taken up the job, measured on two cores."""
# More, until each worker has taken up a GPU.
_GPU_SECONDS = 8.0
# The same where Ray runs already: workers take up the job.
_WARM_SECONDS = 0.5
# What a message and its reply take on their way to a worker and back.
_MESSAGE_SECONDS = 0.01
RAY_MB = 400.0
"""What Ray's own processes take on one machine, in megabytes (10^6 bytes)."""


@dataclass(frozen=True)
class NodeUse:
    """What a node of a cluster does for a run.

    Attributes:
        node: its address, and the beginning of Ray's id of it.
        workers: clients that run there at a time.
        data: it has the data by path, or they were shipped to it.
        shipped_mb: megabytes (10^6 bytes) that were shipped.
    """

    node: str
    workers: int
    data: Literal["path", "shipped"] = "path"
    shipped_mb: float = 0.0

    def words(self) -> str:
        """The same for a person."""
        data = f"{self.shipped_mb:,.1f} MB shipped" if self.data == "shipped" else "data by path"
        return f"{self.node}: {self.workers}, {data}"

    def record(self) -> dict[str, Any]:
        """Its entry of run.json."""
        return asdict(self)


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster that a run uses.

    Attributes:
        address: of its head.
        nodes: those that have workers.
        lost: the addresses of those that were lost meanwhile.
    """

    address: str
    nodes: tuple[NodeUse, ...]
    lost: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Its entry of run.json."""
        nodes = [node.record() for node in self.nodes]
        return {"address": self.address, "nodes": nodes, "lost": list(self.lost)}


@dataclass(frozen=True)
class Choice:
    """Where clients run, and why.

    Attributes:
        backend: in this process, or on Ray.
        why: in words.
        workers: clients that run at a time.
        gpus: GPUs of one worker, where that is not what the scenario says.
        cluster: where on Ray, if not on this machine alone.
    """

    backend: Literal["inline", "ray"]
    why: str
    workers: int = 1
    gpus: float | None = None
    cluster: Cluster | None = None

    def line(self) -> str:
        """The same for a person."""
        if self.backend == "inline":
            return f"clients run in this process: {self.why}"
        line = f"clients run on Ray, {self.workers} at a time: {self.why}"
        if self.cluster is not None:
            line += f" ({'; '.join(node.words() for node in self.cluster.nodes)})"
        return line

    def record(self) -> dict[str, Any]:
        """The entry of run.json."""
        entry: dict[str, Any] = {"used": self.backend, "workers": self.workers, "why": self.why}
        if self.gpus is not None:
            entry["gpus"] = self.gpus
        return entry if self.cluster is None else entry | {"cluster": self.cluster.record()}


def settled(scenario: Scenario, workers: int) -> Choice | None:
    """What is clear before any client has run; None where their time decides.

    Args:
        scenario: what is run.
        workers: clients that could run at a time on Ray, see `worker_count`.
    """
    resources = scenario.resources
    if resources.backend == "inline":
        return Choice("inline", "resources.backend=inline")
    if resources.backend == "ray":
        return Choice("ray", "resources.backend=ray", workers)
    if resources.ray_address is not None:
        return Choice("ray", "resources.ray_address names its cluster", workers)
    if why := may_break(scenario):
        return Choice("ray", why, workers)
    if workers == 1:
        return Choice("inline", "one client works at a time")
    if resources.workers is not None:
        return Choice("ray", f"resources.workers={resources.workers}", workers)
    if resources.fast and resources.threads > 1:
        return Choice("inline", f"the fast mode has {resources.threads} threads for clients")
    return None


def may_break(scenario: Scenario) -> str:
    """Why no client of a scenario may run in the run's own process; "" where all may."""
    if scenario.faults.client_timeout is not None:
        return "with faults.client_timeout a client may have to be ended"
    if scenario.faults.on_client_error == "skip":
        return "with faults.on_client_error=skip a client may die alone"
    return ""


def choose(
    seconds: float,
    messages: int,
    workers: int,
    *,
    start: float = START_SECONDS,
    process_mb: float = 0.0,
    free_mb: float = float("inf"),
) -> Choice:
    """The backend on which the clients' work that is left ends first.

    Args:
        seconds: what the work takes one client after another.
        messages: how many it answers.
        workers: clients that would run at a time on Ray.
        start: seconds until Ray's workers begin.
        process_mb: megabytes (10^6 bytes) of a process that does the work.
        free_mb: megabytes that new processes can have.
    """
    if workers == 1:
        return Choice("inline", "one client works at a time")
    needed = process_mb * workers + RAY_MB
    if needed > free_mb:
        why = f"{workers} workers would take {needed:,.0f} MB, and {free_mb:,.0f} MB are free"
        return Choice("inline", why)
    on_ray = start + seconds / workers + messages * _MESSAGE_SECONDS
    here = "their work takes about {} s here, {} s on Ray".format(*map(_whole, (seconds, on_ray)))
    return Choice("ray", here, workers) if on_ray < seconds else Choice("inline", here)


def start_seconds(on_gpu: bool = False) -> float:
    """Seconds until Ray's workers begin: few where this process has started it before."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return _WARM_SECONDS
    return START_SECONDS + _GPU_SECONDS * on_gpu


def _whole(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 1 else "1"
