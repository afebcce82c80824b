"""What is handed on carries no absolute path, unless asked to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsim.cli import main
from fedsim.report import data as report
from fedsim.report.page import write_report
from fedsim.report.paths import paths_in, shortest, without_paths
from fedsim.report.privacy_curve import Point, curve_of, table
from fedsim.report.privacy_picture import picture
from tests.report.conftest import round_row


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/ham10000", "…/ham10000"),
        ("/data/my images/", "…/my images"),
        ("a /home/me/x.py:33: boom", "a …/x.py:33: boom"),
        ('File "/data/x/y.py", line 3', 'File "…/y.py", line 3'),
        ("root=/tmp/x (/a/b)", "root=…/x (…/b)"),
        ("'/tmp/x y'", "'…/x y'"),
        ("file:///home/me/x", "…/x"),
        ("~/secret/x", "…/x"),
        ("C:\\Users\\me\\x.csv", "…/x.csv"),
        ("in D:/data/x.csv.", "in …/x.csv."),
        ("x: /a/b\ny: /c/d\n", "x: …/b\ny: …/d\n"),
    ],
)
def test_paths_are_cut_to_their_ends(text: str, shown: str) -> None:
    assert without_paths(text) == shown
    assert without_paths(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "MB/s",
        "1/n",
        "https://a.b/c",
        "<td>x</td>",
        "and/or",
        "a / b",
        "../a/b",
        "./a",
        "a/b/c",
        "/",
    ],
)
def test_what_is_no_absolute_path_stays(text: str) -> None:
    assert without_paths(text) == text


def test_paths_with_spaces_are_found_where_they_are_named_elsewhere() -> None:
    known = paths_in({"root": "/data/my long images", "command": ["x", "--runs=/my runs"]})
    assert known == ["/data/my long images", "/my runs"]
    text = "root: /data/my long\n  images\nruns in /my runs and /other/x"
    assert without_paths(text, known) == "root: …/my long images\nruns in …/my runs and …/x"


def test_ends_tell_paths_apart() -> None:
    ends = shortest(["/x/a/b/m.pt", "/x/c/b/m.pt", "/x/c/n.pt"])
    assert ends == {
        "/x/a/b/m.pt": "…/a/b/m.pt",
        "/x/c/b/m.pt": "…/c/b/m.pt",
        "/x/c/n.pt": "…/n.pt",
    }


PLACES = ("/srv/secret/ham", "/home/somebody/my tables", "/opt/models/first.pt", "/var/x/client.py")


def with_paths(make_run: Callable[..., Path]) -> Path:
    """A run folder that names absolute paths wherever one can be."""
    failed = [
        {"client": 0, "site": "north", "phase": "train", "kind": "error",
         "reason": f"OSError: [Errno 2] No such file: '{PLACES[3]}'", "details": PLACES[3]}
    ]  # fmt: skip
    folder = make_run(
        [round_row(1, failed=failed), round_row(2)],
        command=[f"{PLACES[1]}/fedsim", "run", f"data.root={PLACES[0]}"],
        released_without_privacy=[f"a pretrained model: {PLACES[2]}"],
        privacy={"mechanism": "dp_sgd", "note": PLACES[2]},
    )
    record = json.loads((folder / "run.json").read_text())
    record["data"] |= {"root": PLACES[0], "external": {"root": f"{PLACES[1]}/outside"}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "scenario.yaml").write_text(
        f"name: tiny\nrounds: 2\ndata: {{root: {PLACES[0]}}}\n"
        f"federation: {{partition: {{name: table, file: {PLACES[1]}/p.csv}}}}\n"
        f"model: {{name: cnn, init: {PLACES[2]}}}\nevaluation:\n  external:\n"
        f"    root: {PLACES[1]}/outside\n"
    )
    return folder


def test_the_page_and_its_csvs_carry_no_absolute_path(make_run: Callable[..., Path]) -> None:
    folder = with_paths(make_run)
    write_report(folder)
    for path in (folder / "report").iterdir():
        if path.suffix != ".png":
            text = path.read_text()
            for place in PLACES:
                assert place not in text, path.name
                assert place.rpartition("/")[0] not in text, path.name
    page = (folder / "report" / "index.html").read_text()
    for end in ("…/ham", "…/p.csv", "…/first.pt", "…/client.py", "…/outside", "…/fedsim"):
        assert end in page


def test_paths_are_there_where_they_are_asked_for(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_paths(make_run)
    assert main(["report", str(folder), "--paths"]) == 0
    page = (folder / "report" / "index.html").read_text()
    assert all(place in page for place in PLACES)
    assert main(["report", str(folder)]) == 0
    assert PLACES[0] not in (folder / "report" / "index.html").read_text()
    capsys.readouterr()


def test_a_curve_carries_no_absolute_path() -> None:
    summary = {"metrics": {"auc": 0.7}, "mb_up_total": 1.0, "mb_down_total": 1.0, "epsilon": 1.0}
    data = {"name": "ham10000", "source": "path", "root": PLACES[0], "fingerprint": "f"}
    points = [Point("s", epsilon, 0, False, summary, data) for epsilon in (1.0, 2.0)]
    drawn = picture(curve_of(points))
    told = drawn.csv.decode() + table(curve_of(points)) + drawn.alt + drawn.caption
    assert "/" not in told.replace("not certified", "")


def test_the_picture_of_a_partition_names_no_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(report, "partition_picture", lambda *_, title, note: titles.append(title))
    block = SimpleNamespace(name="table", parameters={"file": PLACES[1], "strict": True, "n": None})
    scenario = SimpleNamespace(name="s", federation=SimpleNamespace(partition=block))
    store = SimpleNamespace(labels=None, classes=(), source="path")
    federation = SimpleNamespace(train={}, store=store)
    report.save_partition(federation, scenario, 3, tmp_path / "p.png")  # type: ignore[arg-type]
    assert titles == ["s: table (file=…/my tables, strict=true, n=null), seed 3"]
