"""`fedsim check-plugin`: a line for each check, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsim.cli import main

PLUGINS = str(Path(__file__).parents[1] / "plugins")


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["check-plugin", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_line_for_each_check_and_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capsys, "iid", "-v")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "partition iid"
    assert lines[1].split(maxsplit=1) == [
        "ok",
        "every record once             300 records to 4 clients, 75 to 75 each",
    ]
    assert lines[-1] == "7 ok, 0 failed"


def test_a_failure_says_why_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capsys, "lax:OddPartition", "what=loses", "--plugins", PLUGINS, "--json")
    found = json.loads(out)
    assert code == 1
    assert found["group"] == "partitions"
    assert found["failed"] == sum(row["state"] == "failed" for row in found["checks"]) > 0
    first = found["checks"][0]
    assert (first["check"], first["state"]) == ("every record once", "failed")
    assert first["detail"].startswith("1 of 300 records are with nobody")


def test_what_does_not_apply_is_neither(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capsys, "natural")
    assert code == 0
    assert "it decides itself: 3 clients, of 3 sites" in out
    assert "--      more clients than patients" in out
    assert out.splitlines()[-1] == "6 ok, 0 failed, 1 do not apply"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strategy", "client", "model"])
def test_what_answers_from_a_support_set_passes(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    few = () if kind == "model" else ("--with", "data.embedded.cases=7")
    code, out, err = typed(capsys, "in_context", "--kind", kind, *few)
    assert code == 0, out + err
    assert ("it is not trained" in out) == (kind == "model")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shard"], "there is no plugin 'shard' (did you mean 'shards'?)"),
        (["lax:Odd"], "'lax:Odd' cannot be imported"),
        (["iid", "--plugins", "nowhere"], "--plugins: there is no folder nowhere"),
        (["iid", "alpha"], "not understood: 'alpha'"),
        (["dirichlet", "alpha=-1.0"], "partition.alpha: expected a number above 0, got -1.0"),
        (["dirichlet"], "federation.partition.alpha: required by Dirichlet, but missing"),
        (["iid", "--with", "rouns=1"], "rouns: unknown key (did you mean 'rounds'?)"),
    ],
)
def test_wrong_input_is_one_error_and_exit_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    if words == ["lax:Odd"]:
        monkeypatch.setattr(sys, "path", [p for p in sys.path if p != PLUGINS])
        monkeypatch.delitem(sys.modules, "lax", raising=False)
    code, out, err = typed(capsys, *words)
    assert code == 2
    assert not out
    assert said in err
    assert len(err.splitlines()) < 10
    assert "Traceback" not in err
