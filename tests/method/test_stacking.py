"""Stacked clients learn what each alone would, whatever their sizes; and who is not stacked."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.method import SGD, balanced_weights, endless_batches, fit
from fedsim.method.stacking import Descent, Share, fit_stacked, why_not_stacked
from fedsim.models import SmallCNN
from tests.plugins import fast_models

CPU = torch.device("cpu")
BATCH = 8


def shares(sizes: list[int], shape: tuple[int, ...], passes: int) -> list[Share]:
    draws = torch.Generator().manual_seed(0)
    made = []
    for client, size in enumerate(sizes):
        images = torch.randn(size, *shape, generator=draws)
        labels = torch.randint(0, 2, (size,), generator=draws)
        steps = passes * -(-size // BATCH)
        batches = list(itertools.islice(order(client, size), steps))
        made.append(Share(images, labels, batches, iter(range(steps))))
    return made


def order(client: int, size: int) -> Iterator[Tensor]:
    return endless_batches(size, BATCH, torch.Generator().manual_seed(client))


def alone(model: nn.Module, share: Share, descent: Descent) -> tuple[dict[str, Tensor], float]:
    """What the plain loop makes of a client."""
    own = copy.deepcopy(model)
    start = [parameter.detach().clone() for parameter in own.parameters()]

    def pull(now: nn.Module) -> Tensor:
        pairs = zip(now.parameters(), start, strict=True)
        return descent.proximal / 2 * torch.stack([(a - b).square().sum() for a, b in pairs]).sum()

    loss = fit(
        own,
        ((share.images[chosen], share.labels[chosen]) for chosen in share.batches),
        range(len(share.batches)),
        SGD(
            own.parameters(),
            lr=descent.learning_rate,
            momentum=descent.momentum,
            weight_decay=descent.weight_decay,
        ),
        device=CPU,
        class_weights=share.class_weights,
        penalty=pull if descent.proximal else None,
    )
    return {name: value.detach() for name, value in own.named_parameters()}, loss


def repeated(model: nn.Module, clients: int) -> dict[str, Tensor]:
    return {n: p.detach().expand(clients, *p.shape).clone() for n, p in model.named_parameters()}


def assert_as_alone(model: nn.Module, given: list[Share], descent: Descent) -> None:
    expected = [alone(model, share, descent) for share in given]
    trained, losses = fit_stacked(model, repeated(model, len(given)), given, descent)
    for client, (weights, loss) in enumerate(expected):
        assert losses[client] == pytest.approx(loss, rel=1e-5)
        for name, value in weights.items():
            scale = value.abs().max()
            assert (trained[name][client] - value).abs().max() <= 1e-5 * scale + 1e-7, name


@given(
    sizes=st.lists(st.integers(1, 21), min_size=1, max_size=5),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 1e-2]),
    proximal=st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=15, deadline=None)
def test_a_stack_learns_what_each_client_alone_does(
    sizes: list[int], momentum: float, weight_decay: float, proximal: float
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
    assert_as_alone(model, shares(sizes, (5,), 2), Descent(0.1, momentum, weight_decay, proximal))


def test_convolutions_and_class_weights_agree_too() -> None:
    torch.manual_seed(0)
    given = shares([20, 3, 17], (3, 8, 8), 1)
    for share in given:
        share.class_weights = balanced_weights(share.labels, 2)
    assert_as_alone(SmallCNN(2, 3, 8, 8), given, Descent(0.05, 0.9))


def test_the_golden_step() -> None:
    # One weight at 0, one record of each class: the gradient of the mean cross-entropy is known.
    model = nn.Linear(1, 2, bias=False)
    first = {"weight": torch.zeros(2, 2, 1)}
    both = [
        Share(torch.tensor([[1.0]]), torch.tensor([label]), [torch.tensor([0])], iter(range(1)))
        for label in (0, 1)
    ]
    trained, losses = fit_stacked(model, first, both, Descent(1.0))
    assert trained["weight"].flatten(1).tolist() == [[0.5, -0.5], [-0.5, 0.5]]
    assert losses == pytest.approx([0.6931472, 0.6931472])


def test_a_client_without_steps_keeps_its_weights() -> None:
    model = nn.Linear(3, 2)
    given = shares([9, 4], (3,), 1)
    given[1].batches = []
    trained, losses = fit_stacked(model, repeated(model, 2), given, Descent(0.1))
    assert torch.equal(trained["weight"][1], model.weight)
    assert losses[1] == 0.0
    assert not torch.equal(trained["weight"][0], model.weight)


def test_one_client_that_diverges_spoils_no_other() -> None:
    model = nn.Linear(3, 2)
    given = shares([9, 9], (3,), 1)
    given[0].images[:] = float("nan")
    trained, _ = fit_stacked(model, repeated(model, 2), given, Descent(0.1))
    assert not trained["weight"][0].isfinite().any()
    assert trained["weight"][1].isfinite().all()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Coupled", "a record's output depends on others in its batch"),
        ("Branching", "torch cannot stack it: "),
        ("Tied", "its state is more than parameters, each under one name"),
        ("Buffered", "its state is more than parameters, each under one name"),
    ],
)
def test_what_cannot_be_stacked_says_why(name: str, why: str) -> None:
    model = getattr(fast_models, name)(2, 3, 8)
    assert why_not_stacked(model, (3, 8, 8), BATCH).startswith(why)


def test_what_is_large_is_not_stacked() -> None:
    model = fast_models.Pooled(2, 3, 8)
    assert why_not_stacked(model, (3, 8, 8), BATCH) == ""
    assert "million operations" in why_not_stacked(model, (3, 8, 8), 500)
    model.layers[0].requires_grad_(False)
    assert "not all of its parameters" in why_not_stacked(model, (3, 8, 8), BATCH)
