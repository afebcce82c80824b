"""The matrix of per-sample gradients, the places of the parameters in it, and its memory."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor, nn


class Memory:
    """Blocks of memory that are used again once no tensor refers to them.

    A large tensor's memory comes from the system, page by page, at every allocation: on a CPU that
    costs about as much as filling it with gradients.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def matrix(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """A matrix with dtype and device of `like`; its content is whatever was there."""
        if like.device.type != "cpu":
            return torch.empty(rows, columns, dtype=like.dtype, device=like.device)
        size = rows * columns * like.element_size()
        free = [i for i, (_, user) in enumerate(self._blocks) if user() is None]
        fitting = [i for i in free if len(self._blocks[i][0]) >= size]
        if fitting:
            block, _ = self._blocks.pop(min(fitting, key=lambda i: len(self._blocks[i][0])))
        else:
            if free:
                self._blocks.pop(max(free, key=lambda i: len(self._blocks[i][0])))
            block = _aligned(size + size // 4)
        # A tensor's memory keeps this window alive; so does every view of the tensor.
        window = block[:size]
        self._blocks.append((block, weakref.ref(window)))
        return torch.from_numpy(window).view(like.dtype).view(rows, columns)


def _aligned(size: int) -> np.ndarray:
    """Bytes at a multiple of 64, as torch aligns its own: sums do not change with the place."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


class Rows:
    """Where the per-sample gradients of one part of a batch go."""

    def __init__(self, parameters: list[nn.Parameter], out: Tensor, memory: Memory) -> None:
        self.n = len(out)
        self.memory = memory
        self._parts: dict[int, Tensor] = {}
        self._empty = {id(p) for p in parameters}
        sizes = [p.numel() for p in parameters]
        for parameter, part in zip(parameters, out.split(sizes, dim=1), strict=True):
            self._parts[id(parameter)] = part

    def hold(self, tensor: Tensor | None) -> bool:
        """Whether this is a trainable parameter of the model."""
        return id(tensor) in self._parts

    def take(self, *tensors: Tensor | None) -> bool:
        """Whether a rule must see to these: to a parameter, and to nothing that autograd must.

        A weight that is computed out of parameters is not one.
        """
        trained = [t for t in tensors if t is not None and t.requires_grad]
        return bool(trained) and all(map(self.hold, trained))

    def add(self, parameter: Tensor | None, values: Tensor) -> None:
        """Add [n, ...], one gradient a record."""
        if self.hold(parameter):
            part, values = self._parts[id(parameter)], values.reshape(self.n, -1)
            part.copy_(values) if self._first(parameter) else part.add_(values)

    def add_product(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add the matrix products [n, a, b] @ [n, b, c]; a * c values make the gradient."""
        if not self.hold(parameter):
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

    def finish(self) -> None:
        """Parameters without a gradient have gradient zero."""
        for key in self._empty:
            self._parts[key].zero_()

    def _first(self, parameter: Tensor | None) -> bool:
        first = id(parameter) in self._empty
        self._empty.discard(id(parameter))
        return first
