"""Image classifiers: `Class(num_classes, in_channels, image_size, **parameters)` -> logits.

Input float32 [N, C, H, W] with H = W = `image_size`, output [N, num_classes]. Every model has
`features` (images -> flat embedding [N, D]) and `classifier` (one linear layer), normalises with
GroupNorm only (no statistics travel, per-sample gradients exist) and draws its initial weights
from torch's global generator: build it inside `fedsim.randomness.isolated`.
"""

from fedsim.models.cnn import SmallCNN
from fedsim.models.convnet import ConvNet
from fedsim.models.resnet import ResNet18
from fedsim.models.resnet9 import ResNet9

__all__ = ["ConvNet", "ResNet9", "ResNet18", "SmallCNN"]
