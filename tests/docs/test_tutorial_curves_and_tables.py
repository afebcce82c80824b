"""The tutorial on tables and curves: what it says is typed in an empty folder, in its order."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_docs import Command, blocks, commands_of, files_of, pattern, typed

PAGE = "tutorials/curves-and-tables.md"
# In the background of a shell without a terminal tests ignore Ctrl-C, and so would their child.
STARTER = """\
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from fedsim.cli import main
raise SystemExit(main())
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder."""
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEDSIM_CACHE", str(folder / "cache"))
        patch.setenv("COLUMNS", "110")
        patch.delenv("FEDSIM_DATA", raising=False)
        yield folder


def plain(text: str) -> str:
    """Text without what a number's length, sign or spread decides, times and digests."""
    text = re.sub(r"\+-\d+(\.\d+)?| ~", "", text)
    text = re.sub(r"(, \d[\d.]* (?:s|min|h))(?:; about .* left)?$", ", TIME", text, flags=re.M)
    # A log is named by a digest of all keys that there are.
    text = re.sub(r"(seed\d+)-[0-9a-f]{12}\.log", r"\1-DIGEST.log", text)
    text = re.sub(r"[+-](?=\d)", "±", text)
    text = re.sub(r"-{4,}", "----", text)
    return re.sub(r"^ +| +$", "", re.sub(r" {2,}", " ", text), flags=re.M)


def interrupted(words: list[str]) -> tuple[int, str]:
    """Exit code and output of a command that gets Ctrl-C after its first result."""
    child = subprocess.Popen(
        [sys.executable, "-c", STARTER, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line)
        if re.match(r"\[1/6\] .*: auc ", line):
            child.send_signal(signal.SIGINT)
            lines.append("^C\n")
    return child.wait(), "".join(lines)


def finished() -> dict[str, int]:
    """Folder -> when its record was last written (ns), of the finished runs."""
    found = {}
    for record in Path("runs/rates").glob("*-seed*/run.json"):
        if json.loads(record.read_text())["status"] == "done":
            found[record.parent.name] = record.stat().st_mtime_ns
    return found


def check(command: Command) -> None:
    """Type a command, and compare what it prints with the page."""
    code, output = (interrupted if "^C" in command.expected else typed)(command.words)
    assert code == command.code, output
    expected = plain("\n".join(command.expected) + "\n").splitlines()
    assert re.fullmatch(pattern(expected), plain(output)), output


def test_the_page_from_its_first_line_to_its_last(desk: Path) -> None:
    for name, text in files_of(PAGE).items():
        Path(name).write_text(text)
    commands = commands_of(PAGE)
    assert [c.words[0] for c in commands] == [
        *("sweep", "sweep", "sweep", "watch", "compare", "curve", "report"),
    ]
    forecast, first, again, *others = commands
    check(forecast)
    assert not Path("runs").exists()
    assert first.words == again.words
    check(first)
    before = finished()
    assert len(before) == 1
    check(again)
    after = finished()
    assert len(after) == 6
    assert before.items() <= after.items()
    assert len(list(Path("runs/rates/sweep-logs").glob("*.log"))) == 6
    (page,) = Path("runs/sweeps").glob("*.html")
    for command in others:
        check(command)
    assert len(finished()) == 8
    assert after.items() <= finished().items()
    for value in ("0.01", "0.1"):
        assert f"client.learning_rate={value}" in page.read_text()
        assert rf"FedAvg client.learning\_rate={value} &" in Path("table.tex").read_text()
    curve = Path("runs/curves/rates/index.html")
    assert 10_000 < curve.stat().st_size < 3_000_000
    assert len(Path("runs/curves/rates/curve.csv").read_text().splitlines()) == 4
    # In the same test: on its own, in another order, there would be no runs.
    if importlib.util.find_spec("pandas") is not None:
        the_runs_are_a_frame()


def the_runs_are_a_frame() -> None:
    """Run the page's Python."""
    (code,) = [text for language, text in blocks(PAGE) if language == "python"]
    names: dict[str, Any] = {}
    exec(compile(code, PAGE, "exec"), names)
    assert len(names["runs"]) == 8
