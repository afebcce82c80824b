"""Run folders without digests, as an older fedsim left them, edited by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim.cli import main

HUGE = 10**400
RUN = [
    ("data.classes", 5),
    ("data.classes", ["a", 3]),
    ("data.fingerprint", 5),
    ("data.positive", ["a"]),
    ("data.sizes", {"train": "x"}),
    ("data.external", 5),
    ("versions", "x"),
    ("versions", ["x"]),
    ("versions", {"torch": {}}),
    ("privacy", "x"),
    ("privacy", {"unit": ["record"]}),
    ("released_without_privacy", 5),
    ("released_without_privacy", [{}]),
    ("git_commit", {}),
    ("command", {"a": 1}),
    ("files", [1]),
    ("seed", HUGE),
    ("seed", -1),
]
SUMMARY = [
    ("metrics.auc", HUGE),
    ("metrics.auc", "0.9"),
    ("epsilon", "x"),
    ("wall_seconds", HUGE),
    ("mb_up_total", float("nan")),
    ("failed", []),
    ("unit", 5),
]
ROUNDS = [
    ("round", HUGE),
    ("metrics.auc", HUGE),
    ("metrics.auc", float("inf")),
    ("metrics_by_client", {"0": {"loss": "x"}}),
    ("epsilon", "x"),
    ("seconds", 10**320),
    ("peak_rss_mb", {}),
    ("clients", "x"),
    ("failed", 5),
]
TRAFFIC = [
    ("bytes", HUGE),
    ("bytes", 2**63),
    ("bytes", -1),
    ("bytes", 1.5),
    ("fields", {"arrays": "x"}),
    ("client", HUGE),
]
FILES = {
    "run.json": RUN,
    "summary.json": SUMMARY,
    "rounds.jsonl": ROUNDS,
    "traffic.jsonl": TRAFFIC,
}


def put(value: dict[str, Any], path: str, new: Any) -> None:
    """Set the entry at a dotted path."""
    *blocks, key = path.split(".")
    for block in blocks:
        value = value[block]
    value[key] = new


@pytest.mark.parametrize("name", FILES)
def test_each_edit_is_named_with_its_file(
    name: str, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(versions={"torch": "2"}, started="2026")
    path = folder / name
    before = path.read_text()
    for where, new in FILES[name]:
        first, *others = before.splitlines(True) if name.endswith("l") else [before]
        record = json.loads(first)
        put(record, where, new)
        path.write_text(json.dumps(record) + "\n" + "".join(others))
        # Only what a comparison is made of is read for it.
        verbs = ["report"] if name == "traffic.jsonl" else ["report", "compare"]
        for verb in verbs:
            assert main([verb, str(folder)]) == 2, (where, new)
            said = capsys.readouterr().err
            assert str(path) in said, (where, new, said)
            assert "a fault in fedsim" not in said
            assert len(said) < 2000
    path.write_text(before)
    assert not (folder / "report").exists()


def test_the_other_runs_still_have_their_row(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(versions={"torch": "2"}, started="2026")
    other = folder.with_name("other")
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"versions": "x"}))
    assert main(["compare", str(folder.parent)]) == 2
    said = capsys.readouterr()
    assert "by_hand" in said.out
    assert f"{folder / 'run.json'} cannot be read: versions: expected " in said.err
    assert main(["watch", str(folder.parent), "--once"]) in (0, 2)
