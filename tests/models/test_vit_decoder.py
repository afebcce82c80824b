"""The decoder of a transformer's patch tokens: what it sees, what is trained, what is kept."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from fedsim.models import ViTS14
from fedsim.models.memory import Memory
from fedsim.models.vit_decoder import ViTDecoder
from fedsim.wire import pack_state
from fedsim.wire.codecs import IMAGE_MEAN, IMAGE_STD
from fedsim.wire.flower import payload_bytes

TINY: dict[str, Any] = {
    "resolution": 28,
    "channels": (4, 8),
    "width": 12,
    "depth": 2,
    "heads": 2,
    "grid": 3,
}


def tiny(patch: tuple[int, ...] = (28, 28), **options: Any) -> ViTDecoder:
    torch.manual_seed(0)
    return ViTDecoder(2, 1, patch, **{**TINY, **options})


def frozen(**options: Any) -> ViTDecoder:
    """With a transformer that nobody trains, as `model.trainable: head` leaves it."""
    model = tiny(**options)
    model.features.requires_grad_(False)
    return model


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def slices(count: int, seed: int = 0, patch: tuple[int, int] = (28, 28)) -> Tensor:
    return torch.randn(count, 1, *patch, generator=torch.Generator().manual_seed(seed))


def test_the_defaults_have_the_documented_number_of_parameters() -> None:
    with torch.device("meta"):
        model = ViTDecoder(2, 1, (96, 96))
    assert (size(model.features), size(model.decoder)) == (22_056_192, 34_586)
    assert model.layers == (6, 12)


def test_the_transformer_sees_a_grey_picture_as_it_was_trained_on() -> None:
    # z = -3 is black, z = 3 white; at its own resolution a slice is not resized.
    model, grey = tiny(layers=(2,)), torch.rand(2, 1, 28, 28)
    mean, std = torch.tensor(IMAGE_MEAN)[:, None, None], torch.tensor(IMAGE_STD)[:, None, None]
    vit = ViTS14(1, 3, 28, width=12, depth=2, heads=2, grid=3)
    vit.features[:-1].load_state_dict(model.features.state_dict())
    with torch.no_grad():
        expected = vit.tokens((grey - mean) / std)[:, 1:]
        found = model.maps(6 * grey - 3)
    assert found.shape == (2, 12, 2, 2)
    assert torch.allclose(found.flatten(2).transpose(1, 2), expected, atol=1e-5)


def test_layers_come_one_after_the_other_as_they_would_alone() -> None:
    images = slices(2)
    with torch.no_grad():
        both = tiny(layers=(1, 2)).maps(images)
        each = [tiny(layers=(layer,)).maps(images) for layer in (1, 2)]
    assert torch.equal(both, torch.cat(each, 1))
    assert not torch.equal(*each)


def test_logits_are_those_of_another_day() -> None:
    with torch.no_grad():
        logits = tiny().eval()(torch.linspace(-2, 2, 784).view(1, 1, 28, 28))
    assert logits[0, :, 14, 7].tolist() == pytest.approx([0.127866, 0.297365], abs=1e-5)


@pytest.mark.parametrize("edges", [True, False])
@pytest.mark.parametrize("patch", [(28, 28), (17, 30), (96, 40)])
def test_logits_are_as_large_as_any_patch(patch: tuple[int, int], edges: bool) -> None:
    model = tiny(patch, edges=edges)
    assert model(slices(2, patch=patch)).shape == (2, 2, *patch)


def test_the_picture_keeps_the_slices_shape_in_whole_tokens() -> None:
    assert tiny((96, 96), resolution=56).resized == (56, 56)
    assert tiny((48, 96), resolution=56).resized == (28, 56)
    assert tiny((96, 5), resolution=56).resized == (56, 14)


def test_without_edges_a_slice_counts_by_its_tokens_alone() -> None:
    images, found = slices(2), []
    for edges in (False, True):
        model = tiny(edges=edges)
        maps = model.maps(images[:1])
        one, other = (model.decoder(image[None], maps) for image in images)
        found.append(torch.equal(one, other))
    assert found == [True, False]


def test_a_step_of_the_decoder_asks_nothing_of_a_frozen_transformer() -> None:
    model, images = frozen(), slices(2)
    assert not model.maps(images).requires_grad
    assert tiny().maps(images).requires_grad
    model(images).square().mean().backward()
    assert all(parameter.grad is None for parameter in model.features.parameters())
    assert all(parameter.grad is not None for parameter in model.decoder.parameters())
    assert payload_bytes(RecordDict({"a": pack_state(model.decoder.state_dict())})) == 4 * size(
        model.decoder
    )


def test_training_and_evaluation_compute_the_same() -> None:
    model, images = tiny(), slices(2)
    with torch.no_grad():
        assert torch.equal(model.train()(images), model.eval()(images))


def test_what_is_remembered_has_the_same_bits_in_any_batch() -> None:
    images = slices(5)
    for remember in (1, 100):
        model = frozen(remember=remember)
        with torch.inference_mode():
            whole = model.maps(images)
            again = torch.cat([model.maps(images[[3, 1]]), model.maps(images[[4]])])
        assert torch.equal(again, whole[[3, 1, 4]])
        assert torch.allclose(whole, frozen().maps(images), atol=1e-5)


def test_what_was_scored_can_be_trained_on() -> None:
    model, images = frozen(remember=8), slices(2)
    with torch.inference_mode():
        scored = model(images)
    for batch in (images, images[:1]):
        trained = model(batch)
        trained.square().mean().backward()
        assert torch.allclose(trained, scored[: len(batch)], atol=1e-6)


@pytest.mark.parametrize("trained", [True, False])
def test_a_transformer_whose_weights_were_written_is_asked_again(trained: bool) -> None:
    model, images = frozen(remember=8), slices(2)
    model.features.requires_grad_(trained)
    before = model.maps(images)
    model.features.norm.bias.detach().numpy()[:] += 1  # As `load_state` writes.
    assert torch.allclose(model.maps(images), before + 1, atol=1e-5)
    assert len(model.memory) == (0 if trained else 2)


class Counted:
    """Doubles, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, image: Tensor) -> Tensor:
        self.asked += 1
        assert len(image) == 1
        return 2 * image


