"""Code of plugins may raise anything: what a run says of it, in few words.

`SystemExit`, `GeneratorExit` and every other exception of a plugin are failures like any other, so
that no plugin chooses a run's exit code. What a person sends, Ctrl-C or SIGTERM, still interrupts.
"""

from __future__ import annotations

import contextlib
import signal
import traceback
from collections.abc import Iterator

from fedsim.errors import FedsimError, Interruption, RunError

_FRAMES = 8  # the innermost ones of each exception of a chain
_LINES, _CHARACTERS = 30, 300  # of a traceback
_HEAD = 10  # lines that are kept before those left out


@contextlib.contextmanager
def plugin_code(what: str) -> Iterator[None]:
    """Run a plugin's code; what it raises becomes a RunError that begins with `what`."""
    try:
        yield
    except FedsimError:
        raise
    except BaseException as error:
        reraise_interruption(error)
        raise RunError(f"{what}:\n{short_traceback(error)}") from error


def reraise_interruption(error: BaseException) -> None:
    """Raise `error` if a person sent it; a KeyboardInterrupt that a plugin raises is its own.

    Where Python's own handler of Ctrl-C is in force, as in a notebook, the two look alike and the
    person is believed. An error that took an interruption's place is one.
    """
    if isinstance(error, Interruption):
        raise error
    if interrupted(error):
        raise Interruption from error
    if isinstance(error, KeyboardInterrupt):
        with contextlib.suppress(ValueError):
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                raise error


_signals: list[int] = []
TWICE_SECONDS = 1.0
"""make and timeout tell their child, and its whole group besides: what comes within so many seconds
of the first signal is the same interruption."""


def note_signal(number: int) -> None:
    """A person asked this process to stop: what ends it from here on is that."""
    _signals.append(number)


def forget_signals() -> None:
    """A command has ended."""
    _signals.clear()


def interrupted(error: BaseException) -> bool:
    """Whether a person's interruption ended what raised this.

    A compiled module that is interrupted while it is imported raises an ImportError in the place of
    what it was sent; a plugin may do the like. Where an interruption was lost in foreign code, what
    fails next, such as a Ray that got the same signal, fails because of it.
    """
    if _signals:
        return True
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        if isinstance(at, Interruption):
            return True
        seen.add(id(at))
        at = at.__cause__ or at.__context__
    return False


def one_line(error: BaseException) -> str:
    """An exception's class and message, in one line of a readable length.

    A message that cannot be made, or that never ends, is no further failure.
    """
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    return _cut(text.removeprefix(f"{type(error).__module__}."))


def short_traceback(error: BaseException) -> str:
    """An exception's traceback: the innermost calls, and no more lines than a person reads."""
    found = traceback.TracebackException.from_exception(error, limit=-_FRAMES, compact=True)
    lines = [_cut(line) for line in "".join(found.format()).splitlines()]
    if len(lines) > _LINES:
        left_out = len(lines) - _LINES
        tail = lines[_HEAD - _LINES :]
        lines = [*lines[:_HEAD], f"  ... {left_out} lines are left out ...", *tail]
    return "\n".join(lines)


def _cut(line: str) -> str:
    if len(line) <= _CHARACTERS:
        return line
    return f"{line[:_CHARACTERS]}... ({len(line)} characters)"
