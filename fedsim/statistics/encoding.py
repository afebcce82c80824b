"""Sums as they travel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.statistics.sums import Floats, Layout, Sums

Precision = Literal["float64", "float32", "float16", "uint8"]

ITEM_BYTES: dict[Precision, int] = {"float64": 8, "float32": 4, "float16": 2, "uint8": 1}

SCALE = "#scale"
_SCALED: dict[str, float] = {"float16": 2.0**15, "uint8": 127.0}
_ZERO = 128  # of uint8
_MOST = 1e75  # of anything that is sent: what comes of it stays a number


def encode(sums: Sums, codec: Precision) -> dict[str, NDArray[Any]]:
    """Sums -> arrays of the codec's type; counts are float64 whatever the codec.

    "float16" and "uint8" divide a sum by one number, float64 `<name>#scale`, so that its largest
    value is 2^15, or 127 steps from zero, which uint8 has at 128. What lies below the range of the
    other sites' sums is not lost by it, nor is anything too large.

    Raises:
        ValueError: a value is not finite.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, values in sums.values.items():
        if wrong := int((~np.isfinite(values)).sum()):
            raise ValueError(f"{wrong} of {values.size} values of {name} are not finite.")
        if name == "counts" or codec == "float64":
            found[name] = values.astype(np.float64)
        elif codec == "float32":
            found[name] = values.astype(np.float32)
        else:
            scale = float(np.abs(values).max(initial=0.0)) / _SCALED[codec] or 1.0
            steps = values / scale
            if codec == "float16":
                found[name] = steps.astype(np.float16)
            else:
                found[name] = (np.rint(steps) + _ZERO).astype(np.uint8)
            found[name + SCALE] = np.asarray(scale)
    return found


def decode(
    arrays: Mapping[str, NDArray[Any]], layout: Layout, noise: Mapping[str, float], total: float
) -> Sums:
    """What `encode` encoded, checked: it may come from anybody.

    Args:
        arrays: what was sent.
        layout: of the sums that were asked for.
        noise: see `Sums`; that of rounding to 8 bits is added to it.
        total: see `Sums`.

    Raises:
        ValueError: says which array is missing, too much, of another type or shape, or not finite.
    """
    shapes = layout.shapes
    if missing := [name for name in shapes if name not in arrays]:
        raise ValueError(f"no array {missing[0]!r}")
    if more := [n for n in arrays if n.removesuffix(SCALE) not in shapes]:
        raise ValueError(f"an array {more[0]!r} that nobody asked for")
    values: dict[str, Floats] = {}
    for name, shape in shapes.items():
        sent = arrays[name]
        if sent.shape != shape:
            raise ValueError(f"{name} of shape {sent.shape}; expected {shape}")
        if sent.dtype.name not in ITEM_BYTES:
            raise ValueError(f"{name} of type {sent.dtype}; expected {', '.join(ITEM_BYTES)}")
        wide = sent.astype(np.float64)
        if sent.dtype.name in _SCALED:
            scale = arrays.get(name + SCALE)
            if scale is None or scale.shape != () or scale.dtype.kind != "f":
                raise ValueError(f"{name} of type {sent.dtype} without one number {name + SCALE!r}")
            if not (math.isfinite(float(scale)) and scale > 0):
                raise ValueError(f"{name + SCALE} {float(scale)}; it must be above 0 and finite")
            wide = (wide - (_ZERO if sent.dtype == np.uint8 else 0)) * float(scale)
        if wrong := int((~(np.abs(wide) <= _MOST)).sum()):
            raise ValueError(f"{name} with {wrong} NaN, infinite or far too large values")
        values[name] = wide
    if not 0 <= total <= _MOST:
        raise ValueError(f"sums of {total} records")
    if sorted(noise) != sorted(shapes) or not all(0 <= one <= _MOST for one in noise.values()):
        raise ValueError(f"noise {dict(noise)}; expected a number of at least 0 for each sum")
    if not noise["counts"] and (
        (values["counts"] < 0).any() or not math.isclose(values["counts"].sum(), total)
    ):
        raise ValueError(f"counts of classes that do not add up to {total:g} records")
    loud = {name: math.hypot(one, _rounding(arrays, name)) for name, one in noise.items()}
    return Sums(layout, values, loud, total)


def _rounding(arrays: Mapping[str, NDArray[Any]], name: str) -> float:
    """Standard deviation of what rounding to 255 steps did to a sum: like noise, it is inverted
    with the matrix, and asks for a penalty. That of 16 bits and more is far below it.
    """
    if arrays[name].dtype != np.uint8:
        return 0.0
    return float(arrays[name + SCALE]) / math.sqrt(12)


def statistics_bytes(clients: int, layout: Layout, codec: Precision) -> int:
    """Bytes of the sums that all clients send together, without Flower's framing."""
    shapes = layout.shapes
    counts = math.prod(shapes["counts"])
    scales = len(shapes) - 1 if codec in _SCALED else 0
    return clients * ((layout.numbers - counts) * ITEM_BYTES[codec] + 8 * (counts + scales))
