"""FedAutoMRI's network: MoDL whose denoiser is a search space, and then one architecture of it.

Wu et al., "FedAutoMRI: Federated Neural Architecture Search for MR Image Reconstruction" (2023).
The architecture is part of the model's state: `alphas` are the logits of the search, `gates` say
which operations an edge has. So it travels, and is in each checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedsim.models.classifier import require_positive
from fedsim.models.modl import Unrolled, require_input

__all__ = ["ALPHAS", "GATES", "AutoMRI", "corrected", "derived", "in_use", "moved", "searching"]

OPERATIONS = (
    "std_conv_3x3",
    "std_conv_5x5",
    "std_conv_7x7",
    "dil_conv_3x3_d2",
    "dil_conv_3x3_d3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
)
"""What an edge may be; each ends in ReLU."""
NODES = 3
KEPT = 2
"""Incoming edges of a node that an architecture keeps."""
ALPHAS, GATES = "alphas", "gates"
"""Names of the parameters that hold the logits, and the architecture."""


def edges_of(nodes: int) -> list[tuple[int, int]]:
    """(node, source) of each edge; sources 0 and 1 are the cell's inputs, 2 is node 0.

    There are n (n + 3) / 2.
    """
    return [(node, source) for node in range(nodes) for source in range(2 + node)]


EDGES = edges_of(NODES)


def operation(name: str, width: int) -> nn.Module:
    """An operation of `OPERATIONS` on `width` channels, which keeps height and width."""
    kind, _, shape, *dilated = name.split("_")
    size, dilation = int(shape[0]), int(dilated[0][1:]) if dilated else 1
    padding = dilation * (size // 2)
    if kind == "sep":
        deep = nn.Conv2d(width, width, size, padding=padding, groups=width, bias=False)
        return nn.Sequential(deep, nn.Conv2d(width, width, 1), nn.ReLU())
    whole = nn.Conv2d(width, width, size, padding=padding, dilation=dilation)
    return nn.Sequential(whole, nn.ReLU())


def derived(alphas: NDArray[np.floating]) -> NDArray[np.float32]:
    """The architecture of logits: of each node the two edges whose best operation weighs most.

    Each of them has its operation with the largest logit, of all eight; of equal ones the first.
    An operation's weight is that in the edge's softmax, as in DARTS (Liu et al., 2019).

    Args:
        alphas: [edges, operations].

    Returns:
        Gates, float32 of zeros and ones [edges, operations].
    """
    wide = np.asarray(alphas, dtype=np.float64)
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    gates = np.zeros(wide.shape, dtype=np.float32)
    for node in range(NODES):
        here = [edge for edge, (to, _) in enumerate(EDGES) if to == node]
        best = sorted(here, key=lambda edge: (-weights[edge].max(), edge))[:KEPT]
        for edge in best:
            gates[edge, int(weights[edge].argmax())] = 1
    return gates


def searching(gates: NDArray[Any] | Tensor) -> bool:
    """Whether gates leave all operations to an edge: then nothing was derived yet."""
    return bool((gates == 1).all())


def in_use(names: Iterable[str], gates: NDArray[np.floating]) -> list[str]:
    """Those names of parameters that an architecture computes with; `alphas` and `gates` are none.

    Args:
        names: of the model's parameters.
        gates: see `derived`; while all are open, all operations are in use.
    """
    found = []
    for name in names:
        parts = name.split(".")
        if parts[0] in (ALPHAS, GATES):
            continue
        if len(parts) > 4 and parts[2] == "edges" and not gates[int(parts[3]), int(parts[4])]:
            continue
        found.append(name)
    return found


def told(gates: NDArray[np.floating]) -> list[tuple[int, int, str]]:
    """(node, source, operation) of each edge that is kept; see `edges_of`."""
    return [
        (*EDGES[edge], OPERATIONS[k])
        for edge, row in enumerate(gates)
        for k in np.flatnonzero(row).tolist()
    ]


class Cell(nn.Module):
    """Three nodes that sum what their edges make of two inputs; the output is the nodes' sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.edges = nn.ModuleList(
            nn.ModuleList(operation(name, width) for name in OPERATIONS) for _ in EDGES
        )

    def forward(self, first: Tensor, second: Tensor, weights: Tensor, used: Any) -> Tensor:
        """Images [n, width, H, W] of two such; `weights` and `used` are [edges, operations]."""
        states = [layer(one) for layer, one in zip(self.before, (first, second), strict=True)]
        nodes: list[Tensor | None] = [None] * NODES
        for number, (node, source) in enumerate(EDGES):
            if source == len(states):
                states.append(nodes[source - 2])
            layer: nn.Module
            for k, layer in enumerate(self.edges[number]):  # type: ignore[arg-type]
                if used[number][k]:
                    part = weights[number, k] * layer(states[source])
                    before = nodes[node]
                    nodes[node] = part if before is None else before + part
        done = [one for one in nodes if one is not None]
        return torch.stack(done).sum(dim=0)


class AutoMRI(Unrolled):
    """The super-net of FedAutoMRI or, once its gates are set, the derived network.

    The mixture of an edge is sum_o softmax(alpha)_o o(x) (E5); cells share their logits. Of a
    derived network only operations in use are computed.

    Args:
        in_channels: 3: real part, imaginary part, mask.
        image_size: of the slices; any.
        width: channels in cells.
        cells: how many.
        unrolls: see `fedsim.models.modl.Unrolled`.
        weight: lambda at first, above 0.01.

    Raises:
        ValueError: other channels, a size below one, or too small a weight.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        width: PositiveInt = 16,
        cells: PositiveInt = 3,
        unrolls: PositiveInt = 5,
        weight: PositiveFloat = 0.05,
    ) -> None:
        super().__init__(unrolls, weight)
        require_input(in_channels)
        require_positive(width=width, cells=cells)
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.cells = nn.ModuleList(Cell(width) for _ in range(cells))
        self.out = nn.Conv2d(width, 2, 3, padding=1)
        shape = len(EDGES), len(OPERATIONS)
        self.alphas = nn.Parameter(1e-3 * torch.randn(shape))
        self.gates = nn.Parameter(torch.ones(shape), requires_grad=False)

    def denoise(self, images: Tensor) -> Tensor:
        """The image less what the cells take for artefacts."""
        mixed = searching(self.gates)
        weights = torch.softmax(self.alphas, dim=1) if mixed else self.gates
        used = self.gates.detach().bool().tolist()
        first = second = self.stem(images)
        for cell in self.cells:
            first, second = second, cell(first, second, weights, used)
        found: Tensor = images + self.out(second)
        return found


def moved(
    mean: Mapping[str, NDArray[np.floating]],
    received: Mapping[str, NDArray[np.floating]],
    decay: float,
) -> dict[str, NDArray[np.float32]]:
    """m^t = decay m^(t-1) + (1 - decay) w^t, with m^0 = 0.

    Args:
        mean: m^(t-1); {}: 0.
        received: w^t.
        decay: gamma, 0 <= gamma < 1.
    """
    return {
        name: np.asarray(decay * mean.get(name, np.zeros_like(value)) + (1 - decay) * value).astype(
            np.float32
        )
        for name, value in received.items()
    }


def corrected(
    mean: Mapping[str, NDArray[np.floating]], decay: float, heard: int
) -> dict[str, NDArray[np.float32]]:
    """m^t / (1 - decay^t): the mean of t models, whose weights sum to one."""
    return {
        name: np.asarray(value / (1 - decay**heard)).astype(np.float32)
        for name, value in mean.items()
    }
