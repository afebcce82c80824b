"""The matrix of per-sample gradients, and the places of the parameters in it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from fedsim.privacy.factored import Product
from fedsim.privacy.memory import Memory

# A row of fewer weights stays in a core's cache: it is written and read at next to no cost.
_WIDE = 2**17
# Products are computed in float64, and from two factors of other shapes.
_DEARER = 4


class Rows:
    """Where the per-sample gradients of one part of a batch go.

    While the model runs, its rules say what they will do; `begin` then says what is to be written
    where, and the backward pass adds it.
    """

    def __init__(self, parameters: list[nn.Parameter], n: int, memory: Memory) -> None:
        self.n = n
        self.memory = memory
        self._parameters = parameters
        self._places = {id(p): place for place, p in enumerate(parameters)}
        self._uses = [0] * len(parameters)
        self._positions: list[list[int]] = [[] for _ in parameters]
        self._parts: dict[int, Tensor] = {}
        self._empty: set[int] = set()
        self._factors: dict[int, list[Product]] = {}

    def hold(self, tensor: Tensor | None) -> bool:
        """Whether this is a trainable parameter of the model."""
        return id(tensor) in self._places

    def take(self, *tensors: Tensor | None) -> bool:
        """Whether a rule must see to these: to a parameter, and to nothing that autograd must.

        A weight that is computed out of parameters is not one.
        """
        trained = [t for t in tensors if t is not None and t.requires_grad]
        if not trained or not all(map(self.hold, trained)):
            return False
        for tensor in trained:
            self._uses[self._places[id(tensor)]] += 1
        return True

    def expect(self, parameter: Tensor, positions: int) -> None:
        """A use that was taken will come as products over so many positions of a record."""
        if self.hold(parameter):
            self._positions[self._places[id(parameter)]].append(positions)

    def suited(self) -> frozenset[int]:
        """Places of the parameters that are better kept as factors: by shapes alone.

        Written out, a gradient of a x b numbers takes t a b multiplications and a b numbers of
        memory, which are written once and read twice. Its norm out of factors takes t^2 (a + b).
        """
        found = []
        for place, parameter in enumerate(self._parameters):
            positions, numbers = self._positions[place], parameter.numel()
            if len(positions) == self._uses[place] > 0 and numbers >= _WIDE:
                a = len(parameter)
                if _DEARER * sum(positions) * (a + numbers // a) <= numbers:
                    found.append(place)
        return frozenset(found)

    def width(self, factored: Collection[int]) -> int:
        """Columns that are written out."""
        sizes = enumerate(p.numel() for p in self._parameters)
        return sum(size for place, size in sizes if place not in factored)

    def begin(self, out: Tensor, factored: Collection[int]) -> None:
        """Write to `out` [n, width], but keep the factors of some parameters."""
        written = [p for place, p in enumerate(self._parameters) if place not in factored]
        parts = out.split([p.numel() for p in written], dim=1)
        self._parts = {id(p): part for p, part in zip(written, parts, strict=True)}
        self._empty = set(self._parts)
        self._factors = {place: [] for place in factored}

    def add(self, parameter: Tensor | None, values: Tensor) -> None:
        """Add [n, ...], one gradient a record."""
        if id(parameter) in self._parts:
            part, values = self._parts[id(parameter)], values.reshape(self.n, -1)
            part.copy_(values) if self._first(parameter) else part.add_(values)

    def add_product(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add the matrix products [n, a, t] @ [n, t, b]; a * b values make the gradient."""
        if not self.hold(parameter):
            return
        factors = self._factors.get(self._places[id(parameter)])
        if factors is not None:
            factors.append(Product(*map(self._exact, (left.transpose(1, 2), right))))
            return
        shape = left.shape[1], right.shape[2]
        if left.device.type == "cpu" and torch.get_num_threads() > 1:
            # Straight into the matrix, torch lets all threads meet after each record, and a thread
            # that must wait for its core holds up the others.
            product = self.memory.matrix(self.n, shape[0] * shape[1], left).unflatten(1, shape)
            self.add(parameter, torch.bmm(left, right, out=product))
        else:
            part = self._parts[id(parameter)].unflatten(1, shape)
            part.baddbmm_(left, right, beta=0 if self._first(parameter) else 1)

    def finish(self) -> dict[int, Product]:
        """The products, by place; parameters without a gradient have gradient zero."""
        for key in self._empty:
            self._parts[key].zero_()
        return {place: self._joined(place, uses) for place, uses in self._factors.items()}

    def _exact(self, values: Tensor) -> Tensor:
        """A copy of [n, t, b] in float64, dense in the order of its dimensions."""
        n, t, b = values.shape
        return self.memory.matrix(n, t * b, values, torch.float64).view(n, t, b).copy_(values)

    def _joined(self, place: int, uses: list[Product]) -> Product:
        """One product of all uses: positions of one use stand behind those of another."""
        if len(uses) == 1:
            return uses[0]
        parameter = self._parameters[place]
        a = len(parameter)
        none = parameter.new_zeros(self.n, 0, max(a, parameter.numel() // a), dtype=torch.float64)
        uses = [Product(none[..., :a], none[..., : parameter.numel() // a]), *uses]
        return Product(*(torch.cat(factors, dim=1) for factors in zip(*uses, strict=True)))

    def _first(self, parameter: Tensor | None) -> bool:
        first = id(parameter) in self._empty
        self._empty.discard(id(parameter))
        return first
