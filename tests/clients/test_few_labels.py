"""Clients that learn from records without labels: their teachers, their wire, their losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor, nn

from fedsim import InputError, load
from fedsim.clients.fed_cot import FedCoT
from fedsim.clients.few_labels import FewLabelledVolumes
from fedsim.clients.fixmatch import FixMatch
from fedsim.clients.mean_teacher import MeanTeacher, MeanTeacherSegmentation
from fedsim.clients.pseudo_label import PseudoLabel, PseudoLabelSegmentation
from fedsim.clients.segmentation import Segmentation
from fedsim.ledger.traffic import fields
from fedsim.method import teacher_of
from fedsim.method.client import Site
from fedsim.models.dynunet import DynUNet
from fedsim.strategies import fed_cot as server
from fedsim.tasks.segmentation.task import SegmentationTask
from fedsim.wire.flower import pack_state, tensors
from tests.tasks.segmentation.volumes import PATCH, Shapes, message, scheme, site, small_unet

TASK = SegmentationTask(scheme({"north": ["ball", "box"], "south": ["ball", "box"]}), PATCH)
QUICK: dict[str, Any] = {"steps": 3, "batch_size": 4}
VOLUMES = (PseudoLabelSegmentation, MeanTeacherSegmentation, FedCoT)


class Blind(Shapes):
    """Volumes whose labels are hidden."""

    def patches(self, count: int, size: Any, generator: torch.Generator) -> Any:  # type: ignore[override]
        images, labels = super().patches(count, size, generator, 0.0)
        return images, torch.full_like(labels, -1)


def here(client: int = 0, cases: int = 3, **keys: Any) -> Site:
    unlabelled: Any = Blind(cases, seed=50 + client)
    return replace(site(TASK, client, **keys), unlabelled=unlabelled)


def first() -> ArrayRecord:
    return pack_state(small_unet(TASK).state_dict())


def both(student: ArrayRecord, teacher: ArrayRecord | None = None) -> RecordDict:
    content = message(student)
    content[server.SYNC] = student if teacher is None else teacher
    return content


def same(one: ArrayRecord, other: ArrayRecord) -> bool:
    there, here = tensors(one), tensors(other)
    return there.keys() == here.keys() and all(np.array_equal(there[k], here[k]) for k in there)


def trained(method: FewLabelledVolumes, where: Site) -> RecordDict:
    content = both(first()) if isinstance(method, FedCoT) else message(first())
    return method.train(content, where)


@pytest.mark.parametrize("kind", VOLUMES)
def test_without_weight_or_unlabelled_cases_it_is_segmentation_to_the_bit(kind: Any) -> None:
    plain = Segmentation(**QUICK).train(message(first()), site(TASK))
    for weight, where in ((0.0, here()), (1.0, site(TASK)), (1.0, here(cases=0))):
        reply = trained(kind(**QUICK, weight=weight), where)
        assert same(reply["arrays"], plain["arrays"])
        assert reply["metrics"] == plain["metrics"]
    reply = trained(kind(**QUICK, **({"threshold": 0.1} if kind is VOLUMES[0] else {})), here())
    assert not same(reply["arrays"], plain["arrays"])
    assert reply["metrics"]["loss"] > 0
    assert reply["metrics"]["unlabelled-loss"] > 0


def test_exactly_two_models_travel_and_the_teacher_at_home_does_not() -> None:
    where, other = here(), pack_state(small_unet(TASK, seed=3).state_dict())
    reply = FedCoT(**QUICK).train(both(first(), other), where)
    parameters = sum(parameter.numel() for parameter in small_unet(TASK).parameters())
    sent = fields(reply)
    assert set(sent) == {"arrays", "teacher", "metrics"}
    assert sent["arrays"] == sent["teacher"] == 4 * parameters
    kept = where.state["teacher"]
    assert not same(kept, reply["teacher"])
    assert not same(kept, reply["arrays"])
    assert not same(reply["teacher"], reply["arrays"])


def test_deep_supervision_travels_twice_and_trains() -> None:
    """MONAI's DynUNet lists tensors twice; while it trains it gives several outputs."""
    model = DynUNet(**TASK.model_arguments, channels=(4, 8, 16), heads=1)
    content = both(pack_state(model.state_dict()))
    where = here(model=model)
    reply = FedCoT(**QUICK, weight=10.0).train(content, where)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert fields(reply)["arrays"] == fields(reply)["teacher"] == 4 * parameters
    assert reply["teacher"].keys() == reply["arrays"].keys()
    assert reply["metrics"]["unlabelled-loss"] > 0


