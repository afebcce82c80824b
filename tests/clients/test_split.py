"""Split-federated clients: the same bits as in one piece, and what is counted of the cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from fedsim.clients.segmentation import Segmentation
from fedsim.clients.split import SplitSegmentation
from fedsim.models.split_unet import SplitUNet
from fedsim.models.unet import UNet
from fedsim.randomness import isolated
from fedsim.splitting import LINK
from fedsim.tasks.segmentation.task import SegmentationTask
from fedsim.wire import pack_state, tensors
from tests.tasks.segmentation.volumes import PATCH, message, scheme, site

TASK = SegmentationTask(scheme(), PATCH)
QUICK = {"steps": 3, "batch_size": 4, "learning_rate": 0.01}
PLAIN = {"loss": "dice", "clip": None, "optimizer": "adamw", "weight_decay": 0.0}


def net() -> SplitUNet:
    with isolated(np.random.SeedSequence(0)):
        return SplitUNet(**TASK.model_arguments, channels=(4, 8))


def reply(method: Segmentation, client: int = 0, kind: str = "train") -> RecordDict:
    model = net()
    arrays = pack_state(model.state_dict())
    own = site(TASK, client=client, model=model)
    found: RecordDict = getattr(method, kind)(message(arrays), own)
    return found


def same(one: RecordDict, other: RecordDict, record: str = "arrays") -> bool:
    left, right = (tensors(each.array_records[record]) for each in (one, other))
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("cut", SplitUNet.cuts)
def test_without_loss_the_bits_are_those_of_the_model_in_one_piece(cut: str) -> None:
    split = reply(SplitSegmentation(**QUICK, last_learning_rate=1e-7, cut=cut))
    whole = reply(Segmentation(**QUICK, **PLAIN))  # type: ignore[arg-type]
    assert same(split, whole)
    lossy = SplitSegmentation(**QUICK, last_learning_rate=1e-7, cut=cut, packet_loss=0.5)
    assert not same(reply(lossy), whole)


def test_clients_after_the_lossy_ones_lose_nothing() -> None:
    none = SplitSegmentation(**QUICK)
    some = SplitSegmentation(**QUICK, packet_loss=0.7, lossy=1)
    assert not same(reply(some, 0), reply(none, 0))
    assert same(reply(some, 1), reply(none, 1))
    # Where nobody is lossy, the share does not matter.
    nobody = SplitSegmentation(**QUICK, packet_loss=0.7, lossy=0)
    assert same(reply(nobody, 0), reply(none, 0))


@pytest.mark.parametrize("activations", ["float32", "uint8"])
def test_what_crosses_is_told_to_the_ledger(activations: str) -> None:
    method = SplitSegmentation(**QUICK, cut="deep", activations=activations)  # type: ignore[arg-type]
    link = dict(reply(method).config_records[LINK])
    values = 4 * 8 * 8  # the first level, pooled
    wide = 4 * values if activations == "float32" else values + 8
    assert link["up/features"] == 12 * wide
    assert link["down/gradients"] == 12 * 4 * values
    assert link["up/arrays"] == link["down/arrays"] < 0


def test_validation_gradients_cross_the_cut_too() -> None:
    method = SplitSegmentation(**QUICK, cut="shallow")
    found = reply(method, kind="validate")
    plain = reply(Segmentation(**QUICK, **PLAIN), kind="validate")  # type: ignore[arg-type]
    assert same(found, plain, "gradient")
    link = found.config_records[LINK]
    assert link["up/features"] == 12 * 4 * 4 * 16 * 16
    assert link["up/gradient"] < 0
    assert any(value.any() for value in tensors(found.array_records["gradient"]).values())


def test_evaluation_sends_features_alone() -> None:
    method = SplitSegmentation(**QUICK, packet_loss=1.0)
    found, clean = (
        reply(method, kind="evaluate"),
        reply(SplitSegmentation(**QUICK), kind="evaluate"),
    )
    assert found.metric_records["metrics"] == clean.metric_records["metrics"]
    link = found.config_records[LINK]
    assert link["up/features"] == 4 * 6 * 4 * 4 * 16 * 16  # four cases of six slices
    assert "up/gradients" not in link


def test_scores_over_a_lossy_channel_are_others_at_lossy_clients_alone() -> None:
    def metrics(client: int = 0, **settings: float) -> dict[str, object]:
        method = SplitSegmentation(**QUICK, lossy=1, **settings)  # type: ignore[arg-type]
        return dict(reply(method, client, "evaluate").metric_records["metrics"])

    whole, lossy = {"packet_loss": 0.5}, {"packet_loss": 0.5, "lossy_scores": True}
    assert metrics(**lossy) != metrics(**whole)
    assert metrics(**lossy) == metrics(**lossy)
    assert metrics(1, **lossy) == metrics(1, **whole)
    assert metrics(packet_loss=0.0, lossy_scores=True) == metrics(**whole)


def test_the_model_is_whole_for_the_next_client() -> None:
    model = net()
    arrays = pack_state(model.state_dict())
    method = SplitSegmentation(**QUICK, packet_loss=1.0)
    method.train(message(arrays), site(TASK, model=model))
    assert "forward" not in vars(model)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"packet_loss": 1.5}, "packet_loss"),
        ({"packet_loss": 0.9, "burst": 2.0}, "burst"),
        ({"clip": 1.0}, "clip"),
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SplitSegmentation(**wrong)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused_before_anything_runs() -> None:
    clients = ["north", "south"]
    SplitSegmentation(lossy=2).check_fits(net(), TASK, clients)
    with pytest.raises(ValueError, match="lossy is 3"):
        SplitSegmentation(lossy=3).check_fits(net(), TASK, clients)
    with pytest.raises(ValueError, match="shallow, deep"):
        SplitSegmentation(cut="middle").check_fits(net(), TASK, clients)
    with pytest.raises(ValueError, match="split_unet"):
        SplitSegmentation().check_fits(UNet(3, 1, PATCH, (8, 16)), TASK, clients)


def test_messages_in_each_step_give_the_same_weights_and_bytes() -> None:
    """A client and a server that each see their own part alone, and exchange real messages.

    The weights are alike up to rounding: the gradient that the skip connection adds to the front
    end is summed with the other after each has passed it, not before.
    """
    from fedsim.ledger.traffic import fields
    from fedsim.method import AdamW
    from fedsim.splitting import Channel, Link
    from fedsim.splitting.channel import received
    from fedsim.tasks.segmentation import SegmentationSite
    from fedsim.wire import load_state, tensor_record

    method = SplitSegmentation(**QUICK, last_learning_rate=0.01, cut="deep", packet_loss=0.3)
    together = reply(method)
    client, server = net(), net()  # Two machines: each trains the part that it has.
    start = pack_state(client.state_dict())
    load_state(server, start)
    own = site(TASK, model=client)
    here, batches = SegmentationSite.of(own), method._batches(SegmentationSite.of(own), own)
    link = Link(Channel(0.3), own.generator)
    at_client, at_server = client.parts("deep"), server.parts("deep")
    held = set(at_server.server_names(dict(server.named_parameters())))
    mine = AdamW(
        [p for n, p in client.named_parameters() if n not in held], lr=0.01, weight_decay=0.0
    )
    its = AdamW([p for n, p in server.named_parameters() if n in held], lr=0.01, weight_decay=0.0)
    counted = {"up/features": 0, "down/features": 0, "up/gradients": 0, "down/gradients": 0}

    def cross(way: str, values: torch.Tensor) -> torch.Tensor:
        """A message: arrays in a record, counted, of which rows are lost."""
        field, _, direction = way.partition("-")
        sent = RecordDict({field: tensor_record({"x": values.detach().contiguous()})})
        counted[f"{direction}/{field}"] += fields(sent)[field]
        arrived = torch.tensor(tensors(sent.array_records[field])["x"])
        return received(arrived, link.arrives(way, arrived.shape))

    client.train()
    server.train()
    for _ in range(3):
        images, labels = next(batches)
        features, stayed = at_client.front(images)
        at_hand = cross("features-up", features).requires_grad_()
        made = at_server.server(at_hand)
        back = cross("features-down", made).requires_grad_()
        loss = method.supervised([at_client.back(back, stayed)], labels, here.labels)
        mine.zero_grad()
        its.zero_grad()
        # The back end first; what the skip connection adds to the front end comes with it.
        loss.backward(retain_graph=True)
        assert back.grad is not None
        made.backward(cross("gradients-up", back.grad))
        assert at_hand.grad is not None
        features.backward(cross("gradients-down", at_hand.grad))
        mine.step()
        its.step()
    merged = {
        name: (server if name in held else client).state_dict()[name]
        for name in dict(client.named_parameters())
    }
    trained = tensors(together.array_records["arrays"])
    off = max(float(np.abs(trained[n] - value.numpy()).max()) for n, value in merged.items())
    assert off < 1e-5, off
    link_told = together.config_records[LINK]
    assert {name: link_told[name] for name in counted} == counted
