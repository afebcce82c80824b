"""EfficientNet-Lite0: sizes, padding and scale of its images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedsim.models import EfficientNetLite0
from fedsim.models.efficientnet import _same
from fedsim.wire.codecs import normalise


def test_it_has_the_parameters_of_the_published_network() -> None:
    with torch.device("meta"):
        block, head = (EfficientNetLite0(1000, 3, 224, embedding=e) for e in ("block", "head"))
    assert sum(p.numel() for p in head.parameters()) == 4_652_008
    assert sum(p.numel() for p in block.features.parameters()) == 2_958_848
    assert (block.classifier.in_features, head.classifier.in_features) == (320, 1280)
    assert len(block.features.blocks) == 16


def test_features_are_the_mean_of_the_last_map() -> None:
    torch.manual_seed(0)
    for embedding, width in (("block", 320), ("head", 1280)):
        model = EfficientNetLite0(2, 3, 40, embedding=embedding).eval()  # type: ignore[arg-type]
        images = torch.randn(2, 3, 40, 40)
        found = model.features(images)
        assert found.shape == (2, width)
        maps = model.features[:-2](images)
        assert maps.shape == (2, width, 2, 2)
        torch.testing.assert_close(found, maps.mean((2, 3)))
        assert torch.equal(model(images), model.classifier(found))


def test_images_arrive_as_the_published_network_wants_them() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    found = EfficientNetLite0(2, 3, 32).features.rescale(normalise(images))
    wanted = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)


def test_the_scale_of_images_does_not_travel() -> None:
    model = EfficientNetLite0(2, 3, 32)
    assert not [name for name, _ in model.named_buffers() if "rescale" in name]
    assert not [name for name in model.state_dict() if "rescale" in name]


@pytest.mark.parametrize("size", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_that_of_tensorflow(size: int, kernel: int, stride: int) -> None:
    convolution = nn.Conv2d(1, 1, kernel, stride, bias=False)
    images = torch.randn(1, 1, size, size + 1)
    found = convolution(_same(images, convolution))
    assert found.shape[2:] == (-(-size // stride), -(-(size + 1) // stride))
    # "The amount of padding on the bottom or right might be one larger" (tf.nn): of even sizes.
    wide = F.pad(images, [kernel] * 4)
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            starts = []
            for place, length in ((row, size), (column, size + 1)):
                total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
                starts.append(place * stride - total // 2 + kernel)
            field = wide[0, 0, starts[0] : starts[0] + kernel, starts[1] : starts[1] + kernel]
            value = (field * convolution.weight[0, 0]).sum()
            torch.testing.assert_close(found[0, 0, row, column], value)


def test_an_odd_row_of_padding_comes_last() -> None:
    convolution = nn.Conv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(convolution.weight)
    found = convolution(_same(torch.ones(1, 1, 4, 4), convolution))
    assert found.tolist() == [[[[9.0, 6.0], [6.0, 4.0]]]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 31}, "at least 32 px, but image_size is 31"),
        ({"in_channels": 1}, "3 channels, but in_channels is 1"),
        ({"num_classes": 0}, "num_classes is 0"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EfficientNetLite0(**{"num_classes": 2, "in_channels": 3, "image_size": 32, **options})
