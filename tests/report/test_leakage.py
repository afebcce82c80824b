"""Whether synthetic images give real ones away: measures, result, picture and line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from fedsim.data.store import Store
from fedsim.federation.holdings import Federation
from fedsim.method.client import Task
from fedsim.report.leakage import (
    REAL_IMAGES,
    leakage_line,
    leakage_verdict,
    membership,
    nearest,
    write_leakage,
)
from fedsim.report.leakage.membership import (
    auc_of_losses,
    found_at_few_alarms,
    membership_attack,
)
from fedsim.report.leakage.nearest import (
    correlation_of_pairs,
    effective_number,
    match_strata,
    nearest_images,
    rmse_of_pairs,
    wilson_interval,
)

SIZE = 8
TASK = Task(("benign", "malignant"), 3, SIZE)
CPU = torch.device("cpu")


def row(*values: float) -> np.ndarray:
    """An image of one channel and one row of pixels."""
    return np.array(values, dtype=np.float64).reshape(1, 1, -1)


# --- Nearest images ------------------------------------------------------------------------------


def test_the_nearest_image_by_hand() -> None:
    queries = np.stack([row(0, 0.5, 1), row(0.3, 0.3, 0)])
    references = np.stack([row(0, 1, 0.5), row(0, 0.2, 0.4), row(0.6, 0.5, 0.4)])
    found = nearest_images(queries, references)
    # Squared differences of the first: 0.5, 0.45, 0.72; of the second: 0.83, 0.26, 0.29.
    assert found.rmse_index.tolist() == [1, 1]
    assert found.rmse == pytest.approx(np.sqrt([0.45 / 3, 0.26 / 3]))
    # Correlations of the first: 0.5, 1, -1; of the second: 0, -0.866, 0.866.
    assert found.correlation_index.tolist() == [1, 2]
    assert found.correlation == pytest.approx([1, 0.75**0.5])


def test_the_kind_of_number_does_not_matter() -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 4), dtype=np.uint8)
    whole = nearest_images(images[:4], images[4:])
    parts = nearest_images(images[:4] / 255, images[4:] / 255)
    assert whole.rmse_index.tolist() == parts.rmse_index.tolist()
    assert whole.rmse == pytest.approx(parts.rmse, rel=1e-6)
    assert whole.correlation == pytest.approx(parts.correlation, rel=1e-6)


@given(st.integers(1, 9), st.integers(2, 9), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_blocks_find_what_all_pairs_have(
    queries: int, references: int, block: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 256, (queries, 2, 3, 2), dtype=np.uint8)
    second = rng.integers(0, 256, (references, 2, 3, 2), dtype=np.uint8)
    groups = rng.integers(0, 4, queries), rng.integers(4, 6, references)
    groups[1][0] = 0  # the first reference is not for queries of group 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_BLOCK_VALUES", block)
        found = nearest_images(first, second, query_groups=groups[0], reference_groups=groups[1])
    for k in range(queries):
        allowed = np.flatnonzero(groups[1] != groups[0][k])
        repeated = np.repeat(first[k : k + 1], len(allowed), axis=0)
        rmse = rmse_of_pairs(repeated, second[allowed])
        correlation = correlation_of_pairs(repeated, second[allowed])
        assert {found.rmse_index[k], found.correlation_index[k]} <= set(allowed)
        assert found.rmse[k] == pytest.approx(rmse.min(), abs=1e-5)
        assert found.correlation[k] == pytest.approx(correlation.max(), abs=1e-5)


def test_pearson_is_numpys() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 5, 3, 4, 4))
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(first, second, strict=True)]
    assert correlation_of_pairs(first, second) == pytest.approx(expected, abs=1e-6)


def test_a_copy_has_distance_zero_to_the_last_bit() -> None:
    images = np.random.default_rng(2).integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)
    found = nearest_images(images[7:9], images)
    assert found.rmse.tolist() == [0, 0]
    assert found.rmse_index.tolist() == [7, 8] == found.correlation_index.tolist()
    assert found.correlation == pytest.approx([1, 1])


def test_a_constant_image_correlates_with_nothing() -> None:
    grey = np.full((1, 3, 5, 5), 77, dtype=np.uint8)
    images = np.random.default_rng(3).integers(0, 256, (4, 3, 5, 5), dtype=np.uint8)
    assert nearest_images(grey, images).correlation.tolist() == [0]
    assert nearest_images(images, grey).correlation.tolist() == [0] * 4
    assert nearest_images(grey, grey).rmse.tolist() == [0]
    # Rather nothing than the opposite.
    found = nearest_images(row(0, 0.5, 1)[None], np.stack([row(1, 0.5, 0), row(0.3, 0.3, 0.3)]))
    assert (found.correlation_index.tolist(), found.correlation.tolist()) == ([1], [0])


def test_a_grey_level_is_told_from_another_in_large_images() -> None:
    levels = np.arange(100, 110, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (10, 3, 64, 64)).copy()
    groups = np.arange(10)
    found = nearest_images(images, images, query_groups=groups, reference_groups=groups)
    assert found.rmse == pytest.approx(np.full(10, 1 / 255), rel=1e-5)


def test_images_that_cannot_be_compared_are_refused() -> None:
    image = np.zeros((1, 3, 2, 2), dtype=np.uint8)
    with pytest.raises(ValueError, match="cannot be compared"):
        nearest_images(image, np.zeros((1, 3, 4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="from 0 to 1"):
        nearest_images(image, image + 2.0)
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match="1 of 1 images have no other image"):
        nearest_images(image, image, query_groups=one, reference_groups=one)


# --- Shares and strata ---------------------------------------------------------------------------


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert wilson_interval(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert wilson_interval(1, 20) == pytest.approx((0.83887, 1), abs=1e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.16113), abs=1e-5)


def test_images_near_the_same_patient_count_once() -> None:
    assert effective_number(np.array([4, 5, 6, 7])) == 4
    assert effective_number(np.array([4, 4, 4, 4])) == 1
    assert effective_number(np.array([4, 4, 5, 6])) == pytest.approx(16 / 6)
    assert effective_number(np.zeros(0, dtype=np.int64)) == 0


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)), st.integers(0, 2**32 - 1))
def test_matched_sets_have_the_same_strata(a: list[int], b: list[int], seed: int) -> None:
    first, second = np.array(a, dtype=np.int64), np.array(b, dtype=np.int64)
    here, there = match_strata(first, second, np.random.default_rng(seed))
    assert sorted(first[here]) == sorted(second[there])
    assert len(set(here.tolist())) == len(here) == sum(min(a.count(k), b.count(k)) for k in set(a))
    assert sorted(here.tolist()) == here.tolist()


# --- Membership ----------------------------------------------------------------------------------


def test_the_area_by_hand() -> None:
    assert auc_of_losses(np.array([1.0, 2, 3]), np.array([2.0, 4])) == pytest.approx(4.5 / 6)
    assert auc_of_losses(np.array([1.0]), np.array([0.0])) == 0


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_the_area_is_that_of_scikit_learn(members: list[int], others: list[int]) -> None:
    from sklearn.metrics import roc_auc_score

    truth = [1] * len(members) + [0] * len(others)
    expected = roc_auc_score(truth, [-loss for loss in members + others])
    assert auc_of_losses(np.array(members), np.array(others)) == pytest.approx(expected)


def test_members_found_at_few_false_alarms_by_hand() -> None:
    others = np.arange(200.0)  # losses below 2 are two false alarms: 1 % of 200
    assert found_at_few_alarms(np.array([-1, 0.5, 1.9, 2, 50]), others) == pytest.approx(3 / 5)
    # Below 100 others one false alarm is too many.
    assert found_at_few_alarms(np.array([-1, 0.5]), np.arange(99.0)) == pytest.approx(1 / 2)


def test_classes_of_unequal_loss_do_not_pass_for_membership(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Members are mostly of the easy class; within a class nothing tells them."""
    monkeypatch.setattr(membership, "_BOOTSTRAPS", 100)
    members = np.repeat([0, 1], [450, 50])
    others = np.repeat([0, 1], [50, 450])
    areas, missed = [], 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        losses = [rng.exponential(1, 500) + 5 * labels for labels in (members, others)]
        found = membership_attack(losses[0], members, losses[1], others, ("easy", "hard"), rng)
        assert found is not None
        assert found["auc_pooled"] > 0.85
        areas.append(found["auc"])
        missed += not found["auc_low"] < 0.5 < found["auc_high"]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.03)
    assert missed <= 2  # 95 % intervals


