"""The pure half of distillation: embeddings, the two losses, fresh networks, drawn records."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim.distillation import (
    Match,
    Means,
    draw_records,
    embeddings,
    gradient_loss,
    matching,
    matching_loss,
    picture_range,
    redraw,
)
from fedsim.models import ConvNet
from fedsim.wire.codecs import clipped_fraction, encode_images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, seed: int = 1, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=seeded(seed))


def drawn(width: int = 8, depth: int = 2, size: int = 16) -> ConvNet:
    network = ConvNet(2, 3, size, width, depth)
    redraw(network, seeded(3))
    return network


def noise(count: int, scale: float = 1.0, width: int = 8, depth: int = 2) -> list[torch.Tensor]:
    draws = seeded(4)
    return [scale * torch.randn(2, count, width, generator=draws) for _ in range(depth)]


# --- Means of embeddings -------------------------------------------------------------------------


def test_one_step_under_a_linear_encoder_has_a_closed_form() -> None:
    encoder = nn.Linear(2, 2, bias=False)
    encoder.weight.data = torch.diag(torch.tensor([1.0, 2.0]))
    real = torch.tensor([[1.0, 1.0], [3.0, 1.0]])
    synthetic = torch.zeros(1, 2, requires_grad=True)
    loss = matching_loss(encoder, [Match(0, real, synthetic)])
    loss.backward()
    assert loss.item() == pytest.approx(8.0)
    assert synthetic.grad is not None
    assert synthetic.grad.tolist() == [[-4.0, -8.0]]
    assert (synthetic - 0.1 * synthetic.grad).tolist()[0] == pytest.approx([0.4, 0.8])


def test_embeddings_are_the_maps_after_each_block() -> None:
    encoder, given_images = drawn().features, images(3)
    first, last = embeddings(encoder, given_images, "all")
    assert torch.equal(first, encoder[:4](given_images).flatten(1))
    assert torch.equal(last, encoder(given_images))
    assert torch.equal(embeddings(encoder, given_images)[0], last)


@pytest.mark.parametrize("layers", ["last", "all"])
def test_features_without_noise_are_not_perturbed_at_all(layers: Any) -> None:
    encoder, given_images = drawn().features, images(5)
    plain = embeddings(encoder, given_images, layers)
    still = embeddings(encoder, given_images, layers, noise(5, scale=0.0))
    assert len(plain) == len(still)
    assert all(torch.equal(a, b) for a, b in zip(plain, still, strict=True))


def test_instance_normalisation_undoes_a_perturbed_feature_unless_its_sign_turns() -> None:
    encoder, given_images = drawn().features.requires_grad_(False), images(5)
    (plain,) = embeddings(encoder, given_images)

    def change(of: list[torch.Tensor]) -> float:
        (perturbed,) = embeddings(encoder, given_images, noise=of)
        return float((perturbed - plain).norm() / plain.norm())

    shifted, turned = noise(5), noise(5)
    for layer in shifted:
        layer[1].abs_()  # new deviations above the old ones
    for layer in turned:
        layer[1].fill_(-100.0)
    assert change(shifted) < 1e-3
    assert change(turned) > 0.1


@pytest.mark.parametrize("layers", ["last", "all"])
def test_two_equal_matches_are_one_of_twice_the_weight_exactly(layers: Any) -> None:
    encoder, real = drawn().features.requires_grad_(False), images(6)
    results = []
    for weights in ([2.0], [1.0, 1.0], [1.0]):
        synthetic = images(2, seed=9).requires_grad_()
        loss = matching_loss(encoder, [Match(0, real, synthetic, w) for w in weights], layers)
        results.append((loss.detach(), torch.autograd.grad(loss, synthetic)[0]))
    for loss, gradient in results[:2]:
        assert torch.equal(loss, 2 * results[2][0])
        assert torch.equal(gradient, 2 * results[2][1])


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize(("maps", "most"), [(1, 1), (5 * 8 * 16 * 16 * 4, 5), (1 << 30, 12)])
def test_real_images_are_embedded_by_as_many_as_have_room(
    layers: Any, maps: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = drawn().features
    seen: list[int] = []
    encoder[0].register_forward_hook(lambda layer, given, made: seen.append(len(given[0])))
    match = Match(0, images(12), images(3, seed=2))
    expected = matching_loss(encoder, [match], layers)
    seen.clear()
    monkeypatch.setattr(matching, "_MAPS", maps)
    found = matching_loss(encoder, [match], layers)
    synthetic, *real = seen
    assert (synthetic, sum(real), max(real)) == (3, 12, most)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_activations_in_place_change_nothing() -> None:
    usual = drawn()
    changed = Means(layers="all").network(copy.deepcopy(usual))
    match = [Match(0, images(4), images(3, seed=2).requires_grad_())]
    losses = [matching_loss(network, match, "all") for network in (usual.features, changed)]
    slopes = [torch.autograd.grad(loss, match[0].synthetic)[0] for loss in losses]
    assert losses[0] == losses[1]
    assert torch.equal(*slopes)
    assert slopes[0].any()


def test_perturbed_features_are_those_of_the_whole_batch() -> None:
    # More images than are embedded at a time: cut, the statistics would be those of a part.
    encoder, real, synthetic = drawn().features, images(40), images(1, seed=2)
    given_noise = noise(40, scale=3.0)
    loss = matching_loss(encoder, [Match(0, real, synthetic, noise=given_noise)])
    (target,) = embeddings(encoder, real, noise=given_noise)
    (embedding,) = embeddings(encoder, synthetic)
    expected = (target.mean(0) - embedding.mean(0)).square().sum()
    torch.testing.assert_close(loss, expected)


# --- Gradients -----------------------------------------------------------------------------------


def linear(weight: list[list[float]]) -> nn.Linear:
    network = nn.Linear(2, 2)
    network.weight.data = torch.tensor(weight)
    network.bias.data.zero_()
    return network


def test_gradient_matching_under_a_linear_network_has_a_closed_form() -> None:
    # With weights of zero both classes are equally likely, and the gradients are -1/2 and +1/2 of
    # the mean input. The distance is twice one minus the cosine of (1, 0) and (1, 1).
    real = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    synthetic = torch.ones(1, 2, requires_grad=True)
    loss = gradient_loss(linear([[0.0, 0.0], [0.0, 0.0]]), [Match(0, real, synthetic)])
    loss.backward()
    assert loss.item() == pytest.approx(2 - 2**0.5, abs=1e-5)
    assert synthetic.grad is not None
    assert synthetic.grad.tolist()[0] == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-5)


def test_gradient_matching_agrees_with_numpy() -> None:
    draws = np.random.default_rng(5)
    weight, real, synthetic = (draws.normal(size=size) for size in ((2, 2), (5, 2), (3, 2)))

    def gradients(inputs: np.ndarray, label: int) -> np.ndarray:
        scores = np.exp(inputs @ weight.T)
        errors = scores / scores.sum(1, keepdims=True) - np.eye(2)[label]
        return errors.T @ inputs / len(inputs)

    expected = 0.0
    for label in (0, 1):
        for a, b in zip(gradients(real, label), gradients(synthetic, label), strict=True):
            expected += 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6)
    real_inputs, synthetic_inputs = (torch.tensor(x).float() for x in (real, synthetic))
    synthetic_inputs.requires_grad_()
    matches = [Match(label, real_inputs, synthetic_inputs) for label in (0, 1)]
    loss = gradient_loss(linear(weight.tolist()), matches)
    assert expected > 0.5
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_images_that_give_the_same_gradients_have_no_distance() -> None:
    network, real = drawn(), images(4)
    twice = torch.cat([real, real]).requires_grad_()
    assert gradient_loss(network, [Match(1, real, twice)]).item() == pytest.approx(0, abs=1e-2)
    assert gradient_loss(network, [Match(1, real, images(4, seed=8))]).item() > 1


def test_matching_gradients_leaves_the_network_without_gradients_of_its_own() -> None:
    network, synthetic = drawn(), images(2, seed=5).requires_grad_()
    gradient_loss(network, [Match(0, images(4), synthetic)]).backward(inputs=[synthetic])
    assert synthetic.grad is not None
    assert synthetic.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("loss", [matching_loss, gradient_loss])
def test_the_order_inside_a_class_does_not_matter(loss: Callable[..., torch.Tensor]) -> None:
    network = drawn()
    module = network if loss is gradient_loss else network.features
    real, synthetic = images(6), images(3, seed=2)
    straight = loss(module, [Match(0, real, synthetic.requires_grad_())])
    turned = loss(module, [Match(0, real.flip(0), synthetic.flip(0))])
    torch.testing.assert_close(turned, straight, rtol=1e-4, atol=1e-4)


# --- Networks, records, pictures -----------------------------------------------------------------


def test_a_drawn_network_is_fresh_and_torch_like() -> None:
    network = ConvNet(2, 3, 16, 32, 3)
    first_conv = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    before = first_conv.weight.clone(), network.classifier.weight.clone()
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.constant_(module.weight, 3.0)
            nn.init.constant_(module.bias, 3.0)
    redraw(network, seeded())
    for layer, old, inputs in (
        (first_conv, before[0], 27),
        (network.classifier, before[1], 32 * 2 * 2),
    ):
        bound = 1 / np.sqrt(inputs)
        assert not torch.equal(old, layer.weight)
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.1)
        assert layer.bias is not None
        assert layer.bias.abs().max() <= bound
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 1000))
def test_records_are_drawn_again_only_when_all_were_drawn(have: int, want: int, seed: int) -> None:
    positions = 10 * np.arange(have)
    found = draw_records(positions, want, seeded(seed))
    times = np.array([(found == position).sum() for position in positions])
    assert times.sum() == want == len(found)
    assert times.max() - times.min() <= 1


def test_the_range_of_a_picture_is_what_uint8_carries_and_no_more() -> None:
    black, white = picture_range(torch.device("cpu"))
    ends = torch.stack([black, white]).expand(2, 3, 4, 4)
    assert encode_images(ends, "uint8")[:, 0, 0, 0].tolist() == [0, 255]
    assert clipped_fraction(ends) == 0
    beyond = torch.stack([black, white]) + torch.tensor([-0.01, 0.01]).view(2, 1, 1, 1)
    assert clipped_fraction(beyond) == 1
