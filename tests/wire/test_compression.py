"""Vectors in fewer bytes: formulas, errors, means over draws, and what is odd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsim.scenario.schema import Wire
from fedsim.wire.compression import CODES, POSITIONS, RANGES, Compression, Rows, rows_of

SHAPES = [(4, 3, 2), (4,), (), (5, 7), (0, 3)]
ROWS = rows_of(SHAPES)
SIZE = 24 + 4 + 1 + 35

WIRES: list[dict[str, Any]] = [
    {"codec": "float16"},
    {"codec": "uint8"},
    {"codec": "int4"},
    {"sparsify": {"topk": 0.1}},
    {"sparsify": {"topk": 0.01}, "codec": "float16"},
    {"sparsify": {"topk": 0.5}, "codec": "int4"},
    {"sketch": {"rows": 3, "columns": 0.5, "topk": 0.1}},
    {"sketch": {"rows": 3, "columns": 0.5, "topk": 0.1}, "codec": "uint8"},
]


def hashes() -> np.random.Generator:
    return np.random.default_rng(7)


def there(compression: Compression, vector: Any, rows: Rows = ROWS, seed: int = 0) -> Any:
    """The arrays that stand for a vector, and what comes back of them."""
    values = np.asarray(vector, np.float32)
    arrays = compression.encode(values, rows, np.random.default_rng(seed), hashes)
    return arrays, compression.decode(arrays, rows, hashes)


def some(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


def test_rows_are_output_channels_or_whole_vectors() -> None:
    assert ROWS == [(4, 6), (1, 4), (1, 1), (5, 7)]


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        ({}, 4 * SIZE),
        ({"codec": "float16"}, 2 * SIZE),
        ({"codec": "uint8"}, SIZE + 8 * 11),
        ({"codec": "int4"}, SIZE // 2 + 8 * 11),
        # 7 values, and a bit for each of the 64: less than 4 bytes for each of the 7.
        ({"sparsify": {"topk": 0.1}}, 7 * 4 + 8),
        ({"sparsify": {"topk": 0.01}, "codec": "float16"}, 2 + 4),
        ({"sparsify": {"topk": 0.1}, "codec": "int4"}, 4 + 8 + 8),
        ({"sketch": {"rows": 3, "columns": 0.5, "topk": 0.1}}, 3 * 32 * 4),
        ({"sketch": {"rows": 3, "columns": 0.5, "topk": 0.1}, "codec": "uint8"}, 96 + 8 * 3),
    ],
)
def test_bytes_are_those_of_the_formula(wire: dict[str, Any], expected: int) -> None:
    compression = Compression(Wire(**wire))
    arrays, _ = there(compression, some())
    assert sum(array.nbytes for array in arrays.values()) == compression.bytes(ROWS) == expected


@given(
    st.sampled_from(WIRES),
    st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4).filter(
        lambda shapes: any(np.prod(shape) for shape in shapes)
    ),
)
def test_any_shapes_come_back_in_so_many_bytes(
    wire: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    compression, rows = Compression(Wire(**wire)), rows_of(shapes)
    vector = np.arange(sum(count * length for count, length in rows), dtype=np.float32)
    arrays, back = there(compression, vector, rows)
    assert back.shape == vector.shape
    assert back.dtype == np.float32
    assert np.isfinite(back).all()
    assert sum(array.nbytes for array in arrays.values()) == compression.bytes(rows)


def test_without_a_codec_all_bits_travel() -> None:
    assert Compression(Wire()).lossless
    assert there(Compression(Wire()), some())[1].tobytes() == some().tobytes()


@pytest.mark.parametrize(("codec", "levels"), [("uint8", 255), ("int4", 15)])
def test_errors_are_below_a_step_and_vanish_on_average(codec: Any, levels: int) -> None:
    compression, vector = Compression(Wire(codec=codec)), some()
    draws = np.stack([there(compression, vector, seed=seed)[1] for seed in range(2000)])
    at = 0
    for count, length in ROWS:
        part = slice(at, at + count * length)
        of_rows = vector[part].reshape(count, length)
        step = np.repeat((of_rows.max(1) - of_rows.min(1)) / levels, length)
        errors = draws[:, part] - vector[part]
        assert (np.abs(errors) <= step * 1.001 + 1e-6).all()
        # The standard deviation of one draw is at most half a step: of the mean, a 90th of that.
        assert (np.abs(errors.mean(0)) <= 5 * step / 2 / np.sqrt(2000) + 1e-6).all()
        at = part.stop
    assert len({one.tobytes() for one in draws}) > 1


def test_nearest_rounding_would_be_biased() -> None:
    """What the test above can see: values a tenth of a step above a level."""
    vector = np.array([0.0, 15.0, 0.1, 0.1, 0.1, 0.1], np.float32)
    mean = np.mean(
        [
            there(Compression(Wire(codec="int4")), vector, [(1, 6)], s)[1][2:].mean()
            for s in range(500)
        ]
    )
    assert 0.08 < mean < 0.12


def test_the_largest_values_of_all_tensors_travel() -> None:
    vector = some()
    _, back = there(Compression(Wire(sparsify={"topk": 0.1})), vector)
    largest = np.sort(np.argsort(-np.abs(vector))[:7])
    assert np.flatnonzero(back).tolist() == largest.tolist()
    assert (back[largest] == vector[largest]).all()


def test_positions_take_the_lesser_form() -> None:
    vector = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    for share, kind, size in ((0.01, np.uint32, 400), (0.1, np.uint8, 1250)):
        arrays, back = there(Compression(Wire(sparsify={"topk": share})), vector, [(1, 10_000)])
        assert arrays[POSITIONS].dtype == kind
        assert arrays[POSITIONS].nbytes == size
        assert np.count_nonzero(back) == round(share * 10_000)


def test_a_share_is_rounded_up_and_at_least_one_value() -> None:
    for size, share, count in ((300, 0.01, 3), (301, 0.01, 4), (2, 0.01, 1)):
        arrays, _ = there(Compression(Wire(sparsify={"topk": share})), np.ones(size), [(1, size)])
        assert arrays[CODES].size == count


def test_a_sketch_finds_what_stands_out() -> None:
    vector = 0.01 * np.random.default_rng(0).normal(size=4000).astype(np.float32)
    heavy = [5, 700, 1500, 3999]
    vector[heavy] = [3.0, -2.0, 4.0, -5.0]
    wire = Wire(sketch={"rows": 5, "columns": 0.05, "topk": 0.001})
    arrays, back = there(Compression(wire), vector, [(1, 4000)])
    assert arrays[CODES].nbytes == 5 * 200 * 4
    assert np.flatnonzero(back).tolist() == heavy
    assert np.abs(back[heavy] - vector[heavy]).max() < 0.3


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("value", [0.0, 2.5, -1e-30, 3.4e38, -3.4e38])
def test_constant_vectors_come_back_finite(wire: dict[str, Any], value: float) -> None:
    _, back = there(Compression(Wire(**wire)), np.full(SIZE, value))
    assert np.isfinite(back).all()
    if "codec" in wire and "sketch" not in wire and wire["codec"] != "float16":
        kept = np.flatnonzero(back)
        assert (back[kept] == np.float32(value)).all()
        assert len(kept) or not value


def test_the_whole_range_of_float32_is_no_harm() -> None:
    vector = np.array([3.4e38, -3.4e38, 0.0, 1e-45], np.float32)
    for codec in ("uint8", "int4", "float16"):
        _, back = there(Compression(Wire(codec=codec)), vector, [(1, 4)])
        assert np.isfinite(back).all()
        assert back[0] > 6e4
        assert back[1] < -6e4


@pytest.mark.parametrize("wire", WIRES)
def test_what_was_not_encoded_so_is_refused(wire: dict[str, Any]) -> None:
    compression = Compression(Wire(**wire))
    arrays, _ = there(compression, some())
    for name in arrays:
        with pytest.raises(ValueError, match=name):
            compression.decode({n: a for n, a in arrays.items() if n != name}, ROWS, hashes)
        with pytest.raises(ValueError, match=name):
            compression.decode(arrays | {name: arrays[name][:-1]}, ROWS, hashes)
        with pytest.raises(ValueError, match=name):
            compression.decode(arrays | {name: arrays[name].astype(np.int64)}, ROWS, hashes)


def test_positions_beyond_the_vector_are_refused() -> None:
    compression = Compression(Wire(sparsify={"topk": 0.01}))
    vector, rows = np.ones(1000, np.float32), [(1, 1000)]
    arrays, _ = there(compression, vector, rows)
    for wrong in (np.arange(991, 1001), np.zeros(10), np.arange(10)[::-1]):
        with pytest.raises(ValueError, match=POSITIONS):
            compression.decode(arrays | {POSITIONS: wrong.astype(np.uint32)}, rows, hashes)
    assert RANGES not in arrays


@pytest.mark.parametrize(
    "wrong",
    [
        {"codec": "uint4"},
        {"sparsify": {"topk": 0.0}},
        {"sparsify": {"topk": 1.0}},
        {"sparsify": {"topk": 0.1}, "sketch": {"columns": 0.1, "topk": 0.1}},
        {"error_feedback": True},
        {"down": "int4"},
        {"sketch": {"columns": 0.1}},
    ],
)
def test_wires_that_say_nothing_sensible_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Wire(**wrong)
