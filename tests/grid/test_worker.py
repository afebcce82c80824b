"""What a worker reports of itself."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from fedsim.grid import worker
from fedsim.grid.worker import Worker, peak_rss_mb


@pytest.mark.parametrize(
    ("platform", "reported"), [("linux", 2_000_000), ("darwin", 2_048_000_000)]
)
def test_peak_memory_is_in_megabytes_on_every_system(
    platform: str, reported: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same two gigabytes: in KiB on Linux, in bytes on macOS."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=reported))
    assert peak_rss_mb() == 2048.0


@pytest.mark.parametrize(("limit", "imported"), [(None, False), (8.0, True)])
def test_torch_s_compiler_is_imported_beforehand_where_it_would_count_as_a_client_s_time(
    limit: float | None, imported: bool
) -> None:
    code = (
        "import sys; from types import SimpleNamespace as Has;"
        "from fedsim.grid.worker import Worker;"
        f"job = Has(scenario=Has(faults=Has(client_timeout={limit})));"
        "Worker.warm(Has(_store=0, _app=0, _model=0, job=job));"
        "print('torch._dynamo' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == f"{imported}\n"


def test_workers_in_threads_make_models_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is drawn from global generators: two at a time would mix their draws."""
    entered = [threading.Event(), threading.Event()]
    inside: list[int] = []
    most = []

    def slow(scenario: Any, task: Any, seed: int) -> None:
        inside.append(seed)
        most.append(len(inside))
        entered[seed].set()
        entered[1 - seed].wait(timeout=1.0)  # Time enough for the other one to come in, if it can.
        inside.remove(seed)

    monkeypatch.setattr(worker, "first_arrays", slow)
    workers: list[Any] = [
        SimpleNamespace(job=SimpleNamespace(scenario=None, task=None, seed=k)) for k in range(2)
    ]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(Worker._first_arrays, workers))
    assert most == [1, 1]
