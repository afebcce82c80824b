"""What a frozen network made of images, kept so that each image is seen by it once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, cat


class Memory:
    """The latest results of a pure function of single images and of weights that do not change.

    Each image is computed by itself, not in a batch: so what comes out has the same bits whether it
    was remembered or not. A copy of a memory is empty. Weights that do change are noticed by the
    sums of their bits, and all is forgotten.

    Args:
        most: how many results are kept; those that were not asked for the longest go first.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[bytes, Tensor] = {}
        self._of: tuple[object, ...] = ()

    def __deepcopy__(self, memo: object) -> Memory:
        return Memory(self.most)

    def __reduce__(self) -> tuple[type[Memory], tuple[int]]:
        return Memory, (self.most,)

    def __len__(self) -> int:
        return len(self._held)

    @torch.no_grad()
    def ask(
        self, images: Tensor, weights: Iterable[Tensor], compute: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What `compute` gives for the images, one by one; no gradient flows through it.

        Args:
            images: [N, ...], N at least 1.
            weights: all that `compute` depends on beside them.
            compute: one image [1, ...] -> [1, ...].

        Returns:
            [N, ...].
        """
        of = (images.device, images.dtype, images.shape[1:], *map(_sum_of_bits, weights))
        if of != self._of:
            self._held.clear()
            self._of = of
        found = []
        for image, values in zip(images.split(1), images.detach().cpu(), strict=True):
            key = hashlib.sha256(values.contiguous().view(torch.uint8).numpy()).digest()
            result = self._held.pop(key, None)
            if result is None:
                result = compute(image)
            self._held[key] = result
            if len(self._held) > self.most:
                del self._held[next(iter(self._held))]
            found.append(result)
        return cat(found)


def _sum_of_bits(tensor: Tensor) -> int:
    values = tensor.detach().flatten()
    size = values.numel() * values.element_size()
    return int(values.view(torch.uint8 if size % 8 else torch.int64).sum())
