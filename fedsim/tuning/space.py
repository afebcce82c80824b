"""What is tuned: keys of a scenario, and the values that each may take.

A word is `key=log(low,high)`, `key=uniform(low,high)`, `key=int(low,high)` or `key=choice(a,b)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any, Literal

from fedsim import yaml_lines
from fedsim.errors import InputError, Problem
from fedsim.scenario import Scenario
from fedsim.sweeping.cells import split_values

_SPEC = re.compile(r"\s*(log|uniform|int|choice)\s*\((.*)\)\s*", re.DOTALL)
_DIGITS = 4  # of a number that is drawn from a range: it is typed again
_FORMS = "log(1e-4,1e-1), uniform(0,0.9), int(1,5) or choice(16,32)"
# What would make two trials answers to different questions, or a choice between guarantees.
_DATA = "other data have other validation records"
_GUARANTEE = "it is a choice between guarantees; type: fedsim curve"
_SETTING = {
    "data.split": "another split has other validation records",
    "data": _DATA,
    "evaluation": "trials are compared by one and the same evaluation",
    "federation": "who holds what is the question, and no value to choose",
    "adversary": "what clients do against the training is the question, and no value to choose",
    "faults": "which clients fail is the question, and no value to choose",
    "seeds": "the best of several seeds is luck",
    "resources": "it changes the time, and not the model",
    "name": "it names the runs",
    "privacy.target_epsilon": "less privacy scores better; type: fedsim curve",
    "privacy.noise_multiplier": "less privacy scores better; type: fedsim curve",
    "privacy.delta": "less privacy scores better",
    "privacy.max_epsilon": "less privacy scores better",
    "privacy": _GUARANTEE,
}
# What of these blocks may be tuned.
_TUNED = {
    "data": ("size", "patch", "window", "features"),
    "privacy": (
        "max_grad_norm",
        "expected_batch",
        "filter",
        "augmentations",
        "averaging",
        "physical_batch",
    ),
}


@dataclass(frozen=True)
class Range:
    """A key with all numbers from `low` to `high`, both included.

    Attributes:
        scale: "log" draws the logarithm uniformly, "uniform" the number, "int" a whole number.
    """

    key: str
    low: float
    high: float
    scale: Literal["log", "uniform", "int"]

    def suggest(self, trial: Any) -> str:
        """The value that an Optuna trial suggests, as it is typed."""
        if self.scale == "int":
            return str(trial.suggest_int(self.key, int(self.low), int(self.high)))
        value = trial.suggest_float(self.key, self.low, self.high, log=self.scale == "log")
        rounded = float(f"{value:.{_DIGITS}g}")
        return _typed(min(max(rounded, self.low), self.high))

    def at(self, place: float) -> float:
        """The number at a place, from 0 (the least) to 1 (the largest)."""
        if self.scale == "int":
            count = int(self.high) - int(self.low) + 1
            return int(self.low) + min(int(place * count), count - 1)
        if self.scale == "log":
            value = exp(log(self.low) + place * (log(self.high) - log(self.low)))
        else:
            value = self.low + place * (self.high - self.low)
        return min(max(value, self.low), self.high)

    @property
    def ends(self) -> tuple[str, str]:
        """The least and the largest value, as they are typed."""
        if self.scale == "int":
            return str(int(self.low)), str(int(self.high))
        return _typed(self.low), _typed(self.high)


@dataclass(frozen=True)
class Choice:
    """A key with a list of values, as they are typed."""

    key: str
    values: tuple[str, ...]

    def suggest(self, trial: Any) -> str:
        """The value that an Optuna trial suggests, as it is typed."""
        return str(trial.suggest_categorical(self.key, self.values))

    def at(self, place: float) -> str:
        """The value at a place, from 0 (the first) to 1 (the last)."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]


Dimension = Range | Choice


def first_words(space: Sequence[Dimension]) -> list[str]:
    """Words of the first value of each key."""
    ends = ((one.key, one.values if isinstance(one, Choice) else one.ends) for one in space)
    return [f"{key}={values[0]}" for key, values in ends]


