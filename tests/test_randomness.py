"""Streams: wide enough that two never meet."""

from __future__ import annotations

import torch

from fedsim.randomness import Streams


def test_streams_of_noise_use_more_than_the_bits_that_torch_looks_at() -> None:
    """These two of torch's own streams are one and the same; those of noise are not."""
    pair = (717, 81), (933, 23)
    shared = [Streams(0).torch("privacy noise", *at).initial_seed() % 2**32 for at in pair]
    assert shared[0] == shared[1]
    draws = [torch.randn(8, generator=Streams(0).noise("privacy noise", *at)) for at in pair]
    assert not torch.equal(*draws)
    again = torch.randn(8, generator=Streams(0).noise("privacy noise", *pair[0]))
    assert torch.equal(draws[0], again)


def test_noise_is_normal() -> None:
    draws = torch.randn(200_000, generator=Streams(3).noise("n"))
    assert abs(draws.mean()) < 5 / 200_000**0.5
    assert abs(draws.std() - 1) < 5 / 400_000**0.5
