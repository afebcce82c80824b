"""U-Net from zero-filled to reconstructed slices: the baseline without data consistency."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn

from fedsim.models.modl import require_input
from fedsim.models.unet import UNet
from fedsim.tasks.reconstruction import MADE_FOR


class ReconUNet(nn.Module):
    """U-Net of MONAI on the zero-filled image, beside a shortcut; the mask is not looked at.

    As in Zbontar et al., "fastMRI" (2018), with complex images; see `fedsim.models.unet.UNet`.

    Args:
        in_channels: 3: real part, imaginary part, mask.
        image_size: height and width of the slices.
        channels: of each level, from the full resolution down.

    Raises:
        ValueError: other channels, or a size that cannot be halved so.
    """

    made_for: ClassVar[str] = MADE_FOR

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        channels: tuple[PositiveInt, ...] = (16, 32, 64),
    ) -> None:
        super().__init__()
        require_input(in_channels)
        self.network = UNet(2, 2, (image_size, image_size), channels)

    def forward(self, given: Tensor) -> Tensor:
        """Complex images [n, 2, H, W] of zero-filled images and masks [n, 3, H, W]."""
        images: Tensor = given[:, :2] + self.network(given[:, :2])
        return images
