"""The fuzzer: it finds what was planted, draws the same inputs each time, and some of them pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.fuzz import kind_of, numbers_of, try_input, warm
from tests.fuzzing.bank import make_bank
from tests.fuzzing.kinds import KINDS, Box, Input, draw
from tests.fuzzing.watch import changes, findings, run_forked, run_process, snapshot


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bank(tmp_path_factory.mktemp("fuzz") / "bank", ["tiny"])


@pytest.fixture
def box(tmp_path: Path) -> Box:
    (tmp_path / "root").mkdir()
    made = Box.make(tmp_path / "root")
    (made.given / "s.yaml").write_text("name: s\n")
    return made


def found(main: Callable[[Sequence[str]], int], box: Box, limit: float = 30.0) -> list[str]:
    """The kinds of what is found where a command does what `main` does."""
    one = Input("planted", ["verb"])
    before = snapshot(box.root)
    outcome = run_forked(one.words, box, limit, main)
    told = findings(one, outcome, changes(before, snapshot(box.root), box, one))
    return sorted({text.partition(":")[0] for text in told})


def say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def write(path: Path, content: str = "x") -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return 0


def test_what_is_right_is_no_finding(box: Box) -> None:
    assert found(lambda words: say("error: no such file\ntype: fedsim ls", 2), box) == []
    assert found(lambda words: say("error: the client raised", 1), box) == []
    assert found(lambda words: write(box.runs / "s" / "run.json"), box) == []
    assert found(lambda words: write(box.cache / "store"), box) == []


def test_a_traceback_is_found(box: Box) -> None:
    assert found(lambda words: 1 // 0, box) == ["traceback"]


def test_a_fault_is_found(box: Box) -> None:
    told = "error: KeyError: 'x'\na fault in fedsim or in a plugin; -v shows where"
    assert found(lambda words: say(told, 1), box) == ["fault in fedsim"]


def test_a_hang_is_found_and_ended(box: Box) -> None:
    def hang(words: Sequence[str]) -> int:
        signal.pause()
        return 0

    assert found(hang, box, limit=0.5) == ["hang"]


@pytest.mark.parametrize("code", [4, 99, 255])
def test_another_exit_code_is_found(box: Box, code: int) -> None:
    assert found(lambda words: code, box) == ["exit code"]


def test_a_crash_is_found(box: Box) -> None:
    def crash(words: Sequence[str]) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert found(crash, box) == ["exit code"]


def test_more_than_forty_lines_are_found(box: Box) -> None:
    assert found(lambda words: say("error: x" + "\n  y" * 39, 2), box) == []
    assert found(lambda words: say("error: x" + "\n  y" * 40, 2), box) == ["long output"]
    assert found(lambda words: say("warning\n" * 41, 0), box) == ["long output"]


def test_an_exit_without_a_sentence_is_found(box: Box) -> None:
    assert found(lambda words: 2, box) == ["silent"]


@pytest.mark.parametrize("place", ["home/x", "temporary/x", "work/x", "../x", "../../../x", "x"])
def test_a_file_outside_is_found(box: Box, place: str) -> None:
    path = box.runs.parent / place
    assert found(lambda words: write(path), box) == ["outside"]


@pytest.mark.parametrize("what", ["changed", "vanished", "appeared"])
def test_a_changed_input_is_found(box: Box, what: str) -> None:
    def main(words: Sequence[str]) -> int:
        if what == "changed":
            return write(box.given / "s.yaml", "name: t\n")
        if what == "appeared":
            return write(box.given / "t.yaml")
        (box.given / "s.yaml").unlink()
        return 0

    assert found(main, box) == ["input"]


def test_a_process_that_is_left_behind_is_found(box: Box) -> None:
    def leave(words: Sequence[str]) -> int:
        subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        return 0

    assert found(leave, box) == ["orphans"]


def test_a_process_of_its_own_is_watched_alike(box: Box) -> None:
    before = snapshot(box.root)
    outcome = run_process(["check", "nowhere.yaml"], box, 60)
    assert outcome.code == 2
    one = Input("planted", [])
    assert findings(one, outcome, changes(before, snapshot(box.root), box, one)) == []


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_input_is_the_same_each_time(kind: str, bank: Path, tmp_path: Path) -> None:
    made = []
    for number in range(3):
        # A path as long, so that it is the same in every byte.
        root = tmp_path / "root"
        for attempt in "ab":
            root.mkdir()
            one = draw(number, 0, kind, bank, Box.make(root))
            made.append((one.words, snapshot(root)))
            root.rename(tmp_path / f"{number}{attempt}")
    assert made[0] == made[1]
    assert made[2] == made[3]
    assert made[4] == made[5]
    assert any(made[k] != made[0] for k in (2, 4))


def test_workers_share_the_inputs_out() -> None:
    workers = [numbers_of(worker, 2) for worker in (0, 1)]
    first = [[next(numbers) for _ in range(2 * len(KINDS))] for numbers in workers]
    assert sorted([*first[0], *first[1]]) == list(range(4 * len(KINDS)))
    assert {kind_of(number) for number in first[0]} == set(KINDS)


@pytest.mark.parametrize("number", range(2 * len(KINDS)))
def test_a_few_inputs_pass(number: int, bank: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    tried = try_input(number, 3, kind_of(number), bank, root, 120.0)
    assert tried["findings"] == [], tried


@pytest.mark.parametrize("script", ["fuzz", "kill_anywhere", "filter_study"])
def test_what_is_typed_as_a_script_can_be_started(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.{script}", "--help"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_what_the_verbs_import_is_there() -> None:
    warm()
