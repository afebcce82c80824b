"""Clients that segment: what they send, keep and learn, and the averaging around them."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp.strategy import FedProx

from fedsim.clients.segmentation import LocalSegmentation, Segmentation
from fedsim.ledger.traffic import fields
from fedsim.strategies.fedavg import FedAvg
from fedsim.strategies.server_momentum import ServerMomentum
from fedsim.tasks.segmentation.task import SegmentationTask
from fedsim.wire.flower import configure_identity, load_state, pack_state, tensors
from tests.tasks.segmentation.volumes import (
    PATCH,
    Shapes,
    message,
    run_rounds,
    scheme,
    site,
    small_unet,
)

CPU = torch.device("cpu")
TASK = SegmentationTask(scheme(), PATCH)
QUICK: dict[str, Any] = {"steps": 3, "batch_size": 4}


def first() -> Any:
    return pack_state(small_unet(TASK).state_dict())


def score(arrays: Any, task: SegmentationTask = TASK) -> dict[str, float | None]:
    model = small_unet(task)
    load_state(model, arrays)
    volumes = Shapes(6, seed=9)
    return task.score(task.predict(model, volumes, CPU), volumes)


def same(one: Any, other: Any) -> bool:
    there, here = tensors(one), tensors(other)
    return list(there) == list(here) and all(np.array_equal(there[k], here[k]) for k in there)


def test_the_wire_carries_every_parameter_once_and_four_numbers() -> None:
    reply = Segmentation(**QUICK).train(message(first()), site(TASK))
    parameters = sum(parameter.numel() for parameter in small_unet(TASK).parameters())
    assert fields(reply) == {"arrays": 4 * parameters, "metrics": 3 * 8}
    assert set(reply.metric_records["metrics"]) == {"num-examples", "num-steps", "loss"}
    assert reply.metric_records["metrics"]["num-steps"] == 3


def test_what_the_server_sent_is_not_written_to() -> None:
    sent = first()
    before = {name: value.copy() for name, value in tensors(sent).items()}
    reply = Segmentation(**QUICK).train(message(sent), site(TASK))
    assert all(np.array_equal(value, before[name]) for name, value in tensors(sent).items())
    assert not same(reply.array_records["arrays"], sent)


def test_the_same_bits_whatever_the_global_generators_did_and_who_came_before() -> None:
    replies = []
    for disturb in (False, True):
        model = small_unet(TASK)
        if disturb:
            torch.manual_seed(99)
            np.random.seed(99)
            Segmentation(**QUICK).train(message(first()), site(TASK, client=1, model=model))
        state = torch.get_rng_state()
        replies.append(
            Segmentation(**QUICK, mirror=True).train(message(first()), site(TASK, model=model))
        )
        assert torch.equal(torch.get_rng_state(), state)
    assert same(replies[0].array_records["arrays"], replies[1].array_records["arrays"])


def test_rounds_cut_in_two_have_the_same_bits() -> None:
    client = Segmentation(**QUICK)
    whole, _ = run_rounds(client, ServerMomentum(), TASK, rounds=4)
    states, before = [RecordDict(), RecordDict()], ServerMomentum()
    halfway, _ = run_rounds(client, before, TASK, rounds=4, states=states, end=2)

    def rest(kept: list[RecordDict] | None) -> Any:
        after = ServerMomentum()
        after.load_state_dict(before.state_dict())
        return run_rounds(client, after, TASK, 4, first=halfway, states=kept, start=3)[0]

    assert not same(whole, rest(None)), "the optimiser began anew and nobody noticed"
    assert same(whole, rest(states))


def test_one_client_without_server_momentum_is_plain_training() -> None:
    task = SegmentationTask(scheme({"all": ["ball", "box"]}), PATCH)
    client = Segmentation(**QUICK)
    averaged, _ = run_rounds(client, FedAvg(), task, rounds=3)
    stepped, _ = run_rounds(client, ServerMomentum(0.0, 1.0, 1.0), task, rounds=3)
    assert same(averaged, stepped)
    state, arrays = RecordDict(), pack_state(small_unet(task).state_dict())
    for number in (1, 2, 3):
        reply = client.train(message(arrays), site(task, round=number, rounds=3, state=state))
        arrays = reply.array_records["arrays"]
    assert same(averaged, arrays)


def test_the_learning_rate_falls_over_all_rounds() -> None:
    # In the last step of a long run hardly anything moves.
    moved = []
    for number in (1, 50):
        reply = Segmentation(steps=1, momentum=0.0).train(
            message(first()), site(TASK, round=number, rounds=50)
        )
        start, end = tensors(first()), tensors(reply.array_records["arrays"])
        moved.append(sum(float(np.square(end[k] - start[k]).sum()) for k in end) ** 0.5)
    assert moved[1] < 0.01 * moved[0]


def test_the_marginal_loss_learns_what_the_plain_loss_unlearns() -> None:
    task = SegmentationTask(scheme({"north": ["ball"], "west": ["ball"], "south": ["box"]}), PATCH)
    settings: dict[str, Any] = {"steps": 10, "batch_size": 8}
    plain, marginal = (
        score(run_rounds(Segmentation(loss, **settings), FedAvg(), task, rounds=5)[0], task)
        for loss in ("plain", "marginal")
    )
    assert marginal["dice"] > 0.75
    assert plain["dice/box"] < marginal["dice/box"] - 0.1


def test_a_client_scores_what_it_labels() -> None:
    reply = Segmentation().evaluate(message(first()), site(TASK, client=1))
    metrics = reply.metric_records["metrics"]
    assert metrics["num-examples"] == 4
    assert set(metrics) == {"num-examples", "dice", "dice/box", "jaccard"}
    nothing = Segmentation().evaluate(message(first()), site(TASK, cases=0))
    assert dict(nothing.metric_records["metrics"]) == {"num-examples": 0}


@pytest.mark.parametrize("codec", ["float16", "uint8"])
def test_a_codec_sends_the_encoded_update(codec: Any) -> None:
    strategy = FedAvg(codec=codec, weighting="uniform")
    arrays, _ = run_rounds(Segmentation(**QUICK), strategy, TASK, rounds=1)
    exact, _ = run_rounds(Segmentation(**QUICK), FedAvg(weighting="uniform"), TASK, rounds=1)
    start = tensors(first())
    far = sum(float(np.square(v - start[k]).sum()) for k, v in tensors(exact).items()) ** 0.5
    off = tensors(arrays)
    error = sum(float(np.square(v - off[k]).sum()) for k, v in tensors(exact).items()) ** 0.5
    assert 0 < error < 0.2 * far


def test_flowers_fedprox_holds_these_clients_back() -> None:
    class Grid:
        def get_node_ids(self) -> list[int]:
            return [1, 2]

    configure_identity()

    def moved(mu: float) -> float:
        strategy = FedProx(proximal_mu=mu, weighted_by_key="num-steps")
        sent = list(strategy.configure_train(1, first(), ConfigRecord(), Grid()))
        assert len(sent) == 2
        replies = [
            SimpleNamespace(
                content=Segmentation(steps=6, batch_size=4).train(m.content, site(TASK, client=k)),
                has_error=lambda: False,
            )
            for k, m in enumerate(sent)
        ]
        arrays, _ = strategy.aggregate_train(1, replies)
        start = tensors(first())
        return sum(float(np.square(v - start[k]).sum()) for k, v in tensors(arrays).items())

    assert moved(5.0) < 0.8 * moved(1e-9)


def test_local_models_start_alike_go_on_and_send_no_model() -> None:
    client = LocalSegmentation(**QUICK)
    state = RecordDict()
    for number in (1, 2):
        reply = client.train(message(first()), site(TASK, round=number, state=state))
        assert set(reply) == {"metrics"}
    # One client alone, averaged with nobody, goes the same way.
    alone = SegmentationTask(scheme({"north": ["ball"], "south": ["box"]}), PATCH)
    other, arrays = RecordDict(), first()
    for number in (1, 2):
        arrays = (
            Segmentation(**QUICK)
            .train(message(arrays), site(alone, round=number, state=other))
            .array_records["arrays"]
        )
    assert same(state.array_records["arrays"], arrays)


def test_a_local_model_is_scored_not_the_one_that_is_sent() -> None:
    state = RecordDict()
    client = LocalSegmentation(steps=30, batch_size=8)
    client.train(message(first()), site(TASK, rounds=1, state=state))
    scored = partial(client.evaluate, message(first()))
    own = scored(site(TASK, state=state)).metric_records["metrics"]
    sent = scored(site(TASK)).metric_records["metrics"]
    assert own["dice"] > sent["dice"] + 0.2


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="foreground is a share"):
        Segmentation(foreground=1.5)
