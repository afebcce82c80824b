"""How many workers share a GPU: as many as its memory holds, by what the first clients took.

A GPU that works for one client waits most of the time for the process that feeds it, so several
workers are faster than one. Each takes its own memory, and what PyTorch and CUDA need themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT_MB = 600.0
"""What CUDA takes for each process, in megabytes (10^6 bytes), beside its tensors."""
MOST_PER_GPU = 8
"""More workers hardly gain anything: see `docs/scaling.md`."""
# Of the free memory: the largest client may not be the one that was measured.
_USED = 0.8


@dataclass(frozen=True)
class Share:
    """Workers that the GPUs of this machine hold.

    Attributes:
        workers: at most, on all GPUs.
        gpus: GPUs of one worker, 1 or a fraction.
        why: in words.
    """

    workers: int
    gpus: float
    why: str


def share_of(peak_mb: float, free_mb: list[float], wanted: int) -> Share:
    """The share of a GPU that each of some workers gets.

    Args:
        peak_mb: memory in megabytes (10^6 bytes) of the tensors of a client.
        free_mb: free memory of each GPU, in megabytes.
        wanted: workers that there is work, and that there are cores, for.
    """
    needed = peak_mb + CONTEXT_MB
    fit = min(int(_USED * min(free_mb) // needed), MOST_PER_GPU, -(-wanted // len(free_mb)))
    each = max(fit, 1)
    why = (
        f"a client takes {needed / 1e3:.1f} GB of GPU memory, and {min(free_mb) / 1e3:.1f} GB are "
        f"free: {each} to a GPU"
    )
    # Rounded down, to what Ray counts in: as many shares as fit must not be above 1.
    return Share(min(wanted, each * len(free_mb)), int(1e4 / each) / 1e4, why)


def measured_share(wanted: int) -> Share:
    """The share of workers whose clients take what this process's took."""
    import torch

    each = range(torch.cuda.device_count())
    peak = max(map(torch.cuda.max_memory_reserved, each)) / 1e6
    # What this process holds in reserve is given back before others start.
    free = [(torch.cuda.mem_get_info(i)[0] + torch.cuda.memory_reserved(i)) / 1e6 for i in each]
    return share_of(peak, free, wanted)


def give_back() -> None:
    """Let other processes have the memory that this one holds in reserve."""
    import torch

    torch.cuda.empty_cache()


def gpu_name() -> str:
    """What the first GPU is called."""
    import torch

    return str(torch.cuda.get_device_name(0))
