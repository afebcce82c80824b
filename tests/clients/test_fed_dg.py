"""FedDG's frequency exchange: images whose answer is known, and when it is FedAvg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import RecordDict
from torch import Tensor

from fedsim import Result, Site
from fedsim.clients.fed_dg import FedDG, low_amplitudes, restyled
from fedsim.clients.supervised import Supervised
from fedsim.folder.runfolder import RunFolder
from fedsim.wire import tensor_record
from tests.engine.conftest import run_tiny, tiny  # noqa: F401 - fixtures

STEPS = "batch_size: 16, steps: 3, learning_rate: 0.05"
FEDDG = ("strategy=fed_dg", f"client={{name: fed_dg, {STEPS}, spectra: 5, band: 0.1}}")
PLAIN = (
    "strategy=fed_dg",
    f"client={{name: tests.clients.test_fed_dg.Plain, {STEPS}}}",
    f"plugins=[{Path(__file__).parents[2]}]",
)


class Plain(Supervised):
    """Shares as FedDG's client does, and trains as FedAvg's."""

    payload_kind = "fed_dg"
    keeps_state = True

    def spectra(self, content: RecordDict, site: Site) -> RecordDict:
        return FedDG(spectra=5, band=0.1).answer(content, site)


SIZES = [(8, 9), (6, 8, 5)]
WHOLE = 0.49  # Of 5, 6, 8 and 9 pixels: all frequencies, but the highest of an even axis.


def images(size: tuple[int, ...], seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, *size, generator=draws, dtype=torch.float64)


def one(share: float) -> Tensor:
    return torch.full((3,), share, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_inside_the_band_amplitudes_are_mixed_and_nothing_else_changes(
    size: tuple[int, ...],
) -> None:
    own, other, band = images(size, 0), images(size, 1), 0.2
    axes = tuple(range(2, own.dim()))
    found = restyled(own, low_amplitudes(other, band), one(0.25), band)
    before, after, theirs = (torch.fft.fftn(x, dim=axes) for x in (own, found, other))
    inside = torch.ones(size, dtype=torch.bool)
    for axis, length in enumerate(size):
        reach = int(length * band)
        near = torch.tensor([min(k, length - k) <= reach for k in range(length)])
        inside &= near.view([-1 if at == axis else 1 for at in range(len(size))])
    assert 1 < inside.sum() < inside.numel()
    wanted = 0.75 * before.abs() + 0.25 * theirs.abs()
    assert torch.allclose(after.abs()[..., inside], wanted[..., inside])
    assert torch.allclose(after[..., ~inside], before[..., ~inside])
    turned = after * before.conj()
    assert torch.allclose(turned.imag, torch.zeros_like(turned.imag), atol=1e-8)


@pytest.mark.parametrize("size", SIZES)
def test_known_answers(size: tuple[int, ...]) -> None:
    own = images(size, 0) + 3
    for band in (0.0, 0.2, WHOLE):
        assert torch.allclose(restyled(own, low_amplitudes(own, band), one(1.0), band), own)
        other = low_amplitudes(images(size, 1), band)
        assert torch.allclose(restyled(own, other, one(0.0), band), own)
    # An image that is moved in a circle has the same amplitudes.
    moved = own.roll((1, 2), dims=(-1, -2))
    assert torch.allclose(restyled(own, low_amplitudes(moved, WHOLE), one(1.0), WHOLE), own)
    # With the mean alone, a brighter other image makes this one as bright, and changes no more.
    bright = restyled(own, low_amplitudes(own + 2, 0.0), one(0.5), 0.0)
    assert torch.allclose(bright, own + 1)


def test_a_picture_that_is_brighter_and_of_more_contrast_is_met_wholly() -> None:
    # 2.5 x has the phases of x and 2.5 times its amplitudes; an odd size has no lone frequency.
    own = images((7, 9), 0)
    found = restyled(own, low_amplitudes(2.5 * own, WHOLE), one(1.0), WHOLE)
    assert torch.allclose(found, 2.5 * own)


@pytest.mark.parametrize("chance", [1e-9, 1.0])
def test_of_a_batch_none_or_all_may_be_restyled(chance: float) -> None:
    batch = images((8, 8), 0).float()
    state = RecordDict({"spectra": tensor_record({"amplitudes": low_amplitudes(batch + 1, 0.2)})})

    class Here:
        def generator(self, purpose: str) -> torch.Generator:
            return torch.Generator().manual_seed(0)

    Here.state = state  # type: ignore[attr-defined]
    restyle = FedDG(band=0.2, chance=chance).styles(Here())  # type: ignore[arg-type]
    assert restyle is not None
    changed = (restyle(batch) != batch).flatten(1).any(dim=1)
    assert changed.all() if chance == 1 else not changed.any()


def test_without_chance_training_is_fedavgs(run_tiny: Callable[..., Result]) -> None:  # noqa: F811
    plain = run_tiny(*PLAIN)
    assert run_tiny(*FEDDG, "client.chance=0").metrics == plain.metrics
    assert run_tiny(*FEDDG).metrics != plain.metrics


def test_what_travels_is_the_band_alone(run_tiny: Callable[..., Result]) -> None:  # noqa: F811
    folder = RunFolder.open(run_tiny(*FEDDG).folder)
    rows = folder.read_lines("traffic.jsonl")
    up = [row["fields"]["spectra"] for row in rows if "spectra" in row["fields"]][:4]
    assert up == [5 * 3 * 3 * 3 * 4] * 4
    down = [row for row in rows if row["direction"] == "down" and "spectra" in row["fields"]]
    assert [row["fields"]["spectra"] for row in down] == [3 * up[0]] * 4
    listed = folder.read_json("run.json")["released_without_privacy"]
    assert any("amplitudes" in line for line in listed)
