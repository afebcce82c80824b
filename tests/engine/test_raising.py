"""Plugins that leave in ways other than returning: every one is a failure with a short message."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim import ClientError, Result, RunError
from fedsim.cli import main
from fedsim.errors import Interruption
from fedsim.raising import one_line, reraise_interruption, short_traceback
from tests.engine.test_bits import assert_same
from tests.plugins.misbehaving import WAYS, misbehave

IN_EVALUATION = "evaluation.on_clients=true"
SOME = ("exits with 0", "exits with 3", "interrupts", "closes", "long")


def _run(tiny: Path, tmp_path: Path, *words: str) -> int:
    return main(["run", str(tiny), *words, "--runs", str(tmp_path / "runs")])


def _short(text: str) -> bool:
    return len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) < 1000


@pytest.mark.parametrize("what", WAYS)
def test_a_client_that_leaves_in_any_way_has_failed(
    what: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = f"client={{name: 'misbehaving:Misbehaves', what: {what}}}"
    assert _run(tiny, tmp_path, client) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: client 1 (site 'client-1') failed in round 1:\n")
    assert _short(shown)
    record = next((tmp_path / "runs" / "tiny").glob("2*")) / "run.json"
    assert json.loads(record.read_text())["status"] == "failed"


@pytest.mark.parametrize("what", WAYS)
def test_a_strategy_that_leaves_in_any_way_has_failed(
    what: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = f"strategy={{name: 'misbehaving:Spoils', what: {what}, where: aggregate_train}}"
    assert _run(tiny, tmp_path, strategy) == 1
    shown = capsys.readouterr().err
    assert "strategy 'misbehaving:Spoils' failed in aggregate_train of round 1" in shown
    assert _short(shown)


@pytest.mark.parametrize("what", ["exits with 0", "interrupts", "bare"])
@pytest.mark.parametrize(
    "where", ["setup", "configure_train", "configure_evaluate", "aggregate_evaluate", "state_dict"]
)
def test_every_method_of_a_strategy_is_named(
    what: str, where: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = f"strategy={{name: 'misbehaving:Spoils', what: {what}, where: {where}}}"
    assert _run(tiny, tmp_path, strategy, IN_EVALUATION) == 1
    assert f"strategy 'misbehaving:Spoils' failed in {where}" in capsys.readouterr().err


@pytest.mark.parametrize("what", SOME)
@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("client={{name: 'misbehaving:Misbehaves', what: {}, where: evaluate}}", "client 1"),
        ("model={{name: 'misbehaving:SpoiltModel', what: {}, where: eval}}", "round 1"),
        ("federation.partition={{name: 'misbehaving:SpoiltPartition', what: {}}}", "partition"),
        ("data={{name: 'misbehaving:SpoiltData', root: ROOT, what: {}}}", "data set"),
    ],
)
def test_every_plugin_that_leaves_in_any_way_is_named(
    what: str,
    plugin: str,
    words: str,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    override = plugin.format(what).replace("ROOT", str(tmp_path))
    assert _run(tiny, tmp_path, override, IN_EVALUATION) == 1
    shown = capsys.readouterr().err
    assert words in shown.splitlines()[0]
    assert "a fault in fedsim" not in shown
    assert _short(shown)


@pytest.mark.parametrize("what", SOME)
@pytest.mark.parametrize(
    "plugin",
    [
        "client={{name: 'misbehaving:Misbehaves', what: {}, where: init}}",
        "strategy={{name: 'misbehaving:Spoils', what: {}, where: init}}",
        "model={{name: 'misbehaving:SpoiltModel', what: {}, where: init}}",
    ],
)
def test_a_constructor_that_leaves_in_any_way_is_wrong_input(
    what: str, plugin: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tiny, tmp_path, plugin.format(what)) == 2
    assert _short(capsys.readouterr().err)


def test_a_module_that_leaves_on_import_is_wrong_input(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, how in enumerate(["raise SystemExit(0)", "raise KeyboardInterrupt", "1 / 0"]):
        (tmp_path / f"leaves{number}.py").write_text(f"{how}\n")
        plugin = f"client=leaves{number}.Client"
        assert _run(tiny, tmp_path, plugin, f"plugins=[{tmp_path}]") == 2
        assert "cannot be imported" in capsys.readouterr().err


# Each starts Ray, which takes seconds.
@pytest.mark.parametrize("what", ["exits with 3", "closes", "long", "strange"])
def test_workers_report_what_their_clients_do(what: str, run_tiny: Callable[..., Result]) -> None:
    client = f"client={{name: 'misbehaving:Misbehaves', what: {what}}}"
    with pytest.raises(ClientError) as inline:
        run_tiny(client)
    with pytest.raises(ClientError) as ray:
        run_tiny(client, backend="ray")
    assert _short(str(ray.value))
    assert str(ray.value).splitlines()[-1] == str(inline.value).splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_person_sends_interrupts_however_a_plugin_is_written(
    number: int, tiny: Path, tmp_path: Path
) -> None:
    client = f"client={{name: 'misbehaving:Interrupts', number: {int(number)}}}"
    assert _run(tiny, tmp_path, client) == 130


@pytest.mark.parametrize("what", ["import", "method"])
def test_an_error_in_the_place_of_an_interruption_is_one(
    what: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a compiled module does that is interrupted while it is imported.
    client = f"client={{name: 'misbehaving:Replaces', what: {what}}}"
    assert _run(tiny, tmp_path, client) == 130
    assert "interrupted" in capsys.readouterr().err


def test_what_fails_after_a_lost_interruption_is_one(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tiny, tmp_path, "client=misbehaving:Loses") == 130
    assert "to go on, type: fedsim run --resume" in capsys.readouterr().err
    assert _run(tiny, tmp_path, "client={name: 'misbehaving:Misbehaves', what: exits with 0}") == 1


def _in_its_place() -> ImportError:
    try:
        try:
            raise Interruption
        except Interruption as interruption:
            raise ImportError("initialization failed") from interruption
    except ImportError as error:
        return error


def test_only_a_persons_interruption_goes_through() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            reraise_interruption(KeyboardInterrupt())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        reraise_interruption(KeyboardInterrupt())
        with pytest.raises(Interruption):
            reraise_interruption(Interruption())
        reraise_interruption(ImportError("of its own"))
        with pytest.raises(Interruption):
            reraise_interruption(_in_its_place())
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("what", WAYS)
def test_an_exception_is_told_in_few_words(what: str) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - any of them
        misbehave(what)
    error = caught.value
    assert len(one_line(error)) < 400
    assert "\n" not in one_line(error)
    assert _short(short_traceback(error))
    assert type(error).__name__ in short_traceback(error)


def test_a_strategy_that_never_returns_a_model_has_failed(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(RunError, match=r"returned no arrays .* in any of 2 round\(s\)"):
        run_tiny("strategy={name: 'misbehaving:Returns', what: nothing}")
    late = run_tiny("strategy={name: 'misbehaving:Returns', what: late}")
    assert late.summary["rounds"] == 2


@pytest.mark.parametrize("what", ["a record", "a list"])
def test_a_strategy_must_return_a_pair(what: str, run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(RunError, match="aggregate_train must return a pair"):
        run_tiny(f"strategy={{name: 'misbehaving:Returns', what: {what}}}")


def test_a_round_whose_clients_all_weigh_nothing_has_failed(
    run_tiny: Callable[..., Result],
) -> None:
    with pytest.raises(RunError, match=r"all 4 client\(s\) reported num-examples 0 in round 1"):
        run_tiny("client={name: 'misbehaving:Weighs', count: 0.0}")
    one = run_tiny("client={name: 'misbehaving:Weighs', count: 0.0, client: 1}")
    assert one.summary["rounds"] == 2


def test_weights_are_finite_and_not_negative(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(ClientError, match=r"reported num-examples -5\.0: expected a finite"):
        run_tiny("client={name: 'misbehaving:Weighs', count: -5.0, client: 1}")


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_divergence_is_named_in_evaluation_too(
    backend: str, run_tiny: Callable[..., Result]
) -> None:
    overflows = "client=misbehaving:Overflows"
    with pytest.raises(RunError, match="the model diverged: its predictions are NaN") as error:
        run_tiny(overflows, backend=backend)
    assert "Traceback" not in str(error.value)
    # All diverge; on Ray any of them may answer first.
    with pytest.raises(RunError, match=r"client \d .* in round 1: the model diverged") as error:
        run_tiny(overflows, IN_EVALUATION, backend=backend)
    assert "Traceback" not in str(error.value)


def test_a_client_that_changes_the_folder_does_not_move_the_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(tiny), "client=misbehaving:Moves", "--runs", "here"]) == 0
    os.chdir(tmp_path)
    folder = next((tmp_path / "here" / "tiny").glob("2*"))
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    assert (folder / "report" / "index.html").is_file()


def test_the_copy_of_a_client_that_forks_goes_no_further(
    run_tiny: Callable[..., Result],
) -> None:
    assert_same(run_tiny("client=misbehaving:Forks"), run_tiny("client=supervised"))


def test_what_a_plugin_raises_is_harmless(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = "client={name: 'misbehaving:Misbehaves', what: escapes}"
    assert main(["run", str(tiny), client, "--runs", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "\\x1b[2J" in shown
    assert not set(shown) & set("\x1b\x07")


def test_a_run_is_read_back_with_its_numbers(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny()
    with (result.folder / "report" / "metric_rounds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = {cell for row in rows for cell in row.values()}
    assert repr(result.metrics["auc"]) in values
