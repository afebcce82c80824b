"""FedAutoMRI's network: MoDL whose denoiser is a search space, and then one architecture of it.

Wu et al., "FedAutoMRI: Federated Neural Architecture Search for MR Image Reconstruction" (2023).
The architecture is part of the model's state: `alphas` are the logits of the search, `gates` say
which operations an edge has. So it travels, and is in each checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from fedsim.models.classifier import require_positive
from fedsim.models.modl import LAST_GAIN, Operator, Unrolled, begin, require_input

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
EDGE_GAIN = 0.5
"""`fedsim.models.modl.begin` of an edge: He's, halved for the edges that a node adds, and again for
the nodes that a cell adds."""
ALPHAS, GATES = "alphas", "gates"
"""Names of the parameters that hold the logits, and the architecture."""


def shape_of(name: str) -> tuple[int, int]:
    """Kernel size and dilation of an operation of `OPERATIONS`."""
    _, _, size, *dilated = name.split("_")
    return int(size[0]), int(dilated[0][1:]) if dilated else 1


SHAPES = {
    shape: [k for k, name in enumerate(OPERATIONS) if shape_of(name) == shape]
    for shape in dict.fromkeys(map(shape_of, OPERATIONS))
}
"""(kernel size, dilation) -> the operations that have them."""


def edges_of(nodes: int) -> list[tuple[int, int]]:
    """(node, source) of each edge; sources 0 and 1 are the cell's inputs, 2 is node 0.

    There are n (n + 3) / 2.
    """
    return [(node, source) for node in range(nodes) for source in range(2 + node)]


EDGES = edges_of(NODES)
Leaving = list[list[tuple[Sequence[int], Operator]]]
"""Of each source of a cell: nodes, and what computes images for them, one after another along the
channels."""


def operation(name: str, width: int) -> nn.Module:
    """An operation of `OPERATIONS` on `width` channels, which keeps height and width."""
    size, dilation = shape_of(name)
    padding = dilation * (size // 2)
    if name.startswith("sep"):
        deep = nn.Conv2d(width, width, size, padding=padding, groups=width, bias=False)
        last = nn.Conv2d(width, width, 1)
        begin(deep, 1.0)
        begin(last, EDGE_GAIN)
        return nn.Sequential(deep, last, nn.ReLU())
    whole = nn.Conv2d(width, width, size, padding=padding, dilation=dilation)
    begin(whole, EDGE_GAIN)
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


def as_convolution(layer: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Kernel [width, width, size, size] and bias [width] of what an operation is before its ReLU.

    A separable convolution is linear, so it is one convolution, too.
    """
    *convolutions, _ = layer
    first, last = convolutions[0], convolutions[-1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    if last is first:
        return first.weight, last.bias
    return last.weight * first.weight.transpose(0, 1), last.bias


@dataclass(frozen=True)
class Wide:
    """The operations of one shape on all edges from one source, as one convolution.

    Its channels are edges x operations x width.

    Attributes:
        kernel: [channels, width, size, size].
        bias: [channels].
        dilation: of the kernel.
        mixture: sums the operations of an edge by their weights, [edges x width, channels, 1, 1].
    """

    kernel: Tensor
    bias: Tensor
    dilation: int
    mixture: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """What the operations add to the edges, [n, edges x width, H, W], of [n, width, H, W]."""
        padding = self.dilation * (self.kernel.shape[-1] // 2)
        found = functional.conv2d(
            images, self.kernel, self.bias, padding=padding, dilation=self.dilation
        )
        return functional.conv2d(found.relu(), self.mixture)


@dataclass(frozen=True)
class Mixture:
    """All operations on all edges from one source."""

    parts: Sequence[Wide]

    def __call__(self, images: Tensor) -> Tensor:
        """The edges' images, [n, edges x width, H, W], of the source's, [n, width, H, W]."""
        first, *others = self.parts
        found = first(images)
        for one in others:
            found = found + one(images)
        return found


class Cell(nn.Module):
    """Three nodes that sum what their edges make of two inputs; the output is the nodes' sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        for layer in self.before:
            begin(layer, 1.0)  # type: ignore[arg-type]
        self.edges = nn.ModuleList(
            nn.ModuleList(operation(name, width) for name in OPERATIONS) for _ in EDGES
        )

    def forward(self, first: Tensor, second: Tensor, edges: Leaving) -> Tensor:
        """Images [n, width, H, W] of two such, by `mixtures` or by what was `chosen`."""
        states = [layer(one) for layer, one in zip(self.before, (first, second), strict=True)]
        nodes: dict[int, Tensor] = {}
        for source, leaving in enumerate(edges):
            if source == len(states):
                states.append(nodes[source - 2])
            for targets, operate in leaving:
                found = operate(states[source]).split(first.shape[1], dim=1)
                for node, part in zip(targets, found, strict=True):
                    nodes[node] = nodes[node] + part if node in nodes else part
        return torch.stack(list(nodes.values())).sum(dim=0)

    def chosen(self, used: Sequence[Sequence[bool]]) -> Leaving:
        """The operations in use, each by itself.

        Args:
            used: [edges, operations]; a node that is a source has one at least.
        """
        edges: Leaving = [[] for _ in range(NODES + 1)]
        for number, (node, source) in enumerate(EDGES):
            for k in np.flatnonzero(used[number]).tolist():
                edges[source].append(((node,), self._layer(number, k)))
        return edges

    def mixtures(self, weights: Tensor) -> Leaving:
        """All operations; those of one source and shape are computed together.

        So few wide convolutions are made of many narrow ones, which take most of their time to
        begin and to go through memory.

        Args:
            weights: of the operations, [edges, operations].
        """
        edges: Leaving = []
        for source in range(NODES + 1):
            here = [number for number, (_, start) in enumerate(EDGES) if start == source]
            parts = [self._wide(here, shape, weights[here]) for shape in SHAPES]
            edges.append([([EDGES[number][0] for number in here], Mixture(parts))])
        return edges

    def _wide(self, numbers: list[int], shape: tuple[int, int], weights: Tensor) -> Wide:
        """The operations of a shape on some edges; their weights are [edges, operations]."""
        kinds = SHAPES[shape]
        parts = [as_convolution(self._layer(number, k)) for number in numbers for k in kinds]
        kernel, bias = (torch.cat(part) for part in zip(*parts, strict=True))
        sums = torch.block_diag(*weights[:, kinds].unsqueeze(1))
        identity = torch.eye(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)
        return Wide(kernel, bias, shape[1], torch.kron(sums, identity)[:, :, None, None])

    def _layer(self, edge: int, operation: int) -> nn.Sequential:
        """An operation of an edge."""
        found: nn.Sequential = self.edges[edge][operation]  # type: ignore[index,assignment]
        return found


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
        begin(self.stem, 1.0)
        begin(self.out, LAST_GAIN)
        shape = len(EDGES), len(OPERATIONS)
        self.alphas = nn.Parameter(1e-3 * torch.randn(shape))
        self.gates = nn.Parameter(torch.ones(shape), requires_grad=False)

    def denoiser(self) -> Operator:
        """The image less what the cells take for artefacts."""
        cells: list[Cell] = list(self.cells)  # type: ignore[arg-type]
        if searching(self.gates):
            weights = torch.softmax(self.alphas, dim=1)
            edges = [cell.mixtures(weights) for cell in cells]
        else:
            used = self.gates.detach().bool().tolist()
            edges = [cell.chosen(used) for cell in cells]

        def denoise(images: Tensor) -> Tensor:
            first = second = self.stem(laid_out(images))
            for cell, leaving in zip(cells, edges, strict=True):
                first, second = second, cell(first, second, leaving)
            found: Tensor = images + self.out(second)
            return found

        return denoise


def laid_out(images: Tensor) -> Tensor:
    """The same images, channels last in memory: convolutions on a CPU are faster so."""
    return images.contiguous(memory_format=torch.channels_last) if images.is_cpu else images


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
