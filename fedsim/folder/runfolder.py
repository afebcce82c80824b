"""The run folder: the truth about a run. A kill leaves whole files and whole lines."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import platform
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.errors import InputError, Problem
from fedsim.files import require_regular, sync
from fedsim.raising import one_line

SCHEMA_VERSION = 1
MODEL, MODELS, CARD = "model.safetensors", "models", "MODEL_CARD.md"
"""The global model; the folder of the clients' own models, where there is none; what is told."""
_FILES = (
    *("run.json", "scenario.yaml", "rounds.jsonl", "traffic.jsonl", "privacy.jsonl"),
    *("summary.json", MODEL, CARD, "predictions.npz", "overlaps.npz", "scores.npz"),
)
_FOLDERS = (
    "checkpoint",
    "history",
    MODELS,
    "report",
    "reconstruction",
    "segmentation",
    "synthetic",
)
_PACKAGES = ("fedsim-medical", "flwr", "ray", "torch", "opacus", "monai", "numpy", "scikit-learn")
_PLAIN = (str, int, bool, type(None))
_NUMBERS = (int, float)
_LINE = 100  # letters
# Of the standard library's temporary files.
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")


def write_whole(path: Path, *parts: bytes | bytearray | memoryview) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is its owner's alone; what a run leaves is for whom the umask lets read.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
        sync(path.parent)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):  # A full disk says nothing of the file.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove, at any depth, what a kill left of files that `write_whole` was writing."""
    for path in folder.rglob(".*"):
        if _UNFINISHED.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
            path.unlink(missing_ok=True)


def write_named(path: Path, data: bytes) -> None:
    """Write a file that a person named: where a link leads, and into a pipe or a device as it is.

    Raises:
        OSError: it cannot be written; a pipe that nobody reads is one.
    """
    try:
        # /dev/stdout may be a file that others write into, too.
        opened = os.path.abspath(path).startswith("/dev/") or not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        opened = False
    if not opened:
        write_whole(Path(os.path.realpath(path)), data)
        return
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK), "wb") as file:
        os.set_blocking(file.fileno(), True)
        file.write(data)


def plain(value: Any) -> Any:
    """The value as JSON allows it: NumPy scalars as numbers, NaN and infinities as null."""
    if type(value) in _PLAIN:  # Nearly all values are.
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def spread(value: Any, margin: str = "") -> str:
    """A plain value as JSON over lines; what holds numbers alone is on one, if it fits.

    A client's records by class are such a line: ten thousand clients are as many lines, and not
    four times as many, and are written by what is fast in `json`.
    """
    if not isinstance(value, dict | list) or not value:
        return json.dumps(value, allow_nan=False)
    if all(type(one) in _NUMBERS for one in (value.values() if type(value) is dict else value)):
        line = json.dumps(value, allow_nan=False)
        if len(line) <= _LINE:
            return line
    deeper = f"{margin}  "
    if isinstance(value, dict):
        items = [f"{deeper}{json.dumps(key)}: {spread(one, deeper)}" for key, one in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{margin}}}"
    return "[\n" + ",\n".join(f"{deeper}{spread(one, deeper)}" for one in value) + f"\n{margin}]"


