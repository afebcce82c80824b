"""The author's walk: what the page prints is typed in an empty folder, by a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.docs.test_docs import DOCS

PAGE = DOCS / "authoring.md"
SECTION = "## Start from a folder that works"


def typed() -> list[str]:
    """The commands of the page's first section, in order."""
    section = PAGE.read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    commands = []
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        lines = text.splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        commands += lines
    return commands


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A virtual environment that has what this one has, so that installing changes nothing here."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    inner = next(venv.glob("lib/python3*/site-packages"))
    # `addsitedir`, and not a path: fedsim itself may be installed by a .pth file.
    there = sysconfig.get_path("purelib")
    (inner / "dependencies.pth").write_text(f"import site; site.addsitedir({there!r})\n")
    for name, module in (("fedsim", "fedsim"), ("pytest", "pytest"), ("pip", "pip")):
        script = venv / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{venv}/bin/python" -m {module} "$@"\n')
        script.chmod(0o755)
    return venv


@pytest.mark.slow
def test_what_the_page_prints_leads_from_nothing_to_a_result(machine: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    commands = typed()
    assert [line.split()[0] for line in commands] == [
        *("fedsim", "fedsim", "fedsim", "pytest", "pip", "fedsim")
    ]
    environment = os.environ | {"PATH": f"{machine / 'bin'}:{os.environ['PATH']}"}
    environment |= {"FEDSIM_CACHE": str(tmp_path / "cache")}
    # What pip installs to build with is used once.
    environment |= {"PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    said = {}
    for line in commands:
        if "check-plugin" in line:
            continue  # The page's own test types it, and pytest asks the same.
        done = subprocess.run(
            line, shell=True, cwd=empty, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said[line.split()[0] + line.split()[1]] = done.stdout
    assert "13 passed" in said["pytestshy_mean"]
    for name in ("shy_mean", "isic_noniid_fedavg"):
        assert (empty / "runs" / name / "latest" / "model.safetensors").is_file()
        assert (empty / "runs" / name / "latest" / "summary.json").is_file()
