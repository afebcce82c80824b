"""A model cut in three: the same as in one piece, with its parts computed anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.models.split_unet import SplitUNet
from fedsim.models.unet import UNet
from fedsim.randomness import isolated
from fedsim.splitting import Channel, Link, crossing, require_cut

CUTS = SplitUNet.cuts
IMAGES = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 2, (3, 16, 16), generator=torch.Generator().manual_seed(1))


def net(norm: str = "batch", channels: tuple[int, ...] = (4, 8, 8)) -> SplitUNet:
    with isolated(np.random.SeedSequence(0)):
        return SplitUNet(2, 1, (16, 16), channels, norm)  # type: ignore[arg-type]


def streams(purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(purpose.encode()))


def gradients(model: nn.Module, outputs: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(outputs, LABELS).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named(model)}


def named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    yield from model.named_parameters()


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("cut", CUTS)
def test_without_loss_the_gradients_are_those_of_the_model_in_one_piece(
    cut: str, norm: str
) -> None:
    model = net(norm)
    whole = gradients(model, model(IMAGES))
    with crossing(model, cut, Link(Channel(0.0), streams)):
        split = gradients(model, model(IMAGES))
    assert whole.keys() == split.keys()
    assert all((whole[n] - split[n]).abs().max() <= 1e-6 for n in whole)
    assert any(value.abs().max() > 1e-4 for value in whole.values())


@pytest.mark.parametrize("loss", [0.0, 0.4])
@pytest.mark.parametrize("cut", CUTS)
def test_parts_that_exchange_messages_have_the_same_gradients(cut: str, loss: float) -> None:
    model, channel = net(), Channel(loss)
    with crossing(model, cut, Link(channel, streams)):
        together = gradients(model, model(IMAGES))

    # Each part with a graph of its own, gradients sent by hand.
    parts, link = model.parts(cut), Link(channel, streams)
    model.zero_grad()
    features, stayed = parts.front(IMAGES)
    at_server = masked(features.detach(), link.arrives("features-up", features.shape))
    down = link.arrives("gradients-down", features.shape)
    at_server.requires_grad_()
    made = parts.server(at_server)
    at_back = masked(made.detach(), link.arrives("features-down", made.shape)).requires_grad_()
    up = link.arrives("gradients-up", made.shape)
    F.cross_entropy(parts.back(at_back, stayed), LABELS).backward(retain_graph=True)
    assert at_back.grad is not None
    made.backward(masked(at_back.grad, up))
    assert at_server.grad is not None
    features.backward(masked(at_server.grad, down))
    for name, parameter in named(model):
        assert parameter.grad is not None
        assert (parameter.grad - together[name]).abs().max() <= 1e-6, name


def masked(values: Tensor, arrives: Tensor | None) -> Tensor:
    return values if arrives is None else values * arrives


def test_where_all_is_lost_the_front_end_of_the_shallow_cut_learns_nothing() -> None:
    model = net()
    with crossing(model, "shallow", Link(Channel(1.0), streams)):
        found = gradients(model, model(IMAGES))
        front = {n: g for n, g in found.items() if n.startswith("down.0.0.")}
        assert len(front) == 3
        assert all(torch.equal(g, torch.zeros_like(g)) for g in front.values())
        # Nor does the server's part; the back end learns what it can of nothing.
        at_server = require_cut(model, "shallow").server_names(found)
        assert all(not found[name].any() for name in at_server)
        model.eval()
        one, other = model(IMAGES), model(IMAGES + 1)
        assert torch.equal(one, other)
    assert found["logits.bias"].any()


def test_where_all_is_lost_the_deep_cut_still_sees_the_image_through_its_skip() -> None:
    model = net()
    with crossing(model, "deep", Link(Channel(1.0), streams)):
        found = gradients(model, model(IMAGES))
        at_server = require_cut(model, "deep").server_names(found)
        assert at_server
        assert all(not found[name].any() for name in at_server)
        model.eval()
        assert not torch.equal(model(IMAGES), model(IMAGES + 1))
    # What the first level learns comes by the skip, which never leaves the client.
    assert found["down.0.0.0.weight"].any()


def test_the_model_is_whole_again_afterwards() -> None:
    model = net()
    before = model.eval()(IMAGES)
    with crossing(model, "shallow", Link(Channel(1.0), streams)):
        assert not torch.equal(model(IMAGES), before)
    assert torch.equal(model(IMAGES), before)
    assert list(model.state_dict()) == list(net().state_dict())


@pytest.mark.parametrize("cut", CUTS)
def test_each_parameter_is_with_one_side(cut: str) -> None:
    model = net()
    parts, names = model.parts(cut), list(model.state_dict())
    held = parts.server_names(names)
    assert 0 < len(held) < len(names)
    for path in parts.at_client:
        model.get_submodule(path)
        assert not any(name.startswith(f"{path}.") for name in held)


def test_a_model_or_a_place_without_a_cut_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.name=split_unet"):
        require_cut(UNet(2, 1, (16, 16)), "deep")
    with pytest.raises(ValueError, match="shallow, deep"):
        require_cut(net(), "middle")
