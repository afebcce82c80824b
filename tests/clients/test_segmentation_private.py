"""Private segmentation: one patch a case, losses of each by itself, and no other way out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from torch import Tensor, nn

from fedsim.clients.condist import ConDist
from fedsim.clients.segmentation import Segmentation
from fedsim.errors import InputError
from fedsim.privacy.noise import Noise
from fedsim.privacy.plan import ClientPlan, build_mechanism
from fedsim.privacy.releases import Releases
from fedsim.scenario.schema import Privacy
from fedsim.tasks.segmentation.task import SegmentationTask
from fedsim.wire.flower import pack_state, tensors
from tests.tasks.segmentation.volumes import PATCH, message, scheme, site, small_unet

TASK = SegmentationTask(scheme(), PATCH)
CASES = 6


def releases(steps: int, **keys: Any) -> Releases:
    block = Privacy(**{"noise_multiplier": 1.0, "max_grad_norm": 1.0} | keys)
    mechanism = build_mechanism(block, block.noise_multiplier or 0.0, 3)
    plan = ClientPlan(CASES, 0.5, steps, mechanism)
    return Releases(block, plan, np.arange(CASES), Noise.seeded(b"3"))


def moved(**keys: Any) -> tuple[RecordDict, float]:
    model = small_unet(TASK)
    first = pack_state(model.state_dict())
    here = site(TASK, cases=CASES, model=model)
    client = Segmentation(steps=4, dice="record", mirror=True, momentum=0.0)
    reply = client.train(message(first), replace(here, releases=releases(4, **keys)))
    start, end = tensors(first), tensors(reply.array_records["arrays"])
    return reply, sum(float(np.square(end[k] - start[k]).sum()) for k in end) ** 0.5


def test_a_private_round_makes_its_releases_and_reports_no_loss() -> None:
    reply, far = moved()
    assert far > 0
    assert set(reply.metric_records["metrics"]) == {"num-examples", "num-steps"}
    # Clipped to nearly nothing and without noise, hardly anything is learnt.
    assert moved(noise_multiplier=0.0, max_grad_norm=1e-6)[1] < 1e-4


def test_an_empty_sample_is_noise_alone() -> None:
    given = releases(2, noise_multiplier=0.0)
    given.plan = replace(given.plan, sample_rate=0.0)
    first = pack_state(small_unet(TASK).state_dict())
    client = Segmentation(steps=2, dice="record", weight_decay=0.0)
    reply = client.train(message(first), replace(site(TASK, cases=CASES), releases=given))
    start, end = tensors(first), tensors(reply.array_records["arrays"])
    assert all(np.array_equal(end[name], start[name]) for name in end)


def test_what_a_case_shows_does_not_depend_on_who_else_was_sampled() -> None:
    asked: list[tuple[Any, ...]] = []
    here: Any = replace(site(TASK, cases=CASES), releases=releases(3))
    draw = here.train.patches

    def noted(count: int, *rest: Any, case: int | None = None) -> tuple[Tensor, Tensor]:
        asked.append((count, case))
        return draw(count, *rest, case=case)

    here.train.patches = noted
    first = pack_state(small_unet(TASK).state_dict())
    Segmentation(steps=3, dice="record").train(message(first), here)
    assert asked
    assert all(count == 1 and case is not None for count, case in asked)


def test_dice_over_a_batch_and_condist_are_refused() -> None:
    with pytest.raises(ValueError, match="set it to record"):
        Segmentation().private_steps(CASES, 3)
    assert Segmentation(dice="record", steps=7).private_steps(CASES, 3) == 7
    with pytest.raises(ValueError, match="no private form"):
        ConDist(dice="record").private_steps(CASES, 3)


def test_the_unet_is_accepted_and_a_model_that_mixes_records_is_not() -> None:
    client = Segmentation(dice="record")
    client.check_private(small_unet(TASK), TASK)
    mixing = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    with pytest.raises(InputError, match="treats every record by itself"):
        client.check_private(mixing, TASK)
