"""DynUNet, the network of nnU-Net, from MONAI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from fedsim.models.classifier import require_positive
from fedsim.models.unet import halvings


class DynUNet(nn.Module):
    """U-Net with two convolutions a level and deep supervision, as MONAI's DynUNet.

    Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image
    segmentation" (2021); the network of ConDistFL. Instance normalisation with affine weights, no
    statistics.

    MONAI's module holds every block twice, in lists and in the chain that runs. Its state has each
    tensor under two names and twice the size; on the wire each goes once, under the first.

    Args:
        num_classes: channels of the output.
        in_channels: channels of the images.
        patch: (H, W) or (D, H, W) in voxels.
        channels: of each level, from the full resolution down; three or more. The paper's are
            32, 64, 128, 256, 320, 320.
        heads: outputs at half, a quarter, ... of the resolution that are trained beside the full
            one, enlarged to its size; at most the levels but two.
        strides: from each level to the next, one a level but the first; None: as in
            `fedsim.models.unet.UNet`, an axis is halved as long as four voxels remain.
        kernels: of the convolutions of each level; None: 3 along every axis.

    Raises:
        ValueError: a size below one, too few levels, too many heads, strides or kernels that do not
            fit the levels, or a patch that cannot be divided so.
    """

    made_for: ClassVar[str] = "volumes"
    head: ClassVar[tuple[str, ...]] = ("network.output_block", "network.deep_supervision_heads")
    """The layers that give logits, at full and at lower resolutions."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        patch: tuple[int, ...],
        channels: tuple[PositiveInt, ...] = (16, 32, 64, 128),
        heads: NonNegativeInt = 2,
        strides: tuple[tuple[PositiveInt, ...], ...] | None = None,
        kernels: tuple[tuple[PositiveInt, ...], ...] | None = None,
    ) -> None:
        super().__init__()
        from monai.networks.nets import DynUNet as MonaiDynUNet

        require_positive(num_classes=num_classes, in_channels=in_channels)
        if len(channels) < 3 or heads > len(channels) - 2:
            raise ValueError(
                "A DynUNet needs channels of at least three levels, and at most the levels but two "
                f"as heads, but has {len(channels)} levels and {heads} heads."
            )
        if strides is None:
            strides = tuple(halvings(patch, len(channels)))
        if kernels is None:
            kernels = ((3,) * len(patch),) * len(channels)
        _require_fitting(patch, len(channels), strides, kernels)
        self.network = MonaiDynUNet(
            spatial_dims=len(patch),
            in_channels=in_channels,
            out_channels=num_classes,
            kernel_size=kernels,
            strides=((1,) * len(patch), *strides),
            upsample_kernel_size=strides,
            filters=channels,
            deep_supervision=heads > 0,
            deep_supr_num=max(heads, 1),
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [N, num_classes, *patch]; while training, those of the heads after them."""
        result: Tensor = self.network(images)
        # MONAI keeps the heads' last outputs, and with them the graph of the whole batch.
        self.network.heads[:] = [torch.zeros(1)] * len(self.network.heads)
        return result if result.dim() == images.dim() else result.unbind(dim=1)


def _require_fitting(
    patch: Sequence[int],
    levels: int,
    strides: Sequence[Sequence[int]],
    kernels: Sequence[Sequence[int]],
) -> None:
    for name, given, wanted in (("strides", strides, levels - 1), ("kernels", kernels, levels)):
        if len(given) != wanted or any(len(steps) != len(patch) for steps in given):
            raise ValueError(
                f"A DynUNet of {levels} levels needs {wanted} {name} of {len(patch)} numbers each, "
                f"not {[list(steps) for steps in given]}."
            )
    total = [math.prod(steps) for steps in zip(*strides, strict=True)]
    if any(size % step for size, step in zip(patch, total, strict=True)):
        raise ValueError(
            f"A DynUNet with these strides divides a patch by {total}, but {list(patch)} cannot be."
        )
