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
