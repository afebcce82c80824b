"""The stand-in of the skin data sets: same numbers everywhere, learnable, and not by colour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from fedsim.data.dataset import Embedded
from fedsim.data.phantom import skin
from fedsim.data.phantom.skin import skin_phantom
from fedsim.wire.codecs import IMAGE_MEAN, IMAGE_STD


@pytest.fixture(scope="module")
def many() -> Embedded:
    return skin_phantom(32, images=2400)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def codes(names: list[str]) -> NDArray[np.int64]:
    return np.unique(names, return_inverse=True)[1]


def mean_colour(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = images.mean(axis=(1, 2)) / 255
    return mean


def train_and_test(data: Embedded) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of four fifths of the lesions and of the rest."""
    groups = codes(data.groups)
    chosen = np.random.default_rng(0).random(groups.max() + 1) < 0.8
    return chosen[groups], ~chosen[groups]


def test_same_arguments_give_the_same_bytes() -> None:
    first, second = skin_phantom(32, images=40, seed=3), skin_phantom(32, images=40, seed=3)
    assert first.images.tobytes() == second.images.tobytes()
    assert first.labels.tolist() == second.labels.tolist()
    assert (first.groups, first.sites) == (second.groups, second.sites)


def test_another_seed_draws_other_patients() -> None:
    first, second = (skin_phantom(16, images=30, seed=seed).images for seed in (0, 1))
    assert not (first == second).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize("size", [32, 64])
def test_a_picture_does_not_depend_on_those_drawn_with_it(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = skin_phantom(size, images=12).images
    monkeypatch.setattr(skin, "SAMPLES", 1)
    np.testing.assert_array_equal(together, skin_phantom(size, images=12).images)


def test_processes_draw_the_same_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = skin_phantom(16, images=30).images
    monkeypatch.setattr(skin, "SAMPLES", 10 * 64**2)
    monkeypatch.setattr(skin, "TASK", 10 * 64**2)
    monkeypatch.setattr(skin, "LONG", 1)
    told: list[tuple[int, int, str]] = []
    both = skin_phantom(16, images=30, workers=2, progress=lambda *words: told.append(words))
    np.testing.assert_array_equal(alone, both.images)
    assert told[-1] == (30, 30, "drawing images")
    assert len(told) == 30 / 10


def test_global_random_state_is_left_alone() -> None:
    before = np.random.get_state(legacy=False)["state"]
    skin_phantom(16, images=8)
    np.testing.assert_equal(np.random.get_state(legacy=False)["state"], before)


def test_arrays_have_the_promised_shapes_types_and_names(many: Embedded) -> None:
    assert many.images.shape == (2400, 32, 32, 3)
    assert many.images.dtype == np.uint8
    assert many.labels.shape == (2400,)
    assert many.labels.dtype == np.int64
    assert many.classes == ("benign", "malignant")
    assert sorted(set(many.sites)) == [f"site-{code}" for code in range(5)]


def test_both_tasks_label_the_same_pictures() -> None:
    binary, diagnosis = (
        skin_phantom(16, task=task, images=180) for task in ("binary", "diagnosis")
    )
    assert diagnosis.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    np.testing.assert_array_equal(binary.images, diagnosis.images)
    malignant = np.isin(np.array(diagnosis.classes)[diagnosis.labels], ["akiec", "bcc", "mel"])
    np.testing.assert_array_equal(binary.labels, malignant)
    assert set(diagnosis.labels) == set(range(7))


def test_images_of_a_lesion_share_label_and_site(many: Embedded) -> None:
    groups = codes(many.groups)
    for values in (many.labels, codes(many.sites)):
        lowest, highest = np.full(groups.max() + 1, 99), np.zeros(groups.max() + 1, np.int64)
        np.minimum.at(lowest, groups, values)
        np.maximum.at(highest, groups, values)
        np.testing.assert_array_equal(lowest, highest)
    often = np.bincount(groups)
    assert set(often) == {1, 2, 3}
    assert often.mean() == pytest.approx(1.3, abs=0.05)


def test_images_of_a_lesion_resemble_each_other(many: Embedded) -> None:
    images = many.images.astype(float)
    contrast = np.log1p(images[:, 12:20, 12:20].mean((1, 2))) - np.log1p(images.mean((1, 2)))
    groups = codes(many.groups)
    pairs = np.nonzero(groups[1:] == groups[:-1])[0]
    same = np.abs(contrast[pairs] - contrast[pairs + 1]).mean()
    other = np.abs(contrast[pairs] - contrast[np.roll(pairs, 1)]).mean()
    assert same < 0.7 * other


@pytest.mark.parametrize("views", [1, 2.0, 3])
def test_views_is_the_mean_number_of_images_of_a_lesion(views: float) -> None:
    groups = skin_phantom(8, images=120, views=views).groups
    assert len(groups) / len(set(groups)) == pytest.approx(views, rel=0.12)


@pytest.mark.parametrize("positives", [0.05, 0.5, 0.9])
def test_positives_is_the_share_of_malignant_lesions(positives: float) -> None:
    data = skin_phantom(8, images=100, views=1, positives=positives)
    assert data.labels.sum() == round(100 * positives)


def test_both_classes_exist_in_the_smallest_data_set() -> None:
    assert sorted(skin_phantom(8, images=2, sites=1, views=1, positives=0.01).labels) == [0, 1]


def test_sites_are_as_large_as_promised() -> None:
    data = skin_phantom(8, images=150, sites=5, views=1)
    assert np.bincount(codes(data.sites)).tolist() == [50, 40, 30, 20, 10]
    assert set(skin_phantom(8, images=20, sites=1).sites) == {"site-0"}
    assert len(set(skin_phantom(8, images=80, sites=8, views=1).sites)) == 8


def test_sites_differ_in_share_of_malignant_lesions_but_mildly(many: Embedded) -> None:
    sites = codes(many.sites)
    shares = [many.labels[sites == code].mean() for code in range(5)]
    assert 0.02 < np.std(shares) < 0.12


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.0, 0.05), (1.0, 0.2, 1.0)])
def test_site_shift_decides_how_far_sites_are_apart_in_colour(
    shift: float, low: float, high: float
) -> None:
    data = skin_phantom(8, images=200, views=1, site_shift=shift)
    colour = mean_colour(data.images)
    chroma = colour / colour.sum(axis=1, keepdims=True)
    site = np.eye(5)[codes(data.sites)]
    means = site.T @ chroma / site.sum(axis=0)[:, None]
    explained = (site @ means).var(axis=0).sum() / chroma.var(axis=0).sum()
    assert low <= explained <= high


