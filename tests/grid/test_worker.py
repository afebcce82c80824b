"""What a worker reports of itself."""

from __future__ import annotations

import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fedsim.grid.worker import peak_rss_mb


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


def test_who_is_warm_imports_nothing_for_its_first_optimizer() -> None:
    """It would count as the first client's time, which `faults.client_timeout` limits."""
    code = (
        "import sys, torch; from types import SimpleNamespace;"
        "from fedsim.grid.worker import Worker;"
        "Worker.warm(SimpleNamespace(_store=0, _app=0, _model=0)); before = set(sys.modules);"
        "torch.optim.Adam([torch.zeros(1)]); print(len(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "0\n"
