"""What observers are told, in which order, and that nothing hangs on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import InputError, Observer, Result, RunError, run
from fedsim.api import resume
from fedsim.cli import main
from fedsim.errors import Interruption
from fedsim.observers import Finished, Row, Run
from fedsim.report.record import Record
from fedsim.scenario import load
from fedsim.terminal.console import Console
from tests.engine.conftest import TINY
from tests.engine.test_bits import assert_same

QUIET = Console(quiet=True)
FAST = (
    *("evaluation.on_clients=true", "federation.participation=0.5"),
    "client={name: supervised, steps: 1, batch_size: 16}",
)


def page(record: Record, *, paths: bool) -> None:
    """A page in a moment."""
    folder = record.path
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "index.html").touch()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("observers")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        # Nothing here looks at pages, but for whether they are there.
        patch.setattr("fedsim.report.page.write_page", page)
        patch.setattr("fedsim.trained.card.write_card", lambda *_: None)
        yield folder


@pytest.fixture(scope="module")
def plain(place: Path) -> Result:
    """A run that only the standard observers watch."""
    return run(place / "tiny.yaml", *FAST, runs=place / "plain")


@pytest.fixture(scope="module")
def watchers(plain: Result) -> Iterator[object]:
    """The module of observers; the run above has made its folder importable."""
    import watchers

    yield watchers
    watchers.Keeps.made.clear()


@pytest.fixture(scope="module")
def kept(place: Path, watchers: object) -> tuple[Result, object]:
    """The same run, watched by one that keeps, beside one that draws."""
    keeps, draws = watchers.Keeps(), watchers.Draws()  # type: ignore[attr-defined]
    result = run(place / "tiny.yaml", *FAST, runs=place / "kept", observers=[draws, keeps])
    return result, keeps


def test_the_order_is_that_of_the_protocol(kept: tuple[Result, object]) -> None:
    told = [name for name, _ in kept[1].told]  # type: ignore[attr-defined]
    without = [name for name in told if name != "note"]
    train = ["exchange", *["message", "message", "reply"] * 2]
    evaluate = ["exchange", *["message", "message", "reply"] * 4]
    round_ = [*train, *evaluate, "round"]
    assert without == ["begin", *round_, *round_, "finish", "done", "end"]
    assert told[0] == "note", "what a person must know comes first"


def test_observers_are_told_what_the_folder_holds(kept: tuple[Result, object]) -> None:
    result, keeps = kept

    def lines(name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (result.folder / name).read_text().splitlines()]

    of = keeps.of  # type: ignore[attr-defined]
    assert json.loads(json.dumps(of("message"))) == lines("traffic.jsonl")
    assert json.loads(json.dumps(of("round"))) == lines("rounds.jsonl")
    (begun,), (finished,), (end,) = of("begin"), of("finish"), of("end")
    record = json.loads((result.folder / "run.json").read_text())
    assert begun.id == record["run_id"]
    assert (begun.folder, begun.rounds, begun.finished, begun.resumed) == (
        *(result.folder, 2, 0),
        False,
    )
    assert begun.settings == load(result.folder / "scenario.yaml").resolved()
    assert begun.rows == ()
    assert (end.status, end.folder, end.summary) == ("done", result.folder, result.summary)
    arrays = {name: np.array(v) for name, v in finished.models[0].items()}
    state = finished.module().state_dict()
    assert all(np.array_equal(state[name].numpy(), value) for name, value in arrays.items())
    exchanges = [(one.round, one.kind, one.clients) for one in of("exchange")]
    assert [one[:2] for one in exchanges] == [
        *((1, "train"), (1, "evaluate"), (2, "train"), (2, "evaluate"))
    ]
    assert [list(clients) for _, kind, clients in exchanges if kind == "train"] == [
        row["clients"] for row in of("round")
    ]
    replies, values = of("reply"), keeps.values  # type: ignore[attr-defined]
    assert all(reply.problem == "" for reply in replies)
    trained = [v for reply, v in zip(replies, values, strict=True) if reply.kind == "train"]
    assert all(any(name.startswith("arrays/") for name in found) for found in trained)


def test_what_observers_draw_changes_no_bit(plain: Result, kept: tuple[Result, object]) -> None:
    assert_same(plain, kept[0])


@pytest.mark.parametrize("where", ["begin", "reply", "round", "finish", "done", "end"])
def test_who_raises_is_named_once_and_stops_nothing(
    where: str,
    place: Path,
    plain: Result,
    watchers: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raises = watchers.Raises(where)  # type: ignore[attr-defined]
    words = (*FAST, "evaluation.on_clients=false")
    result = run(place / "tiny.yaml", *words, runs=place / where, observers=[raises], quiet=False)
    out = capsys.readouterr().out
    assert out.count("observer 'Raises' failed in") == 1
    assert f"failed in {where}: SystemExit: the store is full; the run goes on" in out
    assert json.loads((result.folder / "run.json").read_text())["status"] == "done"
    until = {"begin": 1, "reply": 2, "round": 4, "finish": 8, "done": 9, "end": 10}
    assert raises.count == until[where]


def test_a_person_is_obeyed_in_an_observer_too(place: Path, plain: Result) -> None:
    class Interrupted(Observer):
        def round(self, row: Row) -> None:
            raise Interruption

    with pytest.raises(KeyboardInterrupt) as caught:
        run(place / "tiny.yaml", *FAST, runs=place / "stopped", observers=[Interrupted()])
    folder = Path(str(caught.value))
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"


def test_an_interruption_of_the_pictures_loses_no_result(
    place: Path, plain: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(Observer):
        def done(self, finished: Finished) -> None:
            raise Interruption

    with pytest.raises(KeyboardInterrupt) as caught:
        run(
            *(place / "tiny.yaml", *FAST),
            runs=place / "kept",
            observers=[Interrupted()],
            quiet=False,
        )
    assert str(caught.value) == "", "there is nothing to resume"
    folder = (place / "kept" / "tiny" / "latest").resolve()
    assert_same(plain, resume(folder, [], QUIET))
    told = capsys.readouterr().out
    assert told.index("\nrun folder:") < told.index(f"its pictures are not all drawn: {folder}")


def test_the_result_is_told_and_kept_before_pictures_are_drawn(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}

    class Looks(Observer):
        def begin(self, run: Run) -> None:
            self.folder = run.folder

        def done(self, finished: Finished) -> None:
            found["status"] = json.loads((self.folder / "run.json").read_text())["status"]
            found["page"] = (self.folder / "report").exists()
            found["told"] = capsys.readouterr().out.splitlines()[-1]

    result = run(
        place / "tiny.yaml", *FAST, runs=place / "looked", observers=[Looks()], quiet=False
    )
    assert found["status"] == "done"
    assert not found["page"]
    assert found["told"].startswith("run folder: ")
    assert (result.folder / "report" / "index.html").is_file()


@pytest.fixture(scope="module")
def cut(place: Path, watchers: object) -> tuple[Path, object]:
    """A run that ended after the line of its first round, before observers heard of the round."""
    keeps = watchers.Keeps()  # type: ignore[attr-defined]
    observers = [watchers.Stops(), keeps]  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt) as caught:
        run(place / "tiny.yaml", *FAST, runs=place / "cut", observers=observers)
    return Path(str(caught.value)), keeps


def test_an_interrupted_run_has_an_end(cut: tuple[Path, object]) -> None:
    _, keeps = cut
    (end,) = keeps.of("end")  # type: ignore[attr-defined]
    assert (end.status, end.summary) == ("interrupted", None)
    assert keeps.of("round") == []  # type: ignore[attr-defined]


def test_a_resumed_run_tells_what_was_not_told(
    cut: tuple[Path, object], plain: Result, watchers: object, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny" / cut[0].name
    shutil.copytree(cut[0], folder)
    keeps = watchers.Keeps()  # type: ignore[attr-defined]
    assert_same(plain, resume(folder, [], QUIET, observers=[keeps]))
    (before,), (begun,) = cut[1].of("begin"), keeps.of("begin")  # type: ignore[attr-defined]
    assert begun.id == before.id
    assert (begun.resumed, begun.finished) == (True, 1)
    numbers = [row["round"] for row in (*begun.rows, *keeps.of("round"))]  # type: ignore[attr-defined]
    assert numbers == [1, 2], "no gap, and no double"


def test_a_round_that_went_back_is_told_again_with_its_number(
    kept: tuple[Result, object], watchers: object, tmp_path: Path
) -> None:
    """The newest checkpoint is lost, as on a bad disk."""
    folder = tmp_path / "tiny" / kept[0].folder.name
    shutil.copytree(kept[0].folder, folder)
    from fedsim.folder.identity import sealed

    record = json.loads((folder / "run.json").read_text())
    changed = {k: v for k, v in record.items() if k not in ("digest", "files")}
    changed |= {"status": "interrupted"}
    (folder / "run.json").write_text(json.dumps(sealed(changed)))
    sorted((folder / "checkpoint").glob("round-*"))[-1].unlink()
    keeps = watchers.Keeps()  # type: ignore[attr-defined]
    resume(folder, [], QUIET, observers=[keeps])
    (row,), (_, before) = keeps.of("round"), kept[1].of("round")  # type: ignore[attr-defined]
    measured = ("seconds", "peak_rss_mb")
    assert {k: v for k, v in row.items() if k not in measured} == {
        k: v for k, v in before.items() if k not in measured
    }


# --- Named in a scenario -------------------------------------------------------------------------


def test_a_scenario_and_the_command_line_name_observers(
    place: Path, watchers: object, capsys: pytest.CaptureFixture[str]
) -> None:
    made = watchers.Keeps.made  # type: ignore[attr-defined]
    made.clear()
    words = ["run", str(place / "tiny.yaml"), *FAST, "rounds=1", "--runs", str(place / "named")]
    listed = "observers=[{name: 'watchers:Keeps', tag: of the file}]"
    assert main([*words, listed, "--observe", "watchers:Draws"]) == 0
    # One is made to check its parameters, and one watches.
    first, second = made
    assert (first.told, second.tag) == ([], "of the file")
    (end,) = second.of("end")
    assert end.status == "done"
    names = [one.name for one in load(end.folder / "scenario.yaml").observers]
    assert names == ["watchers:Keeps", "watchers:Draws"]
    assert (end.folder / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--observe", "mlflo"), "command line (--observe mlflo): observers: there is no observer"),
        (("observers=[3]",), "observers.0: expected"),
        (("observers=mlflow",), "observers: expected a list"),
        (("observers=['watchers:Keeps', {name: 'watchers:Keeps', tags: a}]",), "'tag'"),
        (("observers=[{name: 'watchers:Raises', where: init}]",), "the store is not there"),
        (("observers=['misbehaving:foreign']",), "observers: "),
        (("observers=['misbehaving:Counts']",), "makes a Counts, not an observer"),
    ],
)
def test_observers_are_checked_before_anything_runs(
    words: tuple[str, ...], said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = place / "never"
    code = main(["run", str(place / "tiny.yaml"), *words, "--runs", str(runs)])
    err = capsys.readouterr().err
    assert code == 2
    assert said in err
    assert not runs.exists()


def test_who_watches_changes_neither_noise_nor_the_cell_of_a_sweep(place: Path) -> None:
    from fedsim.sweeping.cells import identity

    one, other = (load(place / "tiny.yaml", w) for w in ((), ("observers=['watchers:Keeps']",)))
    assert identity(one) == identity(other)


def test_observers_that_are_named_twice_are_added_once(place: Path) -> None:
    words = ("observers=['watchers:Keeps']", "observe=watchers:Keeps", "observe=watchers:Draws")
    names = [block.name for block in load(place / "tiny.yaml", words).observers]
    assert names == ["watchers:Keeps", "watchers:Draws"]


def test_an_object_that_is_no_observer_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match="observers: 3 is no observer"):
        run(place / "tiny.yaml", *FAST, runs=place / "never", observers=[3])  # type: ignore[list-item]


@pytest.mark.parametrize("observers", ["watchers.Keeps", Observer()])
def test_observers_are_a_list_of_objects(observers: Any, place: Path) -> None:
    with pytest.raises(InputError, match="expected a list of objects, got") as error:
        run(place / "tiny.yaml", *FAST, runs=place / "never", observers=observers)
    assert "observers=[" in str(error.value)


def test_an_essential_observer_that_raises_is_named(place: Path, watchers: Any) -> None:
    class Must(watchers.Raises):  # type: ignore[misc]
        essential = True

    with pytest.raises(RunError, match=r"observer 'Must' failed in round:"):
        run(place / "tiny.yaml", *FAST, runs=place / "must", observers=[Must("round")])
