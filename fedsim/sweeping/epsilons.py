"""The cells of a privacy curve: scenarios x epsilons x seeds, and lines without privacy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.errors import InputError, Problem
from fedsim.scenario import Scenario, load
from fedsim.sweeping.cells import Cell, require_number

_TARGET = "privacy.target_epsilon"
_NOISE = "privacy.noise_multiplier"


@dataclass(frozen=True)
class CurveCell:
    """One run of a curve.

    Attributes:
        cell: the run, as a sweep's cell.
        epsilon: its target; infinite: without privacy.
        reference: the scenario has no privacy block: it is a line for all epsilons.
    """

    cell: Cell
    epsilon: float
    reference: bool


@dataclass(frozen=True)
class _Setting:
    """A scenario at one epsilon, without a seed."""

    source: str
    overrides: tuple[str, ...]
    scenario: Scenario
    epsilon: float
    reference: bool


def plan_curve(
    sources: Sequence[str],
    overrides: Sequence[str],
    epsilons: Sequence[float],
    seeds: Sequence[int],
    common: Sequence[str] = (),
) -> list[CurveCell]:
    """The cells, all of them validated: a whole curve of the first seed, then of the next one.

    A scenario with a privacy block is run at each epsilon, and without the block where epsilon is
    infinite. A scenario that has none is run as it is; overrides of single keys of the block do
    not hold for it, since they would give it one.

    Args:
        sources: names or files of scenarios.
        overrides: "key=value" words that hold for every cell.
        epsilons: above 0, at least one of them finite.
        seeds: the seeds of every scenario.
        common: more such words, of resources.

    Raises:
        InputError: with all problems of all cells.
    """
    problems = [
        Problem("--epsilons", f"{epsilon:g}: epsilon must be above 0")
        for epsilon in epsilons
        if not epsilon > 0
    ]
    if not problems and not any(map(math.isfinite, epsilons)):
        problems.append(Problem("--epsilons", "expected at least one that is finite"))
    problems += [
        Problem("command line", f"{_TARGET} is what a curve varies; type: --epsilons {value}")
        for key, _, value in (word.partition("=") for word in overrides)
        if key.strip() == _TARGET
    ]
    settings: list[_Setting] = []
    if not problems:
        levels = sorted(set(epsilons))
        require_number(len(set(sources)) * len(levels) * len(seeds))
        for source in dict.fromkeys(sources):
            try:
                settings += _settings(source, [*overrides, *common], levels)
            except InputError as error:
                problems += error.problems or [Problem("command line", error.headline)]
        problems += _same_names(settings)
    if not problems and all(one.reference for one in settings):
        what = "no scenario here has a privacy block, so nothing depends on epsilon"
        problems.append(Problem("command line", what))
    if problems:
        lines = list(dict.fromkeys(problems))
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise InputError(f"the curve has {count}", lines, hint="type: fedsim curve --help")
    return [
        CurveCell(_cell(one, seed), one.epsilon, one.reference)
        for seed in dict.fromkeys(seeds)
        for one in settings
    ]


def _settings(source: str, words: Sequence[str], epsilons: Sequence[float]) -> list[_Setting]:
    """A scenario at all its epsilons; InputError with all that is wrong with them."""
    general = tuple(word for word in words if not word.lstrip().startswith("privacy."))
    if not _has_block(source, general):
        return [_Setting(source, general, load(source, general), math.inf, reference=True)]
    if problem := _fixed_noise(source, words):
        raise InputError("the noise is fixed", [problem])
    settings: list[_Setting] = []
    problems: list[Problem] = []
    for epsilon in epsilons:
        overrides = (*words, _word(epsilon) if math.isfinite(epsilon) else "privacy=null")
        try:
            scenario = load(source, overrides)
        except InputError as error:
            problems += error.problems
            continue
        block = scenario.privacy
        if block is not None and block.max_epsilon is not None and block.max_epsilon < epsilon:
            problems.append(
                Problem(
                    source,
                    f"privacy.max_epsilon={block.max_epsilon:g} ends a run before it has spent "
                    f"epsilon {epsilon:g}; type also: privacy.max_epsilon=null",
                )
            )
        settings.append(_Setting(source, overrides, scenario, epsilon, reference=False))
    if problems:
        raise InputError(f"scenario {source} is wrong", problems)
    return settings


def _word(epsilon: float) -> str:
    """The override that sets a finite epsilon, the same for 1 and 1.0."""
    return f"{_TARGET}={float(epsilon)!r}"


def _has_block(source: str, words: Sequence[str]) -> bool:
    try:
        return load(source, words).privacy is not None
    except InputError as error:
        try:  # A block may lack nothing but the epsilon that the curve gives it.
            load(source, [*words, _word(1.0)])
        except InputError:
            raise error from None
        return True


def _fixed_noise(source: str, words: Sequence[str]) -> Problem | None:
    """That the noise is given instead of epsilon, and what to type."""
    try:
        block = load(source, words).privacy
    except InputError:  # The epsilon may be missing; all else is said of the cells.
        return None
    if block is None or block.noise_multiplier is None:
        return None
    return Problem(
        source,
        f"{_NOISE}={block.noise_multiplier:g} fixes the noise, but a curve varies epsilon; "
        f"type: fedsim curve {source} {_NOISE}=null",
    )


def _same_names(settings: Sequence[_Setting]) -> list[Problem]:
    """Scenarios that the curve could not tell apart."""
    first: dict[str, str] = {}
    problems = []
    for one in settings:
        name = one.scenario.name
        if first.setdefault(name, one.source) != one.source:
            what = f"its name is {name!r}, as that of {first[name]}; give it another one"
            problems.append(Problem(one.source, what))
    return problems


def _cell(one: _Setting, seed: int) -> Cell:
    name = one.scenario.name
    if not one.reference:
        name += f" epsilon {one.epsilon:g}" if math.isfinite(one.epsilon) else " without privacy"
    return Cell(one.source, one.overrides, seed, one.scenario, f"{name} seed {seed}")
