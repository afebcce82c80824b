"""What changes nothing says so; a strategy may refuse parameters, and a number of clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsim.cli import main
from fedsim.engine.loop import digest_of
from fedsim.engine.strategies import build_strategy
from fedsim.errors import InputError
from fedsim.scenario import load
from fedsim.wire.flower import tensor_record

TRAINS = "client={name: supervised, steps: 1}"


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_run_that_changes_no_bit_says_so(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = "strategy={name: 'lax:Odd', what: same}"
    words = ("run", str(tiny), strategy, TRAINS, "rounds=1", "--runs", str(tmp_path / "runs"))
    code, out, _ = typed(capsys, *words)
    assert code == 0
    assert (
        "NOTHING LEARNED: after 1 round(s) the model has the very bits that the run began with"
    ) in out


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("same", "NOTHING LEARNED: the tiny round changed no bit of the model"),
        ("nothing", "NOTHING LEARNED: strategy 'lax:Odd' returned no arrays from aggregate_train"),
        ("", ""),
    ],
)
def test_a_tiny_round_that_changes_nothing_says_so(
    what: str, words: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = typed(
        capsys, "check", str(tiny), f"strategy={{name: 'lax:Odd', what: '{what}'}}"
    )
    assert code == 0
    assert words in out
    assert ("NOTHING LEARNED" in out) == bool(words)


def test_records_agree_in_names_types_shapes_and_bits() -> None:
    one = {"a": np.array([0.0, np.nan], np.float32)}
    digest = digest_of(tensor_record(one))
    assert digest == digest_of(tensor_record(dict(one)))
    for other in (
        {"b": one["a"]},
        {"a": one["a"].astype(np.float64)},
        {"a": one["a"].reshape(2, 1)},
        {"a": np.array([-0.0, np.nan], np.float32)},
        one | {"b": one["a"]},
        {"a": np.zeros(0, np.float32)},
    ):
        assert digest != digest_of(tensor_record(other))


NEEDS = "strategy: {name: 'lax:Needs', least: 5}"


def test_a_strategy_refuses_a_number_of_clients_with_the_line(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(tiny.read_text().replace("strategy: {name: fedavg}", NEEDS))
    code, _, err = typed(capsys, "check", str(tiny))
    line = 1 + tiny.read_text().splitlines().index(NEEDS)
    assert code == 2
    assert f"{tiny}:{line}: strategy.least: least is 5, but there are 4 clients" in err
    assert "Traceback" not in err
    assert typed(capsys, "check", str(tiny), "federation.clients=5")[0] == 0
    code, _, err = typed(capsys, "check", str(tiny), "strategy.least=6")
    assert "command line (strategy.least=6): strategy.least: least is 6" in err


def test_it_is_asked_when_the_partition_says_how_many_there_are(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny.read_text().replace("strategy: {name: fedavg}", NEEDS)
    tiny.write_text(text.replace("clients: 4", "clients: null").replace(
        "{name: dirichlet, alpha: 1.0}", "natural"))  # fmt: skip
    line = 1 + tiny.read_text().splitlines().index(NEEDS)
    code, _, err = typed(capsys, "check", str(tiny))
    assert code == 2
    assert "strategy 'lax:Needs' does not go with 3 client(s)" in err
    assert f"{tiny}:{line}: strategy.least: least is 5, but there are 3 clients" in err


def test_what_else_check_clients_raises_is_wrong_input_too(tiny: Path) -> None:
    scenario = load(tiny, ["strategy={name: 'lax:Needs', least: 0}", "federation.clients=1"])
    with pytest.raises(InputError, match=r"strategy: ZeroDivisionError: .*lax\.py:\d+"):
        build_strategy(scenario, 7)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("what: value, share: 0.7", "strategy.share: share must be below 0.5, not 0.7"),
        ("what: value", "strategy: share must be below 0.5, not 0.1"),
        ("what: type", "strategy.what: TypeError: what is odd ("),
        ("share: much", "strategy.share: expected a number, got 'much'"),
        ("shar: 0.2", "strategy.shar: unknown key (did you mean 'share'?)"),
    ],
)
def test_a_constructor_that_refuses_is_one_error_with_the_line(
    given: str, said: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = f"strategy: {{name: 'lax:Refuses', {given}}}"
    tiny.write_text(tiny.read_text().replace("strategy: {name: fedavg}", written))
    line = 1 + tiny.read_text().splitlines().index(written)
    for verb in ("check", "run"):
        code, _, err = typed(capsys, verb, str(tiny))
        assert code == 2
        assert f"{tiny}:{line}: {said}" in err
        assert "Traceback" not in err
        assert len(err.splitlines()) == 3
