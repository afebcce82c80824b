"""What the shipped scenarios need to be loaded, and small models of every shipped kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.registry import default_registry

OWN_DATA = ("my_images", "my_volumes")
"""Those about a person's own data: nothing stands in for them, so they need a folder."""

SOME_FOLDER = str(Path(__file__).parent)


def needed(name: str) -> list[str]:
    """The overrides without which a shipped scenario is not valid: any folder as its data."""
    return [f"data.root={SOME_FOLDER}"] if name in OWN_DATA else []


MODELS = [plugin.name for plugin in default_registry().plugins() if plugin.group == "models"]
SEGMENTATION = ("dynunet", "in_context", "split_unet", "unet", "vit_decoder")
RECONSTRUCTION = ("auto_mri", "modl", "recon_unet")
MIXES_RECORDS = ("efficientnet_lite0",)
"""Batch normalisation is part of it: private training refuses it."""

CLASSIFIERS = sorted(set(MODELS) - {*SEGMENTATION, *RECONSTRUCTION, *MIXES_RECORDS})


def small(name: str, width: int = 16, size: int = 16) -> nn.Module:
    """A classifier of two classes with drawn parameters, for what `images_of` gives."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": width}
    if name == "vit_s14":
        size, sizes = 28, {"width": width, "depth": 2, "heads": 2, "grid": 3}
    elif name == "efficientnet_lite0":
        size, sizes = 32, {}
    elif name == "projected":
        sizes = {"network": {"name": "cnn", "width": width}, "dimensions": 6, "hidden": 5}
    make = default_registry().resolve("models", name)
    model: nn.Module = make(2, 12, hidden=5) if name == "linear" else make(2, 3, size, **sizes)
    return model


def images_of(name: str, n: int, size: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    """Records for `small`: images [n, 3, H, W], or vectors [n, 12]."""
    rng = torch.Generator().manual_seed(0)
    size = {"vit_s14": 28, "efficientnet_lite0": 32}.get(name, size)
    shape = (n, 12) if name == "linear" else (n, 3, size, size)
    return torch.randn(shape, generator=rng, dtype=dtype)