def test_in_the_first_round_both_teachers_are_the_same() -> None:
    """What E0 moves towards the received student is the received student."""
    where = here()
    reply = FedCoT(**QUICK, round_decay=0.5).train(both(first()), where)
    assert same(where.state["teacher"], reply["teacher"])


def test_without_a_past_both_teachers_are_the_student() -> None:
    where = here()
    reply = FedCoT(**QUICK, decay=0.0).train(both(first()), where)
    assert same(reply["teacher"], reply["arrays"])
    assert same(where.state["teacher"], reply["arrays"])


def rounds(
    method: Any, strategy: Any, count: int, clients: tuple[int, ...]
) -> list[tuple[ArrayRecord, list[RecordDict], list[ArrayRecord]]]:
    """Of each round: the global student, the replies, and the teachers in the clients' states."""
    arrays, states, found = first(), [RecordDict() for _ in clients], []
    for number in range(1, count + 1):
        content = strategy.content(number, arrays, ConfigRecord())
        replies = [
            method.train(content, here(client, round=number, state=states[k]))
            for k, client in enumerate(clients)
        ]
        told = (SimpleNamespace(content=reply) for reply in replies)
        arrays, _ = strategy.aggregate_train(number, told)
        found.append((arrays, replies, [state["teacher"] for state in states]))
    return found


def test_with_one_client_the_shared_teacher_is_an_ordinary_mean_teacher() -> None:
    """It follows the same student, and a mean of one is the one."""
    off: dict[str, Any] = {**QUICK, "weight": 0.0, "decay": 0.9}
    shared = rounds(FedCoT(**off), server.FedCoT(), 3, (0,))
    alone = rounds(MeanTeacherSegmentation(**off), server.FedAvg(), 3, (0,))
    for (student, replies, _), (other, _, own) in zip(shared, alone, strict=True):
        assert same(student, other)
        assert same(replies[0]["teacher"], own[0])


def test_of_equal_clients_the_mean_is_each() -> None:
    for student, replies, at_home in rounds(FedCoT(**QUICK), server.FedCoT(), 2, (0, 0)):
        # The number of the client keys its draws: it is the very same one, twice.
        assert all(same(student, reply["arrays"]) for reply in replies)
        assert same(*at_home)


def test_teachers_at_home_part_where_data_do() -> None:
    (_, _, early), (_, replies, late) = rounds(FedCoT(**QUICK), server.FedCoT(), 2, (0, 1))
    assert not same(*early)
    assert not same(*late)
    assert not same(late[0], replies[0]["teacher"])


def test_the_server_averages_both_models_and_counts_every_client_once() -> None:
    strategy = server.FedCoT()
    strategy.content(1, first(), ConfigRecord())
    replies = [FedCoT(**QUICK).train(both(first()), here(k, cases=2 + k)) for k in (0, 1)]
    replies[1]["metrics"]["num-examples"] = 99
    told = (SimpleNamespace(content=reply) for reply in replies)
    student, _ = strategy.aggregate_train(1, told)  # type: ignore[arg-type]
    content = strategy.content(2, student, ConfigRecord())
    assert set(content) == {"arrays", "teacher", "config"}
    for record in ("arrays", "teacher"):
        parts = [tensors(reply[record]) for reply in replies]
        for name, value in tensors(content[record]).items():
            mean = (parts[0][name].astype(np.float64) + parts[1][name]) / 2
            assert np.array_equal(value, mean.astype(np.float32)), name
    again = server.FedCoT()
    again.load_state_dict(strategy.state_dict())
    assert same(again.content(2, student, ConfigRecord())["teacher"], content["teacher"])


def test_teachers_get_no_gradient_and_do_not_move() -> None:
    model = small_unet(TASK)
    teachers = [teacher_of(small_unet(TASK, seed)) for seed in (1, 2)]
    before = [pack_state(teacher.state_dict()) for teacher in teachers]
    draws = torch.Generator().manual_seed(0)
    loss, _ = FedCoT().unlabelled_loss(model, torch.randn(4, 1, *PATCH), teachers, draws)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    for teacher, then in zip(teachers, before, strict=True):
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert same(pack_state(teacher.state_dict()), then)


