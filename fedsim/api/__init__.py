"""What the verbs do, from Python: runs, comparisons, sweeps, curves and audits."""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.api.comparing import compare, load_runs
    from fedsim.api.running import Estimate, Result, estimate, execute, resume, run
    from fedsim.api.studies import audit, curve, sweep

__all__ = [
    "Estimate",
    "Result",
    "audit",
    "compare",
    "curve",
    "estimate",
    "execute",
    "load_runs",
    "resume",
    "run",
    "sweep",
]

__getattr__ = lazily(
    __name__,
    {
        "Estimate": "fedsim.api.running",
        "Result": "fedsim.api.running",
        "audit": "fedsim.api.studies",
        "compare": "fedsim.api.comparing",
        "curve": "fedsim.api.studies",
        "estimate": "fedsim.api.running",
        "execute": "fedsim.api.running",
        "load_runs": "fedsim.api.comparing",
        "resume": "fedsim.api.running",
        "run": "fedsim.api.running",
        "sweep": "fedsim.api.studies",
    },
)
