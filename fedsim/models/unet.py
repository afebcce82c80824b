"""U-Net for slices and volumes, from MONAI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from fedsim.models.classifier import require_positive

SMALLEST = 4
"""No axis of a feature map becomes smaller than this."""


class UNet(nn.Module):
    """U-Net of MONAI: strided convolutions down, transposed ones up, skip connections.

    Ronneberger et al., "U-Net" (2015), in the form of Kerfoot et al., "Left-Ventricle
    Quantification Using Residual U-Net" (2019). Normalises every channel of every record by itself
    (instance normalisation with affine weights), so that no statistics travel and records do not
    mix. 38,135 parameters with the defaults, slices and three classes.

    An axis of the patch is halved from level to level, as long as four voxels remain; so slices
    that are thick or few are not halved away.

    Args:
        num_classes: channels of the output.
        in_channels: channels of the images.
        patch: (H, W) or (D, H, W) in voxels.
        channels: of each level, from the full resolution down; two or more.
        residual_units: convolutions of a block beside which a shortcut runs; 0: one convolution
            without a shortcut.

    Raises:
        ValueError: a size below one, fewer than two levels, or a patch that cannot be halved so.
    """

    made_for: ClassVar[str] = "volumes"
    head: ClassVar[str] = "network.model.2"
    """The last block, which gives the logits at full resolution."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        patch: tuple[int, ...],
        channels: tuple[PositiveInt, ...] = (16, 32, 64),
        residual_units: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        from monai.networks.blocks import Convolution
        from monai.networks.nets import UNet as MonaiUNet

        require_positive(num_classes=num_classes, in_channels=in_channels)
        strides = halvings(patch, len(channels))
        self.network = MonaiUNet(
            spatial_dims=len(patch),
            in_channels=in_channels,
            out_channels=num_classes,
            channels=channels,
            strides=strides,  # type: ignore[arg-type]  # MONAI takes one stride an axis, too.
            num_res_units=residual_units,
            norm=("instance", {"affine": True}),
        )
        for block in self.network.modules():
            # Normalising takes off again what a bias before it adds: no need to train or send it.
            if isinstance(block, Convolution) and hasattr(block, "adn"):
                block.conv.register_parameter("bias", None)  # type: ignore[operator, union-attr]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes, *patch] of images [N, in_channels, *patch]."""
        logits: Tensor = self.network(images)
        return logits


def halvings(patch: Sequence[int], levels: int) -> list[tuple[int, ...]]:
    """Strides from each level to the next: 2 along every axis that stays long enough, else 1.

    Raises:
        ValueError: fewer than two levels, or an axis that is odd where it must be halved.
    """
    if levels < 2:
        raise ValueError(f"A U-Net needs channels of at least two levels, not {levels}.")
    sizes, strides = list(patch), []
    for _ in range(levels - 1):
        stride = tuple(2 if size >= 2 * SMALLEST else 1 for size in sizes)
        if any(size % step for size, step in zip(sizes, stride, strict=True)):
            raise ValueError(
                f"A U-Net of {levels} levels halves a patch up to {levels - 1} times, but "
                f"{list(patch)} cannot be: choose multiples of {2 ** (levels - 1)} voxels, or "
                "channels of fewer levels."
            )
        sizes = [size // step for size, step in zip(sizes, stride, strict=True)]
        strides.append(stride)
    return strides
