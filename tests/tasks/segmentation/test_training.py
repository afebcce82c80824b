"""The training loop, its parts, and the optimiser that stays with the client."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import nn

from fedsim.losses.segmentation import dice_cross_entropy, marginal_dice_cross_entropy
from fedsim.method.updates import proximal_term
from fedsim.tasks.segmentation.task import SegmentationTask
from fedsim.tasks.segmentation.training import (
    fit,
    keep_optimiser,
    mirrored,
    restore_optimiser,
    scheduled,
)
from tests.tasks.segmentation.volumes import PATCH, Shapes, message, scheme, small_unet

CPU = torch.device("cpu")
TASK = SegmentationTask(scheme(), PATCH)


def batches(seed: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return (Shapes(3).patches(4, PATCH, generator, 0.5) for _ in itertools.count())


def objective(images, outputs, labels):
    return {"loss": dice_cross_entropy(outputs[0], labels), "half": torch.tensor(0.5)}


def train(model, steps, rate=0.1, state=None, draws=None, start=0, **more):
    optimizer = torch.optim.SGD(model.parameters(), lr=99.0, momentum=0.9, nesterov=True)
    if state is not None:
        restore_optimiser(optimizer, model, state)
    means = fit(
        model,
        draws or batches(),
        scheduled(range(steps), optimizer, lambda step: rate / (1 + start + step)),
        optimizer,
        objective,
        device=CPU,
        **{"clip": 1.0} | more,
    )
    if state is not None:
        keep_optimiser(optimizer, model, state)
    return means


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_training_learns_and_reports_means() -> None:
    model = small_unet(TASK)
    first = train(model, 3)
    last = train(model, 10)
    assert last["loss"] < first["loss"]
    assert last["half"] == 0.5
    assert last["num-steps"] == 10


def test_kept_momentum_makes_two_rounds_one_training() -> None:
    whole, parts, fresh = (small_unet(TASK) for _ in range(3))
    state = RecordDict()
    train(whole, 6, state=RecordDict())
    draws = batches()
    for start in (0, 3):
        train(parts, 3, state=state, draws=draws, start=start)
    assert torch.equal(weights(whole), weights(parts))
    draws = batches()
    for start in (0, 3):
        train(fresh, 3, draws=draws, start=start)
    assert not torch.equal(weights(whole), weights(fresh))


def test_restored_momentum_is_a_copy() -> None:
    # The state may lie in shared memory, and what a failed round did to it must not stay.
    model, state = small_unet(TASK), RecordDict()
    train(model, 2, state=state)
    kept = {k: v.numpy().copy() for k, v in state.array_records["optimiser"].items()}
    assert len(kept) == len(list(model.parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    restore_optimiser(optimizer, model, state)
    for entry in optimizer.state.values():
        entry["momentum_buffer"].zero_()
    assert all((v.numpy() == kept[k]).all() for k, v in state.array_records["optimiser"].items())


def test_without_momentum_nothing_is_kept() -> None:
    model, state = small_unet(TASK), RecordDict()
    keep_optimiser(torch.optim.SGD(model.parameters(), lr=0.1), model, state)
    assert not state


def test_gradients_are_clipped_all_together() -> None:
    model, before = small_unet(TASK), weights(small_unet(TASK))
    train(model, 1, rate=1.0, clip=1e-3)
    # One step of Nesterov's momentum moves by (1 + 0.9) times the gradient.
    assert (weights(model) - before).norm() <= 1.9e-3 * 1.001
    assert (weights(model) - before).norm() > 1e-3


def test_the_proximal_term_holds_the_model_back() -> None:
    free, held = small_unet(TASK), small_unet(TASK)
    start = weights(free).clone()
    penalty = proximal_term(held, message(ArrayRecord(), **{"proximal-mu": 5.0}))
    assert penalty is not None
    assert penalty(held) == 0
    train(free, 8)
    train(held, 8, penalty=penalty)
    assert (weights(held) - start).norm() < 0.7 * (weights(free) - start).norm()
    assert torch.allclose(penalty(held), 2.5 * (weights(held) - start).square().sum())
    assert proximal_term(held, message(ArrayRecord())) is None


def test_mirroring_flips_images_with_their_labels_some_of_them() -> None:
    images, labels = next(batches())
    flipped, theirs = mirrored(images, labels, torch.Generator().manual_seed(1))
    turned = [bool((a != b).any()) for a, b in zip(images, flipped, strict=True)]
    assert {True, False} == set(turned)
    for turn, *pairs in zip(turned, images, flipped, labels, theirs, strict=True):
        for old, new in (pairs[:2], pairs[2:]):
            assert torch.equal(new, old.flip(-1) if turn else old)


@pytest.mark.parametrize("foreground", [(1,), (1, 2)])
def test_per_record_losses_and_gradients_are_those_of_each_record_alone(
    foreground: tuple[int, ...],
) -> None:
    model = small_unet(TASK)
    images, labels = next(batches())

    def loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return marginal_dice_cross_entropy(logits, truth, foreground, batch=False)

    def each(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return marginal_dice_cross_entropy(logits, truth, foreground, each=True)

    losses = each(model(images), labels)
    assert losses.shape == (4,)
    assert torch.allclose(losses.mean(), loss(model(images), labels))
    parameters = list(model.parameters())
    for record in range(4):
        within = torch.autograd.grad(losses[record], parameters, retain_graph=True)
        own = slice(record, record + 1)
        alone = torch.autograd.grad(loss(model(images[own]), labels[own]), parameters)
        for one, other in zip(within, alone, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
    assert each(model(images)[:0], labels[:0]).shape == (0,)
