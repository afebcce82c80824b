# PYTHON_ARGCOMPLETE_OK
"""The command line: `fedsim VERB ...`. Bare `fedsim` prints help.

Exit codes: 0 done; 1 the run failed; 2 the input is wrong; 3 an audit found a violation;
130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from fedsim import __version__
from fedsim.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_RUN_FAILED,
    FedsimError,
    InputError,
    Interruption,
    Problem,
    nearest,
)
from fedsim.raising import TWICE_SECONDS, forget_signals, interrupted, note_signal, one_line
from fedsim.terminal.completion import complete
from fedsim.terminal.printing import error, say
from fedsim.verbs import (
    Verbs,
    audit,
    bench,
    check_plugin,
    clean,
    compare,
    curve,
    data,
    export,
    forget,
    league,
    new,
    plugins,
    predict,
    pretrain,
    probe,
    report,
    run,
    scenarios,
    start,
    sweep,
    tune,
    watch,
    weights,
)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are fedsim's."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, hint=f"type: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    finally:
        forget_signals()


def command() -> NoReturn:
    """`main`, and the end of the process.

    Python looks through all objects once more as it ends, which takes more than a second with
    PyTorch; none of them is garbage that matters now. What is registered to run at the end runs.
    """
    code = main()
    gc.freeze()
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    verbose = "-v" in arguments or "--verbose" in arguments
    _interruptions.clear()
    with contextlib.suppress(ValueError):  # Not in the main thread.
        # A batch system ends jobs with SIGTERM: the same orderly stop as Ctrl-C.
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
    parsed = None
    try:
        parsed = _parse(arguments)
        command: Callable[[argparse.Namespace], int] = parsed.command
        return command(parsed)
    except FedsimError as error:
        return _fail(str(error), error.exit_code, verbose)
    except KeyboardInterrupt as interrupt:
        go_on = f"; to go on, type: fedsim run --resume {interrupt}" if str(interrupt) else ""
        return _fail(f"interrupted{go_on}", EXIT_INTERRUPTED, verbose)
    except BrokenPipeError:  # `fedsim ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        if error.errno not in _DISK | _NAMES or error.filename is None:
            return _fault(error, verbose)
        code = EXIT_RUN_FAILED if error.errno in _DISK else InputError.exit_code
        return _fail(f"{error.filename}: {error.strerror}", code, verbose)
    except BaseException as error:
        if parsed is None and isinstance(error, SystemExit):  # `fedsim --help`
            raise
        if interrupted(error):
            return _fail("interrupted", EXIT_INTERRUPTED, verbose)
        return _fault(error, verbose)


# What a disk, a file system or a mode says; it is nobody's fault in code.
_DISK = {
    *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ENOSPC),
    *(errno.ENOTDIR, errno.EPERM, errno.EROFS),
}
# What a file system says of a name that cannot be one.
_NAMES = {errno.ELOOP, errno.ENAMETOOLONG}
_interruptions: list[float] = []


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop in good order; at once, where a person asks for the second time."""
    _interruptions.append(time.monotonic())
    note_signal(number)
    if len(_interruptions) > 1:
        if _interruptions[-1] - _interruptions[0] < TWICE_SECONDS:
            return
        # Not as an exception: it would fall into what closes the run, and leave a traceback.
        os.write(2, b"error: interrupted again; ended at once\n")
        os._exit(EXIT_INTERRUPTED)
    raise Interruption


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse; overrides may stand before, between and after options."""
    parser, verbs = _parser()
    complete(parser)
    first = arguments[0] if arguments else "--help"
    if not first.startswith("-") and first not in verbs.names:
        raise InputError(
            f"there is no verb {first!r}{nearest(first, verbs.names)}", hint="type: fedsim --help"
        )
    if not arguments:
        parser.print_help()
        raise SystemExit(EXIT_DONE)
    parsed, rest = parser.parse_known_args(arguments)
    if "overrides" in parsed:
        parsed.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        raise _not_understood(rest, first, verbs.options(first))
    return parsed


def _not_understood(words: Sequence[str], verb: str, options: Sequence[str]) -> InputError:
    """What is wrong with options that a verb does not have, each with the nearest that it has."""
    problems = []
    for word in words:
        name = word.partition("=")[0]
        # `-s` is short for what begins with it.
        short = [option for option in options if len(name) == 2 and option[2] == name[1]]
        near = f" (did you mean {short[0]!r}?)" if len(short) == 1 else nearest(name, options)
        problems.append(Problem(name, f"{verb} has no such option{near}"))
    return InputError("not understood", problems, hint=f"type: fedsim {verb} --help")


def _fault(error: BaseException, verbose: bool) -> int:
    text = f"{one_line(error)}\na fault in fedsim or in a plugin; -v shows where"
    return _fail(text, EXIT_RUN_FAILED, verbose)


def _fail(text: str, code: int, verbose: bool) -> int:
    if verbose:
        say(traceback.format_exc(), end="", file=sys.stderr)
    error(text)
    return code


_NEXT = """\
to begin:
  fedsim ls                       the experiments that ship with fedsim
  fedsim run isic_noniid_gdd      run one, some minutes; no data and no network are needed
  fedsim compare runs             the table of all that was run

fedsim VERB --help tells what a verb takes.
"""


def _parser() -> tuple[argparse.ArgumentParser, Verbs]:
    """The parser, and the verbs it knows."""
    parser = _Parser(
        prog="fedsim",
        description="Federated and privacy-preserving learning in medical imaging, simulated.",
        epilog=_NEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fedsim {__version__}")
    verbs = Verbs(parser)
    running = (start, scenarios, pretrain, run, forget, sweep, tune, league, curve, audit)
    looking = (watch, compare, probe, report, predict, export)
    own = (data, weights, plugins, new, check_plugin)
    for module in (*running, *looking, clean, *own, bench):
        module.add(verbs)
    return parser, verbs


if __name__ == "__main__":
    command()