@pytest.mark.parametrize("size", [16, 64])
def test_another_size_shows_the_same_pictures(size: int) -> None:
    """What is left of the difference is rounding, and detail that the smaller grid cannot hold."""
    fine, coarse = max(size, 32), min(size, 32)
    images = {s: skin_phantom(s, images=25).images.astype(float) for s in (fine, coarse)}
    ratio = fine // coarse
    averaged = images[fine].reshape(25, coarse, ratio, coarse, ratio, 3).mean(axis=(2, 4))
    per_image = np.abs(averaged - images[coarse]).mean(axis=(1, 2, 3))
    assert per_image.max() < 3
    assert per_image.mean() < 1.5


def test_an_odd_and_a_large_size_can_be_drawn() -> None:
    for size in (33, 224):
        images = skin_phantom(size, images=2, sites=1).images
        assert images.shape == (2, size, size, 3)
        assert images.std() > 10


def test_images_use_the_range_of_a_byte_and_none_is_empty(many: Embedded) -> None:
    dark, middle, bright = np.percentile(many.images, [0.5, 50, 99.5])
    assert dark < 50
    assert 110 < middle < 200
    assert bright > 235
    assert (many.images == 255).mean() < 0.02
    assert many.images.std(axis=(1, 2, 3)).min() > 6


def test_no_two_images_are_equal(many: Embedded) -> None:
    assert len({image.tobytes() for image in many.images}) == 2400


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"size": 4}, "size"),
        ({"task": "colour"}, "task"),
        ({"images": 1}, "images"),
        ({"images": "many"}, "images"),
        ({"images": 3}, "images"),
        ({"positives": 0.0}, "positives"),
        ({"positives": 1}, "positives"),
        ({"positives": float("nan")}, "positives"),
        ({"sites": 0}, "sites"),
        ({"views": 3.5}, "views"),
        ({"site_shift": -1}, "site_shift"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must be .*, not .*\\.$"):
        skin_phantom(**{"size": 8, **wrong})  # type: ignore[arg-type]


def test_all_wrong_arguments_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"size .* positives .* views "):
        skin_phantom(0, positives=2, views=0)


def test_mean_colour_does_not_tell_benign_from_malignant(many: Embedded) -> None:
    train, test = train_and_test(many)
    colour = mean_colour(many.images)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(colour[train], many.labels[train])
    score = model.predict_proba(colour[test])[:, 1]
    assert roc_auc_score(many.labels[test], score) < 0.75


def test_a_small_network_learns_to_tell_benign_from_malignant(
    many: Embedded, one_thread: None
) -> None:
    train, test = train_and_test(many)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (IMAGE_MEAN, IMAGE_STD))
    images = (torch.from_numpy(many.images).permute(0, 3, 1, 2) / 255 - mean) / std
    labels = torch.from_numpy(many.labels)
    rows = torch.from_numpy(np.nonzero(train)[0])
    layers: list[nn.Module] = []
    for channels, width, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.GroupNorm(width, width)]
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 2 * 2, 2))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
        epochs, batch_size = 16, 32
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.02, epochs=epochs, steps_per_epoch=-(-len(rows) // batch_size)
        )
        for _ in range(epochs):
            for batch in rows[torch.randperm(len(rows))].split(batch_size):
                flip = [axis for axis in (2, 3) if torch.rand(()) < 0.5]
                turned = images[batch].flip(flip)
                if torch.rand(()) < 0.5:
                    turned = turned.transpose(2, 3)
                loss = nn.functional.cross_entropy(network(turned), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    unseen = images[torch.from_numpy(test)]
    with torch.no_grad():
        views = [network(unseen.flip(axes)).softmax(1)[:, 1] for axes in ([], [2], [3], [2, 3])]
    assert 0.85 < roc_auc_score(many.labels[test], torch.stack(views).mean(0)) < 0.95
