"""A federation whose answer is known: each client's loss is a quadratic of two weights.

Client i has the loss 1/2 sum_d h[i, d] (w[d] - b[i, d])^2. The optimum of their mean is, in each
direction d, sum_i h b / sum_i h. The client methods are the built-in ones with this loss in place
of cross-entropy, and run through the engine; only the images are without meaning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from fedsim import Site, run
from fedsim.clients.feddyn import FedDyn
from fedsim.clients.fednova import FedNova
from fedsim.clients.q_fedavg import QFedAvg
from fedsim.clients.scaffold import Scaffold
from fedsim.clients.supervised import Supervised
from fedsim.method import Criterion
from fedsim.strategies.fedavg import FedAvg

CURVATURE = np.array([[1.0, 4.0], [3.0, 1.0], [0.5, 2.0]])
CENTRE = np.array([[1.0, -1.0], [-2.0, 3.0], [4.0, 0.5]])
OPTIMUM = (CURVATURE * CENTRE).sum(0) / CURVATURE.sum(0)
"""Of the mean of all clients' losses."""
RATE, STEPS = 0.05, 10
"""Of each client's gradient descent."""

SCENARIO = f"""\
name: quadratics
rounds: 30
data:
  name: ham10000
  size: 16
  embedded: {{images: 60, sites: 1}}
  split: {{val: 0, test: 0.5}}
federation: {{clients: {len(CENTRE)}, partition: {{name: iid}}}}
model: {{name: tests.strategies.quadratics.Weights}}
strategy: {{name: fedavg, weighting: uniform}}
client:
  name: tests.strategies.quadratics.Plain
  steps: {STEPS}
  learning_rate: {RATE}
  momentum: 0
evaluation: {{every: 1000}}
resources: {{backend: inline}}
plugins: [{Path(__file__).parents[2]}]
"""
SILENT = "client.name=tests.strategies.quadratics.Silent"
SILENT_AVERAGE = "strategy={name: tests.strategies.quadratics.SilentAverage, weighting: uniform}"


class Weights(nn.Module):
    """Two weights, which are the logits of every image."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """The weights, [n, 2]."""
        return self.w.expand(len(images), -1)


class Quadratic(Supervised):
    """In place of the loss of `supervised`: the client's own quadratic."""

    def criterion(self, site: Site) -> Criterion:
        """The loss of what all rows of the logits are."""
        curvature, centre = (torch.tensor(x[site.client]).float() for x in (CURVATURE, CENTRE))
        return lambda logits, labels: (curvature * (logits[0] - centre).square()).sum() / 2


class Plain(Quadratic):
    """Gradient descent."""


class Silent(Quadratic):
    """Gradient descent that does not say what it sends."""

    payload = ""


class SilentAverage(FedAvg):
    """Federated averaging that does not say what it expects."""

    payload = ""


class Controlled(Quadratic, Scaffold):
    """SCAFFOLD's client."""


class Counted(Quadratic, FedNova):
    """FedNova's client."""


class Regularised(Quadratic, FedDyn):
    """FedDyn's client."""


class Weighed(Quadratic, QFedAvg):
    """q-FedAvg's client."""


def weights_after(folder: Path, *overrides: str, **options: Any) -> np.ndarray:
    """The two weights of the final model of a run, float64 [2]."""
    file = folder / "quadratics.yaml"
    file.write_text(SCENARIO)
    result = run(file, *overrides, runs=folder / "runs", **options)
    return load_file(result.folder / "model.safetensors")["w"].astype(np.float64)


def losses(weights: np.ndarray) -> np.ndarray:
    """Each client's loss at two weights, float64 [clients]."""
    found: np.ndarray = (CURVATURE * (weights - CENTRE) ** 2).sum(1) / 2
    return found


def averaged(steps: np.ndarray | int = STEPS) -> np.ndarray:
    """Where FedAvg comes to rest, each client counting once and taking so many steps.

    k steps leave (1 - rate h)^k of the way to the client's own optimum b.
    """
    moved = 1 - (1 - RATE * CURVATURE) ** np.reshape(steps, (-1, 1))
    found: np.ndarray = (moved * CENTRE).sum(0) / moved.sum(0)
    return found
