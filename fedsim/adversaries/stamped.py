"""A view of images of which some carry a backdoor's square."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.data.views import View


class StampedView(View):
    """The records of another view, with the square on some of the images.

    Args:
        view: the other; it stays as it is.
        marked: bool [n], the images that carry the square.
        size: of the square, in pixels.
    """

    def __init__(self, view: View, marked: NDArray[np.bool_], size: int) -> None:
        self.__dict__.update(view.__dict__)
        self._marked, self._size = marked, size

    def pixels(self, positions: np.ndarray | torch.Tensor | None = None) -> np.ndarray:
        """See `View.pixels`."""
        found = super().pixels(positions)
        marked = self._marked if positions is None else self._marked[np.asarray(positions)]
        stamped = found[marked]
        _chequered(stamped, self._size)
        found[marked] = stamped
        return found


def _chequered(images: NDArray[np.uint8], size: int) -> None:
    """Draw a black and white square into the lower right corner of images [k, H, W, C]."""
    rows, columns = np.indices((size, size))
    images[:, -size:, -size:, :] = np.where((rows + columns) % 2, 0, 255)[..., None]
