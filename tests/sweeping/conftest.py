"""Commands as they are typed, in a folder that holds tiny.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.cli import main
from tests.engine.conftest import TINY

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Typed:
    """Types a command in a folder that holds tiny.yaml; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    # One for all tests: none looks into it, and to draw the images takes longer than most runs.
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-typed"))
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def go(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        out = capsys.readouterr()
        return code, out.out, out.err

    return go
