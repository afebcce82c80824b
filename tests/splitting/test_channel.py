"""Packets that are lost: numbers by hand, shares, bursts, and what comes back of a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedsim.splitting import Channel, Link, dequantised
from fedsim.splitting.channel import MESSAGES, received

SHAPE = (40, 10, 25, 3)
ROWS = 40 * 10 * 25


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streams(purpose: str) -> torch.Generator:
    return generator(sum(purpose.encode()))


def test_lost_rows_are_zeros_and_nothing_is_scaled() -> None:
    values = torch.arange(24.0).reshape(1, 2, 4, 3) + 1
    lost = torch.tensor([[[0, 1, 0, 0], [1, 0, 0, 1]]], dtype=torch.bool)
    arrived = received(values, ~lost[..., None])
    assert arrived.sum().item() == 174
    assert int((arrived != 0).any(dim=-1).sum()) == 5
    assert torch.equal(arrived[0, 0, 0], values[0, 0, 0])


@pytest.mark.parametrize("burst", [None, 12.0])
@pytest.mark.parametrize("loss", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_share_that_arrives(loss: float, burst: float | None) -> None:
    arrives = Channel(loss, burst).arrives(SHAPE, generator())
    assert arrives is not None
    assert arrives.shape == (40, 10, 25, 1)
    # In bursts packets are like neighbours: fewer of them count as independent.
    spread = (loss * (1 - loss) / ROWS * (1 if burst is None else 2 * burst)) ** 0.5
    assert abs(arrives.float().mean().item() - (1 - loss)) < 3 * spread


def runs(lost: Tensor) -> list[int]:
    """Lengths of runs of lost packets."""
    found, length = [], 0
    for one in lost.flatten().tolist():
        if one:
            length += 1
        elif length:
            found.append(length)
            length = 0
    return found


@pytest.mark.parametrize(("loss", "burst"), [(0.3, 8.0), (0.5, 1.0), (0.9, 20.0)])
def test_bursts_have_their_mean_length(loss: float, burst: float) -> None:
    arrives = Channel(loss, burst).arrives((400, 10, 25, 3), generator(1))
    assert arrives is not None
    lengths = runs(~arrives)
    mean = sum(lengths) / len(lengths)
    assert abs(mean - burst) <= 3 * burst / len(lengths) ** 0.5


def test_a_burst_longer_than_any_message_loses_all_of_it_or_nothing() -> None:
    channel = Channel(0.5, 1e15)
    found = [channel.arrives((2, 4, 25, 3), generator(seed)) for seed in range(60)]
    means = [one.float().mean().item() for one in found if one is not None]
    assert set(means) == {0.0, 1.0}
    assert 15 < sum(means) < 45


def test_a_burst_is_as_it_was_drawn() -> None:
    lost = ~Channel(0.5, 3.0).arrives((1, 1, 30, 1), generator(3)).flatten()  # type: ignore[union-attr]
    assert "".join("x" if one else "." for one in lost.tolist()) == "x.......xxxx........xx...x.xxx"


def test_bursts_of_the_length_that_chance_gives_are_independent_losses() -> None:
    loss = 0.6
    lost = ~Channel(loss, 1 / (1 - loss)).arrives((400, 10, 25, 3), generator(2)).flatten()  # type: ignore[union-attr]
    both = (lost[1:] & lost[:-1]).float().mean().item()
    assert abs(both - loss**2) < 0.01


@pytest.mark.parametrize("burst", [None, 4.0])
def test_nothing_is_drawn_where_nothing_or_all_is_lost(burst: float | None) -> None:
    draws = generator()
    before = draws.get_state()
    assert Channel(0.0, burst).arrives(SHAPE, draws) is None
    none = Channel(1.0, burst).arrives(SHAPE, draws)
    assert none is not None
    assert not none.any()
    assert torch.equal(draws.get_state(), before)


def test_features_and_gradients_are_lost_by_different_streams() -> None:
    link = Link(Channel(0.5), streams)
    masks = [link.arrives(message, (64, 8, 32, 4)) for message in MESSAGES]
    for number, one in enumerate(masks):
        for other in masks[number + 1 :]:
            assert one is not None
            assert other is not None
            assert abs((one & other).float().mean().item() - 0.25) < 0.02


@pytest.mark.parametrize("way", ["up", "down"])
def test_whole_rows_of_the_gradient_are_lost_and_not_those_of_the_features(way: str) -> None:
    link = Link(Channel(0.5), streams)
    features = torch.ones(4, 8, 16, 5, requires_grad=True)
    weights = torch.randn(4, 8, 16, 5, generator=generator())
    sent = getattr(link, way)(features)
    (sent * weights).sum().backward()
    gradient = features.grad
    assert gradient is not None
    returned = (gradient != 0).any(dim=-1)
    assert torch.equal(gradient, weights * returned[..., None])
    arrived = (sent != 0).any(dim=-1)
    assert abs((arrived & returned).float().mean().item() - 0.25) < 0.06
    # The mask of the features is not in the gradient: the rule of a dropout would give both.
    assert (returned & ~arrived).any()


def test_without_loss_all_arrives_and_returns() -> None:
    link = Link(Channel(), streams)
    features = torch.randn(2, 3, 4, 5, generator=generator(), requires_grad=True)
    sent = link.down(link.up(features))
    assert torch.equal(sent, features)
    sent.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))  # type: ignore[arg-type]


def test_eight_bits_are_off_by_half_a_step_of_each_image() -> None:
    features = (
        torch.randn(3, 2, 8, 8, generator=generator())
        * torch.tensor([1.0, 10.0, 0.0])[:, None, None, None]
    )
    seen = dequantised(features)
    ranges = features.flatten(1).max(1).values - features.flatten(1).min(1).values
    off = (seen - features).abs().flatten(1).max(1).values
    assert (off <= ranges / 510 * 1.001).all()
    assert off[0] > 0
    assert torch.equal(seen[2], features[2])
    assert all(len(one.unique()) <= 256 for one in seen)


def test_the_gradient_passes_by_the_eight_bits() -> None:
    link = Link(Channel(), streams, "uint8")
    features = torch.randn(2, 3, 4, 5, generator=generator(), requires_grad=True)
    sent = link.up(features)
    assert torch.equal(sent, dequantised(features.detach()))
    sent.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "burst", "lost"),
    [(1e-20, 2.0, 0), (1e-320, 1.0, 0), (0.5, 1e300, 0), (1 - 2**-53, 2.0**53 - 1, 1)],
)
def test_runs_that_no_number_holds_have_no_end(loss: float, burst: float, lost: int) -> None:
    arrives = Channel(loss, burst).arrives((2, 4, 25, 3), generator(4))
    assert arrives is not None
    assert set(arrives.flatten().tolist()) == {not lost}


@pytest.mark.parametrize("loss", [0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_the_shortest_burst_that_is_told_goes(loss: float) -> None:
    with pytest.raises(ValueError, match="at least") as told:
        Channel(loss, 1.0)
    least = float(str(told.value).rpartition(" ")[2].rstrip("."))
    arrives = Channel(loss, least).arrives(SHAPE, generator())
    assert arrives is not None
    assert abs(arrives.float().mean().item() - (1 - loss)) < 0.05
    assert Channel(loss, round(loss / (1 - loss), 10))


@pytest.mark.parametrize(
    ("loss", "burst", "word"),
    [
        (-0.1, None, "packet_loss"),
        (1.5, None, "packet_loss"),
        (float("nan"), None, "packet_loss"),
        (0.5, 0.5, "burst"),
        (0.9, 5.0, "at least 9"),
        (0.5, float("nan"), "burst"),
        (0.5, float("inf"), "burst"),
    ],
)
def test_impossible_channels_are_refused(loss: float, burst: float | None, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Channel(loss, burst)
