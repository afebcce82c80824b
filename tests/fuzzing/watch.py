"""Runs a command in a box and looks for what must not happen."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim import cli
from tests.fuzzing.kinds import Box, Input

LINES = 40
_CODES = (0, 1, 2, 3, 130)
_MEMORY = 12 * 1024**3
_FILE = 1024**3
# What libraries keep at home, whoever uses them; torch keeps a folder in TMPDIR, too.
_LIBRARIES = (".cache/matplotlib", ".config/matplotlib", ".flwr", ".cache/torch", ".triton")


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: its exit code; negative: minus the signal that ended it; None: it did not end.
        out, err: what it printed.
        left: whether processes of it were still there a second later.
    """

    code: int | None
    out: str
    err: str
    left: bool = False


Main = Callable[[Sequence[str]], int]


def run_forked(words: Sequence[str], box: Box, limit: float, main: Main = cli.main) -> Outcome:
    """Run a command in a fork of this warm process.

    Args:
        words: of the command line.
        box: its folders.
        limit: seconds of computing until it is stopped; a third of it if it does nothing.
        main: what runs the command.
    """
    printed = [box.root.parent / f"{box.root.name}.{end}" for end in ("out", "err")]
    child = os.fork()
    if child == 0:
        code = 99
        try:
            _enter(box, printed)
            code = main(words)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code & 0xFF)
    patience = _Patience(child, limit)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return _outcome(os.waitstatus_to_exitcode(status), printed, child)
        if patience.ended():
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return _outcome(None, printed, child)
        time.sleep(0.01)


class _Patience:
    """How long to wait for a process: on a busy machine what counts is what it has computed."""

    def __init__(self, process: int, limit: float) -> None:
        self._stat, self._limit = Path(f"/proc/{process}/stat"), limit
        self._begun = self._moved = time.monotonic()
        self._spent = 0.0

    def ended(self) -> bool:
        """Whether it has computed for longer than the limit, or long done nothing."""
        now = time.monotonic()
        try:
            # After the name, in brackets: the user's and the system's ticks are 12th and 13th.
            fields_ = self._stat.read_text().rpartition(")")[2].split()
            spent = (int(fields_[11]) + int(fields_[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError):  # No such file system: time itself counts.
            return now - self._begun > self._limit
        if spent > self._spent:
            self._spent, self._moved = spent, now
        return spent > self._limit or now - self._moved > self._limit / 3


def run_process(words: Sequence[str], box: Box, limit: float) -> Outcome:
    """Run a command in a process of its own, as a person does."""
    printed = [box.root.parent / f"{box.root.name}.{end}" for end in ("out", "err")]
    with printed[0].open("wb") as out, printed[1].open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedsim", *words],
            cwd=box.work,
            env=os.environ | _environment(box),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        patience = _Patience(process.pid, limit)
        while (code := process.poll()) is None and not patience.ended():
            time.sleep(0.05)
        if code is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return _outcome(code, printed, process.pid)


def _environment(box: Box) -> dict[str, str]:
    return {
        "HOME": str(box.home),
        "TMPDIR": str(box.temporary),
        "FEDSIM_CACHE": str(box.cache),
        "COLUMNS": "100",
    }


def _enter(box: Box, printed: Sequence[Path]) -> None:
    """Make the child what a new process would be."""
    os.setsid()
    os.chdir(box.work)
    os.environ.update(_environment(box))
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(printed, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    # Under pytest these are others.
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _outcome(code: int | None, printed: Sequence[Path], group: int) -> Outcome:
    left = False
    for _ in range(20):
        left = _group_lives(group)
        if not left:
            break
        time.sleep(0.05)
    if left:
        os.killpg(group, signal.SIGKILL)
    out, err = (path.read_text(errors="replace") for path in printed)
    for path in printed:
        path.unlink()
    return Outcome(code, out, err, left)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def snapshot(root: Path) -> dict[Path, str]:
    """Everything below a folder: what it is, and what is in it."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found[path] = hashlib.sha1(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(mode):
                found[path] = f"link to {os.readlink(path)}"
            else:
                found[path] = stat.filemode(mode)[0]
    return found


def changes(before: dict[Path, str], after: dict[Path, str], box: Box, one: Input) -> list[str]:
    """What appeared, changed or vanished where nothing may."""
    allowed = (box.runs, box.out, box.cache, *one.writes)
    allowed += tuple(box.home / name for name in _LIBRARIES)
    allowed += tuple(path for path in after if path.name.startswith("torchinductor_"))
    found = []
    for path in sorted({*before, *after}):
        if before.get(path) == after.get(path):
            continue
        if any(path == place or place in path.parents for place in allowed):
            continue
        if any(path in place.parents for place in allowed) and path not in before:
            continue  # A folder on the way to one of a library's.
        where = path.relative_to(box.root)
        what = "appeared" if path not in before else "vanished" if path not in after else "changed"
        place = "input" if box.given in path.parents else "outside"
        found.append(f"{place}: {where} {what}")
    return found


def findings(one: Input, outcome: Outcome, changed: Sequence[str]) -> list[str]:
    """What is wrong with how a command ended: a kind and a few words each."""
    found = []
    printed = outcome.out + outcome.err
    if outcome.code is None:
        found.append("hang: it did not end in time")
    elif outcome.code not in _CODES:
        found.append(f"exit code: {outcome.code}")
    if "Traceback (most recent call last)" in printed:
        last = [line for line in printed.splitlines() if line[:1].strip()]
        found.append(f"traceback: {last[-1][:160] if last else ''}")
    if "a fault in fedsim" in printed:
        line = next((text for text in outcome.err.splitlines() if text.startswith("error")), "")
        found.append(f"fault in fedsim: {line[:160]}")
    told = printed if outcome.code == 2 else outcome.err
    if (count := len(told.splitlines())) > LINES:
        found.append(f"long output: {count} lines")
    if outcome.left:
        found.append("orphans: processes were left behind")
    if outcome.code == 2 and "error:" not in outcome.err:
        found.append("silent: exit code 2 without a sentence")
    return found + list(changed[:5])
