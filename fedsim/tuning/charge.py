"""What a tuning of private runs costs the records that they train on.

The scores that choose are of validation records, which no client trains on. So all that a trial
tells of a training record is in its releases, and the cost is one of two:

- All trials together, by adaptive composition: whatever is done with their results.
- The best trial alone, where the number of trials is random and each is drawn by itself
  (`fedsim.privacy.selection`): where nothing of the others is published.

Both are by Renyi divergences, of the dearest values of the space.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.engine.privacy import privacy_plan
from fedsim.federation.building import build_federation
from fedsim.federation.holdings import Federation
from fedsim.privacy.accounting import ORDERS, epsilon_of_curve, rdp_curve
from fedsim.privacy.selection import Stopping, rdp_of_best
from fedsim.scenario import Scenario
from fedsim.tuning.space import Choice, Dimension, Range

_MOST_PLANS = 64
_MOST_SEEDS = 16  # that are looked at: a partition that a seed draws unevenly shows by then
VALIDATION = "the validation records, whose scores choose, are not protected"


@dataclass(frozen=True)
class Cost:
    """What one trial costs at most, as Renyi divergences.

    Attributes:
        curve: at `ORDERS`; None where it is not known.
        delta: of every epsilon.
        why: why it is not known; "" where it is.
        differs: two seeds of the trials have different curves.
    """

    curve: NDArray[np.float64] | None
    delta: float
    why: str = ""
    differs: bool = False

    def of_one(self) -> float | None:
        """Epsilon of one trial; None: none holds, or none is known."""
        return None if self.curve is None else epsilon_of_curve(self.curve, self.delta)

    def of_all(self, trials: int) -> float | None:
        """Epsilon of so many trials, all of them published."""
        return None if self.curve is None else epsilon_of_curve(trials * self.curve, self.delta)

    def of_best(self, stopping: Stopping, mean: float) -> float | None:
        """Epsilon of the best of a random number of trials, the others never published."""
        if self.curve is None:
            return None
        return epsilon_of_curve(rdp_of_best(self.curve, ORDERS, stopping, mean), self.delta)


def cost_of_a_trial(
    space: Sequence[Dimension],
    load_with: Callable[[Sequence[str]], Scenario],
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Cost | None:
    """The cost of the dearest trial; None where trials are not private.

    Every choice is looked at, and both ends of every range: where these differ, what lies between
    them is not known to cost less.

    Args:
        space: what is tuned.
        load_with: the scenario with "key=value" words.
        seeds: those that the trials have.
        progress: is told how many records are decoded.
    """
    settings = load_with(_words(space, {})).privacy
    if settings is None:
        return None
    worst, delta, differs = np.zeros(len(ORDERS)), settings.delta, False
    choices = list(itertools.islice(_choices(space), _MOST_PLANS + 1))
    if len(choices) > _MOST_PLANS:
        return Cost(None, delta, f"there are more than {_MOST_PLANS} combinations of choices")
    federations: dict[tuple[int, str], Federation] = {}
    looked_at = [(seeds[0], chosen, key) for chosen in choices for key in ("", *_ranges(space))]
    looked_at += [(seed, choices[0], "") for seed in seeds[1:_MOST_SEEDS]]
    of_choices: dict[str, NDArray[np.float64]] = {}  # the lower ends of ranges with them
    for seed, chosen, key in looked_at:
        upper = {one.key: one.ends[1] for one in space if isinstance(one, Range) and one.key == key}
        scenario = load_with(_words(space, chosen | upper))
        place = (seed, scenario.data.model_dump_json())
        if place not in federations:
            federations[place] = build_federation(scenario, seed, progress)
        plan = privacy_plan(scenario, federations[place])
        if plan is None:
            return Cost(None, delta, "some of the values switch privacy off")
        if not plan.certified:
            return Cost(None, delta, "the mechanism has no proof")
        curve = np.max([rdp_curve(history) for history in plan.histories()], axis=0)
        known = of_choices.setdefault(str(chosen), curve)
        if key and not np.array_equal(known, curve):
            why = f"what a trial costs depends on {key}; give its values as choice(...)"
            return Cost(None, delta, why)
        differs |= not np.array_equal(known, curve)
        worst = np.maximum(worst, curve)
    return Cost(worst, delta, differs=differs)


def _choices(space: Sequence[Dimension]) -> Iterator[dict[str, str]]:
    """All combinations of the choices: key -> value."""
    choices = [one for one in space if isinstance(one, Choice)]
    for values in itertools.product(*(one.values for one in choices)):
        yield {one.key: value for one, value in zip(choices, values, strict=True)}


def _ranges(space: Sequence[Dimension]) -> list[str]:
    """The keys that have a range."""
    return [one.key for one in space if isinstance(one, Range)]


def _words(space: Sequence[Dimension], values: dict[str, str]) -> tuple[str, ...]:
    """Words of these values, and of the first ones of all other keys."""
    first = {one.key: one.values[0] if isinstance(one, Choice) else one.ends[0] for one in space}
    return tuple(f"{key}={value}" for key, value in (first | values).items())
