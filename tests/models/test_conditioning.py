"""Groups of too few values: counted, refused, and in no shipped scenario."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedsim import InputError
from fedsim.models import ConvNet, ResNet9, ResNet18, SmallCNN
from fedsim.models.conditioning import FEWEST, require_conditioned, values_a_group
from fedsim.models.dynunet import DynUNet
from fedsim.models.unet import UNet
from tests.shipped import RECONSTRUCTION, SEGMENTATION, needed


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        ([nn.GroupNorm(4, 8)], 2 * 9),
        ([nn.AdaptiveAvgPool2d(1), nn.GroupNorm(4, 8)], 2),
        ([nn.InstanceNorm2d(8)], 9),
        ([nn.AdaptiveAvgPool2d(1), nn.InstanceNorm2d(8)], 1),
        ([nn.Linear(3, 2), nn.LayerNorm(2)], 2),
    ],
)
def test_values_that_are_normalised_together_are_counted(
    layers: list[nn.Module], count: int
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *layers)
    assert list(values_a_group(model, (3, 3, 3)).values()) == [count]
    assert not any(module._forward_pre_hooks for module in model.modules())
    if count >= FEWEST:
        require_conditioned(model, (3, 3, 3))
        return
    with pytest.raises(InputError) as caught:
        require_conditioned(model, (3, 3, 3))
    kind = type(layers[-1]).__name__
    assert f"{len(layers)}: {kind} normalises groups of {count} value(s)" in str(caught.value)
    assert "type a larger data.size" in str(caught.value)


def test_two_values_leave_only_their_order_and_rounding_decides() -> None:
    """Why: the same step of rounding, seen through groups of two and through groups of four."""
    draws = torch.Generator().manual_seed(0)
    worst = {}
    for size in (2, FEWEST):
        groups = torch.randn(100_000, size, generator=draws)
        moved = groups + 1e-6 * torch.randn(groups.shape, generator=draws)
        norm = nn.GroupNorm(1, size, eps=1e-12)
        worst[size] = (norm(groups) - norm(moved)).abs().max().item()
    # Of 100,000 standard deviations the smallest is some 1e-5, or 100000^(-1/3) = 2e-2.
    assert worst[2] > 1e-3
    assert worst[FEWEST] < 1e-3 / 5


class Counts(nn.Module):
    """Looks at values, which only memory has."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.sum().item() == 0
        return self.norm(images[:, :2, :1, :1])


def test_a_model_that_looks_at_values_is_counted_too() -> None:
    assert values_a_group(Counts(), (3, 2, 2)) == {"norm": 1}


def test_a_model_that_torch_refuses_is_counted_up_to_there() -> None:
    deep = DynUNet(3, 1, (16, 16), channels=(8, 8, 8), strides=((4, 4), (4, 4)), heads=1)
    with pytest.raises(InputError, match=r"normalises groups of 1 value"):
        require_conditioned(deep, (1, 16, 16))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: ConvNet(2, 3, 8, width=8), (3, 8, 8)),
        (lambda: ConvNet(2, 3, 8, width=64, norm="group"), (3, 8, 8)),
        (lambda: ResNet18(2, 3, 8, stem="stride1", width=16), (3, 8, 8)),
        (lambda: ResNet18(2, 3, 32, width=8), (3, 32, 32)),
        (lambda: ResNet18(2, 3, 32, width=8, norm="instance"), (3, 32, 32)),
        (lambda: ResNet9(2, 3, 16, width=4), (3, 16, 16)),
        (lambda: SmallCNN(2, 3, 8, width=1), (3, 8, 8)),
        (lambda: UNet(3, 1, (16, 16), channels=(4, 8, 8)), (1, 16, 16)),
        (lambda: DynUNet(3, 1, (16, 16), channels=(4, 8, 8), heads=1), (1, 16, 16)),
    ],
)
def test_our_models_at_their_smallest_are_conditioned(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    counts = values_a_group(make(), shape)
    assert counts
    assert min(counts.values()) >= FEWEST


def test_no_shipped_scenario_trips_over_it() -> None:
    from fedsim.registry import construct, default_registry
    from fedsim.scenario import load, names

    tried = 0
    for name in names():
        for words in ([], ["profile=paper"]):
            try:
                scenario = load(name, [*needed(name), *words])
            except InputError as error:
                assert words, str(error)  # It has no such profile.
                continue
            data, model = scenario.data, scenario.model
            size = data.size
            factory = default_registry().resolve("models", model.name)
            if model.name in SEGMENTATION:
                patch = data.patch or (size, size)
                given, shape = {"patch": patch, "in_channels": 1}, (1, *patch)
            elif data.features is not None and not data.features.beside:
                given, shape = {"in_features": 384}, (384,)
            else:
                given, shape = {"image_size": size, "in_channels": 3}, (3, size, size)
            with torch.device("meta"):
                classes = {} if model.name in RECONSTRUCTION else {"num_classes": 3}
                made = construct(factory, model.parameters, **classes, **given)
            require_conditioned(made, shape)
            tried += 1
    assert tried > 20
