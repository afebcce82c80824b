"""A tiny federation that every engine test runs: generated images, a small CNN, four clients."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim import Result, run

# Not forked from this process, which may hold threads of Ray; what they need is imported once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["fedsim.engine.running"])

PLUGINS = Path(__file__).parents[1] / "plugins"

TINY = f"""\
# A federation of seconds.
name: tiny
rounds: 2
data:
  name: ham10000
  size: 16
  embedded: {{images: 260, sites: 3}}
federation:
  clients: 4
  partition: {{name: dirichlet, alpha: 1.0}}
model: {{name: cnn, width: 8}}
strategy: {{name: fedavg}}
client: {{name: supervised, batch_size: 16}}
resources: {{backend: inline, workers: 2}}
plugins: [{PLUGINS}]
"""

GDD = (
    "rounds=1",
    "strategy={name: gdd, epochs: 2}",
    "client={name: distill, images_per_class: 2, iterations: 2, width: 8, batch_size: 8}",
    "model={name: convnet, width: 8}",
)

# The same with labels of views from a network that each site trains.
VIEWS = (
    *GDD,
    "client.encoder=trained",
    "client.encoder_steps=4",
    "client.image_optimizer=adam",
    "client.view_labels=3",
)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The scenario's file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def run_tiny(tiny: Path, tmp_path: Path) -> Callable[..., Result]:
    """Runs the tiny scenario, with overrides, below the test's own folder."""

    def go(*overrides: str, **options: Any) -> Result:
        return run(tiny, *overrides, runs=tmp_path / "runs", **options)

    return go
