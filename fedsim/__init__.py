"""fedsim: federated and privacy-preserving learning in medical imaging, simulated.

    from fedsim import run
    result = run("isic_noniid_gdd", seed=1)

Strategies, clients, models, data sets and partitions are plugins: derive from the classes here.
"""

from __future__ import annotations

import importlib as _importlib
import os as _os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"


def _prepare_environment() -> None:
    """Set what must be set before torch, Ray and Flower are imported."""
    # Without MKL's reproducible code path its matrix-vector products change with the alignment of
    # memory, and a run in one process differs in the last bits from the same run in several.
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpu:
            avx2 = " avx2" in cpu.read()
    except OSError:
        avx2 = False
    if avx2:
        _os.environ.setdefault("MKL_CBWR", "AVX2")
    # Software in a hospital does not call home unless told to.
    _os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    _os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


_prepare_environment()

if TYPE_CHECKING:
    from fedsim.api import Result, run
    from fedsim.client import Client, Site, Task
    from fedsim.comparing import compare, load_runs
    from fedsim.data.dataset import Dataset, Embedded, Manifest
    from fedsim.errors import ClientError, FedsimError, InputError, Problem, RunError
    from fedsim.exchanges import Exchange, RoundState
    from fedsim.observers import Observer
    from fedsim.scenario import Scenario, load
    from fedsim.strategy import Server, Strategy
    from fedsim.studies import audit, curve, sweep
    from fedsim.trained.load import load_model
    from fedsim.wrapper import Wrapper

# Imported when first used: `fedsim --help` should not wait for torch, nor the workers for the CLI.
_HOMES = {
    "run": "fedsim.api",
    "Result": "fedsim.api",
    "compare": "fedsim.comparing",
    "load_runs": "fedsim.comparing",
    "sweep": "fedsim.studies",
    "curve": "fedsim.studies",
    "audit": "fedsim.studies",
    "Client": "fedsim.client",
    "Site": "fedsim.client",
    "Task": "fedsim.client",
    "Dataset": "fedsim.data.dataset",
    "Embedded": "fedsim.data.dataset",
    "Manifest": "fedsim.data.dataset",
    "ClientError": "fedsim.errors",
    "FedsimError": "fedsim.errors",
    "InputError": "fedsim.errors",
    "Problem": "fedsim.errors",
    "RunError": "fedsim.errors",
    "Exchange": "fedsim.exchanges",
    "RoundState": "fedsim.exchanges",
    "Observer": "fedsim.observers",
    "Scenario": "fedsim.scenario",
    "load": "fedsim.scenario",
    "Server": "fedsim.strategy",
    "Strategy": "fedsim.strategy",
    "load_model": "fedsim.trained.load",
    "Wrapper": "fedsim.wrapper",
}

__all__ = [
    "Client",
    "ClientError",
    "Dataset",
    "Embedded",
    "Exchange",
    "FedsimError",
    "InputError",
    "Manifest",
    "Observer",
    "Problem",
    "Result",
    "RoundState",
    "RunError",
    "Scenario",
    "Server",
    "Site",
    "Strategy",
    "Task",
    "Wrapper",
    "audit",
    "compare",
    "curve",
    "load",
    "load_model",
    "load_runs",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(_importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
