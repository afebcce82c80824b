"""UniverSeg's network: the published layout, what its output depends on, and its support set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedsim.errors import InputError
from fedsim.models.cross_network import CrossNetwork
from fedsim.models.in_context import InContext
from fedsim.pretrained.catalogue import SHIPPED
from fedsim.pretrained.loading import fill
from fedsim.pretrained.reading import read_weights
from fedsim.tasks.segmentation.support import support_sets

PUBLISHED = 1_182_785


def small(**keys: int) -> InContext:
    torch.manual_seed(0)
    return InContext(2, 1, (16, 16), channels=(6, 6), **{"support": 3, "draws": 2, **keys})


def cases(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        image = torch.randn(1, 6, 16, 16, generator=generator)
        label = torch.zeros(6, 16, 16, dtype=torch.int64)
        label[1:5, 4:9, 5:10] = 1
        found.append((image + 2 * label, label))
    return found


def test_parameters_and_names_are_those_of_the_published_file() -> None:
    state = CrossNetwork().state_dict()
    assert sum(value.numel() for value in state.values()) == PUBLISHED
    layers = ["cross.cross_conv", "target.vmapped.conv", "support.vmapped.conv"]
    blocks = [f"enc_blocks.{i}" for i in range(4)] + [f"dec_blocks.{i}" for i in range(3)]
    paths = [f"{block}.{layer}" for block in blocks for layer in layers] + ["out_conv.conv"]
    assert set(state) == {f"{path}.{kind}" for path in paths for kind in ("weight", "bias")}
    assert state["enc_blocks.0.cross.cross_conv.weight"].shape == (64, 3, 3, 3)
    assert state["dec_blocks.2.cross.cross_conv.weight"].shape == (64, 256, 3, 3)


def test_the_interaction_is_a_convolution_of_the_query_upon_the_support() -> None:
    torch.manual_seed(0)
    block = CrossNetwork((4, 4)).enc_blocks[0]
    query, support = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 2, 8, 8)
    both = torch.cat([query[:, None].expand(-1, 3, -1, -1, -1), support], 2)
    layer = block.cross["cross_conv"]
    expected = layer(both.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(block._cross(query, support), expected)
    mean = torch.nn.functional.leaky_relu(block.target["vmapped"]["conv"](expected.mean(1)))
    torch.testing.assert_close(block(query, support)[0], mean)
    torch.testing.assert_close(block.last(query, support), mean)


def test_neither_order_nor_repetition_of_the_support_matters_but_the_support_does() -> None:
    torch.manual_seed(0)
    network = CrossNetwork((6, 6, 6)).double()
    query = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    images = torch.rand(1, 5, 1, 16, 16, dtype=torch.float64)
    masks = (images > 0.6).double()
    found = network(query, images, masks)
    order = [3, 0, 4, 1, 2]
    torch.testing.assert_close(network(query, images[:, order], masks[:, order]), found)
    twice = [part.repeat(1, 2, 1, 1, 1) for part in (images, masks)]
    torch.testing.assert_close(network(query, *twice), found)
    assert not torch.allclose(network(query, images, 1 - masks), found)


def test_a_file_of_the_published_layout_fills_the_network_and_leaves_the_support() -> None:
    model, other = small(), CrossNetwork((6, 6))
    kept = fill(model, other.state_dict())
    assert set(kept) == {f"support.{name}" for name in ("images", "labels", "slices", "seed")}
    held = model.network.state_dict()
    assert all(torch.equal(held[name], value) for name, value in other.state_dict().items())


def test_a_wrong_file_is_refused_and_changes_nothing() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for wrong in (CrossNetwork((8, 8)), CrossNetwork((6, 6, 6)), torch.nn.Linear(2, 2)):
        with pytest.raises((ValueError, InputError)):
            fill(model, wrong.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_shipped_network_fits_and_says_what_it_is() -> None:
    model = InContext(2, 1, (48, 48), channels=(16, 16, 16, 16))
    assert fill(model, read_weights(SHIPPED["in_context_phantom"]))


def test_slices_without_outlines_are_taken_where_that_is_asked_for() -> None:
    model = small()
    assert model.remember(cases(), seed=0, empty=False) == 8
    assert model.support.slices[:8].tolist() == [1, 2, 3, 4] * 2
    assert model.remember(cases(), seed=0, empty=True) == 12
    assert len(model.support) == 12
    assert model.remember(cases(1), seed=0, empty=True) == 6
    assert len(model.support) == 6


def test_a_support_set_needs_outlines_and_places() -> None:
    model = small(capacity=5)
    with pytest.raises(ValueError, match=r"type model\.capacity=8"):
        model.remember(cases(), seed=0, empty=False)
    nothing = [(image, torch.zeros_like(label)) for image, label in cases()]
    with pytest.raises(ValueError, match="no outlined slice"):
        model.remember(nothing, seed=0, empty=False)


def test_a_volume_is_answered_by_slice_number_and_seed() -> None:
    model, (image, _) = small(), cases(1)[0]
    assert (model.volume_logits(image)[:, 1] < model.volume_logits(image)[:, 0]).all()
    model.remember(cases(), seed=0, empty=True)
    found = model.volume_logits(image)
    assert found.shape == (6, 2, 16, 16)
    assert torch.equal(model.volume_logits(image), found)
    model.support.seed.fill_(1)
    assert not torch.equal(model.volume_logits(image), found)
    larger = torch.nn.functional.interpolate(image, (20, 24))
    assert model.volume_logits(larger).shape == (6, 2, 20, 24)


def test_the_order_of_the_cases_does_not_matter_where_all_slices_are_shown() -> None:
    first, second = small(support=12), small(support=12)
    image, _ = cases(3)[2]
    first.remember(cases(), seed=0, empty=True)
    second.remember(cases()[::-1], seed=7, empty=True)
    torch.testing.assert_close(first.volume_logits(image), second.volume_logits(image))


def test_several_draws_give_the_mean_of_their_probabilities() -> None:
    model, (image, _) = small(support=3, draws=4), cases(3)[2]
    model.remember(cases(), seed=5, empty=True)
    found = model.volume_logits(image)[2, 1].sigmoid()
    held, query = model.support, model._seen(image)[2]
    numbers = held.slices[: len(held)].numpy()
    sets = support_sets(numbers, 2, count=3, draws=4, seed=5)
    assert len({tuple(one.tolist()) for one in sets}) > 1
    with torch.no_grad():
        each = [
            model.network(
                query[None, None],
                held.images[one][None, :, None],
                (held.labels[one] == 1).float()[None, :, None],
            ).sigmoid()
            for one in map(torch.from_numpy, sets)
        ]
    torch.testing.assert_close(found, torch.stack(each).mean(0)[0, 0])


def test_a_structure_that_the_support_does_not_outline_is_never_answered() -> None:
    torch.manual_seed(0)
    model = InContext(3, 1, (16, 16), channels=(6, 6))
    model.remember(cases(), seed=0, empty=True)
    assert not (model.volume_logits(cases(1)[0][0]).argmax(1) == 2).any()


@pytest.mark.parametrize(
    ("patch", "channels", "message"),
    [
        ((12, 12), (4, 4, 4, 4), "multiples of 8"),
        ((8, 16, 16), (4, 4), "multiples of 2"),
        ((16, 16), (4,), "at least two levels"),
    ],
)
def test_what_cannot_be_built_is_refused(
    patch: tuple[int, ...], channels: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        InContext(2, 1, patch, channels=channels)