def test_each_image_is_computed_once_until_it_has_to_go() -> None:
    memory, double = Memory(2), Counted()
    images, weights = slices(3), [torch.ones(3)]
    for wanted, asked in (([0, 1], 2), ([1, 0], 2), ([0, 0], 2), ([2], 3), ([0, 2], 3), ([1], 4)):
        assert torch.equal(memory.ask(images[wanted], weights, double), 2 * images[wanted])
        assert double.asked == asked, wanted
        assert len(memory) == 2


def test_another_shape_dtype_or_weight_is_another_question() -> None:
    memory, double, zeros = Memory(8), Counted(), torch.zeros(1, 1, 4, 4)
    weights = [torch.ones(3), torch.ones(2)]
    others = [torch.ones(3), torch.full((2,), 1 + 2**-23)]
    questions = [(zeros, weights), (zeros.view(1, 1, 2, 8), weights), (zeros.double(), weights)]
    for images, given in [*questions, (zeros, others)]:
        found = memory.ask(images, given, double)
        assert (found.shape, found.dtype) == (images.shape, images.dtype)
    assert double.asked == 4


def test_a_copy_begins_with_nothing() -> None:
    model = frozen(remember=3)
    model.maps(slices(2))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (len(other.memory), other.memory.most) == (0, 3)
        assert torch.equal(other(slices(1)), model(slices(1)))
    assert len(model.memory) == 2


def test_an_empty_batch_gives_no_logits() -> None:
    assert frozen(remember=3)(slices(0)).shape == (0, 2, 28, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": (8, 28, 28)}, r"slices, patch \[H, W\], not \[8, 28, 28\]"),
        ({"in_channels": 2}, "1 or 3 channels, not 2"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"resolution": 30}, "resolution is 30: choose a multiple, such as 42"),
        ({"channels": (4,)}, "two levels, not 1"),
        ({"layers": (1, 3)}, r"has layers 1 to 2.*layers is \[1, 3\]"),
        ({"layers": (2, 1)}, "ascending"),
        ({"layers": ()}, r"layers is \[\]"),
        ({"heads": 5}, "no multiple of 5"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"num_classes": 2, "in_channels": 1, "patch": (28, 28), **TINY, **arguments}
    with pytest.raises(ValueError, match=message):
        ViTDecoder(**given)


def test_three_channels_are_seen_as_they_are() -> None:
    torch.manual_seed(0)
    model = ViTDecoder(2, 3, (28, 28), **TINY)
    grey = slices(1)
    with torch.no_grad():
        assert torch.equal(model.maps(grey.expand(-1, 3, -1, -1)), model.maps(grey))
        assert not torch.equal(model.maps(torch.cat([grey, grey, -grey], 1)), model.maps(grey))
    assert np.isfinite(model(grey.expand(-1, 3, -1, -1)).detach().numpy()).all()
