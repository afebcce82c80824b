"""A faked pip: wheels come from a dictionary, and every call is counted."""

from __future__ import annotations

import io
import subprocess
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def wheel(files: dict[str, bytes]) -> bytes:
    """The bytes of a wheel with these files, and metadata as all have."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**files, "tiny-1.0.dist-info/RECORD": b""}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


@dataclass
class Pip:
    """Answers `pip download`.

    Attributes:
        wheels: requirement -> the wheel's bytes.
        stderr: what is said where there is none.
        calls: the requirements that were asked for.
    """

    wheels: dict[str, bytes] = field(default_factory=dict)
    stderr: str = "ERROR: No matching distribution found for it\n"
    calls: list[str] = field(default_factory=list)

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        """In the place of `subprocess.run`."""
        assert command[1:4] == ["-m", "pip", "download"]
        assert {"--no-deps", "--only-binary", ":all:"} <= set(command)
        requirement, folder = command[-1], Path(command[command.index("--dest") + 1])
        self.calls.append(requirement)
        if requirement not in self.wheels:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        (folder / "tiny-1.0-py3-none-any.whl").write_bytes(self.wheels[requirement])
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDSIM_CACHE", str(folder))
    return folder


@pytest.fixture
def pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    """A pip that has no wheels yet, and an empty cache."""
    fake = Pip()
    module = SimpleNamespace(run=fake.run, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr("fedsim.pretrained.fetching.subprocess", module)
    return fake
