"""Tunings whose trials run in the test's own process: seconds, where processes take minutes."""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from fedsim.cli import main
from fedsim.sweeping import scheduler
from tests.sweeping.conftest import typed  # noqa: F401 - a fixture


class Trials:
    """Takes the place of `subprocess.Popen`, and counts.

    Attributes:
        commands: the words after `fedsim` of each run.
        before: is called with these words before a run; what it returns stands for the process, in
            the place of the run.
    """

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.before: Callable[[list[str]], Any] = lambda words: None

    def __call__(self, command: list[str], stdout: BinaryIO, **options: Any) -> Any:
        words = command[command.index("fedsim") + 1 :]
        self.commands.append(words)
        said = io.StringIO()
        if (process := self.before(words)) is not None:
            return process
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(words)
        stdout.write(said.getvalue().encode())
        stdout.flush()
        return SimpleNamespace(poll=lambda: code, terminate=lambda: None, kill=lambda: None)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    """The runs of trials, in this process."""
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    found = Trials()
    stand_in = SimpleNamespace(Popen=found, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(scheduler, "subprocess", stand_in)
    return found
