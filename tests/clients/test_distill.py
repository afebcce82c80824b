"""The distillation of one site: its loss, and what it may depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import nn

from fedsim.clients.distill import Distill
from fedsim.distillation import Match, gradient_loss, matching_loss, redraw
from fedsim.grid.progress import Steps
from fedsim.method.client import Site, Task
from fedsim.models import ConvNet
from fedsim.randomness import Streams
from fedsim.wire.codecs import clipped_fraction, decode_images
from fedsim.wire.flower import tensors

MATCHINGS = ("gdd", "dm", "dsa", "dc")
LABELS = [0] * 9 + [1] * 5


class Records:
    """A view over images in memory."""

    def __init__(self, labels: list[int], size: int = 8) -> None:
        draws = torch.Generator().manual_seed(5)
        self.labels = torch.tensor(labels)
        self._images = torch.randn(len(labels), 3, size, size, generator=draws)
        self._images += self.labels[:, None, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def scale(self, factors: torch.Tensor) -> None:
        self._images *= factors[:, None, None, None]

    def of_class(self, label: int) -> np.ndarray:
        return np.flatnonzero(self.labels.numpy() == label)

    def images(self, positions: np.ndarray) -> torch.Tensor:
        return self._images[positions]


def site(labels: list[int], client: int = 0, seed: int = 0) -> Site:
    records: Any = Records(labels)
    return Site(
        client=client,
        name=f"client-{client}",
        round=1,
        rounds=1,
        task=Task(("benign", "malignant"), 3, 8),
        train=records,
        val=records,
        state=RecordDict(),
        device=torch.device("cpu"),
        new_model=lambda: nn.Identity(),
        first_arrays=ArrayRecord,
        steps=Steps(client),
        _streams=Streams(seed),
    )


def distil(where: Site, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels that a site sends, undamaged by a codec."""
    asked = RecordDict({"config": ConfigRecord({"codec": "float32"})})
    settings = {"images_per_class": 2, "iterations": 4, "width": 8, "depth": 2} | parameters
    reply = Distill(**settings).train(asked, where)
    images = tensors(reply.array_records["images"])["images"].copy()
    return images, tensors(reply.array_records["labels"])["labels"]


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("perturb", ["image", "feature"])
def test_gdd_without_perturbation_is_dm_at_twice_the_rate(perturb: str, layers: str) -> None:
    # One step, in which all real images are in the batch: the two methods draw different numbers,
    # but match the same sets.
    same = {"augment": "none", "iterations": 1, "batch_size": 64, "layers": layers}
    never = {"perturb": perturb, "perturb_probability": 0.0}
    gdd, _ = distil(site(LABELS), matching="gdd", image_learning_rate=0.5, **never, **same)
    dm, _ = distil(site(LABELS), matching="dm", image_learning_rate=1.0, **same)
    start, _ = distil(site(LABELS), iterations=0)
    assert not np.allclose(gdd, start, atol=1e-4)
    np.testing.assert_allclose(gdd, dm, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("perturb", ["image", "feature"])
def test_perturbation_changes_what_is_matched(perturb: str) -> None:
    images = []
    for probability in (0.0, 1.0):
        where: Any = site(LABELS)
        # Contrasts that vary: a perturbed feature matters only where its sign turns.
        where.train.scale(torch.linspace(0.05, 2, len(LABELS)))
        settings = {"perturb": perturb, "perturb_probability": probability, "augment": "none"}
        images.append(distil(where, iterations=1, **settings)[0])
    assert not np.allclose(*images, atol=1e-4)


def test_matching_all_layers_is_another_loss() -> None:
    last, every = (
        distil(site(LABELS), matching="dm", layers=layers, iterations=1)[0]
        for layers in ("last", "all")
    )
    assert not np.allclose(last, every, atol=1e-4)


@pytest.mark.parametrize(
    ("matching", "rate", "left"), [("dm", 1.0, 0.7), ("dc", 1.0, 0.8), ("dsa", 1.0, 0.8)]
)
def test_distilling_lowers_the_loss_under_a_network_it_has_not_seen(
    matching: str, rate: float, left: float
) -> None:
    labels = [0] * 20 + [1] * 20
    network = ConvNet(2, 3, 8, 8, 2)
    redraw(network, torch.Generator().manual_seed(11))
    real = Records(labels).images(np.arange(20, 40))
    losses = []
    for iterations in (0, 30):
        settings = {"matching": matching, "iterations": iterations, "image_learning_rate": rate}
        images, sent = distil(site(labels), **settings)
        match = Match(1, real, torch.from_numpy(images[sent == 1]))
        loss = (
            matching_loss(network.features, [match])
            if matching == "dm"
            else gradient_loss(network, [match])
        )
        losses.append(loss.item())
    assert losses[1] < left * losses[0]


def test_dsa_without_its_augmentation_would_be_dc() -> None:
    dc, dsa = (distil(site(LABELS), matching=m, iterations=1)[0] for m in ("dc", "dsa"))
    assert not np.allclose(dc, dsa, atol=1e-4)


def test_gradients_are_matched_along_the_training_of_the_network() -> None:
    def images(**loops: int) -> np.ndarray:
        rates = {"network_learning_rate": 0.5, "image_learning_rate": 1.0}
        return distil(site(LABELS), matching="dc", iterations=1, **rates, **loops)[0]

    # The last step of the images needs no trained network after it.
    alone = images(outer_loops=1, inner_loops=1)
    assert np.array_equal(alone, images(outer_loops=1, inner_loops=5))
    short, long = (images(outer_loops=2, inner_loops=inner) for inner in (1, 5))
    assert not np.allclose(short, alone, atol=1e-4)
    assert not np.allclose(short, long, atol=1e-4)


@pytest.mark.parametrize(("each", "outer", "inner"), [(1, 1, 1), (2, 2, 3)])
def test_loops_follow_the_images_of_a_class_unless_they_are_set(
    each: int, outer: int, inner: int
) -> None:
    same = {"matching": "dc", "images_per_class": each, "iterations": 2}
    default, _ = distil(site(LABELS), **same)
    written, _ = distil(site(LABELS), outer_loops=outer, inner_loops=inner, **same)
    other, _ = distil(site(LABELS), outer_loops=3, inner_loops=1, **same)
    assert np.array_equal(default, written)
    assert not np.array_equal(default, other)


def test_images_can_start_from_real_ones() -> None:
    labels = [0] * 2 + [1] * 9
    images, sent = distil(site(labels), init="real", iterations=0, images_per_class=4)
    real = Records(labels).images(np.arange(len(labels))).numpy()
    found = [int(np.flatnonzero((real == image).all(axis=(1, 2, 3)))[0]) for image in images]
    assert [labels[position] for position in found] == sent.tolist()
    # Two images must do for four; nine need not repeat.
    assert sorted(found[:4]) == [0, 0, 1, 1]
    assert len(set(found[4:])) == 4
    moved, _ = distil(site(labels), init="real", iterations=2, images_per_class=4)
    assert not np.array_equal(moved, images)


def test_a_start_from_real_images_is_declared() -> None:
    assert Distill(init="noise").discloses == ()
    (text,) = Distill(init="real").discloses
    assert text == "real pixels: the synthetic images start from real ones"


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("iterations", [0, 3])
def test_clamped_images_lose_nothing_on_the_wire(matching: str, iterations: int) -> None:
    # Records of this test go beyond white, and so do images that move this fast.
    settings = {"matching": matching, "iterations": iterations, "image_learning_rate": 50.0}
    free, _ = distil(site(LABELS), **settings)
    clamped, _ = distil(site(LABELS), clamp=True, **settings)
    assert clipped_fraction(torch.from_numpy(free)) > 0.01
    assert clipped_fraction(torch.from_numpy(clamped)) == 0
    assert not np.array_equal(clamped, np.zeros_like(clamped))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"matching": "dc", "augment": "siamese"}, "change matching to dsa"),
        ({"matching": "dsa", "augment": "none"}, "change matching to dc"),
        ({"matching": "dm", "perturb": "feature"}, r"perturb \(feature\) .* only with gdd"),
        ({"matching": "dm", "perturb_probability": 0.2}, r"perturb_probability \(0.2\)"),
        ({"matching": "dc", "layers": "all"}, r"layers \(all\) .* only with gdd and dm"),
        ({"outer_loops": 2}, r"outer_loops \(2\) has no effect with matching: gdd"),
        ({"inner_loops": 2}, "inner_loops"),
        ({"network_learning_rate": 0.1}, "only with dc and dsa"),
        ({"matching": "dc", "augment": "siamese", "layers": "all"}, "augment .* layers"),
    ],
)
def test_parameters_that_contradict_the_matching_are_refused(
    parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Distill(**parameters)


@pytest.mark.parametrize("matching", MATCHINGS)
def test_a_matching_may_be_named_with_the_augmentation_it_means(matching: Any) -> None:
    Distill(matching=matching)
    Distill(matching=matching, augment="none" if matching == "dc" else "siamese")


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("init", ["noise", "real"])
def test_an_absent_class_is_not_sent(matching: str, init: str) -> None:
    images, labels = distil(site([1] * 6), matching=matching, init=init)
    assert labels.tolist() == [1, 1]
    assert images.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    "settings",
    [
        {"matching": "gdd"},
        {"matching": "gdd", "perturb": "feature", "perturb_probability": 1.0},
        {"matching": "dm", "layers": "all", "init": "real"},
        {"matching": "dc", "clamp": True},
        {"matching": "dsa", "init": "real"},
    ],
)
def test_a_site_depends_on_itself_alone(settings: dict[str, Any]) -> None:
    labels = [0] * 6 + [1] * 3
    first, _ = distil(site(labels, client=3), **settings)
    distil(site([0, 1], client=1), **settings)
    torch.rand(5)
    again, _ = distil(site(labels, client=3), **settings)
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, distil(site(labels, client=4), **settings)[0])
    assert not np.array_equal(first, distil(site(labels, client=3, seed=1), **settings)[0])