def test_the_area_is_the_mean_over_classes_and_a_missing_class_is_left_out() -> None:
    members = np.array([1.0, 2, 9, 7]), np.array([0, 0, 1, 2])
    others = np.array([3.0, 1.5, 8]), np.array([0, 0, 1])
    rng = np.random.default_rng(0)
    found = membership_attack(*members, *others, ("a", "b", "c"), rng)
    assert found is not None
    assert found["auc_by_class"] == {"a": 0.75, "b": 0, "c": None}
    assert found["auc"] == pytest.approx(0.375)
    assert (found["members"], found["non_members"]) == (3, 3)
    assert membership_attack(*members, np.zeros(0), np.zeros(0), ("a", "b", "c"), rng) is None


def test_a_diverged_model_is_not_scored() -> None:
    losses, labels = np.array([np.nan]), np.array([0])
    with pytest.raises(ValueError, match="diverged"):
        membership_attack(losses, labels, losses, labels, ("a",), np.random.default_rng(0))


# --- A run's result ------------------------------------------------------------------------------


def federation(folder: Path, source: str = "path", tint: int = 0) -> Federation:
    """Blobs of 300 patients with 2 images each, at two sites; three clients, the last one a site.

    Args:
        folder: of the store, never opened.
        source: of the data.
        tint: what the second site adds to the red channel.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (300, 2, 2, 3)).repeat(SIZE // 2, axis=1)
    smooth = coarse.repeat(SIZE // 2, axis=2).repeat(2, axis=0)
    images = smooth + rng.integers(-20, 21, smooth.shape)
    groups = np.arange(300).repeat(2)
    sites = groups % 2
    images[sites == 1, :, :, 0] += tint
    store = Store(
        images=images.clip(0, 255).astype(np.uint8),
        labels=rng.integers(0, 2, 300).repeat(2),
        groups=groups,
        sites=sites,
        site_names=("first", "second"),
        classes=("benign", "malignant"),
        ids=tuple(map(str, range(600))),
        fingerprint="",
        source=source,
        root=None,
        folder=folder,
        skipped=(),
    )
    places = np.arange(600)
    train = {
        "client-0": places[:100],
        "client-1": places[100:200],
        "second": places[200:400][sites[200:400] == 1],
    }
    split = {"train": places[:400], "val": places[:0], "test": places[400:]}
    return Federation(store, split, train, dict.fromkeys(train, places[:0]), TASK)


def real(of: Federation, positions: np.ndarray) -> np.ndarray:
    return of.store.images[positions].transpose(0, 3, 1, 2)


def send(run: Path, images: dict[str, np.ndarray]) -> None:
    """Leave what clients sent in a run folder."""
    (run / "synthetic").mkdir(exist_ok=True)
    for name, sent in images.items():
        labels = np.arange(len(sent)) % 2
        np.savez(run / "synthetic" / f"{name}.npz", images=sent, labels=labels)


def untrained() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE**2, 2))
    weights = torch.randn(2, 3 * SIZE**2, generator=torch.Generator().manual_seed(0)) / 14
    model[1].load_state_dict({"weight": weights, "bias": torch.zeros(2)})
    return model


def measure(run: Path, of: Federation, model: torch.nn.Module | None = None, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    result = write_leakage(run, of, model or untrained(), CPU, rng)
    assert result is not None
    return result


def test_a_planted_copy_is_found(tmp_path: Path) -> None:
    data = federation(tmp_path)
    # Every stratum of the test split is larger than the client's, so all its images are compared.
    send(tmp_path, {"client-1": real(data, np.array([104, 130, 151, 198]))})
    result = measure(tmp_path, data)
    overall = result["overall"]
    assert overall["rmse"] == overall["ratio"] == overall["ratio_closest"] == 0
    assert overall["correlation"] == pytest.approx(1)
    assert overall["compared_images"] == overall["training_images"] == 100
    assert overall["training_share"] == overall["correlation_share"] == 1
    assert overall["training_share_independent"] == 4
    assert overall["near_copies"] == 4
    assert result["signs"] == ["near_copies", "training_share", "correlation_share"]
    assert [pair["training_record"] for pair in result["closest_pairs"]] == [104, 130, 151, 198]
    assert "SIGNS OF LEAKAGE: 4 near copies, nearest images by RMSE" in leakage_line(result)


def test_a_copy_is_found_among_many_images_that_are_none(tmp_path: Path) -> None:
    data = federation(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 3, SIZE, SIZE), dtype=np.uint8)
    images[13] = real(data, np.array([42]))[0]
    send(tmp_path, {"client-0": images})
    result = measure(tmp_path, data)
    assert result["overall"]["ratio"] > 1
    assert result["overall"]["ratio_closest"] == 0
    assert result["signs"] == ["near_copies"]
    assert leakage_line(result).endswith("SIGNS OF LEAKAGE: 1 near copy")
    closest = result["closest_pairs"][0]
    assert (closest["client"], closest["number"], closest["training_record"]) == (
        "client-0",
        13,
        42,
    )


def test_a_copy_under_noise_is_found_by_the_comparison(tmp_path: Path) -> None:
    data = federation(tmp_path)
    rng = np.random.default_rng(0)
    copies = real(data, np.arange(0, 100, 4)) + rng.normal(0, 60, (25, 3, SIZE, SIZE))
    send(tmp_path, {"client-0": copies.clip(0, 255).astype(np.uint8)})
    result = measure(tmp_path, data)
    assert result["overall"]["ratio"] > 0.9  # distance alone does not tell
    assert "training_share" in result["signs"]


def test_as_near_to_an_unseen_image_counts_half(tmp_path: Path) -> None:
    """The test split holds the training images again, under other patients' names."""
    data = federation(tmp_path)
    store = data.store
    for records in (store.images, store.labels, store.sites):
        records[400:500] = records[:100]
    data = Federation(
        store, data.split | {"test": np.arange(400, 500)}, data.train, data.val, data.task
    )
    send(tmp_path, {"client-0": real(data, np.arange(0, 100, 2))})
    overall = measure(tmp_path, data)["overall"]
    assert overall["training_share"] == overall["correlation_share"] == 0.5
    assert overall["near_copies"] == 0