def line_of(row: Mapping[str, Any]) -> str:
    """A row as a line of a JSONL file."""
    return json.dumps(plain(row), allow_nan=False) + "\n"


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        # A plugin may change the process's folder: that must not move the run.
        self.path = Path(os.path.abspath(path))

    @classmethod
    def create(cls, base: Path, scenario: str, seed: int) -> RunFolder:
        """Make `base/<scenario>/<UTC timestamp>-seed<k>/` and point `latest` at it."""
        parent = base / scenario
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        attempt = 0
        while True:
            suffix = f"-{attempt}" if attempt else ""
            path = parent / f"{stamp}-seed{seed}{suffix}"
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                attempt += 1
            except OSError as error:
                raise InputError(
                    f"cannot write run folders in {base}: {error.strerror}",
                    hint="choose another place: --runs DIR",
                ) from error
        link = parent / "latest"
        try:
            temporary = parent / f".latest-{os.getpid()}"
            temporary.symlink_to(path.name)
            os.replace(temporary, link)
        except OSError:  # File systems without symbolic links: the timestamps tell.
            temporary.unlink(missing_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run folder.

        Raises:
            InputError: it is none, or something in it is neither a file nor a folder: who reads a
                pipe waits for ever.
        """
        if not (path / "run.json").is_file() or not (path / "scenario.yaml").is_file():
            what = "is not a run folder (no run.json)" if path.is_dir() else "does not exist"
            raise InputError(
                f"{path} {what}", hint="run folders lie in runs/<scenario>/; `latest` is the newest"
            )
        if waiting := _no_files(path):
            raise InputError(
                f"{path} holds what no run leaves",
                waiting,
                hint="remove it, or put back the file that the run wrote",
            )
        return cls(path)

    def require_contained(self) -> None:
        """Refuse to write in a folder with links that lead out of it, such as a stranger's."""
        root = os.path.realpath(self.path)
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                if os.path.islink(path) and not _is_below(os.path.realpath(path), root):
                    raise InputError(
                        f"{path} is a link out of the run folder",
                        hint="put a copy in the place of the link; nothing was written",
                    )

    def place(self, name: str) -> Path:
        """Where a file of the folder is written; InputError where that is outside of it."""
        path = self.path / name
        inside = _is_below(os.path.realpath(path.parent), os.path.realpath(self.path))
        if not inside or path.is_symlink():
            raise InputError(f"{name!r} would be written outside of the run folder {self.path}")
        return path

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one line of JSON and flush it."""
        with self.place(name).open("a", encoding="utf-8") as file:
            file.write(line_of(row))

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file whole."""
        write_whole(self.place(name), (spread(plain(value)) + "\n").encode())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file whole."""
        write_whole(self.place(name), text.encode())

    def write_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Write an .npz file of named arrays whole."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_whole(self.place(name), buffer.getvalue())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file; InputError, naming it, where it is missing or damaged."""
        path = self.path / name
        try:
            require_regular(path)
            value = parsed(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(path, error) from error
        if not isinstance(value, dict):
            raise damaged(path, "it holds no JSON object")
        return value

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Read a JSONL file; an unfinished last line (a kill in the middle) is left out.

        Raises:
            InputError: it is damaged; the message names the file and the line.
        """
        path = self.path / name
        if not path.exists():
            return []
        rows = []
        try:
            require_regular(path)
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, ValueError) as error:
            raise damaged(path, error) from error
        for number, line in enumerate(lines, 1):
            try:
                row = parsed(line)
            except (ValueError, RecursionError) as error:
                raise damaged(path, f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise damaged(path, f"line {number} holds no JSON object")
            rows.append(row)
        return rows


def parsed(text: str | bytes) -> Any:
    """JSON as a run writes it.

    Raises:
        ValueError: it is none, or has numbers that no run writes: NaN, infinities, or more digits
            than a seed has.
        RecursionError: it is too deep.
    """
    return json.loads(text, parse_int=_whole, parse_float=_real, parse_constant=_real)


_DIGITS = len(str(2**256)) + 1


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"the number {digits[:_DIGITS]}... is none that a run writes")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:_DIGITS]} is none that a run writes")
    return value


def missing_of(path: Path) -> str:
    """Which of the two files that every run has is missing from a run folder.

    "" where none is, and for folders of anything else or of a run that was ended before it began.
    """
    begun = ("rounds.jsonl", "traffic.jsonl", "summary.json", "checkpoint")
    if (path / "run.json").is_file():
        return "" if (path / "scenario.yaml").is_file() else "scenario.yaml"
    found = (path / "scenario.yaml").is_file() and any((path / name).exists() for name in begun)
    return "run.json" if found else ""


def read_arrays(path: Path, kinds: Mapping[str, str]) -> list[np.ndarray]:
    """Arrays of an `.npz` file that `RunFolder.write_arrays` may have written.

    Args:
        path: the file.
        kinds: names of arrays, and the kinds of dtype that each may have ("iu": whole numbers).

    Raises:
        ValueError: it cannot be read, lacks one, or one is of another kind.
    """
    try:
        require_regular(path)
        with np.load(path, allow_pickle=False) as archive:
            if missing := sorted(set(kinds) - set(archive)):
                raise ValueError(f"it has no {', '.join(missing)}")
            arrays = [archive[name] for name in kinds]
    except Exception as error:  # NumPy and zipfile let many kinds through; each means damage.
        raise ValueError(f"{path.name} cannot be read: {one_line(error)}") from error
    for (name, kind), array in zip(kinds.items(), arrays, strict=True):
        if array.dtype.kind not in kind:
            raise ValueError(f"{path.name}: {name} are of dtype {array.dtype}, which no run writes")
    return arrays


def _no_files(folder: Path) -> list[Problem]:
    """What in a run folder cannot be read or written: a pipe, a folder in a file's place."""
    problems = [
        Problem(str(folder / name), "it is a folder, not a file")
        for name in _FILES
        if (folder / name).is_dir()
    ]
    problems += [
        Problem(str(folder / name), "it is a file, not a folder")
        for name in _FOLDERS
        if (folder / name).is_file()
    ]
    for inside, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            try:
                require_regular(os.path.join(inside, name))
            except OSError as error:
                problems.append(Problem(os.path.join(inside, name), str(error.strerror)))
    return problems


def damaged(where: Path, why: Exception | str) -> InputError:
    """The error of a file of a run folder that is not what a run writes."""
    if isinstance(why, OSError):
        why = why.strerror or why
    return InputError(f"{where} cannot be read: {why}")


def _is_below(path: str, root: str) -> bool:
    """Whether a real path is a real folder, or in it."""
    return path == root or path.startswith(os.path.join(root, ""))


def now() -> str:
    """The time in UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """Versions, code, machine: what a reader needs to judge numbers."""
    return {
        "versions": dict(_versions()),
        "git_commit": _git_commit(),
        "command": sys.argv,
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "mkl_cbwr": os.environ.get("MKL_CBWR"),
    }


@functools.cache
def _versions() -> Mapping[str, str]:
    """Versions of Python and of what numbers depend on; "" where it is not installed."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def _git_commit() -> str | None:
    """The commit of the code that runs, if it runs from a checkout; "+" marks local changes."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        # A checkout of something else around an installed package is not our code.
        if _git(folder, "ls-files", "runfolder.py") != "runfolder.py":
            return None
        return commit + ("+" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def cpu() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
