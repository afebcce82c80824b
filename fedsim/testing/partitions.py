"""Checks of a partition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedsim.errors import FedsimError, InputError
from fedsim.raising import one_line, reraise_interruption
from fedsim.testing import strategies
from fedsim.testing.bench import Bench, undisturbed
from fedsim.testing.dividing import SITES, assigned, records_to_divide
from fedsim.testing.verdicts import ON_RAY, CheckFailed, NotApplicable


def complete(bench: Bench) -> str:
    """Every record goes to exactly one client."""
    parts = _made(bench)
    wrong = [name for name in parts if not isinstance(name, str) or not name]
    if wrong:
        raise CheckFailed(f"a client's name is {wrong[0]!r}, not a text")
    for name, part in parts.items():
        if not isinstance(part, np.ndarray) or part.dtype != np.int64 or part.ndim != 1:
            kind = f"{part.dtype} {part.shape}" if isinstance(part, np.ndarray) else type(part)
            raise CheckFailed(f"{name} gets {kind}, not int64 [n] positions")
        if (np.diff(part) <= 0).any():
            raise CheckFailed(f"the positions of {name} do not ascend")
    where = np.concatenate(list(parts.values()))
    count = np.bincount(where, minlength=300) if len(where) else np.zeros(300, int)
    if len(count) > 300 or (count != 1).any():
        raise CheckFailed(
            f"{int((count == 0).sum())} of 300 records are with nobody, "
            f"{int((count > 1).sum())} with several clients"
        )
    sizes = [len(part) for part in parts.values()]
    if min(sizes) == 0:
        raise CheckFailed(f"a client has no records: the clients have {sizes}")
    return f"300 records to {len(parts)} clients, {min(sizes)} to {max(sizes)} each"


def number(bench: Bench) -> str:
    """There are as many clients as were asked for."""
    if bench.clients is None:
        return f"it decides itself: {len(_made(bench))} clients, of {len(SITES)} sites"
    parts = _made(bench)
    if len(parts) != bench.clients:
        raise CheckFailed(f"{bench.clients} clients were asked for, and there are {len(parts)}")
    return f"{len(parts)} clients, as asked for"


def together(bench: Bench) -> str:
    """Records of one patient stay together."""
    groups = records_to_divide().groups
    owners: dict[int, set[str]] = {}
    for name, part in _made(bench).items():
        for group in groups[part].tolist():
            owners.setdefault(group, set()).add(name)
    torn = [group for group, names in owners.items() if len(names) > 1]
    if torn:
        raise CheckFailed(
            f"{len(torn)} of {len(owners)} patients have records at several clients: share out "
            "groups, not records"
        )
    return f"{len(owners)} patients, each with one client"


def repeats(bench: Bench) -> str:
    """The same generator gives the same partition."""
    one, other = _made(bench), _made(bench)
    if list(one) != list(other) or any(not np.array_equal(one[n], other[n]) for n in one):
        raise CheckFailed("divided twice with one seed, the parts differ: draw from rng alone")
    third = _made(bench, seed=1)
    same = list(one) == list(third) and all(np.array_equal(one[n], third[n]) for n in one)
    return "the same rng, the same parts" + ("; another rng changes nothing" if same else "")


def randomness(bench: Bench) -> str:
    """Chance comes from `rng`."""
    with undisturbed("dividing the records"):
        _made(bench)
    return "none used, none disturbed"


def too_many(bench: Bench) -> str:
    """More clients than patients are refused with a sentence."""
    if bench.clients is None:
        raise NotApplicable("it decides itself how many clients there are")
    try:
        parts = assigned(bench, 121)
    except InputError as error:
        return f"refused: {error.headline}"
    except FedsimError:
        raise
    except BaseException as error:
        reraise_interruption(error)
        raise CheckFailed(
            f"121 clients for 120 patients: it raises {one_line(error)}; raise "
            "fedsim.InputError with a sentence"
        ) from error
    empty = sum(len(part) == 0 for part in parts.values())
    raise CheckFailed(
        f"121 clients for 120 patients are not refused: {empty} clients hold nothing; raise "
        "fedsim.InputError with a sentence"
    )


def _made(bench: Bench, seed: int = 0) -> dict[str, np.ndarray]:
    try:
        found = assigned(bench, bench.clients, seed)
    except FedsimError:
        raise
    except BaseException as error:
        reraise_interruption(error)
        raise CheckFailed(f"assign raised {one_line(error)}") from error
    if not isinstance(found, dict) or not found:
        raise CheckFailed(f"assign gave {type(found).__name__}, not client name -> positions")
    return found


def trained(bench: Bench) -> str:
    """A run learns with it."""
    return strategies.require_learned(bench.run)


CHECKS: dict[str, Callable[[Bench], str]] = {
    "every record once": complete,
    "the number of clients": number,
    "patients stay together": together,
    "the same rng, the same parts": repeats,
    "no global randomness": randomness,
    "more clients than patients": too_many,
    "a run learns with it": trained,
    ON_RAY: strategies.on_ray,
}