def test_noise_and_unseen_images_are_not_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "_BOOTSTRAPS", 100)
    data = federation(tmp_path)
    rng = np.random.default_rng(0)
    unseen = real(data, np.setdiff1d(data.split["train"], data.train["client-0"])[-40:])
    noise = rng.integers(0, 256, (40, 3, SIZE, SIZE), dtype=np.uint8)
    for images in (unseen, noise):
        send(tmp_path, {"client-0": images})
        flagged = [bool(measure(tmp_path, data, seed=seed)["signs"]) for seed in range(8)]
        assert sum(flagged) == 0
    # Noise has few nearest neighbours, on which the interval must rest.
    overall = measure(tmp_path, data)["overall"]
    assert overall["training_share_independent"] < 20
    assert overall["training_share_low"] < 0.5 < overall["training_share_high"]


def test_the_colours_of_a_site_are_no_leak(tmp_path: Path) -> None:
    """What looks like the client's site is near to its images, and to unseen ones of that site."""
    data = federation(tmp_path, tint=40)
    second = data.split["test"][data.store.sites[data.split["test"]] == 1]
    looks = np.random.default_rng(0).integers(-60, 61, (40, 3, SIZE, SIZE))
    images = real(data, second).mean(axis=0) + looks
    send(tmp_path, {"second": images.clip(0, 255).astype(np.uint8)})
    result = measure(tmp_path, data)
    assert result["signs"] == []
    assert result["overall"]["training_share"] < 0.8


