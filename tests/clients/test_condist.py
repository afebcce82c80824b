"""ConDistFL's client: the teacher, its weight, and that nothing but two numbers is added."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from fedsim.clients import condist
from fedsim.clients.condist import ConDist
from fedsim.clients.segmentation import Segmentation
from fedsim.ledger.traffic import fields
from fedsim.losses.condist import condist_loss
from fedsim.models.dynunet import DynUNet
from fedsim.scenario.parameters import check_parameters, parameter_names
from fedsim.tasks.segmentation.task import SegmentationTask
from fedsim.wire.flower import load_state, pack_state, tensors
from tests.tasks.segmentation.volumes import PATCH, message, scheme, site, small_unet

TASK = SegmentationTask(scheme(), PATCH)
ALL = SegmentationTask(scheme({"north": ["ball", "box"]}), PATCH)
QUICK: dict[str, Any] = {"steps": 3, "batch_size": 4}


def first(task: SegmentationTask = TASK) -> Any:
    return pack_state(small_unet(task).state_dict())


def same(one: RecordDict, other: RecordDict) -> bool:
    there, here = (tensors(reply.array_records["arrays"]) for reply in (one, other))
    return all(np.array_equal(there[name], here[name]) for name in there)


def test_the_payload_is_fedavgs_and_two_numbers() -> None:
    plain = fields(Segmentation(**QUICK).train(message(first()), site(TASK)))
    taught = fields(ConDist(**QUICK).train(message(first()), site(TASK)))
    parameters = sum(parameter.numel() for parameter in small_unet(TASK).parameters())
    assert taught["arrays"] == plain["arrays"] == 4 * parameters
    assert taught == plain | {"metrics": plain["metrics"] + 2 * 8}


def test_deep_supervision_travels_once_too_and_trains() -> None:
    model = DynUNet(**TASK.model_arguments, channels=(4, 8, 16), heads=1)
    arrays = pack_state(model.state_dict())
    for _ in range(2):  # The second message finds the model that the first one trained.
        reply = ConDist(**QUICK).train(message(arrays), site(TASK, model=model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert fields(reply)["arrays"] == 4 * parameters
    assert reply.metric_records["metrics"]["condist"] > 0


def test_the_weight_grows_from_round_to_round() -> None:
    def weight(number: int, rounds: int) -> Any:
        here = site(TASK, round=number, rounds=rounds)
        reply = ConDist(steps=1, batch_size=2).train(message(first()), here)
        return reply.metric_records["metrics"]["condist-weight"]

    # Golden, for 60 rounds: 0.01, 0.02678, 0.51339, 1.
    found = [weight(number, 60) for number in (1, 2, 31, 60)]
    assert found == pytest.approx([0.01, 0.02678, 0.51339, 1.0], abs=1e-5)


def test_without_weight_it_is_the_marginal_loss() -> None:
    nothing = ConDist(first_weight=0.0, last_weight=0.0, **QUICK)
    here = {"round": 3}
    one = nothing.train(message(first()), site(TASK, **here))
    other = Segmentation(**QUICK).train(message(first()), site(TASK, **here))
    assert same(one, other)
    taught = ConDist(**QUICK).train(message(first()), site(TASK, **here))
    assert not same(one, taught)


def test_a_client_that_labels_everything_has_no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(model: Any) -> None:
        raise AssertionError("a teacher was made")

    monkeypatch.setattr(condist.copy, "deepcopy", copied)
    settings = {"round": 4}
    one = ConDist(**QUICK).train(message(first(ALL)), site(ALL, **settings))
    other = Segmentation(**QUICK).train(message(first(ALL)), site(ALL, **settings))
    assert same(one, other)
    assert one.metric_records["metrics"]["condist"] == 0
    with pytest.raises(AssertionError, match="teacher"):
        ConDist(**QUICK).train(message(first()), site(TASK))


def test_the_teacher_is_the_received_model_and_stays_as_it_was() -> None:
    model, received = small_unet(TASK), small_unet(TASK, seed=5)
    load_state(model, pack_state(received.state_dict()))
    here = site(TASK, round=3)
    objective = ConDist(temperature=2.0).objective(model, here)
    images, labels = here.train.patches(4, PATCH, torch.Generator().manual_seed(0), 1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    terms = objective(images, (model(images),), labels)
    with torch.no_grad():
        taught = received.eval()(images)
    groups = TASK.scheme.views["north"].background_groups
    expected = condist_loss(model(images), taught, labels, groups, 2.0)
    assert torch.equal(terms["condist"], expected)
    supervised = Segmentation().objective(model, here)(images, (model(images),), labels)["loss"]
    # In round 3 of 4 the weight is 0.01 + 0.99 * 2/3.
    assert torch.allclose(terms["loss"], supervised + 0.67 * expected)
    terms["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_batch_with_nothing_to_distil_costs_nothing() -> None:
    model, here = small_unet(TASK), site(TASK, round=4)
    objective = ConDist().objective(model, here)
    images = torch.randn(2, 1, *PATCH)
    labels = torch.ones(2, *PATCH, dtype=torch.int64)  # All that the client labels, everywhere.
    terms = objective(images, (model(images),), labels)
    assert terms["condist"] == 0
    terms["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_per_record_distillation_is_the_mean_over_records() -> None:
    model, here = small_unet(TASK), site(TASK, round=4)
    objective = ConDist(dice="record").objective(model, here)
    images, labels = here.train.patches(3, PATCH, torch.Generator().manual_seed(0), 1.0)
    outputs = model(images)
    whole = objective(images, (outputs,), labels)
    each = [
        objective(images[k : k + 1], (outputs[k : k + 1],), labels[k : k + 1]) for k in range(3)
    ]
    for name in ("loss", "condist"):
        mean = torch.stack([terms[name] for terms in each]).mean()
        assert torch.allclose(whole[name], mean, atol=1e-6)


def test_it_has_the_parameters_of_segmentation_but_for_the_loss() -> None:
    assert set(parameter_names(ConDist)) == (set(parameter_names(Segmentation)) - {"loss"}) | {
        "temperature",
        "first_weight",
        "last_weight",
    }
    assert ConDist(steps=7, temperature=2.0).steps == 7
    assert ConDist().loss == "marginal"
    # The type of an inherited one is written with names of the other module.
    wrong = dict(check_parameters(ConDist, {"cross_entropy": "plain", "steps": 0, "loss": "plain"}))
    assert set(wrong) == {"cross_entropy", "steps", "loss"}
