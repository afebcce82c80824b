"""Sums of clients' arrays have the bits of the plain formula."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.wire import add_scaled


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (7, 3, 2), (70_000,), (300, 500)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_sum_has_the_bits_of_the_formula(dtype: str, shape: tuple[int, ...], order: str) -> None:
    draws = np.random.default_rng(0)
    weights = [3.0, 0.1, 1 / 3]
    values = [np.asarray(draws.normal(size=shape)).astype(dtype, order=order) for _ in weights]
    for value in values:
        value.flags.writeable = False
    sums: dict[str, np.ndarray] = {}
    for value, weight in zip(values, weights, strict=True):
        add_scaled(sums, "a", value, weight)
    wide = np.result_type(dtype, np.float64)
    expected = weights[0] * values[0].astype(wide)
    for value, weight in zip(values[1:], weights[1:], strict=True):
        expected = expected + weight * value.astype(wide)
    assert sums["a"].dtype == wide
    assert sums["a"].shape == shape
    assert sums["a"].tobytes() == np.asarray(expected).tobytes()


def test_another_shape_is_refused() -> None:
    sums: dict[str, np.ndarray] = {}
    add_scaled(sums, "a", np.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"\(1,\), not \(3,\)"):
        add_scaled(sums, "a", np.zeros(1), 1.0)
