"""A Ray cluster of several nodes on this machine, in a process of its own, for tests.

`python -m tests.engine.raylets FOLDER NODES` starts it below a folder with a short path, prints
where it is and what processes it has as a line of JSON, and ends them all when its input ends.
Nodes are a list of {"cores": 1, "env": {...}} as JSON; the first one is the head.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOON = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""Ray's default is to miss a node after 15 seconds."""


@dataclass(frozen=True)
class Raylets:
    """A cluster that runs.

    Attributes:
        address: of its head.
        raylets: process ids, in the order of the nodes.
        head: process id of what Ray calls the GCS.
        environment: variables with which Ray finds it by itself.
    """

    address: str
    raylets: list[int]
    head: int
    environment: dict[str, str]


@contextlib.contextmanager
def raylets(*nodes: dict[str, Any]) -> Iterator[Raylets]:
    """A cluster of these nodes, which ends with the context."""
    folder = tempfile.mkdtemp(prefix="fsr-", dir="/tmp" if os.path.isdir("/tmp") else None)
    # Ray names the cluster that was started last in a file there; nobody else must find ours.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_A")}
    environment |= {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.raylets", json.dumps(nodes)],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = json.loads(next(line for line in process.stdout if line.startswith("{")))
        yield Raylets(**found, environment={"RAY_TMPDIR": folder})
    finally:
        process.communicate("", timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _serve(nodes: list[dict[str, Any]]) -> None:
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

    # Nobody here asks them, and each is a process that starts when the nodes do.
    for idle in ("start_api_server", "start_monitor", "start_log_monitor"):
        setattr(Node, idle, lambda self, **options: None)
    # What starts and ends processes of its own is not ended by the end of this one.
    cluster = Cluster(shutdown_at_exit=False)
    started = []
    try:
        for place, node in enumerate(nodes):
            options: dict[str, Any] = {"num_cpus": node["cores"], "include_dashboard": False}
            if place == 0:
                options["_system_config"] = _SOON
            if "env" in node:
                options["env_vars"] = node["env"]
            started.append(cluster.add_node(**options))
        processes = [node.all_processes for node in started]
        print(
            json.dumps(
                {
                    "address": cluster.address,
                    "raylets": [each["raylet"][0].process.pid for each in processes],
                    "head": processes[0]["gcs_server"][0].process.pid,
                }
            ),
            flush=True,
        )
        sys.stdin.read()
    finally:
        for node in started:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
