"""How many runs this machine can carry at a time."""

from __future__ import annotations

import os
from pathlib import Path

from fedsim.scenario import Scenario

# Memory of a process before anything is known: PyTorch, a small model, a window of images.
_PROCESS_MB = 1000.0
_CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of(scenario: Scenario) -> int:
    """Cores that a run of the scenario keeps busy; all of them where it may take what it finds.

    A run on a GPU counts as all: nothing says how much of the GPU it leaves.
    """
    resources = scenario.resources
    if resources.gpus > 0:
        return cores()
    if resources.backend == "inline":
        return max(resources.threads, resources.server_threads)
    if resources.workers is None:
        return cores()
    return max(resources.workers * resources.threads, resources.server_threads)


def expected_mb(scenario: Scenario) -> float:
    """Memory in MB (10^6 bytes) to expect of a run while none like it has been measured."""
    resources = scenario.resources
    workers = 0 if resources.backend == "inline" else resources.workers or cores()
    return _PROCESS_MB * (1 + workers)


def available_mb() -> float:
    """Memory in MB (10^6 bytes) that new processes can have, within a container's limit."""
    found = [_machine_mb()]
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        found.append((limit - int((_CGROUP / "memory.current").read_text())) / 1e6)
    except (OSError, ValueError):  # No container, or one without a limit ("max").
        pass
    return max(min(found), 0.0)


def _machine_mb() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (ValueError, OSError):  # Not told: only the cores limit.
        return float("inf")
