"""PSNR and SSIM of a slice, on magnitudes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsim.tasks.reconstruction.task import SMALLEST

WINDOW = SMALLEST
"""Side of the window of SSIM, in pixels, as scikit-image and fastMRI have it."""
_LEAST = 1e-20


def psnr(found: Tensor, target: Tensor) -> np.ndarray:
    """10 log10(max(target)^2 / MSE) of each slice, in dB, float64 [n].

    Args:
        found, target: magnitudes [n, H, W].
    """
    found, target = found.double(), target.double()
    error = (found - target).square().mean(dim=(-2, -1))
    peak = target.amax(dim=(-2, -1))
    # The same slice has no finite PSNR: 200 dB stand for it, which no network reaches.
    ratio = peak.square() / error.clamp_min(_LEAST * peak.square().clamp_min(_LEAST))
    return np.asarray((10 * ratio.clamp_min(_LEAST).log10()).numpy())


def ssim(found: Tensor, target: Tensor) -> np.ndarray:
    """Structural similarity of each slice, float64 [n].

    Wang et al., "Image Quality Assessment" (2004), by MONAI: the mean over all uniform windows of
    7 x 7 pixels that lie in the slice, K1 = 0.01, K2 = 0.03; the range is max(target) of the slice.

    Args:
        found, target: magnitudes [n, H, W], H and W at least 7.
    """
    from monai.metrics.regression import compute_ssim_and_cs

    means = []
    for one, truth in zip(found.double()[:, None], target.double()[:, None], strict=True):
        values, _ = compute_ssim_and_cs(
            one[None],
            truth[None],
            spatial_dims=2,
            kernel_size=(WINDOW, WINDOW),
            kernel_sigma=(1.0, 1.0),  # Of no use to a uniform window.
            data_range=max(float(truth.max()), _LEAST),
            kernel_type="uniform",
        )
        means.append(float(values.mean()))
    return np.array(means, dtype=np.float64)


def rows(found: Tensor, target: Tensor, seen: Tensor) -> np.ndarray:
    """PSNR and SSIM of what was found, and PSNR of the zero-filled slice, float64 [n, 3].

    Args:
        found, target, seen: magnitudes [n, H, W]; on the CPU.
    """
    with torch.no_grad():
        return np.stack([psnr(found, target), ssim(found, target), psnr(seen, target)], axis=1)
