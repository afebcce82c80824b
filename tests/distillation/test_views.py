"""Views of images that follow from a seed, and the labels that a network gives them."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.distillation import SPREAD, label_views, soften, view
from fedsim.distillation import views as views_module
from fedsim.method.augment import SiameseAugment
from fedsim.wire.codecs import decode_images, encode_images


def images(count: int = 6, size: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 2**63 - 1), st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_a_view_follows_from_images_seed_and_number(seed: int, number: int) -> None:
    first = view(images(), seed, number)
    torch.rand(3)
    assert torch.equal(first, view(images(), seed, number))
    assert first.shape == images().shape
    assert torch.isfinite(first).all()


def test_other_seeds_and_numbers_give_other_views() -> None:
    found = [view(images(), seed, number) for seed in (0, 1, 2**32) for number in (0, 1)]
    assert all(not torch.equal(a, b) for a, b in combinations(found, 2))


def test_a_view_leaves_the_images_as_they_are() -> None:
    given_images = images()
    for number in range(8):
        view(given_images, 3, number)
    assert torch.equal(given_images, images())


class Nothing(SiameseAugment):
    """Draws, and changes nothing."""

    def draw(self, generator: torch.Generator, count: int | None = None):  # type: ignore[no-untyped-def]
        super().draw(generator, count)
        return lambda given_images: given_images


def test_a_view_mixes_two_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, "SiameseAugment", Nothing)
    basis = torch.eye(5)[:, None, None, :].expand(5, 3, 4, 5)
    parts = view(basis, 9, 0)[:, 0, 0, :]
    torch.testing.assert_close(parts.sum(dim=1), torch.ones(5))
    assert (parts > 0).sum(dim=1).max() <= 2
    assert (parts.diagonal() < 1).any()
    assert (parts.diagonal() > 0).all()


def test_one_image_mixed_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, "SiameseAugment", Nothing)
    for number in range(5):
        assert torch.equal(view(images(1), 4, number), images(1))


def test_client_and_server_see_the_same_views_and_labels_fit_them() -> None:
    # A linear network: its labels of the client's views can be computed from the server's.
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    wire = encode_images(images(), "uint8")
    sent = label_views(
        network, decode_images(wire), range(7), 5, [0, 1], device=torch.device("cpu")
    )
    assert sent.dtype == torch.float16
    assert sent.shape == (7, 6, 2)
    received = decode_images(wire.copy())
    with torch.no_grad():
        logits = torch.stack([network(view(received, 5, number)) for number in range(7)])
    assert torch.equal(soften(logits, [0, 1]), sent)


def test_a_trial_labels_the_views_it_reaches() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    one, three = (
        label_views(network, images(), range(n), 5, [0, 1], device=torch.device("cpu"))
        for n in (1, 3)
    )
    assert len(one) == 1
    assert len(three) == 3


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_log_odds_have_mean_zero_and_a_fixed_spread(seed: int, scale: float, shift: float) -> None:
    draws = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(9, 8, 2, generator=draws)
    logits[..., 1] += shift
    found = soften(logits, [0, 1]).double()
    odds = (found[..., 1] / found[..., 0]).log()
    assert odds.mean().abs() < 0.02
    assert odds.std(correction=0).item() == pytest.approx(SPREAD, rel=0.02)


def test_two_classes_agree_with_numbers_made_by_hand() -> None:
    # Log-odds 1, 3, 5, 7: mean 4, deviation sqrt(5).
    logits = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 5.0], [0.0, 7.0]]).view(2, 2, 2)
    expected = [1 / (1 + math.exp(-1.5 * odds / 5**0.5)) for odds in (-3, -1, 1, 3)]
    assert soften(logits, [0, 1])[..., 1].flatten().tolist() == pytest.approx(expected, abs=1e-3)


def test_more_classes_have_the_same_spread_over_all_pairs() -> None:
    logits = torch.randn(20, 10, 4, generator=torch.Generator().manual_seed(2))
    logits = logits * torch.tensor([1.0, 2.0, 3.0, 9.0])
    found = soften(logits, [0, 1, 3]).double()
    assert (found[..., 2] == 0).all()
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(20, 10).double(), atol=2e-3, rtol=0)
    squares = [
        (found[..., a] / found[..., b]).log().square().mean() for a, b in combinations((0, 1, 3), 2)
    ]
    assert math.sqrt(sum(squares) / 3) == pytest.approx(SPREAD, rel=0.02)


def test_a_network_that_knows_nothing_favours_no_class() -> None:
    assert (soften(torch.ones(3, 4, 2), [0, 1]) == 0.5).all()
