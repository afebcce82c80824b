"""What a worker reports of itself."""

from __future__ import annotations

import resource
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
