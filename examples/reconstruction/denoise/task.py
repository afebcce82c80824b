"""The task, and the data that name it: an image in, an image out, its PSNR in dB."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedsim.data import HAM10000
from fedsim.tasks import ImageTask, Metric, require_finite
from fedsim.wire import intensities

NOISE = 0.5  # standard deviation, where the images have one of about 1


@dataclass(frozen=True)
class Denoising(ImageTask):
    """To take noise out of images [n, channels, size, size]."""

    channels: int
    size: int
    name = "image-to-image"
    made_for = "noisy images"
    learns_from = "images to denoise"
    headline = "psnr"
    metrics = (Metric("psnr", "PSNR", "dB"), Metric("rmse", "RMSE", better="lower", digits=4))
    classes = ()

    @classmethod
    def of(cls, scenario: Any, store: Any, clients: Any) -> "Denoising":
        return cls(store.images.shape[3], store.images.shape[1])

    @classmethod
    def goal_of(cls, classes: Any) -> str:
        return "to denoise images"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.channels, self.size, self.size

    @property
    def model_arguments(self) -> dict[str, Any]:
        return {"in_channels": self.channels}

    @torch.inference_mode()
    def predict(self, model: torch.nn.Module, view: Any, device: torch.device) -> np.ndarray:
        """The PSNR of each record; its noise depends on the record alone."""
        model.to(device).eval()
        found = []
        for place, record in enumerate(view.indices.tolist()):
            clean = view.images(torch.tensor([place]))
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(record))
            shown = require_finite(model((clean + NOISE * noise).to(device))).cpu()
            error = (intensities(shown).clamp(0, 1) - intensities(clean)).square().mean()
            found.append(-10 * np.log10(max(float(error), 1e-10)))
        return np.array(found)

    def score(self, predicted: np.ndarray, view: Any, per_site: bool = False) -> dict[str, Any]:
        rmse = float(np.mean(10 ** (-predicted / 20))) if len(predicted) else None
        return super().score(predicted, view, per_site) | {"rmse": rmse}


class NoisySkin(HAM10000):
    """HAM10000, or its stand-in, to be denoised."""

    learns = Denoising
