"""Finding the noise: the smallest noise multiplier with which a planned run meets its epsilon.

The search takes seconds, so what it found is kept: in memory, and in a folder of the cache, where
the next seed or run finds it. A file there is named by a digest of all that the answer depends on.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from fedsim.files import require_regular
from fedsim.folder.runfolder import write_whole
from fedsim.privacy.accounting import (
    FEW_ORDERS,
    ORDERS,
    Entry,
    epsilon_rdp,
    epsilon_upper,
    is_full_batch,
    mean_difference,
    merge,
)
from fedsim.privacy.audit import gaussian_difference

ACCOUNTANT_VERSION = 2
"""Counts changes of the accounting that change what a search finds."""

Plan = tuple[Entry, ...]
"""The sampling rates and steps of one client, at noise multiplier 1."""

# What is found has an epsilon between these shares of the target. The margin above is far more than
# two computations of one epsilon differ by.
_LEAST, _MOST = 1 - 1e-3, 1 - 1e-4
_ROUNDING = 1e-9  # Of what is exact: it must not end above the target.
_SMALLEST, _LARGEST = 2.0**-7, 2.0**20
_found: dict[str, float] = {}


def calibrate(
    plans: Iterable[Iterable[tuple[float, int]]],
    delta: float,
    target: float,
    *,
    cache: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> float:
    """The smallest noise multiplier with which no client's epsilon is above `target`.

    Epsilon is the best upper bound, `epsilon_upper`.

    Args:
        plans: for each client, what it will release in all rounds: (sampling rate, steps) pairs.
        delta: the common delta.
        target: the largest epsilon allowed.
        cache: a folder to keep what was found in; None keeps it in memory only.
        say: is told that a search begins.

    Returns:
        A noise multiplier; the largest epsilon at it is at most `target`, and at least 0.999 of it
        unless the least noise that is looked at is already enough. Where all releases are of the
        full batch it is exact to a billionth. Mechanisms with two releases a
        step divide it by `split_noise_multiplier`.

    Raises:
        ValueError: nothing is planned, or `target` is not above 0 or too small to be shown.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"The target epsilon must be above 0 and finite, not {target}.")
    distinct = {merge(Entry(1.0, q, steps) for q, steps in plan) for plan in plans} - {()}
    if not distinct:
        raise ValueError("There is nothing to calibrate: no client plans any step.")
    candidates = _undominated(distinct)
    asked = _question(candidates, delta, target)
    key = _digest(asked)
    if key not in _found:
        path = None if cache is None else cache / "noise" / f"{key}.json"
        kept = None if path is None else _read(path, asked)
        if kept is None:
            if say is not None:
                say(f"finding the noise for epsilon {target:g} at delta {delta:g}")
            kept = _search(candidates, delta, target)
            if path is not None:
                _write(path, asked, kept)
        _found[key] = kept
    return _found[key]


def _undominated(plans: Iterable[Plan]) -> list[Plan]:
    """The plans that may cost most, the likeliest first.

    Of two plans with one entry each, the one with fewer steps at a smaller rate costs less.
    """
    ordered = sorted(plans, key=lambda p: (sum(e.sample_rate**2 * e.steps for e in p), p))[::-1]
    left: list[Plan] = []
    for plan in sorted(ordered, key=lambda p: (len(p), -p[0].sample_rate, -p[0].steps)):
        above = left[-1][0].steps if left and len(left[-1]) == 1 else 0
        if len(plan) > 1 or plan[0].steps > above:
            left.append(plan)
    return [plan for plan in ordered if plan in left]


def _search(plans: list[Plan], delta: float, target: float) -> float:
    """The noise multiplier for all plans."""
    sigma, todo = 0.0, list(plans)
    while todo:
        plan = todo.pop(0)
        if sigma and _fits(plan, sigma, delta, target):
            continue
        sigma = _search_one(plan, delta, target, sigma)
    return sigma


def _fits(plan: Plan, sigma: float, delta: float, target: float) -> bool:
    """Whether a plan stays within `target`; the faster bounds are asked first."""
    history = _at(plan, sigma)
    for orders in (FEW_ORDERS, ORDERS):
        by_rdp = epsilon_rdp(history, delta, orders)
        if by_rdp is not None and by_rdp <= target:
            return True
    epsilon = epsilon_upper(history, delta).epsilon
    return epsilon is not None and epsilon <= target


