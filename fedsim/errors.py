"""Errors a person reads: what is wrong, where, why, and what to type next.

Every error fedsim raises on purpose derives from `FedsimError` and carries the exit code of the
command line: 2 when the input is wrong, 1 when the run failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EXIT_DONE = 0
EXIT_RUN_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_AUDIT_VIOLATION = 3
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input.

    `where` is a place a person can open ("file.yaml:12", "command line", a folder);
    `message` says what is wrong there and why.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class FedsimError(Exception):
    """Base of all errors that fedsim raises on purpose."""

    exit_code = EXIT_RUN_FAILED


class InputError(FedsimError):
    """The input is wrong: command line, scenario, plugin, data on disk or resume folder.

    `headline` says what is wrong, `problems` list all of it at once, `hint` is what to type next.
    """

    exit_code = EXIT_WRONG_INPUT
    # With headline, hint and the line that counts the rest, a message stays within 40 lines.
    shown = 30

    def __init__(self, headline: str, problems: Sequence[Problem] = (), hint: str = "") -> None:
        self.headline = headline
        self.problems = tuple(problems)
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.headline]
        lines += [f"  {problem}" for problem in self.problems[: self.shown]]
        if len(self.problems) > self.shown:
            lines.append(f"  ... and {len(self.problems) - self.shown} more")
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


def problems_of(error: InputError, where: str = "") -> list[Problem]:
    """What an error says, as problems of a longer list."""
    return list(error.problems) or [Problem(where, error.headline)]


class RunError(FedsimError):
    """The run failed although its input was right."""


class DivergedError(RunError):
    """A model's predictions are not numbers."""

    def __init__(self) -> None:
        super().__init__(
            "the model diverged: its predictions are NaN or infinite; try a smaller learning rate"
        )


class ClientError(RunError):
    """A client raised. Carries the client's own traceback, headed by client, site and round."""

    def __init__(self, client: int, site: str, round: int, traceback: str) -> None:
        self.client, self.site, self.round, self.traceback = client, site, round, traceback
        super().__init__(str(self))

    def __str__(self) -> str:
        return (
            f"client {self.client} (site {self.site!r}) failed in round {self.round}:\n"
            f"{self.traceback.rstrip()}"
        )


class Interruption(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, as the command line raises it.

    Where the plain KeyboardInterrupt leaves an `exec` of a string (SciPy runs many on import),
    Python 3.11 ends the process by SIGINT at exit although it was caught; a subclass escapes that.
    It also tells a person's Ctrl-C from a KeyboardInterrupt that a plugin raises.
    """


_LISTED, _FIRST = 60, 8  # names that are all told, and how many of more


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest valid name, or the list of the valid ones.

    Where several names end in this one as a word, all of them are told: `epsilon` may be any of
    `max_epsilon` and `target_epsilon`. Of many, such as the records of a data set, the first ones
    are listed.
    """
    valid = sorted(valid)
    ends = [one for one in valid if one.endswith(f"_{name}")]
    if 1 < len(ends) <= _FIRST:
        return f" (did you mean {' or '.join(map(repr, ends))}?)"
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {close[0]!r}?)"
    shown = valid if len(valid) <= _LISTED else valid[:_FIRST]
    more = f" and {len(valid) - len(shown)} more" if len(shown) < len(valid) else ""
    return f" (valid: {', '.join(shown)}{more})" if valid else ""
