"""Clients with losses for long tails: what each loss does to a run, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch.nn import functional as F

from fedsim import InputError, Result, run
from fedsim.clients.creff import CReFF
from fedsim.clients.fed_mas import FedMAS
from fedsim.clients.long_tail import LongTail
from fedsim.clients.moon import LongTailLoss, Moon
from fedsim.losses import effective_weights
from tests.engine.test_bits import assert_same

LOSSES = get_args(LongTailLoss)
SMALL = """\
name: tail
rounds: 2
data:
  name: ham10000
  task: diagnosis
  size: 16
  embedded: {images: 160, sites: 1}
federation: {clients: 3, partition: iid}
model: {name: cnn, width: 4}
strategy: {name: fedavg}
client: {name: long_tail, batch_size: 8}
evaluation: {groups: {head: 60, tail: 8}}
resources: {backend: inline, workers: 2}
"""


@pytest.fixture
def run_small(tmp_path: Path) -> Callable[..., Result]:
    path = tmp_path / "tail.yaml"
    path.write_text(SMALL)

    def go(*overrides: str, **options: Any) -> Result:
        return run(path, *overrides, runs=tmp_path / "runs", **options)

    return go


def site(labels: list[int], number: int = 1, rounds: int = 10) -> Any:
    """What a criterion looks at."""
    return SimpleNamespace(
        train=SimpleNamespace(labels=torch.tensor(labels)),
        task=SimpleNamespace(num_classes=3),
        device=torch.device("cpu"),
        round=number,
        rounds=rounds,
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_a_run_with_scores_of_groups(
    loss: str, run_small: Callable[..., Result]
) -> None:
    result = run_small(f"client.loss={loss}")
    assert {f"balanced_accuracy/{name}" for name in ("head", "medium", "tail")} <= set(
        result.metrics
    )
    assert 0 <= result.metrics["ece"] <= 1


def test_the_same_bits_on_ray_and_with_threads(run_small: Callable[..., Result]) -> None:
    one = run_small()
    assert_same(one, run_small(backend="ray"))
    fast = run_small("resources.fast=true")
    assert_same(fast, run_small("resources.fast=true", "resources.threads=2"))


@pytest.mark.parametrize(
    ("loss", "balanced"), [("cross_entropy", "false"), ("inverse_frequency", "true")]
)
def test_plain_losses_are_those_of_supervised(
    loss: str, balanced: str, run_small: Callable[..., Result]
) -> None:
    supervised = f"client={{name: supervised, batch_size: 8, class_balanced: {balanced}}}"
    assert_same(run_small(f"client.loss={loss}"), run_small(supervised))


def test_margins_are_for_the_clients_own_counts() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0])
    shares = torch.tensor([6.0, 3.0, 1.0]) / 10
    found = LongTail().criterion(site([0] * 6 + [1] * 3 + [2]))(logits, targets)
    torch.testing.assert_close(found, F.cross_entropy(logits + shares.log(), targets))


@pytest.mark.parametrize("method", [Moon, CReFF, FedMAS])
def test_methods_with_these_losses_take_their_parameters(method: type[LongTail]) -> None:
    assert method(loss="focal", gamma=1.0).gamma == 1.0
    assert method(loss="inverse_frequency").class_balanced
    with pytest.raises(ValueError, match="beta lies below 1"):
        method(beta=1.0)
    with pytest.raises(TypeError, match="class_balanced"):
        method(class_balanced=True)  # type: ignore[call-arg]


def test_weights_are_deferred() -> None:
    logits, targets = torch.zeros(2, 3), torch.tensor([0, 2])
    labels = [0] * 6 + [1] * 3 + [2]
    client = LongTail("ldam", deferred=0.5, max_margin=1e-9, beta=0.9)
    early, late = (client.criterion(site(labels, number))(logits, targets) for number in (5, 6))
    weights = effective_weights(torch.tensor([6, 3, 1]), 0.9)
    plain = torch.log(torch.tensor(3.0))
    torch.testing.assert_close(early, plain)
    torch.testing.assert_close(late, plain * ((weights[0] + weights[2]) / 2).float())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("client.loss=softmax",), "balanced_softmax"),
        (("client.beta=1.0",), "beta lies below 1"),
        (("client.deferred=1.5",), "at most 1"),
        (("privacy={noise_multiplier: 1.0}",), "long_tail has no private form|no private form"),
        (("evaluation.groups={head: 5, tail: 9}",), "tail to be at most head"),
        (("evaluation.groups={head: 5}",), "tail"),
    ],
)
def test_what_does_not_go_is_one_error(
    words: tuple[str, ...], told: str, run_small: Callable[..., Result]
) -> None:
    with pytest.raises(InputError, match=told):
        run_small(*words)


def test_volumes_have_no_frequent_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluation\.groups scores frequent and rare classes"):
        run("prostate_centres_fedavg", "evaluation.groups={head: 9, tail: 2}", runs=tmp_path)
