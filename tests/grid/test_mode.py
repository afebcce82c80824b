"""How a scenario computes: memory formats, groups, and what the mode says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fedsim.engine.prepare import prepare
from fedsim.grid.mode import Mode, prefers_channels_last
from fedsim.models import ResNet18, SmallCNN
from fedsim.scenario import load
from tests.engine.conftest import TINY
from tests.plugins.fast_models import Pooled


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The scenario of the engine's tests."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


NAMES = [f"client-{i}" for i in range(40)]


def grouped(mode: Mode, asked: list[str]) -> list[list[str]]:
    return list(mode.groups(asked, lambda name: name))


def test_groups_are_cut_by_who_is_asked() -> None:
    mode = Mode(fast=True, together="stacked", width=16, apart=frozenset({"client-3"}))
    found = grouped(mode, NAMES)
    assert [len(group) for group in found] == [3, 1, 16, 16, 4]
    assert [name for group in found for name in group] == NAMES
    assert found[1] == ["client-3"]


@pytest.mark.parametrize("mode", [Mode(), Mode(fast=True, together="side by side")])
def test_others_are_groups_of_one(mode: Mode) -> None:
    assert grouped(mode, NAMES) == [[name] for name in NAMES]


def test_channels_last_is_for_convolutions_without_group_norm() -> None:
    assert prefers_channels_last(Pooled(2, 3, 8))
    assert not prefers_channels_last(SmallCNN(2, 3, 8))
    assert not prefers_channels_last(ResNet18(2, 3, 32, width=16))
    assert not prefers_channels_last(nn.Linear(3, 2))
    assert prefers_channels_last(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))


def test_a_mode_tells_who_trains_together() -> None:
    mode = Mode(True, "float32", True, "side by side", frozenset({"client-1"}), why="it is large")
    assert mode.record(NAMES) == {
        "fast": True,
        "precision": "float32",
        "channels_last": True,
        "together": "side by side: 39 of 40 clients",
        "not_stacked": "it is large",
    }


@pytest.mark.parametrize(
    ("words", "together", "why"),
    [
        ((), "stacked", ""),
        (("resources.fast=false",), "", ""),
        (("client.augment=siamese",), "side by side", "each client draws its own augmentations"),
        (("resources.precision=bfloat16",), "side by side", "it trains in mixed precision"),
        (("model=fast_models:Dropping",), "", "its model draws at random"),
        (("client=misbehaving:Counts",), "", "its method does not declare that"),
        (("federation.local=norm",), "side by side", "not all of its model travels"),
        (
            ("faults.client_timeout=60.0", "resources.backend=ray"),
            "",
            "faults.client_timeout is for one client at a time",
        ),
        (
            ("privacy={noise_multiplier: 1.0}", "client.class_balanced=false"),
            "",
            "a client's answer is noisy releases",
        ),
    ],
)
def test_what_a_scenario_comes_to(
    words: tuple[str, ...], together: str, why: str, tiny: Path
) -> None:
    scenario = load(tiny, ["resources.fast=true", "client.batch_size=8", *words])
    mode = prepare(scenario, 0).mode
    assert mode.together == together
    assert mode.why.startswith(why)
    assert bool(mode.why) == bool(why)


def test_random_numbers_of_the_caller_are_left_alone(tiny: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert prepare(load(tiny, ["resources.fast=true"]), 0).mode.fast
    assert torch.equal(before, torch.get_rng_state())
