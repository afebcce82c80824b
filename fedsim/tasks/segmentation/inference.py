"""From a model and a volume to a segmentation of the whole volume."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.tasks.evaluation import require_finite

OVERLAP = 0.5
"""Share of a window that its neighbour sees too, along every axis (Isensee et al., 2021)."""


@torch.inference_mode()
def segment(
    model: nn.Module,
    image: Tensor,
    patch: tuple[int, ...],
    device: torch.device,
    batch_size: int = 8,
) -> NDArray[np.uint8]:
    """Segment a volume; the model must be in evaluation mode, on `device`.

    A network of slices sees one slice after another, a network of volumes the whole. Where a slice
    or the volume is not just as large as the network's patch, the patch slides over it: windows
    overlap by half, and logits are averaged with Gaussian weights, so that the middle of a window
    counts more than its border. What is smaller than the patch is padded with zeros. A network of
    slices with a method `volume_logits` is asked for the whole volume at once instead.

    Args:
        model: images [n, 1, *patch] -> logits [n, C, *patch]; `volume_logits`, where it has one:
            image [1, D, H, W] -> logits [D, C, H, W].
        image: float32 [1, D, H, W].
        patch: (H, W) or (D, H, W).
        device: where to compute.
        batch_size: windows at a time.

    Returns:
        The most probable class of each voxel, [D, H, W].

    Raises:
        ValueError: an image of another shape.
        DivergedError: logits that are no numbers.
    """
    parts = [part.argmax(dim=1) for part in _parts(model, image, patch, device, batch_size)]
    classes = torch.cat(parts) if len(patch) == 2 else parts[0][0]
    return classes.to(torch.uint8).cpu().numpy()


@torch.inference_mode()
def class_logits(
    model: nn.Module,
    image: Tensor,
    patch: tuple[int, ...],
    device: torch.device,
    batch_size: int = 8,
) -> NDArray[np.float32]:
    """What `segment` decides by: logits float32 [C, D, H, W]; arguments and errors are the same."""
    parts = [part.float().cpu() for part in _parts(model, image, patch, device, batch_size)]
    logits = torch.cat(parts).transpose(0, 1) if len(patch) == 2 else parts[0][0]
    return logits.contiguous().numpy()


def _parts(
    model: nn.Module, image: Tensor, patch: tuple[int, ...], device: torch.device, batch_size: int
) -> Iterator[Tensor]:
    """The logits of slices [n, C, H, W], some at a time, or of the whole volume [1, C, D, H, W]."""
    if image.dim() != 4 or len(image) != 1:
        raise ValueError(f"A volume must be [1, D, H, W], but its shape is {tuple(image.shape)}.")
    if callable(whole := getattr(model, "volume_logits", None)):
        # It needs to know which slice is which.
        yield require_finite(whole(image.to(device)))
        return
    inputs = image.transpose(0, 1) if len(patch) == 2 else image[None]
    for part in inputs.split(batch_size):
        logits = _logits(model, part.contiguous().to(device), patch, batch_size)
        yield require_finite(logits)


def _logits(model: nn.Module, inputs: Tensor, patch: tuple[int, ...], batch_size: int) -> Tensor:
    if tuple(inputs.shape[2:]) == patch:
        logits: Tensor = model(inputs)
        return logits
    from monai.inferers import sliding_window_inference

    slid = sliding_window_inference(
        inputs, patch, batch_size, model, overlap=OVERLAP, mode="gaussian"
    )
    assert isinstance(slid, Tensor)
    return slid