def _search_one(plan: Plan, delta: float, target: float, floor: float) -> float:
    """The smallest multiplier, not below `floor`, that keeps one plan within `target`."""
    if is_full_batch(plan):
        exact = mean_difference(plan) / gaussian_difference(target, delta)
        return max(exact * (1 + _ROUNDING), floor, _SMALLEST)

    def by_rdp(sigma: float) -> float:
        epsilon = epsilon_rdp(_at(plan, sigma), delta, FEW_ORDERS)
        return math.inf if epsilon is None else epsilon

    def by_all(sigma: float) -> float:
        epsilon = epsilon_upper(_at(plan, sigma), delta).epsilon
        return math.inf if epsilon is None else epsilon

    # RDP is faster, and what it finds is a little too much.
    enough = _solve(by_rdp, target, 0.9 * target, 1.0)
    sigma = _solve(by_all, _MOST * target, _LEAST * target, 0.93 * enough, enough)
    return max(sigma, floor)


def _solve(
    epsilon_at: Callable[[float], float],
    most: float,
    least: float,
    start: float,
    enough: float | None = None,
) -> float:
    """A multiplier whose epsilon is at most `most` and, unless it jumps there, at least `least`.

    The logarithm of epsilon is nearly a straight line over that of the multiplier: between two
    multipliers that bracket the target, take the point on the line, or halve where that stalls.

    Raises:
        ValueError: no multiplier is enough.
    """
    aim = math.log((most + least) / 2)
    low = high = None
    point = math.log(start)
    for attempt in range(60):
        sigma = math.exp(point)
        epsilon = epsilon_at(sigma)
        if least <= epsilon <= most or (epsilon <= most and point <= math.log(_SMALLEST)):
            return sigma
        height = math.log(max(epsilon, 1e-300)) if epsilon < math.inf else math.inf
        if epsilon > most:
            low = (point, height)
        else:
            high = (point, height)
        if low and high:
            if high[0] - low[0] < 1e-6:
                break
            part = (low[1] - aim) / (low[1] - high[1]) if low[1] < math.inf else 0.5
            part = 0.5 if attempt % 4 == 3 else min(max(part, 0.02), 0.98)
            point = low[0] + part * (high[0] - low[0])
        elif low and enough is not None and sigma < enough:
            point = math.log(enough)
        else:
            # Epsilon falls at least about as fast as the multiplier grows.
            step = min(height - aim, math.log(4)) if low else max(height - aim, -math.log(4))
            point += math.copysign(max(abs(step), 0.01), step)
        if point > math.log(_LARGEST):
            break
        point = max(point, math.log(_SMALLEST))
    if high is None:
        raise ValueError(f"No noise can show epsilon {most:g}: choose a larger target.")
    return math.exp(high[0])


def _at(plan: Plan, sigma: float) -> list[Entry]:
    return [Entry(sigma, entry.sample_rate, entry.steps) for entry in plan]


@functools.cache
def _versions() -> dict[str, Any]:
    packages = ("opacus", "scipy", "numpy")
    return {"fedsim": ACCOUNTANT_VERSION} | {name: metadata.version(name) for name in packages}


def _question(plans: Iterable[Plan], delta: float, target: float) -> dict[str, Any]:
    """All that the answer depends on, as JSON has it."""
    return {
        "mechanism": "Poisson-subsampled Gaussian",
        "plans": sorted([[e.sample_rate, e.steps] for e in plan] for plan in plans),
        "delta": delta,
        "epsilon": target,
        "accountant": _versions(),
    }


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(path: Path, asked: dict[str, Any]) -> float | None:
    """What was found before; None where nothing was, or the file is not as it was written."""
    try:
        require_regular(path)
        kept = json.loads(path.read_text(encoding="utf-8"))
        digest = kept.pop("digest")
        sigma = kept["noise_multiplier"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    intact = digest == _digest(kept) and kept == asked | {"noise_multiplier": sigma}
    return float(sigma) if intact else None


def _write(path: Path, asked: dict[str, Any], sigma: float) -> None:
    """Keep what was found, if the folder can be written."""
    kept = asked | {"noise_multiplier": sigma}
    text = json.dumps(kept | {"digest": _digest(kept)}, indent=2) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError:  # The next run searches again.
        return
