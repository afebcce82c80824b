"""MOON through the engine: when it is FedAvg, what it keeps, and whose gradients count."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.errors import Interruption
from fedsim.folder.runfolder import RunFolder
from fedsim.losses import model_contrast
from fedsim.terminal.console import Console
from tests.engine.test_bits import assert_same, model

SMALL = """\
name: moon
rounds: 2
data:
  name: ham10000
  task: diagnosis
  size: 16
  embedded: {images: 160, sites: 1}
federation: {clients: 3, partition: iid}
model: {name: cnn, width: 4}
strategy: {name: fedavg}
client: {name: moon, batch_size: 8}
resources: {backend: inline, workers: 2}
"""
PLAIN = "client={name: long_tail, loss: cross_entropy, batch_size: 8}"


@pytest.fixture
def run_small(tmp_path: Path) -> Callable[..., Result]:
    path = tmp_path / "moon.yaml"
    path.write_text(SMALL)

    def go(*overrides: str, **options: Any) -> Result:
        return run(path, *overrides, runs=tmp_path / "runs", **options)

    return go


def model_of(result: Result) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in model(result).items()}


def test_without_weight_it_is_long_tail_to_the_bit(run_small: Callable[..., Result]) -> None:
    assert_same(run_small("client.mu=0"), run_small(PLAIN))


def test_the_first_round_has_no_contrast_and_the_second_one_has(
    run_small: Callable[..., Result],
) -> None:
    assert model_of(run_small("rounds=1")) == model_of(run_small(PLAIN, "rounds=1"))
    assert model_of(run_small()) != model_of(run_small(PLAIN))


def test_the_same_bits_on_ray_and_with_threads(run_small: Callable[..., Result]) -> None:
    one = run_small("client.loss=balanced_softmax")
    assert_same(one, run_small("client.loss=balanced_softmax", backend="ray"))
    fast = run_small("resources.fast=true")
    assert_same(fast, run_small("resources.fast=true", "resources.threads=2"))


def test_with_one_client_both_models_are_the_same_and_nothing_is_pulled(
    run_small: Callable[..., Result],
) -> None:
    """The received model is the one that it trained last: a constant, mu log 2."""
    alone = ("federation={clients: 1, partition: iid}", "client.steps=2")
    moon, plain = run_small(*alone, "client.mu=3"), run_small(PLAIN, *alone)
    assert model_of(moon) == model_of(plain)
    first, second = (a - b for a, b in zip(losses(moon), losses(plain), strict=True))
    assert first == 0
    assert second == pytest.approx(3 * math.log(2), rel=1e-5)


def losses(result: Result) -> list[float]:
    rows = RunFolder.open(result.folder).read_lines("rounds.jsonl")
    return [next(iter(row["metrics_by_client"].values()))["loss"] for row in rows]


def test_whose_features_are_contrasted(
    run_small: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Tensor, ...]] = []

    def noted(own: Tensor, near: Tensor, away: Tensor, temperature: float) -> Tensor:
        calls.append((own, near, away))
        return model_contrast(own, near, away, temperature)

    monkeypatch.setattr("fedsim.clients.moon.model_contrast", noted)
    run_small("client.steps=2")
    assert len(calls) == 6
    for own, near, away in calls[::2]:  # The first step: the model is still the received one.
        assert own.shape == (8, 16)
        assert torch.equal(own, near)
        assert not torch.allclose(own, away)
    assert not any(torch.equal(own, near) for own, near, _ in calls[1::2])
    assert all(own.requires_grad for own, _, _ in calls)
    assert not any(one.requires_grad for _, *others in calls for one in others)


def test_a_run_cut_after_any_round_goes_on_to_the_same_bits(
    run_small: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small("rounds=3")
    for cut in (1, 2):
        with monkeypatch.context() as patch:
            stop_in_round(patch, cut + 1)
            with pytest.raises(KeyboardInterrupt):
                run_small("rounds=3", f"name=cut{cut}")
        (folder,) = (path.parent for path in (tmp_path / "runs").glob(f"cut{cut}/*seed*/run.json"))
        assert_same(resume(folder, [], Console(quiet=True)), whole)


def stop_in_round(patch: pytest.MonkeyPatch, number: int) -> None:
    """Stop like a kill: while a round is written."""
    append = RunFolder.append

    def stopping(self: RunFolder, name: str, row: dict[str, Any]) -> None:
        append(self, name, row)
        if name == "traffic.jsonl" and row["round"] == number:
            raise Interruption

    patch.setattr(RunFolder, "append", stopping)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("client.mu=-1",), "mu"),
        (("client.temperature=0",), "temperature"),
        (("client.loss=softmax",), "balanced_softmax"),
        (("resources.precision=bfloat16",), "float32|bfloat16"),
        (("privacy={noise_multiplier: 1.0}",), "no private form"),
    ],
)
def test_what_does_not_go_is_one_error(
    words: tuple[str, ...], told: str, run_small: Callable[..., Result]
) -> None:
    with pytest.raises(InputError, match=told):
        run_small(*words)
