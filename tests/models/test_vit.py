"""The vision transformer does what its papers say, whatever the image size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.models import ViTS14


def tiny(size: int = 8, grid: int = 2, depth: int = 2) -> ViTS14:
    torch.manual_seed(0)
    model = ViTS14(2, 3, size, width=8, depth=depth, heads=2, patch_size=4, grid=grid).double()
    with torch.no_grad():
        for parameter in model.parameters():  # Layer scale and biases, too.
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def by_hand(model: ViTS14, image: Tensor) -> Tensor:
    """The tokens of one image [3, 8, 8], layer by layer, one head and one token at a time."""
    weights = dict(model.features.named_parameters())
    patches = [image[:, r : r + 4, c : c + 4] for r in (0, 4) for c in (0, 4)]
    kernel = weights["patches.weight"].flatten(1)
    tokens = [weights["positions.cls_token"][0, 0]]
    tokens += [kernel @ patch.flatten() + weights["patches.bias"] for patch in patches]
    stacked = torch.stack(tokens) + weights["positions.pos_embed"][0]

    def norm(values: Tensor, name: str) -> Tensor:
        mean, variance = values.mean(1, keepdim=True), values.var(1, keepdim=True, unbiased=False)
        scaled = (values - mean) / (variance + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(values: Tensor, name: str) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    for block in (f"blocks.{number}" for number in range(len(model.features.blocks))):
        queries, keys, values = linear(norm(stacked, f"{block}.norm1"), f"{block}.attn.qkv").chunk(
            3, dim=1
        )
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            scores = queries[:, part] @ keys[:, part].T / 4**0.5
            heads.append(scores.softmax(1) @ values[:, part])
        attended = linear(torch.cat(heads, 1), f"{block}.attn.proj")
        stacked = stacked + weights[f"{block}.ls1.gamma"] * attended
        hidden = F.gelu(linear(norm(stacked, f"{block}.norm2"), f"{block}.mlp.fc1"))
        stacked = stacked + weights[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    return norm(stacked, "norm")


def test_tokens_are_those_of_the_definition() -> None:
    model = tiny()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    tokens = model.tokens(images)
    assert tokens.shape == (3, 5, 8)
    for image, found in zip(images, tokens, strict=True):
        torch.testing.assert_close(found, by_hand(model, image), atol=1e-12, rtol=0)
    assert torch.equal(model.features(images), tokens[:, 0])


def test_it_has_the_parameters_of_the_literature() -> None:
    with torch.device("meta"):
        model = ViTS14(2, 3, 168)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_056_962
    assert model.features.positions.pos_embed.shape == (1, 1 + 37**2, 384)
    assert model.classifier.in_features == 384


def test_positions_follow_the_grid_of_the_image() -> None:
    model = tiny(size=16, grid=4)
    positions = model.features.positions
    flat = torch.zeros(1, 8, 2, 3, dtype=torch.float64)
    whole = positions(torch.zeros(1, 8, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(whole[0, 1:], positions.pos_embed[0, 1:])
    maps = positions.pos_embed[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    wanted = F.interpolate(maps, (2, 3), mode="bicubic", align_corners=False)
    torch.testing.assert_close(positions(flat)[0, 1:], wanted.flatten(2)[0].T)
    with torch.no_grad():
        # Bicubic interpolation keeps what is the same everywhere; the class token has no place.
        positions.pos_embed[:, 1:] = 0.25
    torch.testing.assert_close(positions(flat)[0, 1:], torch.full_like(flat.flatten(2)[0].T, 0.25))
    first = positions.cls_token[0, 0] + positions.pos_embed[0, 0]
    torch.testing.assert_close(positions(flat)[0, 0], first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 13}, "patches of 14 px, but image_size is 13: the nearest that fits is 14"),
        ({"image_size": 100}, "image_size is 100: the nearest that fits is 98 or 112"),
        ({"image_size": 0}, "nearest that fits is 14"),
        ({"width": 10, "heads": 4}, "10 is no multiple of 4"),
        ({"depth": 0, "grid": 0}, "depth is 0, grid is 0"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ViTS14(**{"num_classes": 2, "in_channels": 3, "image_size": 28, **options})
