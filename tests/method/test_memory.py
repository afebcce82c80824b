"""A process keeps its memory where glibc lets it, and computes the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedsim.method import keep_memory, memory

_FAULTS = """
import resource
from fedsim.method import keep_memory
if {keep}:
    keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(40 << 20)
before = faults()
for _ in range(4):
    bytearray(40 << 20)
print(faults() - before)
"""


def _faults(keep: bool) -> int:
    code = _FAULTS.format(keep=keep)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
def test_memory_that_is_kept_is_not_mapped_anew() -> None:
    pages = 40 * 256
    assert _faults(keep=False) >= 4 * pages / 2  # Large pages may come several at a time.
    assert _faults(keep=True) < pages / 2


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(name)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Other())
    keep_memory()


def test_another_system_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str | None) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(memory.ctypes, "CDLL", refuse)
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    keep_memory()
