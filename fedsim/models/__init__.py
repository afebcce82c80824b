"""Image classifiers: `Class(num_classes, in_channels, image_size, **parameters)` -> logits.

Input float32 [N, C, H, W] with H = W = `image_size`, output [N, num_classes]. Every model has
`features` (images -> flat embedding [N, D]) and `classifier` (one linear layer), normalises records
one by one (no statistics travel, per-sample gradients exist) and draws its initial weights from
torch's global generator: build it inside `fedsim.randomness.isolated`. `EfficientNetLite0` alone
has batch normalisation, as its published weights want it.
"""

from fedsim.models.cnn import SmallCNN
from fedsim.models.convnet import ConvNet
from fedsim.models.efficientnet import EfficientNetLite0
from fedsim.models.linear import Linear
from fedsim.models.resnet import ResNet18
from fedsim.models.resnet9 import ResNet9
from fedsim.models.vit import ViTS14

__all__ = ["ConvNet", "EfficientNetLite0", "Linear", "ResNet9", "ResNet18", "SmallCNN", "ViTS14"]