def test_uint8_on_the_wire_is_the_rounded_picture() -> None:
    where = site([0] * 4 + [1] * 4)
    asked = RecordDict({"config": ConfigRecord({"codec": "uint8"})})
    reply = Distill(images_per_class=1, iterations=1, width=8, depth=2).train(asked, where)
    sent = tensors(reply.array_records["images"])["images"]
    assert sent.dtype == np.uint8
    exact, _ = distil(where, images_per_class=1, iterations=1)
    step = np.array([1 / 255 / 0.229, 1 / 255 / 0.224, 1 / 255 / 0.225])[:, None, None]
    off = np.abs(decode_images(sent).numpy() - exact) / step
    inside = (sent > 0) & (sent < 255)
    assert inside.any()
    assert off[inside].max() <= 0.51


# --- Trained encoders and labels of views --------------------------------------------------------

TRAINED: dict[str, Any] = {"encoder": "trained", "encoder_steps": 6}


def reply(where: Site, codec: str = "uint8", **parameters: Any) -> RecordDict:
    """What a site answers."""
    asked = RecordDict({"config": ConfigRecord({"codec": codec})})
    settings = {"images_per_class": 2, "iterations": 4, "width": 8, "depth": 2} | parameters
    return Distill(**settings).train(asked, where)


@pytest.mark.parametrize("matching", ["gdd", "dm"])
def test_trained_encoders_depend_on_the_site_alone(matching: str) -> None:
    images, _ = distil(site(LABELS), matching=matching, **TRAINED)
    torch.rand(3)
    again, _ = distil(site(LABELS), matching=matching, **TRAINED)
    assert images.tobytes() == again.tobytes()
    fresh, _ = distil(site(LABELS), matching=matching)
    longer, _ = distil(site(LABELS), matching=matching, **TRAINED | {"encoder_steps": 12})
    other, _ = distil(site(LABELS, client=1), matching=matching, **TRAINED)
    for changed in (fresh, longer, other):
        assert not np.allclose(images, changed, atol=1e-4)


