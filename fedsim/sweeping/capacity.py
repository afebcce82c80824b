"""How many runs this machine can carry at a time."""

from __future__ import annotations

from fedsim.grid.machine import cores, on_gpu
from fedsim.scenario import Scenario

# Memory of a process before anything is known: PyTorch, a small model, a window of images.
_PROCESS_MB = 1000.0


def cores_of(scenario: Scenario) -> int:
    """Cores that a run of the scenario keeps busy; all of them where it may take what it finds.

    A run on a GPU counts as all: nothing says how much of the GPU it leaves.
    """
    resources = scenario.resources
    if on_gpu(resources):
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
