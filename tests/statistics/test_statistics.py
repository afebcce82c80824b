"""Sums of vectors and the last layers out of them: known answers, odd records, the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from fedsim.statistics import (
    Layout,
    Sums,
    balanced_scales,
    class_gaussians,
    decode,
    draw,
    encode,
    generalised_cross_validation,
    logistic,
    nearest_means,
    noise_penalty,
    pack,
    packed_size,
    ridge,
    semidefinite,
    statistics_bytes,
    unpack,
)

SIZE = 5
LABELS = np.repeat([0, 1, 2], [40, 25, 9])


def records(seed: int = 0, labels: np.ndarray = LABELS) -> np.ndarray:
    """Vectors of three classes, with a mean that is not zero and correlated coordinates."""
    draws = np.random.default_rng(seed)
    mixed = draws.normal(size=(SIZE, SIZE))
    return draws.normal(size=(len(labels), SIZE)) @ mixed + 3 + 2 * np.eye(3, SIZE)[labels]


def layout(second: Any = "full", by_class: bool = False, classes: int = 3) -> Layout:
    return Layout(SIZE, classes, second, by_class)


def symmetric(seed: int, size: int = SIZE) -> np.ndarray:
    half = np.random.default_rng(seed).normal(size=(size, size))
    return half + half.T


def noisy(sums: Sums, deviation: float, seed: int = 0) -> Sums:
    """The sums with noise of one standard deviation on each number."""
    draws = np.random.default_rng(seed)
    values = {n: v + deviation * draws.normal(size=v.shape) for n, v in sums.values.items()}
    return Sums(sums.layout, values, dict.fromkeys(values, deviation), sums.total)


# --- packing ----------------------------------------------------------------------------------


def test_packing_keeps_the_frobenius_norm_and_comes_back() -> None:
    for size in (1, 2, 7):
        matrix = symmetric(1, size)
        packed = pack(matrix)
        assert packed.shape == (packed_size(size),)
        assert np.linalg.norm(packed) == pytest.approx(np.linalg.norm(matrix), rel=1e-14)
        np.testing.assert_allclose(unpack(packed), matrix, rtol=1e-15)
    np.testing.assert_allclose(pack(np.array([[1.0, 2], [2, 3]])), [1, 2 * 2**0.5, 3])
    several = np.stack([symmetric(2), symmetric(3)])
    np.testing.assert_allclose(unpack(pack(several)), several, rtol=1e-15)


def test_a_length_that_no_triangle_has_is_refused() -> None:
    with pytest.raises(ValueError, match="upper triangle of 4 numbers"):
        unpack(np.zeros(4))


def test_white_noise_on_a_packed_matrix_has_less_beside_the_diagonal() -> None:
    drawn = unpack(np.random.default_rng(0).normal(size=(20000, packed_size(4))))
    deviations = drawn.std(axis=0)
    expected = np.where(np.eye(4) == 1, 1.0, 0.5**0.5)
    np.testing.assert_allclose(deviations, expected, rtol=0.03)
    np.testing.assert_array_equal(drawn, drawn.transpose(0, 2, 1))


def test_the_nearest_semidefinite_matrix() -> None:
    matrix = np.diag([3.0, -2.0, 1.0])
    np.testing.assert_allclose(semidefinite(matrix), np.diag([3.0, 0, 1]), atol=1e-14)
    positive = symmetric(4) @ symmetric(4)
    assert semidefinite(positive) is positive


# --- sums -------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["none", "full", "diagonal"])
@pytest.mark.parametrize("by_class", [False, True])
def test_sums_are_those_of_a_loop(second: Any, by_class: bool) -> None:
    vectors, asked = records(), layout(second, by_class)
    expected = {name: np.zeros(shape) for name, shape in asked.shapes.items()}
    for vector, label in zip(vectors, LABELS, strict=True):
        expected["sums"][label] += vector
        expected["counts"][label] += 1
        if second != "none":
            moment = pack(np.outer(vector, vector)) if second == "full" else vector**2
            expected["second"][label if by_class else ...] += moment
    found = asked.sums_of(vectors, LABELS)
    assert found.values.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found.values[name], values, rtol=1e-12)
    assert asked.numbers == sum(values.size for values in expected.values())


def test_sums_of_parts_add_up_and_so_does_their_noise() -> None:
    vectors, asked = records(), layout()
    parts = [asked.sums_of(vectors[i::4], LABELS[i::4]) for i in range(4)]
    together = Sums.added(parts)
    whole = asked.sums_of(vectors, LABELS)
    for name, values in whole.values.items():
        np.testing.assert_allclose(together.values[name], values, rtol=1e-12)
    assert together.total == len(vectors)
    assert Sums.added([noisy(one, 0.5) for one in parts]).noise["second"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="cannot be added"):
        Sums.added([whole, layout("none").sums_of(vectors, LABELS)])


def test_no_records_and_one_record_have_sums() -> None:
    none = layout().sums_of(np.zeros((0, SIZE)), np.zeros(0, np.int64))
    assert not any(values.any() for values in none.values.values())
    one = layout().sums_of(records()[:1], LABELS[:1])
    for solved in (ridge(one), nearest_means(one)):
        assert np.isfinite(solved.weight).all()
        logits = solved.weight @ records()[0] + solved.bias
        assert logits.argmax() == 0
        assert logits[1:].max() < logits[0] - 1000


# --- ridge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 0.3, 40.0])
def test_ridge_is_scikit_learns(penalty: float, balance: bool) -> None:
    vectors = records()
    found = ridge(layout().sums_of(vectors, LABELS), penalty, balance)
    targets = np.eye(3)[LABELS]
    if balance:
        targets = targets * len(LABELS) / (3 * targets.sum(axis=0))
    theirs = Ridge(alpha=max(penalty, 1e-12), solver="cholesky").fit(vectors, targets)
    np.testing.assert_allclose(found.weight / found.scale, theirs.coef_, atol=1e-8)
    np.testing.assert_allclose(found.bias / found.scale, theirs.intercept_, atol=1e-8)


def test_cross_validation_is_that_of_the_hat_matrix() -> None:
    """The error that GCV is defined by, out of the records themselves, at every penalty."""
    vectors, count = records(), len(LABELS)
    targets = np.eye(3)[LABELS]
    targets = targets * balanced_scales(layout().sums_of(vectors, LABELS))
    centred, wanted = vectors - vectors.mean(axis=0), targets - targets.mean(axis=0)

    def error(penalty: float) -> float:
        inverse = np.linalg.inv(centred.T @ centred + penalty * np.eye(SIZE))
        hat = centred @ inverse @ centred.T + 1 / count
        left = wanted - (hat - 1 / count) @ wanted
        return float(np.square(left).sum() / (1 - np.trace(hat) / count) ** 2)

    values, turns = np.linalg.eigh(centred.T @ centred)
    turned = wanted.T @ centred @ turns
    chosen = generalised_cross_validation(values, turned, float(np.square(wanted).sum()), count)
    grid = values.mean() * np.logspace(-9, 4, 53)
    assert chosen == pytest.approx(grid[np.argmin([error(one) for one in grid])], rel=1e-9)
    assert ridge(layout().sums_of(vectors, LABELS)).penalty == pytest.approx(chosen, rel=1e-9)


def test_cross_validation_shrinks_what_is_noise_and_not_what_is_not() -> None:
    draws = np.random.default_rng(1)
    labels = draws.integers(0, 3, 200)
    noise = Layout(30, 3, "full").sums_of(draws.normal(size=(200, 30)), labels)
    told = Layout(30, 3, "full").sums_of(
        draws.normal(size=(200, 30)) + 5 * np.eye(3, 30)[labels], labels
    )
    assert ridge(noise).penalty > 100 * ridge(told).penalty


def test_balance_makes_the_likeliest_class_win_whatever_the_shares() -> None:
    draws = np.random.default_rng(0)
    labels = np.repeat([0, 1], [4000, 100])
    vectors = draws.normal(size=(len(labels), SIZE)) + np.outer(2 * labels - 1, np.eye(SIZE)[0])
    sums = layout(classes=2).sums_of(vectors, labels)
    far = np.eye(SIZE)[0] * 0.4  # nearer to the mean of the rare class
    plain, balanced = ridge(sums, balance=False), ridge(sums)
    assert (plain.weight @ far + plain.bias).argmax() == 0
    assert (balanced.weight @ far + balanced.bias).argmax() == 1


def test_logits_have_the_scale_of_discriminant_analysis() -> None:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, 20000)
    vectors = draws.normal(size=(len(labels), SIZE)) + np.outer(labels, np.ones(SIZE)) / 2
    found = ridge(layout(classes=2).sums_of(vectors, labels), penalty=0.0)
    theirs = LinearDiscriminantAnalysis().fit(vectors, labels)
    margin = (found.weight[1] - found.weight[0]) @ vectors.T + found.bias[1] - found.bias[0]
    np.testing.assert_allclose(margin, theirs.decision_function(vectors), rtol=0.05, atol=0.05)


def test_a_class_that_nobody_has_is_never_chosen() -> None:
    vectors = records()[LABELS != 1]
    labels = LABELS[LABELS != 1]
    for solved in (
        ridge(layout().sums_of(vectors, labels)),
        nearest_means(layout("none").sums_of(vectors, labels)),
        logistic(vectors, labels, 3, 10.0, 50),
    ):
        assert np.isfinite(solved.weight).all()
        logits = records(7) @ solved.weight.T + solved.bias
        assert 1 not in logits.argmax(axis=1)
        assert {0, 2} <= set(logits.argmax(axis=1))


def test_without_any_records_nothing_is_said() -> None:
    shapes = layout().shapes
    zeros = {name: np.zeros(shape) for name, shape in shapes.items()}
    none = Sums(layout(), zeros, dict.fromkeys(shapes, 0.0), 0.0)
    for solved in (ridge(none), nearest_means(none)):
        assert not solved.weight.any()
        assert not solved.bias.any()


def test_vectors_that_are_all_alike_have_no_weight() -> None:
    found = ridge(layout().sums_of(np.full((len(LABELS), SIZE), 2.5), LABELS))
    assert np.abs(found.weight).max() < 1e-9
    assert np.isfinite(found.bias).all()


# --- noise ------------------------------------------------------------------------------------


def test_the_penalty_is_twice_the_spectral_norm_of_the_noise() -> None:
    size, deviation = 60, 3.0
    asked = Layout(size, 2, "full")
    sums = Sums(asked, {}, {"second": deviation, "sums": 0.0, "counts": 0.0}, 10.0)
    drawn = np.random.default_rng(0).normal(scale=deviation, size=(20, packed_size(size)))
    norms = np.linalg.norm(unpack(drawn), 2, axis=(1, 2))
    assert noise_penalty(sums) / 2 == pytest.approx(norms.mean(), rel=0.06)


@given(st.floats(1e-3, 1e3), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_noise_of_any_size_leaves_finite_layers(deviation: float, seed: int) -> None:
    for asked in (layout(), layout("full", True), layout("diagonal", True)):
        sums = noisy(asked.sums_of(records(), LABELS), deviation, seed)
        solved = [nearest_means(sums)]
        if asked.second == "full":
            solved.append(ridge(sums))
        if asked.by_class:
            for one in class_gaussians(sums):
                assert np.isfinite(one.root).all()
        for one in solved:
            assert np.isfinite(one.weight).all()
            assert np.isfinite(one.bias).all()


def test_the_norms_of_means_are_corrected_for_noise() -> None:
    size, count, deviation = 50, 100, 7.0
    asked, means = Layout(size, 2), np.zeros((2, size))
    means[:, 0] = [0.5, -0.5]
    found = []
    for seed in range(300):
        drawn = np.random.default_rng(seed).normal(scale=deviation, size=(2, size))
        values = {"sums": count * means + drawn, "counts": np.full(2, float(count))}
        sums = Sums(asked, values, {"sums": deviation, "counts": 0.0}, 2.0 * count)
        found.append(nearest_means(sums, 1.0).bias)
    # Without the correction the mean would be that of 0.25 + 50 * 0.07^2, half as large again.
    assert np.mean(found) == pytest.approx(-0.25 / 2, rel=0.05)


# --- means and Gaussians ----------------------------------------------------------------------


def test_nearest_means_choose_the_nearest_mean() -> None:
    vectors = records()
    found = nearest_means(layout("none").sums_of(vectors, LABELS))
    means = np.stack([vectors[c == LABELS].mean(axis=0) for c in range(3)])
    distances = np.square(vectors[:, None] - means).sum(axis=2)
    logits = vectors @ found.weight.T + found.bias
    np.testing.assert_array_equal(logits.argmax(axis=1), distances.argmin(axis=1))
    # Sharpened by the length of the vectors: differences of logits are k / 2 times distances'.
    np.testing.assert_allclose(
        logits[:, 0] - logits[:, 1], SIZE / 2 * (distances[:, 1] - distances[:, 0]), rtol=1e-9
    )


@pytest.mark.parametrize("second", ["full", "diagonal"])
def test_gaussians_have_the_moments_of_their_class(second: Any) -> None:
    vectors = records()
    found = class_gaussians(layout(second, True).sums_of(vectors, LABELS))
    assert [one.label for one in found] == [0, 1, 2]
    for one in found:
        own = vectors[one.label == LABELS]
        np.testing.assert_allclose(one.mean, own.mean(axis=0))
        covariance = np.cov(own.T, bias=True)
        if second == "full":
            np.testing.assert_allclose(one.root @ one.root.T, covariance, atol=1e-9)
        else:
            np.testing.assert_allclose(one.root**2, np.diag(covariance))
    drawn, labels = draw(found, 20000, np.random.default_rng(0))
    assert np.bincount(labels).tolist() == [20000] * 3
    np.testing.assert_allclose(drawn[labels == 1].mean(axis=0), found[1].mean, atol=0.12)


def test_samples_are_shared_out_by_counts() -> None:
    parts = [
        layout("full", True).sums_of(records()[c], LABELS[c]) for c in (slice(0, 30), slice(30, 50))
    ]
    gaussians = [one for part in parts for one in class_gaussians(part)]
    assert [(one.label, one.count) for one in gaussians] == [(0, 30), (0, 10), (1, 10)]
    _, labels = draw(gaussians, 1001, np.random.default_rng(0))
    assert np.bincount(labels).tolist() == [1001, 1001]


def test_a_class_of_one_record_has_a_gaussian() -> None:
    (one,) = class_gaussians(layout("full", True).sums_of(records()[:1], LABELS[:1]))
    assert np.isfinite(one.root).all()
    assert np.linalg.norm(one.root) > 0


def test_logistic_regression_of_two_and_of_one_class() -> None:
    vectors = records()
    two = LABELS < 2
    found = logistic(vectors[two], LABELS[two], 2, 1.0, 500)
    scaler = StandardScaler().fit(vectors[two])
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=500)
    theirs.fit(scaler.transform(vectors[two]), LABELS[two])
    margin = vectors @ (found.weight[1] - found.weight[0]) + found.bias[1] - found.bias[0]
    np.testing.assert_allclose(
        margin, theirs.decision_function(scaler.transform(vectors)), rtol=1e-9
    )
    only = logistic(vectors[:10], LABELS[:10], 3, 1.0, 5)
    assert (vectors @ only.weight.T + only.bias).argmax(axis=1).tolist() == [0] * len(vectors)


# --- on the wire ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "error"), [("float64", 0.0), ("float32", 1e-7), ("float16", 5e-4), ("uint8", 4e-3)]
)
def test_codecs_are_as_exact_as_they_are_wide(codec: Any, error: float) -> None:
    sums = layout("full", True).sums_of(1e6 * records(), LABELS)
    sent = encode(sums, codec)
    back = decode(sent, sums.layout, sums.noise, sums.total)
    for name, values in sums.values.items():
        most = error * np.abs(values).max() if name != "counts" else 0.0
        np.testing.assert_allclose(back.values[name], values, rtol=0, atol=most)
    assert sum(array.nbytes for array in sent.values()) == statistics_bytes(1, sums.layout, codec)


def test_the_bytes_of_the_documented_case() -> None:
    wide = Layout(384, 2, "full")
    assert statistics_bytes(10, wide, "float16") == 10 * ((73_920 + 768) * 2 + 8 * (2 + 2))
    assert statistics_bytes(10, Layout(384, 2), "float32") == 10 * (768 * 4 + 16)


GOOD: dict[str, Any] = encode(layout().sums_of(records(), LABELS), "float32")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"second": None}, "no array 'second'"),
        ({"more": np.zeros(3)}, "an array 'more' that nobody asked for"),
        ({"sums": np.zeros((3, 4))}, r"sums of shape \(3, 4\); expected \(3, 5\)"),
        ({"second": np.zeros((5, 5))}, "second of shape"),
        ({"sums": np.full((3, 5), np.nan)}, "sums with 15 NaN, infinite or far too large values"),
        ({"sums": np.zeros((3, 5), complex)}, "sums of type complex128"),
        ({"second": np.zeros(15, np.uint8)}, "without one number 'second#scale'"),
        ({"second": np.zeros(15, np.uint8), "second#scale": np.asarray(-1.0)}, "above 0"),
        ({"counts": np.array([40.0, 25, 10])}, "do not add up to 74"),
        ({"counts": np.array([-1.0, 66, 9])}, "do not add up to 74"),
    ],
)
def test_wrong_arrays_are_refused_by_name(changed: dict[str, Any], says: str) -> None:
    sent = {name: value for name, value in (GOOD | changed).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        decode(sent, layout(), dict.fromkeys(layout().shapes, 0.0), 74.0)


@pytest.mark.parametrize(
    "noise",
    [
        {},
        {"second": 1.0, "sums": -1.0, "counts": 1.0},
        {"second": np.nan, "sums": 1.0, "counts": 1.0},
        {"second": 1.0, "sums": 1.0, "counts": 1.0, "more": 1.0},
    ],
)
def test_wrong_noise_is_refused(noise: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="noise"):
        decode(GOOD, layout(), noise, 74.0)


def test_sums_of_a_number_of_records_that_is_none_are_refused() -> None:
    with pytest.raises(ValueError, match="sums of nan records"):
        decode(GOOD, layout(), dict.fromkeys(layout().shapes, 1.0), float("nan"))


def test_what_is_not_finite_is_not_sent() -> None:
    sums = layout().sums_of(records(), LABELS)
    sums.values["sums"][1, 2] = np.nan
    with pytest.raises(ValueError, match="1 of 15 values of sums are not finite"):
        encode(sums, "float16")


def test_eight_bits_are_worth_nearly_what_all_bits_are() -> None:
    """Vectors far from zero: what rounding loses is large beside what the centred matrix holds."""
    rng = np.random.default_rng(0)
    size, clients = 24, 5
    truth = rng.standard_normal(size)
    layout = Layout(size, 2, "full")

    def some(count: int) -> tuple[np.ndarray, np.ndarray]:
        vectors = rng.standard_normal((count, size)) + 3.0
        labels = ((vectors - 3) @ truth + rng.standard_normal(count) > 0).astype(np.int64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / lengths, labels

    parts = [layout.sums_of(*some(300)) for _ in range(clients)]
    vectors, labels = some(2000)

    def right(codec: str) -> float:
        sent = [decode(encode(one, codec), layout, one.noise, one.total) for one in parts]
        head = ridge(Sums.added(sent))
        return float(((vectors @ head.weight.T + head.bias).argmax(1) == labels).mean())

    assert right("float64") > 0.85
    assert right("uint8") > right("float64") - 0.05
    halves = decode(encode(parts[0], "float16"), layout, parts[0].noise, 300.0)
    assert not any(halves.noise.values())


@pytest.mark.parametrize("name", ["second", "sums", "counts"])
@pytest.mark.parametrize("value", [1e76, -1e200, float("inf"), float("nan")])
def test_what_no_sum_of_vectors_can_be_is_refused(name: str, value: float) -> None:
    layout = Layout(3, 2, "full")
    vectors = np.random.default_rng(0).standard_normal((20, 3))
    sums = layout.sums_of(vectors, np.arange(20) % 2)
    sent = {key: array.copy() for key, array in encode(sums, "float64").items()}
    sent[name].flat[0] = value
    with pytest.raises(ValueError, match=name):
        decode(sent, layout, dict.fromkeys(layout.shapes, 0.0), 20.0)
    with pytest.raises(ValueError, match="noise"):
        decode(encode(sums, "float64"), layout, dict.fromkeys(layout.shapes, abs(value)), 20.0)
    with pytest.raises(ValueError, match="records"):
        decode(encode(sums, "float64"), layout, dict.fromkeys(layout.shapes, 0.0), abs(value))
