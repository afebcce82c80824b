"""Every test draws from a stated seed, whatever ran before it."""

from __future__ import annotations

import ast
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
UNSEEDED = {"default_rng", "SeedSequence", "Random", "RandomState"}
NEVER = {"urandom", "SystemRandom", "token_bytes", "uuid4"}


def unseeded(source: str) -> list[str]:
    """Draws that no test's seed reaches, as "line: name"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        bare = not node.args and not node.keywords
        if name in NEVER or (name in UNSEEDED and bare):
            found.append(f"{node.lineno}: {name}")
    return found


def test_no_test_makes_a_generator_without_a_seed() -> None:
    found = {
        str(path.relative_to(HERE)): draws
        for path in sorted(HERE.rglob("*.py"))
        if (draws := unseeded(path.read_text()))
    }
    assert found == {}


def test_an_unseeded_generator_would_be_found() -> None:
    source = "a = np.random.default_rng()\nb = np.random.default_rng(0)\nc = os.urandom(8)\n"
    assert unseeded(source) == ["1: default_rng", "3: urandom"]


FIRST: list[tuple[float, ...]] = []


@pytest.mark.parametrize("_again", [0, 1])
def test_global_generators_begin_elsewhere_in_every_test(_again: int) -> None:
    drawn = random.random(), float(np.random.random()), float(torch.rand(()))
    assert drawn not in FIRST
    FIRST.append(drawn)


PROBE = """
import random

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def shared():
    return torch.rand(()).item()


@pytest.mark.parametrize("number", range(6))
def test_draws(number, shared):
    print("DRAWN", number, shared, random.random(), np.random.random(), torch.rand(()).item())
"""


SESSIONS = """
import sys

import pytest

for options in ([], ["--shuffle", "3"], ["--seed-base", "1"]):
    print("SESSION", flush=True)
    if code := pytest.main(["-q", "-s", "-p", "no:cacheprovider", *options]):
        sys.exit(code)
"""


def test_draws_follow_the_seed_and_not_the_order(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((HERE / "conftest.py").read_text())
    (tmp_path / "test_probe.py").write_text(PROBE)

    # One process for all: what a session leaves of its draws must not show in the next one.
    words = [sys.executable, "-c", SESSIONS]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, other, elsewhere = (
        [line for text in part.splitlines() if (line := text.lstrip(".")).startswith("DRAWN")]
        for part in done.stdout.split("SESSION")[1:]
    )
    assert len(first) == 6
    assert first != other
    assert sorted(first) == sorted(other)
    assert len(elsewhere) == 6
    assert not set(first) & set(elsewhere)