def test_adam_moves_each_value_by_its_rate_in_the_first_step() -> None:
    start, _ = distil(site(LABELS), iterations=0)
    moved, _ = distil(site(LABELS), iterations=1, image_optimizer="adam", image_learning_rate=0.1)
    steps = np.abs(moved - start)
    assert np.quantile(steps, [0.25, 0.75]) == pytest.approx([0.1, 0.1], abs=1e-3)
    assert steps.max() <= 0.1 + 1e-5


def test_the_rate_of_adam_falls() -> None:
    # Without the fall the last of ten steps would be as long as the first; nine tenths are lost.
    settings = {"image_optimizer": "adam", "image_learning_rate": 0.1, "matching": "dm"}
    optimizer, scheduler = Distill(**settings, iterations=10)._optimizer(torch.zeros(1))
    assert scheduler is not None
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_labels_of_views_come_with_the_seed_they_were_drawn_from() -> None:
    found = reply(site(LABELS), **TRAINED, view_labels=5)
    labels = tensors(found.array_records["view_labels"])["view_labels"]
    assert labels.dtype == np.float16
    assert labels.shape == (5, 4, 2)
    odds = np.log(labels[..., 1].astype(float) / labels[..., 0])
    assert odds.mean() == pytest.approx(0, abs=0.02)
    assert odds.std() == pytest.approx(1.5, rel=0.02)
    seed = found.config_records["view_seed"]["seed"]
    again = reply(site(LABELS), **TRAINED, view_labels=5)
    assert again.config_records["view_seed"]["seed"] == seed
    assert tensors(again.array_records["view_labels"])["view_labels"].tobytes() == labels.tobytes()
    other = reply(site(LABELS, client=1), **TRAINED, view_labels=5)
    assert other.config_records["view_seed"]["seed"] != seed


