"""YAML of anybody's hand: one reader, which comes to an end and names the file."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import fedsim
from fedsim import InputError
from fedsim.yaml_lines import MOST_BYTES, read_file
from tests.yaml_bombs import YAML_BOMBS

HOME = Path(fedsim.__file__).parent
READER = HOME / "yaml_lines.py"


@pytest.mark.parametrize("bomb", YAML_BOMBS)
def test_a_file_that_grows_without_end_is_refused_by_its_name(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("name: x\n" + YAML_BOMBS[bomb])
    with pytest.raises(InputError) as caught:
        read_file(path)
    assert all(problem.where.startswith(f"{path}:") for problem in caught.value.problems)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: \xff", "not UTF-8 text"),
        (b"#" * (MOST_BYTES + 1), "longer than"),
        (b"- a", "is not a block of keys"),
        (b"", "is empty"),
        (b"a: 1\nb: 2\na: 3", "some.yaml:3: 'a' is already set in line 1"),
        (b"a: {<<: {b: 1}}", "some.yaml:1: '<<' merges another block"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(
    content: bytes, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)) as caught:
        read_file(path)
    assert told in str(caught.value)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none", "."):
        with pytest.raises(InputError, match=r"cannot be read: \w"):
            read_file(tmp_path / name)


def test_a_file_is_read_as_it_looks(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("\ufeffrate: 1e-3\nsame: &a [1, 2]\nagain: *a\n", encoding="utf-8")
    assert read_file(path) == {"rate": 0.001, "same": [1, 2], "again": [1, 2]}


def plain_reads(source: str) -> list[int]:
    """The lines of a module that read YAML by PyYAML itself, whatever the import calls it."""
    tree = ast.parse(source)
    modules, functions = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {one.asname or "yaml" for one in node.names if one.name == "yaml"}
        elif isinstance(node, ast.ImportFrom) and node.module == "yaml":
            functions |= {one.asname or one.name for one in node.names if _reads(one.name)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in functions)
        or (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
            and _reads(node.attr)
        )
    ]


def _reads(name: str) -> bool:
    return any(part in name.lower() for part in ("load", "compose", "parse", "scan"))


def test_plain_reads_are_found() -> None:
    assert plain_reads("import yaml\nyaml.safe_load('a')\nyaml.dump(1)\n") == [2]
    assert plain_reads("import yaml as y\ny.load_all('a', y.CSafeLoader)\n") == [2, 2]
    assert plain_reads("from yaml import safe_load as read\nread('a')\n") == [2]
    assert plain_reads("import json\njson.load(None)\n") == []
    assert plain_reads(READER.read_text(encoding="utf-8"))


def test_nothing_else_in_the_package_reads_yaml() -> None:
    sources = sorted({*HOME.rglob("*.py")} - {READER})
    assert len(sources) > 200
    found = [
        f"{path.relative_to(HOME)}:{line}"
        for path in sources
        for line in plain_reads(path.read_text(encoding="utf-8"))
    ]
    assert found == [], "fedsim.yaml_lines reads YAML that others may have written"
