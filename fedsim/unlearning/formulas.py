"""The formulas of unlearning, as pure functions of named arrays.

Models and changes are name -> array, float64 where they are computed here. A client's weight p_i
is its share of a round's average; `c` is who leaves, and a hat says that the others' weights are
scaled up to sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.method.received import Arrays, norm

Norms = Literal["client", "layer", "pooled"]
"""Over what the length of an update is taken: all of a client's arrays together, each array of a
client by itself, or each array of the clients' mean."""

Lengths = dict[str, float]
"""Name of an array -> the length that it, or what it is part of, had."""


def weighted_mean(rows: Mapping[int, Arrays], weights: Mapping[int, float]) -> Arrays:
    """The weighted mean of what clients sent, float64, summed in client order.

    Args:
        rows: client -> its arrays.
        weights: client -> its weight; more clients may be named than there are rows.

    Raises:
        ValueError: nobody is there, or all weights are 0.
    """
    total = sum(weights[client] for client in rows)
    if not total:
        raise ValueError("There is no client whose weight is above 0: nothing can be averaged.")
    found: Arrays = {}
    for client in sorted(rows):
        share = weights[client] / total
        for name, value in rows[client].items():
            scaled = share * value.astype(np.float64)
            found[name] = found[name] + scaled if name in found else scaled
    return found


def without(rows: Mapping[int, Arrays], client: int) -> dict[int, Arrays]:
    """The rows of all clients but one."""
    return {other: row for other, row in rows.items() if other != client}


def moved(model: Arrays, change: Arrays, factor: float = 1.0) -> Arrays:
    """A model after `factor` times a change; float64. What the change does not name stays."""
    return {
        name: value.astype(np.float64) + factor * change[name] if name in change else value
        for name, value in model.items()
    }


def distance(one: Arrays, other: Arrays) -> float:
    """The Euclidean distance of two models with the same names."""
    return norm({name: value.astype(np.float64) - other[name] for name, value in one.items()})


# --- FedEraser -----------------------------------------------------------------------------------


def lengths(
    rows: Mapping[int, Arrays], weights: Mapping[int, float], by: Norms
) -> dict[int, Lengths]:
    """The lengths that FedEraser keeps of a round's updates.

    Args:
        rows: client -> its update.
        weights: client -> its weight; of "pooled" alone.
        by: over what a length is taken.

    Returns:
        client -> name -> length: the same for all names with "client", and the same for all clients
        with "pooled".
    """
    if by == "pooled":
        mean = weighted_mean(rows, weights)
        pooled = {name: float(np.linalg.norm(value)) for name, value in mean.items()}
        return {client: dict(pooled) for client in rows}
    found: dict[int, Lengths] = {}
    for client, row in rows.items():
        whole = norm(row)
        found[client] = {
            name: whole if by == "client" else float(np.linalg.norm(value))
            for name, value in row.items()
        }
    return found


def calibrated(
    model: Arrays,
    updates: Mapping[int, Arrays],
    kept: Mapping[int, Lengths],
    weights: Mapping[int, float],
    by: Norms = "client",
) -> Arrays:
    """FedEraser's calibrated step: the kept lengths along new directions.

    theta + sum_i p_i-hat |U_i| U~_i / |U~_i| (Liu et al. 2021, eq. 3-4, with norms of updates: the
    text of the prostate paper has norms of parameters). With "pooled", as the authors' public code,
    the mean of the new updates is scaled as a whole, array by array.

    Args:
        model: name -> array, what the clients were sent.
        updates: client -> U~, what it changed now.
        kept: client -> name -> the length that was kept (see `lengths`); who was not in the round
            that it is of is left out.
        weights: client -> its weight now.
        by: over what a length is taken.

    Returns:
        float64. Where a new update is 0 it has no direction, and adds nothing.

    Raises:
        ValueError: no client has both a new update and a length.
    """
    both = {client: row for client, row in updates.items() if client in kept}
    if not both:
        raise ValueError("No client has both an update now and a length that was kept.")
    if by == "pooled":
        mean = weighted_mean(both, weights)
        scales = kept[min(both)]
        return moved(model, {name: _scaled(value, scales[name]) for name, value in mean.items()})
    steps = {}
    for client, row in both.items():
        whole = norm(row)
        steps[client] = {
            name: _scaled(value, kept[client][name], whole if by == "client" else None)
            for name, value in row.items()
        }
    return moved(model, weighted_mean(steps, weights))


def _scaled(
    value: NDArray[np.floating], length: float, own: float | None = None
) -> NDArray[np.float64]:
    """A direction with another length; `own` is the length that it has, if not of this array."""
    has = float(np.linalg.norm(value)) if own is None else own
    return value.astype(np.float64) * (length / has if has else 0.0)


# --- PGA -----------------------------------------------------------------------------------------


def project(model: Arrays, reference: Arrays, radius: float) -> Arrays:
    """The point of a Euclidean ball that is nearest to a model; float64.

    Halimi et al. 2022, Algorithm 1: w_ref + radius (w - w_ref) / |w - w_ref| outside of the ball.

    Args:
        model: name -> array.
        reference: the centre.
        radius: at least 0.
    """
    found = distance(model, reference)
    factor = radius / found if found > radius else 1.0
    return {
        name: reference[name].astype(np.float64)
        + factor * (value.astype(np.float64) - reference[name])
        for name, value in model.items()
    }


def ball_radius(reference: Arrays, others: Sequence[Arrays], share: float = 1 / 3) -> float:
    """The radius of PGA's ball: a share of the mean distance of random models from the reference.

    Raises:
        ValueError: no random model.
    """
    if not others:
        raise ValueError("The radius needs at least one random model.")
    return share * math.fsum(distance(other, reference) for other in others) / len(others)


# --- IFU -----------------------------------------------------------------------------------------


def sensitivity(after: Arrays, own: Arrays, share: float) -> float:
    """How far one client moved a round's average: |theta' - theta'_-c|.

    It is p_c / (1 - p_c) |theta_c - theta'|, with theta' the average of all. The paper's text has
    another sum, which is neither this nor its code.

    Args:
        after: theta', the average.
        own: theta_c, what the client sent.
        share: p_c, 0 <= share < 1.
    """
    return share / (1 - share) * distance(own, after)


def sensitivity_by_coordinate(after: Arrays, own: Arrays, share: float) -> Arrays:
    """The same for each coordinate by itself, as the paper's experiments have it.

    The Gaussian mechanism needs the Euclidean norm: this gives no certificate.
    """
    factor = share / (1 - share)
    return {
        name: factor * np.abs(value.astype(np.float64) - after[name]) for name, value in own.items()
    }


def last_checkpoint(bounds: Sequence[float], allowed: float) -> int:
    """The last t with bounds[0..t] all at most `allowed`; bounds[0] is that of the first model.

    Raises:
        ValueError: not even the first model is allowed.
    """
    if not bounds or bounds[0] > allowed:
        raise ValueError(f"No model has a bound of at most {allowed}.")
    over = [t for t, bound in enumerate(bounds) if bound > allowed]
    return over[0] - 1 if over else len(bounds) - 1
