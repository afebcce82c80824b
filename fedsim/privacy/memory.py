"""Memory of per-sample gradients, which is used again."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor

_LIKE = 4


class Memory:
    """Blocks of memory that are used again once no tensor refers to them.

    A large tensor's memory comes from the system, page by page, at every allocation: on a CPU that
    costs about as much as filling it with gradients.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def matrix(
        self, rows: int, columns: int, like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A matrix, by default of the dtype of `like`, on its device; it holds what was there."""
        dtype = dtype or like.dtype
        if like.device.type != "cpu":
            return torch.empty(rows, columns, dtype=dtype, device=like.device)
        size = rows * columns * dtype.itemsize
        free = [(len(block), i) for i, (block, user) in enumerate(self._blocks) if user() is None]
        # A much larger block is another tensor's, which will want it back.
        fitting = [known for known in free if size <= known[0] <= _LIKE * size]
        outgrown = [known for known in free if size // _LIKE <= known[0] < size]
        if fitting:
            block, _ = self._blocks.pop(min(fitting)[1])
        else:
            if outgrown:
                self._blocks.pop(max(outgrown)[1])
            block = _aligned(size + size // 4)
        # A tensor's memory keeps this window alive; so does every view of the tensor.
        window = block[:size]
        self._blocks.append((block, weakref.ref(window)))
        return torch.from_numpy(window).view(dtype).view(rows, columns)


def _aligned(size: int) -> np.ndarray:
    """Bytes at a multiple of 64, as torch aligns its own: sums do not change with the place."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