def parse(words: Sequence[str]) -> tuple[list[Dimension], list[str]]:
    """The space, and the words that hold for every trial.

    Args:
        words: "key=value"; those whose value has one of the four forms are the space.

    Raises:
        InputError: with all that is wrong; or nothing is left to tune.
    """
    space: list[Dimension] = []
    fixed: list[str] = []
    problems: list[Problem] = []
    for word in words:
        key, _, value = (part.strip() for part in word.partition("="))
        found = _SPEC.fullmatch(value)
        if found is None:
            fixed.append(word)
            continue
        if why := _refused(key):
            problems.append(Problem(key, f"is not tuned: {why}"))
            continue
        try:
            space.append(_dimension(key, found[1], split_values(found[2])))
        except ValueError as error:
            problems.append(Problem(key, f"{value}: {error}"))
    keys = [one.key for one in space]
    keys += [word.partition("=")[0].strip() for word in fixed]
    problems += [
        Problem(key, "is given twice") for key in dict.fromkeys(keys) if keys.count(key) > 1
    ]
    if not problems and not space:
        raise InputError("nothing to tune", hint=f"give a key its values, such as key={_FORMS}")
    if problems:
        raise InputError("the values to try are wrong", problems, hint=f"expected {_FORMS}")
    return space, fixed


def changes(first: Scenario, other: Scenario) -> str:
    """What another trial's scenario has otherwise than it may, with the reason; "": nothing.

    Words that are none of the keys that are refused by name may change these, too: a block does, or
    a profile.
    """
    key = differs(first, other)
    return f"{key} would change, which is not tuned: {_why(key)}" if key else ""


def differs(first: Scenario, other: Scenario, but: Sequence[str] = ()) -> str:
    """The first key by which two scenarios ask different questions; "": they ask the same.

    Args:
        but: keys that do not count, nor does what lies below them.
    """
    ours, theirs = _questions(first), _questions(other)
    for key in dict.fromkeys((*ours, *theirs)):
        passed = any(f"{key}.".startswith(f"{one}.") for one in but)
        if not passed and ours.get(key) != theirs.get(key):
            return key
    return ""


def _questions(scenario: Scenario) -> dict[str, Any]:
    """Keys and values that are the same in all trials."""
    values = scenario.resolved()
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key.partition(".")[0] for key in _SETTING):
        block = values[key]
        if isinstance(block, dict):
            free = _TUNED.get(key, ())
            found |= {f"{key}.{name}": inner for name, inner in block.items() if name not in free}
        else:
            found[key] = block
    return found


def _refused(key: str) -> str:
    """Why a key is not tuned; "": it may be, as far as its name tells."""
    block, _, rest = key.partition(".")
    if block in _TUNED and (not rest or rest.partition(".")[0] in _TUNED[block]):
        return ""
    return _why(key)


def _why(key: str) -> str:
    """Why a key is the same in all trials; "": it need not be."""
    return next((why for one, why in _SETTING.items() if f"{key}.".startswith(f"{one}.")), "")


def _dimension(key: str, form: str, parts: Sequence[str]) -> Dimension:
    """One key's values; ValueError says what is wrong with them."""
    parts = [part.strip() for part in parts]
    if form == "choice":
        if len(parts) < 2 or "" in parts:
            raise ValueError("expected at least two values, with commas between them")
        if len(set(map(_read, parts))) < len(parts):
            raise ValueError("a value is given twice")
        return Choice(key, tuple(parts))
    if len(parts) != 2:
        raise ValueError("expected two numbers, the least and the largest")
    try:
        low, high = map(int if form == "int" else float, parts)
    except ValueError:
        what = "whole numbers" if form == "int" else "numbers"
        raise ValueError(f"expected two {what}") from None
    if not -float("inf") < low < high < float("inf"):
        raise ValueError("the first number must be below the second one")
    if form == "log" and low <= 0:
        raise ValueError("a logarithm needs numbers above 0")
    return Range(key, low, high, form)  # type: ignore[arg-type]


def _typed(value: float) -> str:
    return yaml_lines.write_value(value)


def _read(text: str) -> str:
    """What tells a value that is typed from others: 0.1 is the same as 0.10."""
    try:
        return repr(yaml_lines.read_value(text, yaml_lines.Place("choice"))[0])
    except InputError:  # The scenario says what is wrong with it.
        return text
