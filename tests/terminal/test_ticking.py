"""What is long says how far it is; what is short says nothing."""

from __future__ import annotations

import pytest

from fedsim.terminal import ticking
from fedsim.terminal.ticking import Ticker


def test_it_speaks_every_few_seconds_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(ticking.time, "monotonic", lambda: next(clock) / 2)
    tell = Ticker("counting sheep")
    for done in range(20):
        tell(done, 2000)
    out = capsys.readouterr()
    assert out.out == ""
    lines = out.err.splitlines()
    assert 2 <= len(lines) <= 4
    assert lines[0] == "counting sheep: 5 of 2,000"


def test_quiet_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(ticking.time, "monotonic", lambda: float(next(clock) * 10))
    tell = Ticker("counting sheep", quiet=True)
    for done in range(20):
        tell(done, 20)
    assert capsys.readouterr().err == ""
