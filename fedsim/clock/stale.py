"""What a reply to an older model counts, and where it takes the current one.

FedBuff (Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation") adds the
change that a client made to the model it had. FedAsync (Xie et al. 2019, "Asynchronous Federated
Optimization", Algorithm 1) mixes its model into the current one. Both are said here as a model that
a client would have sent in reply to the current one: a strategy that averages models needs to know
nothing of time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.scenario.schema import Staleness

_EXPONENT, _SLOPE, _GRACE = 0.5, 10.0, 4


def weight(staleness: Staleness, tau: int) -> float:
    """What a reply counts to whose model `tau` newer ones came; 1 for the current model.

    Xie et al. (2019), section 5.2; polynomial with a = 0.5 is FedBuff's 1 / sqrt(1 + tau).
    """
    if staleness.name == "constant":
        return 1.0
    if staleness.name == "polynomial":
        return float((1 + tau) ** -(_EXPONENT if staleness.a is None else staleness.a))
    slope = _SLOPE if staleness.a is None else staleness.a
    grace = _GRACE if staleness.b is None else staleness.b
    return 1.0 if tau <= grace else 1 / (slope * (tau - grace) + 1)


def moved(
    sent: Mapping[str, NDArray[Any]],
    current: Mapping[str, NDArray[Any]],
    base: Mapping[str, NDArray[Any]],
    share: float,
) -> dict[str, NDArray[Any]]:
    """The current model, moved by a share of how far what a client sent is from `base`.

    Args:
        sent: the client's arrays by name.
        current: the server's.
        base: what the client began with, or the current model: then the two are mixed.
        share: 0 < share <= 1.

    Returns:
        Arrays of the names and dtypes of `sent`. What is no floating number, or is not among the
        server's, is as it was sent; so is all of it where the base is current and the share 1.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, value in sent.items():
        now = current.get(name)
        if now is None or value.dtype.kind not in "fc":
            found[name] = value
            continue
        start = base.get(name, now)
        if start is now and (share == 1 or np.array_equal(value, now, equal_nan=True)):
            found[name] = value
            continue
        wide = np.result_type(value.dtype, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            change = value.astype(wide) - start.astype(wide)
            found[name] = (now.astype(wide) + share * change).astype(value.dtype)
    return found
