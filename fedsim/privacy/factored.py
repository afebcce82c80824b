"""Per-sample gradients whose widest parts are never written out: norms and sums from two factors.

A convolution or a linear layer sees a record at t positions. Its weight's gradient there is the
matrix product L^T R of what came back, L [t, a], and what the weights met, R [t, b]. With few
positions and many weights the factors say the same in far fewer numbers. The norm follows from two
t x t matrices, |L^T R|^2 = <L L^T, R R^T> (Goodfellow, "Efficient Per-Example Gradient
Computations", 2015; Li et al., "Large Language Models Can Be Strong Differentially Private
Learners", 2022), and a weighted sum over records is one matrix product, without a second backward
pass (Bu et al., "Differentially Private Optimization on Large Foundation Models", 2023).

Factors are kept, and everything is computed of them, in float64. In float32 the terms of the norm
may cancel until it is found too small, which would let a gradient pass that is longer than C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.privacy.memory import Memory

TOGETHER = 8  # rows; their float32 sum is known to C * 2^-18


class Product(NamedTuple):
    """Gradients L^T R of one parameter and some records, as factors.

    Attributes:
        left: float64 [n, t, a].
        right: float64 [n, t, b].
    """

    left: Tensor
    right: Tensor

    def squares(self) -> Tensor:
        """Squared norm of each record's gradient, [n]; not finite where a factor is not."""
        left, right = (factor @ factor.transpose(1, 2) for factor in self)
        return (left * right).sum((1, 2)).clamp_min(0.0)

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        """Add the weighted sum over records to `total` [a * b], float64; weights are [n]."""
        left = (self.left * weights[:, None, None]).flatten(0, 1)
        total.view(left.shape[1], -1).addmm_(left.t(), self.right.flatten(0, 1))

    def along(self, direction: Tensor) -> Tensor:
        """The inner products [n] with one direction, float64 [a * b]."""
        met = self.right @ direction.view(self.left.shape[2], -1).t()
        return (met * self.left).sum((1, 2))

    def rows(self) -> Tensor:
        """The gradients, float64 [n, a * b]."""
        return (self.left.transpose(1, 2) @ self.right).flatten(1)

    def only(self, records: Tensor) -> Product:
        """Zero for all but these records, bool [n]."""
        return Product(*(torch.where(records[:, None, None], factor, 0.0) for factor in self))


@dataclass(frozen=True, eq=False)
class FactoredGradients:
    """Per-sample gradients [n, d], written out for some parameters and factored for the others.

    Attributes:
        written: [n, k], those of the parameters that have no product, side by side.
        sizes: numbers in each parameter; they add up to d.
        products: parameter's place in `sizes` -> its gradients, in parts of the records in order.
        memory: where sums are.
    """

    written: Tensor
    sizes: Sequence[int]
    products: Mapping[int, Sequence[Product]]
    memory: Memory

    def __len__(self) -> int:
        return len(self.written)

    @property
    def shape(self) -> torch.Size:
        """(n, d)."""
        return torch.Size((len(self), sum(self.sizes)))

    @property
    def dtype(self) -> torch.dtype:
        """That of the model, in which sums are released."""
        return self.written.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.written.device

    def zeros(self) -> Tensor:
        """A sum [d] of nothing yet, float64."""
        return self.memory.matrix(1, self.shape[1], self.written, torch.float64).view(-1).zero_()

    def norms(self) -> Tensor:
        """Euclidean norms [n], float64."""
        squares = row_norms(self.written).double().square()
        for products in self.products.values():
            squares += torch.cat([product.squares() for product in products])
        return squares.sqrt()

    def only(self, records: Tensor) -> FactoredGradients:
        """Zero for all but these records, bool [n]."""
        found: dict[int, list[Product]] = {}
        for place, products in self.products.items():
            parts = records.split([len(product.left) for product in products])
            found[place] = [p.only(some) for p, some in zip(products, parts, strict=True)]
        written = torch.where(records[:, None], self.written, 0.0)
        return replace(self, written=written, products=found)

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        """Add the weighted sum over records to `total` [d], float64; weights are [n]."""
        columns = list(self._columns(total))
        add_rows([part for place, part in columns if place is None], weights, self.written)
        for place, part in columns:
            if place is not None:
                start = 0
                for product in self.products[place]:
                    stop = start + len(product.left)
                    product.add_to(part, weights[start:stop].double())
                    start = stop

    def __matmul__(self, direction: Tensor) -> Tensor:
        """Inner products [n] with one direction [d], in the dtype of the model."""
        columns = list(self._columns(direction))
        found = self.written @ torch.cat([part for place, part in columns if place is None])
        wide = torch.zeros(len(self), dtype=torch.float64, device=self.device)
        for place, part in columns:
            if place is not None:
                products = self.products[place]
                wide += torch.cat([product.along(part.double()) for product in products])
        return (found.double() + wide).to(self.dtype)

    def rows(self) -> Tensor:
        """The gradients written out, [n, d]."""
        result = self.written.new_empty(self.shape)
        start = 0
        for place, part in self._columns(result):
            if place is None:
                part.copy_(self.written[:, start : start + part.shape[1]])
                start += part.shape[1]
            else:
                part.copy_(torch.cat([product.rows() for product in self.products[place]]))
        return result

    def _columns(self, values: Tensor) -> Iterator[tuple[int | None, Tensor]]:
        """Views of `values` [..., d]: of a parameter with products, or, with None, of others."""
        start = stop = 0
        for place, size in enumerate(self.sizes):
            if place in self.products:
                if stop > start:
                    yield None, values[..., start:stop]
                yield place, values[..., stop : stop + size]
                start = stop + size
            stop += size
        if stop > start:
            yield None, values[..., start:stop]


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norms [n] of rows [n, d], in their dtype."""
    # In blocks: float32 sums over millions of squares lose three digits, and a norm that is found
    # too small would let a gradient pass that is longer than C.
    return torch.stack([part.norm(dim=1) for part in rows.split(2**16, dim=1)]).norm(dim=0)


def add_rows(totals: Sequence[Tensor], weights: Tensor, rows: Tensor) -> None:
    """Add the weighted sum of rows [n, d] to `totals`, which hold d numbers in float64.

    One record must not move it by more than its own length. A float32 sum of thousands rounds every
    gradient that is added to a grid that what was added before decides, and all of it may move with
    one record (Casacuberta et al., "Widespread Underestimation of Sensitivity in Differentially
    Private Libraries and How to Fix It", 2022). So only a few rows are added up in float32.
    """
    sizes = [len(total) for total in totals]
    weights = weights.to(rows.dtype)
    for some, few in zip(weights.split(TOGETHER), rows.split(TOGETHER), strict=True):
        for total, part in zip(totals, (some @ few).split(sizes), strict=True):
            total += part
