"""Compression on quadratics whose optimum is known: what error feedback mends, and what it does not
touch.

100 weights, of which top-1 % sends one a round and client. Each client's loss is a quadratic with
an optimum of its own, and the same curvature everywhere, so that averaging rests at the optimum of
the mean: what is left is the compression's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from fedsim import Site, run
from fedsim.clients.scaffold import Scaffold
from fedsim.clients.supervised import Supervised
from fedsim.method import Criterion

SIZE, CLIENTS = 100, 3
CURVATURE = np.random.default_rng(1).uniform(0.2, 4, size=(CLIENTS, SIZE))
CENTRE = np.random.default_rng(0).normal(size=(CLIENTS, SIZE)) * np.linspace(0.5, 4, SIZE)
OPTIMUM = CENTRE.mean(0)
TOP1 = "sparsify: {topk: 0.01}"

SCENARIO = f"""\
name: compressed
rounds: 300
data:
  name: ham10000
  size: 16
  embedded: {{images: 24, sites: 1}}
  split: {{val: 0, test: 0.5}}
federation: {{clients: {CLIENTS}, partition: {{name: iid}}}}
model: {{name: tests.strategies.test_compressed.Many}}
strategy: {{name: fedavg, weighting: uniform}}
client:
  name: tests.strategies.test_compressed.Towards
  steps: 1
  learning_rate: 0.01
  momentum: 0
evaluation: {{every: 300}}
resources: {{backend: inline}}
plugins: [{Path(__file__).parents[2]}]
"""


class Many(nn.Module):
    """Many weights, the first of which are the logits of every image."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.classes = num_classes
        self.w = nn.Parameter(torch.zeros(SIZE))

    def forward(self, images: Tensor) -> Tensor:
        """All weights in training, else as many as there are classes, [n, ...]."""
        shown = self.w if self.training else self.w[: self.classes]
        return shown.expand(len(images), -1)


class Towards(Supervised):
    """Gradient descent on 1/2 |w - b|^2, b being the client's own."""

    def criterion(self, site: Site) -> Criterion:
        """The loss of what all rows of the logits are."""
        centre = torch.tensor(CENTRE[site.client]).float()
        return lambda logits, labels: (logits[0] - centre).square().sum() / 2


class Controlled(Scaffold):
    """SCAFFOLD's client on 1/2 sum h (w - b)^2, h and b being the client's own."""

    def criterion(self, site: Site) -> Criterion:
        """The loss of what all rows of the logits are."""
        curvature, centre = (torch.tensor(x[site.client]).float() for x in (CURVATURE, CENTRE))
        return lambda logits, labels: (curvature * (logits[0] - centre).square()).sum() / 2


def distance(folder: Path, *overrides: str, optimum: np.ndarray = OPTIMUM) -> float:
    """How far the final model is from the optimum, over how far the first one was."""
    file = folder / "compressed.yaml"
    file.write_text(SCENARIO)
    result = run(file, *overrides, runs=folder / "runs")
    found = load_file(result.folder / "model.safetensors")["w"].astype(np.float64)
    return float(np.linalg.norm(found - optimum) / np.linalg.norm(optimum))


@pytest.mark.slow
def test_error_feedback_makes_top_1_percent_converge_where_plain_top_1_percent_does_not(
    tmp_path: Path,
) -> None:
    plain = distance(tmp_path, f"wire={{{TOP1}}}")
    mended = distance(tmp_path, f"wire={{{TOP1}, error_feedback: true}}")
    assert plain > 0.8
    assert mended < 0.2


def test_scaffold_reaches_the_optimum_with_rounded_control_variates(tmp_path: Path) -> None:
    optimum = (CURVATURE * CENTRE).sum(0) / CURVATURE.sum(0)
    steps = "client={name: %s, steps: 10, learning_rate: 0.03, momentum: 0}"
    client = "tests.strategies.test_compressed.Controlled"
    words = ("strategy={name: scaffold}", steps % client, "rounds=40", "evaluation.every=40")
    # Where the clients forget what rounding leaves out, 0.01 of the way is left.
    assert distance(tmp_path, *words, "wire.codec=uint8", optimum=optimum) < 1e-4