def test_labels_of_views_change_nothing_else() -> None:
    plain, labelled = (reply(site(LABELS), **TRAINED, view_labels=n) for n in (0, 3))
    assert set(labelled) - set(plain) == {"view_labels", "view_seed"}
    for name in ("images", "labels"):
        first, second = (tensors(r.array_records[name])[name] for r in (plain, labelled))
        assert first.tobytes() == second.tobytes()


def test_a_trial_sends_as_many_labels_as_a_run() -> None:
    where = site(LABELS)
    where.steps = Steps(0, limit=2)
    found = reply(where, **TRAINED, view_labels=5)
    labels = tensors(found.array_records["view_labels"])["view_labels"]
    assert labels.shape == (5, 4, 2)
    assert not np.array_equal(labels[0], labels[1])
    assert np.array_equal(labels[1:], np.repeat(labels[1:2], 4, axis=0))


def test_labels_are_of_the_views_of_what_the_server_decodes() -> None:
    coarse, exact = (
        reply(site(LABELS), codec, **TRAINED, view_labels=3) for codec in ("uint8", "float32")
    )
    first, second = (
        tensors(r.array_records["view_labels"])["view_labels"] for r in (coarse, exact)
    )
    assert not np.array_equal(first, second)


def test_a_site_of_one_class_sends_no_labels_of_views() -> None:
    found = reply(site([1] * 6), **TRAINED, view_labels=3)
    assert set(found) == {"images", "labels", "metrics"}
    assert tensors(found.array_records["labels"])["labels"].tolist() == [1, 1]


def test_labels_of_views_are_declared() -> None:
    (text,) = Distill(encoder="trained", view_labels=2).discloses
    assert text == "view labels: outputs of a network trained on the site's images"
    assert len(Distill(encoder="trained", view_labels=2, init="real").discloses) == 2
    assert Distill(encoder="trained").discloses == ()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"matching": "dc", "encoder": "trained"}, r"encoder \(trained\) .* only with gdd and dm"),
        ({"encoder_steps": 20}, r"encoder_steps \(20\) has no effect with encoder: random"),
        ({"view_labels": 20}, r"view_labels \(20\) .* only with trained: .* change encoder"),
        (
            {"image_optimizer": "adam", "image_momentum": 0.9},
            r"image_momentum \(0.9\) has no effect with image_optimizer: adam, only with sgd",
        ),
    ],
)
def test_parameters_that_have_no_effect_are_refused(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Distill(**parameters)