def test_real_images_are_measured_without_their_own_patient(tmp_path: Path) -> None:
    """The second image of a patient is near; the reference is the nearest other patient."""
    data = federation(tmp_path)
    send(tmp_path, {"client-0": real(data, np.array([0]))})
    overall = measure(tmp_path, data)["overall"]
    images = real(data, np.arange(100)).reshape(100, -1) / 255
    distances = np.sqrt(np.square(images[:, None] - images[None]).mean(axis=2))
    np.fill_diagonal(distances, np.inf)
    with_own = np.median(distances.min(axis=1))
    distances[np.arange(100)[:, None] // 2 == np.arange(100) // 2] = np.inf
    assert overall["rmse_real"] == pytest.approx(np.median(distances.min(axis=1)))
    assert overall["rmse_real"] > 2 * with_own


def test_an_overfitted_model_tells_its_members_and_an_untrained_one_does_not(
    tmp_path: Path,
) -> None:
    data = federation(tmp_path)
    send(tmp_path, {"client-0": np.full((1, 3, SIZE, SIZE), 99, dtype=np.uint8)})
    fresh = measure(tmp_path, data)["membership"]
    assert fresh["auc"] == pytest.approx(0.5, abs=0.08)
    assert fresh["auc_low"] < 0.5 < fresh["auc_high"]

    generator = torch.Generator().manual_seed(0)
    first, last = torch.nn.Linear(3 * SIZE**2, 256), torch.nn.Linear(256, 2)
    for layer in (first, last):
        torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
        torch.nn.init.zeros_(layer.bias)
    model = torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), last)
    view = data.view("train")
    images, labels = view.images(), view.labels  # labels are random: there is nothing to learn
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    result = measure(tmp_path, data, model)
    attack = result["membership"]
    assert attack["auc"] > 0.8
    assert attack["auc_low"] > 0.75
    assert "membership" in result["signs"]


