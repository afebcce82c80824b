"""What reaches a terminal or a spreadsheet: names are text there, and no commands."""

from __future__ import annotations

import ast
import csv
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.cli import main
from fedsim.observers import Run
from fedsim.report.csv_file import cell, csv_bytes
from fedsim.terminal.console import Console
from fedsim.terminal.printing import harmless

EVIL = "\x1b[2J\x1b]0;title\x07 \x9b31m \r\x08 \u202egnp"


def _obeyed(text: str) -> bool:
    return any(c in text for c in "\x1b\x07\x9b\r\x08\u202e")


def test_control_characters_are_written_out() -> None:
    assert harmless("\x1b[31mred") == "\\x1b[31mred"
    assert not _obeyed(harmless(EVIL))
    assert harmless("Charité, 東京\n\tline") == "Charité, 東京\n\tline"
    assert harmless("\ud800").isascii(), "half a pair cannot be printed"


def test_names_and_messages_are_harmless_wherever_they_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    console.line(EVIL)
    console.begin(Run("", "evil", 0, Path(), (EVIL,), 1))
    console.message({"direction": "up", "client": 0, "bytes": 5, "fields": {EVIL: 2000}})
    assert main(["run", f"./{EVIL}.yaml"]) == 2
    assert main(["ls", EVIL]) == 2
    assert main(["run", "isic_iid_fedavg", f"data.name={EVIL!r}"]) == 2
    assert main([EVIL]) == 2
    shown = capsys.readouterr()
    assert shown.out
    assert not _obeyed(shown.out + shown.err)


def test_no_module_prints_past_the_one_door() -> None:
    package = Path(fedsim.__file__).parent
    for file in package.rglob("*.py"):
        if file.name == "printing.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (called and node.func.id == "print"), f"{file}:{node.lineno}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text", ["=cmd()", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "\n=1"]
)
def test_text_that_begins_like_a_formula_is_text_in_a_csv(text: str) -> None:
    (row,) = csv.reader(StringIO(csv_bytes([[text, 1]]).decode(), newline=""))
    assert row == [f"'{text}".replace("\r", "\n"), "1"]


def test_a_csv_that_a_terminal_shows_is_harmless() -> None:
    (row,) = csv.reader(StringIO(csv_bytes([[EVIL, "\x1b=cmd()"]]).decode(), newline=""))
    assert not _obeyed(row[0])
    assert row[1] == "\\x1b=cmd()"


@pytest.mark.parametrize(
    "value", [-1, -0.1, 1e-300, None, "-0.5", "+1e3", "-", "a=b", "client-0", "Charité", ""]
)
def test_numbers_and_ordinary_text_stay(value: Any) -> None:
    assert cell(value) is value


def test_every_csv_is_written_by_the_one_writer() -> None:
    package = Path(fedsim.__file__).parent
    for file in package.rglob("*.py"):
        if file.name != "csv_file.py":
            assert "csv.writer" not in file.read_text(), file
            assert "csv.DictWriter" not in file.read_text(), file
