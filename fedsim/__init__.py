"""fedsim: federated and privacy-preserving learning in medical imaging, simulated.

    from fedsim import run
    result = run("isic_noniid_gdd", seed=1)

Strategies, clients, models, data sets and partitions are plugins: derive from the classes here.
"""

from __future__ import annotations

import importlib as _importlib
import os as _os
from typing import TYPE_CHECKING, Any

from fedsim.moved import keep_old_paths as _keep_old_paths

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
_keep_old_paths()

if TYPE_CHECKING:
    from fedsim.api import Result, run
    from fedsim.api.comparing import compare, load_runs
    from fedsim.api.forgetting import forget
    from fedsim.api.studies import audit, curve, sweep
    from fedsim.data.dataset import Dataset, Embedded, Manifest
    from fedsim.errors import ClientError, FedsimError, InputError, Problem, RunError
    from fedsim.method.client import Client, Site, Task
    from fedsim.method.exchanges import Exchange, RoundState
    from fedsim.method.strategy import Server, Strategy
    from fedsim.method.wrapper import Wrapper
    from fedsim.observers import Observer
    from fedsim.scenario import Scenario, load
    from fedsim.trained.load import load_model

# Imported when first used: `fedsim --help` should not wait for torch, nor the workers for the CLI.
_HOMES = {
    "run": "fedsim.api",
    "Result": "fedsim.api",
    "compare": "fedsim.api.comparing",
    "load_runs": "fedsim.api.comparing",
    "forget": "fedsim.api.forgetting",
    "sweep": "fedsim.api.studies",
    "curve": "fedsim.api.studies",
    "audit": "fedsim.api.studies",
    "Client": "fedsim.method.client",
    "Site": "fedsim.method.client",
    "Task": "fedsim.method.client",
    "Dataset": "fedsim.data.dataset",
    "Embedded": "fedsim.data.dataset",
    "Manifest": "fedsim.data.dataset",
    "ClientError": "fedsim.errors",
    "FedsimError": "fedsim.errors",
    "InputError": "fedsim.errors",
    "Problem": "fedsim.errors",
    "RunError": "fedsim.errors",
    "Exchange": "fedsim.method.exchanges",
    "RoundState": "fedsim.method.exchanges",
    "Observer": "fedsim.observers",
    "Scenario": "fedsim.scenario",
    "load": "fedsim.scenario",
    "Server": "fedsim.method.strategy",
    "Strategy": "fedsim.method.strategy",
    "load_model": "fedsim.trained.load",
    "Wrapper": "fedsim.method.wrapper",
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
    "forget",
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