def test_every_number_is_explained_and_finite(tmp_path: Path) -> None:
    data = federation(tmp_path)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (6, 3, SIZE, SIZE), dtype=np.uint8)
    send(tmp_path, {"client-0": noise, "client-1": noise[:0], "second": noise[:3]})
    result = measure(tmp_path, data)

    def refuse(word: str) -> None:
        pytest.fail(f"{word} in leakage.json")

    text = (tmp_path / "synthetic" / "leakage.json").read_text()
    assert json.loads(text, parse_constant=refuse) == result
    assert set(result["by_client"]) == {"client-0", "second"}
    assert result["overall"]["synthetic_images"] == 9
    explained = set(result["explained"])
    for block in (result["overall"], *result["by_client"].values()):
        assert set(block) <= explained
        assert all(isinstance(value, int | float) for value in block.values())
    assert {f"membership.{key}" for key in result["membership"]} <= explained
    assert len(result["closest_pairs"]) == 9
    assert {path.name for path in (tmp_path / "synthetic").iterdir()} >= {"nearest_pairs.png"}


def test_the_same_generator_gives_the_same_result(tmp_path: Path) -> None:
    data = federation(tmp_path)
    rng = np.random.default_rng(0)
    send(tmp_path, {"client-0": rng.integers(0, 256, (6, 3, SIZE, SIZE), dtype=np.uint8)})
    assert measure(tmp_path, data, seed=3) == measure(tmp_path, data, seed=3)


def test_what_cannot_be_measured_is_none_and_left_out_of_the_line(tmp_path: Path) -> None:
    """One patient only, and no unseen image of its class and site."""
    data = federation(tmp_path)
    store, split = data.store, dict(data.split)
    same = (store.labels == store.labels[0]) & (store.sites == store.sites[0])
    split["test"] = split["test"][~same[split["test"]]]
    data = Federation(store, split, {"client-0": np.array([0, 1])}, data.val, data.task)
    send(tmp_path, {"client-0": real(data, np.array([7]))})
    result = measure(tmp_path, data)
    overall = result["overall"]
    assert overall["rmse"] > 0
    for name in ("ratio", "rmse_real", "training_share", "training_share_low", "near_copies"):
        assert overall[name] is None
    assert result["membership"] is None
    assert result["closest_pairs"][0]["unseen_record"] is None
    assert leakage_line(result) == "leakage: no sign of leakage"


def test_nothing_sent_is_nothing_written(tmp_path: Path) -> None:
    data = federation(tmp_path)
    rng = np.random.default_rng(0)
    assert write_leakage(tmp_path, data, untrained(), CPU, rng) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "note"),
    [("path", REAL_IMAGES), ("embedded", "embedded stand-in: generated images, not real data")],
)
def test_the_picture_says_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, note: str
) -> None:
    said = []
    draw = ImageDraw.ImageDraw.text

    def keep(pen: ImageDraw.ImageDraw, place: tuple, text: str, **options: object) -> None:
        with Image.new("RGB", (1, 1)) as blank:
            box = ImageDraw.Draw(blank).textbbox(place, text, font=options["font"])
        assert box[2] <= pen.im.size[0]
        assert box[3] <= pen.im.size[1]
        said.append(text)
        draw(pen, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", keep)
    data = federation(tmp_path, source)
    send(tmp_path, {"client-0": real(data, np.array([3, 9]))})
    result = measure(tmp_path, data)
    assert note in said
    assert {"synthetic", "nearest training image", "client-0", "RMSE 0.000, r 1.00"} <= set(said)
    assert (REAL_IMAGES in said) == (source == "path")
    assert bool(result["note"]) == (source == "embedded")
    with Image.open(tmp_path / "synthetic" / "nearest_pairs.png") as picture:
        assert picture.format == "PNG"


def test_the_line_is_one_line_with_every_measure() -> None:
    result = {
        "overall": {
            "ratio": 1.79,
            "ratio_closest": 1.21,
            "training_share": 0.52,
            "training_share_low": 0.451,
            "training_share_high": 0.588,
            "near_copies": 0,
        },
        "membership": {"auc": 0.511, "auc_low": 0.489, "auc_high": 0.532},
        "signs": [],
    }
    assert leakage_line(result) == (
        "leakage: synthetic images lie 1.8 times as far from their nearest training image as "
        "training images from each other (closest 1.2); nearest is a training image in 52% "
        "(95% 45-59%, 50% expected); membership AUC 0.51 (0.49-0.53); no sign of leakage"
    )
    told = leakage_verdict(result)
    assert "no sign of leakage was measured" in told
    assert "%" not in told
    assert "SIGNS OF LEAKAGE: membership (" in leakage_verdict(result | {"signs": ["membership"]})
