"""EfficientNet-Lite0, a network for small devices."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.models.classifier import Classifier, require_positive
from fedsim.wire.codecs import IMAGE_MEAN, IMAGE_STD

# Repeats, kernel, stride, expansion and channels of each stage (Tan & Le, 2019, table 1).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_SMALLEST = 32


class EfficientNetLite0(Classifier):
    """EfficientNet-Lite0: inverted residual blocks with batch normalisation and ReLU6.

    Tan & Le, "EfficientNet" (2019), in the form of Google's EfficientNet-Lite (2020): no squeeze
    and excitation, ReLU6 for Swish. Images are padded as TensorFlow's SAME does. They arrive
    normalised as all of fedsim's are, and the first step makes (x - 127) / 128 of them, x from 0 to
    255. Batch normalisation keeps running statistics, which travel as buffers, and mixes the
    records of a batch: private training refuses the network. With `model.trainable: head` the
    statistics stay as they are. 2,959,490 parameters with the defaults and two classes, whatever
    the image size.

    Args:
        num_classes: outputs.
        in_channels: channels of the images: 3.
        image_size: height and width of the images, at least 32; it was trained with 224.
        embedding: "block" is the mean over the last block's map, 320 values; "head" puts the
            convolution 1x1 behind it that ImageNet's classes were told from, 1280 values.

    Raises:
        ValueError: a size below one, images smaller than 32 px or not of three channels.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        embedding: Literal["block", "head"] = "block",
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes)
        if in_channels != len(IMAGE_MEAN):
            raise ValueError(
                f"An EfficientNetLite0 needs images of {len(IMAGE_MEAN)} channels, but in_channels "
                f"is {in_channels}."
            )
        if image_size < _SMALLEST:
            raise ValueError(
                "An EfficientNetLite0 halves the image five times and needs images of at least "
                f"{_SMALLEST} px, but image_size is {image_size}."
            )
        blocks: list[nn.Module] = []
        inner = _STEM
        for repeats, kernel, stride, expansion, outer in _STAGES:
            for repeat in range(repeats):
                step = 1 if repeat else stride
                blocks.append(_Block(inner, outer, kernel, step, expansion))
                inner = outer
        layers: dict[str, nn.Module] = {
            "rescale": _Rescale(),
            "stem": _Convolution(in_channels, _STEM, 3, 2),
            "blocks": nn.Sequential(*blocks),
        }
        if embedding == "head":
            layers["head"] = _Convolution(inner, _HEAD, 1)
            inner = _HEAD
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
        self.features = nn.Sequential(OrderedDict(layers))
        self.classifier = nn.Linear(inner, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class _Rescale(nn.Module):
    """Images in ImageNet's mean and deviation -> (x - 127) / 128 of x from 0 to 255."""

    def forward(self, images: Tensor) -> Tensor:
        deviation = images.new_tensor(IMAGE_STD).view(-1, 1, 1)
        mean = images.new_tensor(IMAGE_MEAN).view(-1, 1, 1)
        return images * (deviation * (255 / 128)) + (mean * 255 - 127) / 128


class _Convolution(nn.Module):
    """Convolution, batch normalisation and, unless it is `linear`, ReLU6."""

    def __init__(
        self,
        inner: int,
        outer: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outer, eps=1e-3, momentum=0.01)
        self.act = nn.Identity() if linear else nn.ReLU6()

    def forward(self, images: Tensor) -> Tensor:
        activated: Tensor = self.act(self.norm(self.conv(_same(images, self.conv))))
        return activated


def _same(images: Tensor, conv: nn.Conv2d) -> Tensor:
    """Zeros around maps, so that `conv` gives ceil(size / stride) rows; an odd row comes last."""
    pads: list[int] = []
    for axis in (1, 0):
        size, kernel, stride = images.shape[2 + axis], conv.kernel_size[axis], conv.stride[axis]
        lack = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [lack // 2, lack - lack // 2]
    return F.pad(images, pads) if any(pads) else images


class _Block(nn.Module):
    """Wider by a convolution 1x1, a convolution of each channel by itself, narrower by another 1x1.

    A shortcut runs beside it where sizes stay.
    """

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        self.shortcut = stride == 1 and inner == outer
        self.expand = nn.Identity() if expansion == 1 else _Convolution(inner, wide, 1)
        self.depthwise = _Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _Convolution(wide, outer, 1, linear=True)

    def forward(self, images: Tensor) -> Tensor:
        projected: Tensor = self.project(self.depthwise(self.expand(images)))
        return images + projected if self.shortcut else projected
