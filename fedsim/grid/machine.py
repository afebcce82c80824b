"""What this machine has, and whether a scenario asks for more.

A worker that cannot be placed would be waited for without an end, so what is asked for is compared
with what there is before anything starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import InputError, Problem

if TYPE_CHECKING:
    from fedsim.scenario import Resources, Scenario

_CGROUP = Path("/sys/fs/cgroup")
# A worker that has imported PyTorch, before it holds a model or an image.
_LEAST_WORKER_MB = 200.0
_MANY = 1e9
# Of NVIDIA, on a machine, in WSL, and on a Jetson; of AMD.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap", "/dev/kfd")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> int:
    """GPUs that PyTorch can use in this process."""
    if (
        sys.platform == "linux" and not has_gpu_driver()
    ):  # Known without PyTorch, whose import takes seconds.
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_gpu_driver() -> bool:
    """Whether Linux has the driver of a GPU here, which PyTorch may be unable to use."""
    return any(map(os.path.exists, _DRIVERS))


def asked_gpus(resources: Resources) -> float:
    """GPUs of one worker as a scenario asks for them; 0 where it leaves that open."""
    return 0.0 if resources.gpus == "auto" else resources.gpus


def on_gpu(resources: Resources) -> bool:
    """Whether clients and server compute on a GPU: as asked, or where there is one.

    What a cluster has is not known before it is joined: with `auto` its clients stay on CPUs.
    """
    if resources.gpus == "auto":
        return resources.ray_address is None and gpus() > 0
    return asked_gpus(resources) > 0


def available_mb() -> float:
    """Memory in MB (10^6 bytes) that new processes can have, within a container's limit."""
    found = [_machine_mb()]
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        found.append((limit - int((_CGROUP / "memory.current").read_text())) / 1e6)
    except (OSError, ValueError):  # No container, or one without a limit ("max").
        pass
    return max(min(found), 0.0)


def workers_on(cores: float, gpus: float, threads: int, share: float) -> int:
    """Workers of so many `threads`, and with such a `share` of a GPU, that fit on one machine."""
    if not share:
        return int(cores // threads)
    # Of a GPU that several share, each has its part of one and the same.
    fit = int(gpus) * int(1 / share + 1e-9) if share < 1 else int(gpus // share)
    return min(fit, int(cores // threads))


def require_resources(scenario: Scenario, clients: int | None = None) -> None:
    """Refuse a scenario that asks for more than there is.

    What a cluster at `resources.ray_address` has is not known here; see `fedsim.grid.ray`.

    Args:
        scenario: what asks.
        clients: how many there are, as far as that is known: more workers are not started.

    Raises:
        InputError: with all that is too much, what there is, and what to type.
    """
    asked = scenario.resources
    clients = clients or scenario.federation.clients
    workers = 1 if asked.backend == "inline" else asked.workers
    if workers is not None and clients is not None:
        workers = min(workers, clients)
    problems: list[Problem] = []
    hints: list[str] = []

    def refuse(key: str, message: str, hint: str) -> None:
        problems.append(Problem(f"resources.{key}", message))
        hints.append(f"resources.{hint}")

    share = asked_gpus(asked)
    here = gpus() if share else 0
    if share and not here:
        refuse("gpus", f"{share:g} for each worker, but there is no GPU here", "gpus=auto")
    elif share and asked.ray_address is None:
        fit = workers_on(_MANY, here, 1, share)
        if not fit:
            refuse("gpus", f"{share:g} for each worker, but there are {here}", f"gpus={here}")
        elif workers is not None and workers > fit:
            message = f"{workers}, with {share:g} GPUs each, but there are {here}"
            refuse("workers", message, f"workers={fit}")
    if asked.ray_address is None or asked.backend == "inline":
        if asked.threads > cores():
            refuse(
                "threads", f"{asked.threads}, but there are {cores()} cores", f"threads={cores()}"
            )
        memory = available_mb()
        if workers is not None and workers > max(memory // _LEAST_WORKER_MB, 1):
            fit = max(int(memory // _LEAST_WORKER_MB), 1)
            message = f"{workers} take more than the {memory / 1e3:.1f} GB of memory that are free"
            refuse("workers", message, f"workers={fit}")
    if asked.server_threads > cores():
        message = f"{asked.server_threads}, but there are {cores()} cores"
        refuse("server_threads", message, f"server_threads={cores()}")
    if problems:
        raise InputError(
            f"scenario {scenario.name} asks for more than this machine has",
            problems,
            hint=f"type: {' '.join(dict.fromkeys(hints))}",
        )


def _machine_mb() -> float:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (ValueError, OSError):  # Not told: only the cores limit.
        return float("inf")
