"""`--seeds` and `--seed` of the verbs that run several: one meaning for all of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from fedsim.errors import InputError, Problem
from fedsim.yaml_lines import MOST_BITS


def seed_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --seeds and --seed; `default` is said in the help."""
    parser.add_argument(
        "--seeds",
        nargs="+",
        metavar="K",
        help="one number is a count, 3 is the seeds 0 1 2; several are the seeds themselves; "
        f"default: {default}",
    )
    parser.add_argument("--seed", type=int, metavar="K", help="this seed alone")


def seeds_of(arguments: argparse.Namespace) -> tuple[list[int], list[str]]:
    """The seeds that were asked for, none: not said; and the words that belong elsewhere.

    --seeds takes all words behind it.

    Raises:
        InputError: it names no seeds, or too many.
    """
    if arguments.seed is not None:
        if arguments.seeds:
            raise InputError("--seed and --seeds: give one of them")
        return [seed_of(str(arguments.seed))], []
    seeds: list[int] = []
    words: list[str] = []
    problems = []
    for part, word in parts_of(arguments.seeds):
        if part.isdecimal():
            seeds.append(seed_of(part))
        elif re.fullmatch(r"-?\d*\.?\d+", part):
            problems.append(Problem("--seeds", f"{part}: expected a whole number, at least 0"))
        else:
            words += [word] if word not in words else []
    if arguments.seeds and not seeds and not problems:
        what = f"{arguments.seeds[0]!r}: expected a count, such as 3, or seeds, such as 0 1 2"
        problems.append(Problem("--seeds", what))
    if seeds == [0]:
        what = "0: one number is a count; the seed 0 alone: --seed 0, or --seeds 1"
        problems.append(Problem("--seeds", what))
    if problems:
        raise InputError("the options do not fit", problems, hint="such as: --seeds 0 1 2")
    return _counted(seeds) if len(seeds) == 1 else seeds, words


def seed_of(digits: str) -> int:
    """A seed as it was typed; InputError for one that no scenario can name."""
    if len(digits) > len(str(2**MOST_BITS)):
        shown = f"{digits[:12]}... ({len(digits)} digits)"
        raise InputError(f"--seeds {shown}: expected at most {MOST_BITS} bits")
    if digits.startswith("-"):
        raise InputError(f"--seed {digits}: expected a whole number, at least 0")
    return int(digits)


def parts_of(words: Sequence[str] | None) -> list[tuple[str, str]]:
    """The words, those that list values with commas divided; each with the word it is of."""
    found = []
    for word in words or ():
        parts = [word] if "=" in word else word.split(",")
        found += [(part, word) for part in parts if part]
    return found


def _counted(seeds: Sequence[int]) -> list[int]:
    """The first so many seeds."""
    from fedsim.sweeping.cells import require_number

    (count,) = seeds
    require_number(count)
    return list(range(count))


def note(arguments: argparse.Namespace, seeds: Sequence[int]) -> str:
    """What a single number stands for; "" where there is none."""
    if seeds != list(range(len(seeds))) or str(len(seeds)) not in (arguments.seeds or ()):
        return ""
    count = len(seeds)
    told = "the seed 0" if count == 1 else f"the seeds 0 to {count - 1}"
    return f"--seeds {count}: {told}; a number alone is a count. The seed {count}: --seed {count}"
