"""Rein: the golden numbers of its formula, what it leaves as it is, and how many parameters."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.adapters import ReinTokens, UnfitError, adapter_names, attach
from fedsim.adapters.rein import Tokens
from fedsim.models import SmallCNN
from tests.plugins.tiny_vit import TinyViT

SHAPE = (3, 16, 16)


def adapted(model: nn.Module, **parameters: Any) -> Any:
    given = {"tokens": 5, "rank": 2} | parameters
    return attach(model, "rein", given, input_shape=SHAPE, head=("classifier",))


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def toy() -> ReinTokens:
    """Three tokens of two values, (0, 0), (1, 1) and (2, 0), and maps that change nothing."""
    rein = ReinTokens(1, 2, tokens=3, rank=2, scale=0.001, class_tokens=0)
    rein.tokens[0].a.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])[..., None])
    rein.tokens[0].b.copy_(torch.eye(2)[..., None])
    for one in (rein.token_map, rein.feature_map):
        one.weight.copy_(torch.eye(2))
    rein.token_bias.weight.zero_()
    rein.feature_map.bias.zero_()
    return rein


def test_golden_numbers_of_the_toy() -> None:
    rein, features = toy(), torch.eye(2)[None]
    tokens = rein.tokens[0]
    assert isinstance(tokens, Tokens)
    attention = (tokens.likeness(features) / math.sqrt(2)).softmax(-1)
    rows = [[0.140029, 0.283995, 0.575975], [0.248255, 0.503490, 0.248255]]
    assert torch.allclose(attention[0], torch.tensor(rows), atol=1e-6)
    expected = torch.tensor([[1.002436, 0.000284], [0.001, 1.001503]])
    assert torch.allclose(rein.refined(0, features)[0], expected, atol=1e-6)


def test_features_are_refined_as_the_formula_says() -> None:
    torch.manual_seed(3)
    rein = ReinTokens(2, 6, tokens=4, rank=3, scale=0.7, class_tokens=1).double()
    for parameter in rein.parameters():
        if parameter.ndim == 3:
            nn.init.normal_(parameter)
    features = torch.randn(2, 5, 6, dtype=torch.float64)
    f = features[:, 1:]
    tokens = rein.tokens[1].a[..., 0] @ rein.tokens[1].b[..., 0]
    attention = (f @ tokens.T / math.sqrt(6)).softmax(-1)
    values = tokens[1:] @ rein.token_map.weight.T + rein.token_bias.weight[:, 0]
    change = (attention[..., 1:] @ values + f) @ rein.feature_map.weight.T + rein.feature_map.bias
    found = rein.refined(1, features)
    assert torch.allclose(found[:, 1:], f + 0.7 * change)
    assert torch.equal(found[:, :1], features[:, :1]), "the class token passes"


def test_maps_are_refined_pixel_by_pixel() -> None:
    torch.manual_seed(3)
    rein = ReinTokens(1, 6, tokens=4, rank=3, scale=0.7, class_tokens=1)
    maps = torch.randn(2, 6, 3, 4)
    rein._class_tokens = 0
    flat = rein.refined(0, maps.flatten(2).transpose(1, 2)).transpose(1, 2)
    rein._class_tokens = 1
    assert torch.allclose(rein.refined(0, maps), flat.reshape(maps.shape))


def test_with_scale_zero_nothing_changes_and_with_little_hardly_anything() -> None:
    torch.manual_seed(0)
    plain = TinyViT(2, 3, 16)
    still, moved = adapted(copy.deepcopy(plain), scale=0.0), adapted(copy.deepcopy(plain))
    assert torch.equal(still(images()), plain(images()))
    difference = (moved(images()) - plain(images())).abs().max()
    assert 0 < difference < 0.05
    assert set(still.state_dict()) - adapter_names(still) == set(plain.state_dict())
    assert all(name.startswith("rein.") for name in adapter_names(still))


@pytest.mark.parametrize(
    ("blocks", "width", "with_link"), [(12, 384, 684_033), (24, 1024, 2_990_081)]
)
def test_parameters_are_those_of_the_formula(blocks: int, width: int, with_link: int) -> None:
    m, r, q = 100, 16, 256
    with torch.device("meta"):
        rein = ReinTokens(blocks, width, m, r, 0.001, 1)
    found = sum(p.numel() for p in rein.parameters())
    assert found == blocks * (m * r + r * width) + 2 * (width**2 + width) + 1
    link = (width * q + q) + (3 * q * q + q)  # left out: from tokens to queries
    assert found + link == with_link


def test_tokens_are_where_blocks_are_and_copies_have_their_own() -> None:
    model = adapted(TinyViT(2, 3, 16, depth=3), layers=["layers.1", "layers.1.*", "layers.2"])
    assert len(model.rein.tokens) == 2
    model.rein.scale.weight.data.fill_(1.0)
    before = model(images())
    other = copy.deepcopy(model)
    other.rein.tokens[0].a.data.add_(1.0)
    assert torch.equal(model(images()), before), "a copy's hooks are its own"
    assert not torch.allclose(other(images()), before)


def test_maps_of_a_convolution_have_tokens_too() -> None:
    model = adapted(SmallCNN(2, 3, 16, 8), layers=["features.4"])
    assert model.rein.feature_map.in_features == 16
    model(images()).sum().backward()
    assert all(p.grad is not None for p in model.rein.parameters())


@pytest.mark.parametrize(
    ("model", "parameters", "key", "words"),
    [
        ("vit", {"layers": ["blocks.*"]}, "layers", "'blocks.*' matches no layer; the nearest:"),
        ("vit", {"rank": 6}, "rank", "6 is too large for 5 tokens of 16 values"),
        ("vit", {"class_tokens": 17}, "layers", "has no token beside 17"),
        ("vit", {"layers": ["layers"]}, "layers", "'layers' is not called by the model"),
        ("vit", {"layers": ["classifier"]}, "layers", "(Linear) gives [1, 2], and not features"),
        ("cnn", {"layers": ["features.0", "features.4"]}, "layers", "'features.0' 8, 'features.4'"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: str, parameters: dict[str, Any], key: str, words: str
) -> None:
    made = TinyViT(2, 3, 16) if model == "vit" else SmallCNN(2, 3, 16, 8)
    with pytest.raises(UnfitError) as refused:
        adapted(made, **parameters)
    assert refused.value.key == key
    assert words in str(refused.value)
    assert not hasattr(made, "rein")


def test_a_model_that_cannot_be_tried_or_has_tokens_is_refused() -> None:
    with pytest.raises(UnfitError, match="cannot be tried with a record of zeros: RuntimeError"):
        attach(TinyViT(2, 3, 16), "rein", {}, input_shape=(3, 12, 12))
    with pytest.raises(UnfitError, match="a part 'rein' already"):
        adapted(adapted(TinyViT(2, 3, 16)))


def test_the_blocks_of_our_vision_transformer_are_found() -> None:
    from fedsim.models import ViTS14

    model = ViTS14(2, 3, 8, width=16, depth=3, heads=2, patch_size=4, grid=2)
    attach(model, "rein", {"tokens": 4, "rank": 2}, input_shape=(3, 8, 8))
    assert [f"{n}.a" for n in ("0", "1", "2")] == [
        name.removeprefix("rein.tokens.") for name in model.state_dict() if name.endswith(".a")
    ]
    assert len(model.rein.tokens) == 3