@pytest.mark.parametrize("size", [(32, 32), (20, 24, 24)])
def test_what_teachers_say_is_mixed_as_the_images_are(size: tuple[int, ...]) -> None:
    """A voxel's class hangs on the voxel alone: then mixing may come before the model or after."""
    kind = nn.Conv2d if len(size) == 2 else nn.Conv3d
    model = kind(1, 3, 1)
    images = torch.randn(4, 1, *size)
    draws = torch.Generator().manual_seed(0)
    method = FedCoT(cubes=4)
    loss, _ = method.unlabelled_loss(model, images, [teacher_of(model)] * 2, draws)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    other, _ = method.unlabelled_loss(model, images, [teacher_of(kind(1, 3, 1))] * 2, draws)
    assert other.item() > 1e-6


def test_the_weight_grows_over_rounds() -> None:
    """Of the loss, not of what is reported: a student that is pulled harder moves otherwise."""
    method = MeanTeacherSegmentation(**QUICK, weight=2.0, ramp=0.5)
    terms = [
        method.term(here(round=number), 3, [teacher_of(small_unet(TASK))]) for number in (1, 3)
    ]
    weights = []
    for term in terms:
        assert term is not None
        term._loss = lambda model: (torch.ones(()), {})
        weights.append([term(small_unet(TASK)).item() for _ in range(3)])
    assert all(a < b for a, b in pairwise(weights[0]))
    assert weights[0][0] == pytest.approx(2 * np.exp(-5))
    assert weights[1] == [2.0] * 3


class Images:
    """Two classes of images that brightness tells apart."""

    def __call__(self, images: Tensor) -> Tensor:
        level = images.mean((1, 2, 3))
        return torch.stack([-level, level], 1) * 50


def test_fixmatch_learns_of_strong_changes_what_weak_ones_say() -> None:
    seen: list[Tensor] = []

    class Watching(Images):
        def __call__(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().__call__(images)

    images = torch.cat([torch.ones(2, 3, 16, 16), -torch.ones(2, 3, 16, 16)])
    draws = torch.Generator().manual_seed(0)
    loss, told = FixMatch().unlabelled_loss(Watching(), images, (), draws)  # type: ignore[arg-type]
    assert told["kept"] == 1
    assert torch.isfinite(loss)
    weak, strong = seen
    assert not torch.equal(weak, strong)
    assert weak.shape == strong.shape == images.shape
    _, unsure = FixMatch(threshold=1.0).unlabelled_loss(
        lambda x: torch.zeros(len(x), 2),
        images,
        (),
        draws,  # type: ignore[arg-type]
    )
    assert unsure["kept"] == 0


def test_pseudo_labels_are_the_models_own() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.1, 0.0]])
    loss, told = PseudoLabel(threshold=0.9).unlabelled_loss(
        lambda _: logits,
        torch.zeros(2, 3, 4, 4),
        (),
        torch.Generator(),  # type: ignore[arg-type]
    )
    assert told["kept"] == 0.5
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-3.0)) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedCoT(smallest=9, largest=8), "smallest is 9"),
        (lambda: FedCoT(round_decay=1.5), "round_decay"),
        (lambda: MeanTeacher(decay=1.1), "decay"),
        (lambda: PseudoLabel(ramp=2.0), "ramp"),
        (lambda: PseudoLabel(threshold=1.5), "threshold is a probability"),
        (lambda: PseudoLabelSegmentation(threshold=1.5), "threshold is a probability"),
        (lambda: FixMatch(threshold=1.5), "threshold is a probability"),
        (lambda: FixMatch(ramp=1.5), "ramp"),
        (lambda: MeanTeacherSegmentation(foreground=1.5), "foreground"),
    ],
)
def test_parameters_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_server_that_sends_no_teacher_is_named() -> None:
    with pytest.raises(InputError, match=r"type strategy=fed_cot"):
        FedCoT(**QUICK).train(message(first()), here())
    reply = SimpleNamespace(content=Segmentation(**QUICK).train(message(first()), site(TASK)))
    strategy = server.FedCoT()
    strategy.content(1, first(), ConfigRecord())
    with pytest.raises(InputError, match=r"type client=fed_cot"):
        strategy.aggregate_train(1, iter([reply]))  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["hippocampus_fewlabels_fedcot", "prostate_fewlabels_fedcot"])
def test_the_papers_profile_is_adam_at_its_rate(name: str) -> None:
    scenario = load(name, ["profile=paper"])
    method = FedCoT(**scenario.client.parameters)
    assert scenario.rounds == 10
    assert (method.steps, method.batch_size, method.unlabelled_batch) == (300, 16, None)
    assert (method.learning_rate, method.last_learning_rate) == (2.5e-4, 2.5e-4)
    # AdamW without decay.
    assert (method.optimizer, method.weight_decay, method.clip) == ("adamw", 0.0, None)
