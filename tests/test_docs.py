"""The documentation is run: its files, commands and tables are compared with the code."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedsim import registry as registry_module
from fedsim.cli import main

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:-\d+)?")


@dataclass(frozen=True)
class Command:
    """One typed command, the output that the page promises, and its exit code."""

    words: list[str]
    expected: list[str]
    code: int


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page."""
    return FENCE.findall((DOCS / page).read_text(encoding="utf-8"))


def files_of(page: str) -> dict[str, str]:
    """Path -> text of the blocks that begin with `# file: path`."""
    found = {}
    for _, text in blocks(page):
        first, _, rest = text.partition("\n")
        if first.startswith("# file: "):
            found[first.removeprefix("# file: ")] = rest
    return found


def commands_of(page: str) -> list[Command]:
    """The commands of the console blocks, in order."""
    found = []
    for language, text in blocks(page):
        if language != "console":
            continue
        for part in text.split("$ fedsim ")[1:]:
            typed, *lines = part.splitlines()
            codes = [int(line.split()[-1]) for line in lines if line.startswith("# exit code")]
            expected = [line for line in lines if not line.startswith("# exit code")]
            found.append(Command(shlex.split(typed), expected, codes[0] if codes else 0))
    return found


def pattern(expected: list[str]) -> str:
    """A regular expression for output: any number for a number, any lines for `...`."""
    parts = []
    for line in expected:
        if line == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            literal = [re.escape(text) for text in NUMBER.split(line)]
            parts.append(NUMBER.pattern.join(literal) + r"\n")
    return "".join(parts)


def typed(words: list[str]) -> tuple[int, str]:
    """Exit code and all output of a command."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main(words)
    return code, text.getvalue()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files of `authoring.md`; its package is found as if it were installed."""
    folder = tmp_path_factory.mktemp("workshop")
    files = files_of("authoring.md")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    package = folder / "my-methods"
    (package / "my_methods").mkdir()
    (package / "my_methods" / "__init__.py").touch()
    (package / "my_methods" / "trimmed_mean.py").write_text(files["methods/trimmed_mean.py"])
    install(package)

    path, modules, threads = list(sys.path), set(sys.modules), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEDSIM_CACHE", str(folder / "cache"))
        patch.delenv("FEDSIM_DATA", raising=False)
        patch.syspath_prepend(package)
        registry_module.default_registry.cache_clear()
        torch.set_num_threads(1)
        yield folder
    torch.set_num_threads(threads)
    registry_module.default_registry.cache_clear()
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if origin.startswith(str(folder)):
            del sys.modules[name]


def install(package: Path) -> None:
    """Write beside a package what its installation would: name, version and entry points."""
    about = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    metadata = package / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    metadata.mkdir()
    head = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    (metadata / "METADATA").write_text(head)
    lines = []
    for group, entries in about["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("command", commands_of("authoring.md"), ids=lambda c: " ".join(c.words))
def test_a_command_prints_what_the_page_says(command: Command, workshop: Path) -> None:
    code, output = typed(command.words)
    assert re.fullmatch(pattern(command.expected), output), output
    assert code == command.code
    promised = re.search(r"^test: AUC ([\d.]+)", "\n".join(command.expected), re.MULTILINE)
    if promised:
        found = re.search(r"^test: AUC ([\d.]+)", output, re.MULTILINE)
        assert found is not None
        # The page's numbers are of another processor; what counts is that the methods learn.
        assert float(found[1]) > 0.6
        assert float(found[1]) == pytest.approx(float(promised[1]), abs=0.05)
