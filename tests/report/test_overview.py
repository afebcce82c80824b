"""The page of many runs: what it compares, what it says, and that it runs alone in a browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import recall_score

from fedsim.cli import main
from fedsim.errors import InputError
from fedsim.report.comparison import DIFFERENCE, compare
from fedsim.report.overview.facts import sections_of
from fedsim.report.overview.front import Candidate, front
from fedsim.report.overview.groups import groups_of
from fedsim.report.overview.lines import line_of, metrics_of, points_for
from fedsim.report.overview.pairs import differences
from fedsim.report.overview.parts import classes
from fedsim.report.rows import Row, find_runs, rows_of, settings
from fedsim.report.statistics import Measure
from tests.report.test_compare import LABELS, Make, make, probabilities, two_methods

__all__ = ["make"]  # A fixture.

METRICS = ("auc", "pr_auc", "accuracy", "balanced_accuracy", "precision", "recall", "f1")
EVIL = "</script><script>alert(1)</script><b>x"


def rows_in(folder: Path) -> list[Row]:
    return rows_of(find_runs([folder]))[0]


def write_page(folder: Path, *words: str) -> str:
    """What `fedsim report FOLDER --together` writes."""
    assert main(["report", str(folder), "--together", *words]) == 0
    return (folder / "index.html").read_text()


def facts_of(page: str) -> dict[str, Any]:
    """The numbers behind the figures."""
    (text,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page)
    found: dict[str, Any] = json.loads(text)
    return found


def private(epsilon: float | None, **more: Any) -> dict[str, Any]:
    return {"epsilon": epsilon, "delta": 1e-4, "unit": "record", "certified": True} | more


# --- The front -----------------------------------------------------------------------------------


def test_the_front_is_what_nobody_beats_in_all_three() -> None:
    record, patient = ("record", 1e-4), ("patient", 1e-4)
    found = front(
        [
            Candidate(0.8, 10.0),
            Candidate(0.7, 10.0),  # Less for the same.
            Candidate(0.7, 10.0, 2.0, record),  # Less, but private.
            Candidate(0.6, 10.0, 3.0, record),  # Less, and less private.
            Candidate(0.6, 10.0, 3.0, patient),  # Of patients: not comparable.
            Candidate(0.6, 1.0, 3.0, record),  # Less, but smaller.
            Candidate(None, 0.1, 0.1, record),  # Not known.
            Candidate(0.8, 10.0),  # The same as the first.
        ]
    )
    assert found == [True, False, True, False, True, True, False, True]


# --- Differences ---------------------------------------------------------------------------------


def test_differences_from_every_row_are_those_of_compare(make: Make, tmp_path: Path) -> None:
    two_methods(make, 2)
    make("c", 0, strength=0.4, models=3)
    make("d", 1, strength=None, metrics={"auc": 0.5})
    make("e", 5)
    rows = rows_in(tmp_path / "runs")
    found = differences(rows, rows, "auc")
    for base, of_base in zip(rows, found, strict=True):
        told = compare(rows, baseline=base.name)
        for line, one in zip(told.lines, of_base, strict=True):
            if line.row is base:
                assert one is None
            elif isinstance(one, str):
                assert one == line.unpaired
            else:
                assert isinstance(one, Measure)
                expected = line.measures[DIFFERENCE]
                assert (one.mean, one.sd, one.n) == (expected.mean, expected.sd, expected.n)
                if expected.interval is None:
                    assert one.interval is None
                else:
                    assert one.interval == pytest.approx(expected.interval, abs=1e-12)
    reasons = [one for of_base in found for one in of_base if isinstance(one, str)]
    assert "no seed in common: 5 and 0, 1" in reasons


# --- Lines, classes, settings --------------------------------------------------------------------


def write_rounds(
    folder: Path, scores: list[float | None], metric: str = "auc", **more: Any
) -> None:
    lines = [
        {"round": k, "failed": [], "metrics": {metric: score, f"{metric}@north": 0.5},
         "mb_up_total": 1.0 * k, "mb_down_total": 0.5 * k} | more
        for k, score in enumerate(scores, 1)
    ]  # fmt: skip
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_lines_are_means_and_spreads_over_seeds_of_rounds_that_were_scored(
    make: Make, tmp_path: Path
) -> None:
    write_rounds(make("a", 0), [0.5, None, 0.7])
    write_rounds(make("a", 1), [0.6, None, None], epsilon=1.5, epsilon_upper=1.25)
    (row,) = rows_in(tmp_path / "runs")
    assert metrics_of([row]) == ["auc"], "sites are no lines"
    found = line_of(row, ["auc"], 10)
    assert (found["round"], found["mb"], found["thinned"]) == ([1, 3], [1.5, 4.5], 0)
    assert found["epsilon"] == [1.25, None], "of the rounds that were scored"
    assert found["scores"]["auc"]["mean"] == pytest.approx([0.55, 0.7])
    assert found["scores"]["auc"]["sd"] == [pytest.approx(0.1 / math.sqrt(2), abs=1e-5), None]


def test_a_cross_validation_is_one_method_and_its_folds_are_no_seeds(
    make: Make, tmp_path: Path
) -> None:
    for fold, score in enumerate((0.5, 0.7)):
        split = {"split": {"folds": 2, "fold": fold}, "name": "msd"}
        path = make("a", 0, strength=None, metrics={"dice": score}, settings={"data": split})
        write_rounds(path, [score - 0.1, score], metric="dice")
    (row,) = rows_in(tmp_path / "runs")
    found = line_of(row, ["dice"], 10)
    assert found["scores"]["dice"]["mean"] == pytest.approx([0.5, 0.6])
    assert found["scores"]["dice"]["sd"] == [None, None], "there is one seed"
    (section,) = sections_of(groups_of([row]))
    assert section.figures["score"] == "Dice"


def test_long_lines_are_thinned_and_keep_their_ends(make: Make, tmp_path: Path) -> None:
    write_rounds(make("a", 0), np.linspace(0.5, 0.9, 500).tolist())
    (row,) = rows_in(tmp_path / "runs")
    found = line_of(row, ["auc"], 20)
    assert len(found["round"]) == 20
    assert found["thinned"] == 480
    assert (found["round"][0], found["round"][-1]) == (1, 500)
    assert points_for(40, 8) * 40 * (3 + 2 * 8) <= 120_000


def test_recall_of_classes_is_that_of_scikit_learn(make: Make, tmp_path: Path) -> None:
    make("a", 0, models=2, data={"classes": ["benign", "malignant"]})
    part = classes(rows_in(tmp_path / "runs"))
    assert part is not None
    assert part.names == ["benign", "malignant"]
    taken = probabilities(1.0, 0, 2).argmax(2)
    expected = np.mean([recall_score(LABELS, one, average=None) for one in taken], axis=0)
    assert [one.mean for one in part.measures[0]] == pytest.approx(expected.tolist())


def test_settings_say_what_differs_and_not_what_follows_from_it(make: Make, tmp_path: Path) -> None:
    make("a", 0, settings={"privacy": {"target_epsilon": 1.0, "delta": 1e-3}, "lr": 1})
    make("a", 1, settings={"privacy": {"target_epsilon": 2.0, "delta": 1e-3}, "lr": 1})
    make("a", 2, settings={"privacy": None, "lr": 1})
    rows = rows_in(tmp_path / "runs")
    assert settings(rows) == [
        {"privacy.target_epsilon": "1.0"},
        {"privacy.target_epsilon": "2.0"},
        {"privacy": "null"},
    ]
    assert [row.label for row in rows] == [
        "a privacy.target_epsilon=1.0",
        "a privacy.target_epsilon=2.0",
        "a privacy=null",
    ]


# --- Data ----------------------------------------------------------------------------------------


def test_runs_on_other_data_or_another_split_have_sections_of_their_own(
    make: Make, tmp_path: Path
) -> None:
    two_methods(make, 1)
    other = {"fingerprint": "cd" * 32, "root": "/mnt/there"}
    make("a", 0, data=other)
    split = {"data": {"name": "ham10000", "split": {"seed": 3}}}
    make("a", 0, settings=split)
    make("s", 0, strength=None, metrics={"dice": 0.4}, data={"name": "msd", "fingerprint": "e"})
    groups = groups_of(rows_in(tmp_path / "runs"))
    assert [len(group.rows) for group in groups] == [2, 1, 1, 1]
    titles = [group.title for group in groups]
    assert len(set(titles)) == 4
    assert titles[3] == "msd"
    assert "…/there" in " ".join(titles)
    assert "split {seed: 3}" in " ".join(titles)
    assert not re.search("(ab|cd){4}", " ".join(titles)), "no fingerprint"
    sections = sections_of(groups)
    assert [section.figures["score"] for section in sections] == ["AUC"] * 3 + ["Dice"]
    assert all(len(one.figures["pairs"]) in (0, 2) for one in sections)


# --- The page ------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """What a page loads, runs, and how its tables are built."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self.policy = ""
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [str(found[key]) for key in ("src", "href", "action") if key in found]
        assert not [key for key in found if key.startswith("on")], "no handlers in attributes"
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(found["content"])
        self._inside = tag == "script" and found.get("type") != "application/json"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts.append(data)
            self._inside = False


def test_the_page_loads_nothing_and_runs_only_its_own_scripts(make: Make, tmp_path: Path) -> None:
    make(
        "a", 0, data={"classes": [EVIL, "other"], "positive": EVIL},
        metrics={f"auc@{EVIL}": 0.5, "auc@b": 0.6}, settings={"note": EVIL},
    )  # fmt: skip
    make("a", 1, settings={"note": "none"}, metrics={f"auc@{EVIL}": 0.4})
    make("a", 2, folder=f"runs/x/{EVIL.replace('/', '')}", record={"status": "failed"})
    page = write_page(tmp_path / "runs")
    reader = Reader(page)
    assert reader.links == ["#main"]
    assert len(reader.scripts) == 2
    digests = [b64encode(sha256(text.encode()).digest()).decode() for text in reader.scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {allowed};" in reader.policy
    assert "default-src 'none'" in reader.policy
    assert "form-action 'none'" in reader.policy
    assert "unsafe-eval" not in reader.policy
    assert "<b>x" not in page
    assert "alert(1)</script>" not in page
    assert "showSendToCloud: false" in reader.scripts[1], "the library would offer to send figures"
    assert str(tmp_path) not in page


def test_the_page_names_what_it_leaves_out(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_methods(make, 1)
    make("a", 3, folder="runs/a/failed", record={"status": "failed"})
    make("a", 4, folder="runs/a/going", record={"status": "running"})
    damaged = make("b", 5, folder="runs/b/damaged")
    (damaged / "summary.json").write_text("{")
    assert main(["report", str(tmp_path / "runs"), "--together"]) == 2
    out = capsys.readouterr()
    assert f"page: {tmp_path / 'runs' / 'index.html'}" in out.out
    assert str(damaged / "summary.json") in out.err
    page = (tmp_path / "runs" / "index.html").read_text()
    assert "a/failed: failed, left out" in page
    assert "a/going: running, left out" in page
    assert "b/damaged/summary.json" in page
    assert "3 runs are left out" in page
    assert facts_of(page)["g0"]["names"] == ["a", "b"]


def test_private_runs_are_told_with_their_unit_and_claims_are_no_proofs(
    make: Make, tmp_path: Path
) -> None:
    make("proved", 0, strength=0.5, summary=private(2.0))
    claimed = private(None, epsilon_claimed=1.0, certified=False)
    make("claimed", 0, strength=0.6, summary=claimed, up=900_000)
    make("plain", 0, strength=2.0, up=900_000)
    page = write_page(tmp_path / "runs")
    facts = facts_of(page)["g0"]
    points = dict(zip(facts["names"], facts["points"], strict=True))
    assert points["proved"]["front"]
    assert points["plain"]["front"]
    assert not points["claimed"]["front"], "without a proof it is one without a bound, and beaten"
    assert (points["claimed"]["epsilon"], points["claimed"]["certified"]) == (1.0, False)
    assert points["plain"]["epsilon"] is None
    assert re.search(r'data-key="1">1\*<small>claimed</small>', page)
    assert re.search(r'data-key="Infinity">none</td>', page)


def test_a_page_of_forty_long_runs_is_below_three_megabytes(make: Make, tmp_path: Path) -> None:
    scores = {f"auc@site-{k}": 0.5 for k in range(20)}
    lines = [
        {"round": k, "failed": [], "mb_up_total": 1.2345 * k, "mb_down_total": 2.3456 * k,
         "metrics": dict.fromkeys(METRICS, 0.5 + 1 / (k + 3))}
        for k in range(1, 301)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    for k in range(40):
        path = make(f"method_{k}", 0, metrics=scores, settings={"client": {"lr": k}})
        (path / "rounds.jsonl").write_text(text)
    page = write_page(tmp_path / "runs")
    assert 1.2e6 < len(page.encode()) < 3e6
    facts = facts_of(page)["g0"]
    assert len(facts["lines"]) == len(facts["points"]) == len(facts["pairs"]) == 40
    assert not facts["thinned"] or "Not every round is drawn" in page


# --- Where it lies -------------------------------------------------------------------------------


def test_the_page_lies_in_the_folder_that_was_named_or_where_one_says(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make("a", 0), make("b", 0)
    monkeypatch.chdir(tmp_path)
    words = [str(path.relative_to(tmp_path)) for path in (first, second)]
    assert main(["report", *words, "--together"]) == 0
    assert capsys.readouterr().out == "page: runs/index.html\n"
    assert main(["report", "runs/a", "--together", "--out", "mine.html"]) == 0
    assert capsys.readouterr().out == "page: mine.html\n"
    assert main(["report", "runs", "--together", "--baseline", "b"]) == 0
    page = Path("runs/index.html").read_text()
    assert re.search(r'<option value="1" selected>b</option>', page)
    assert main(["report", "runs", "--together", "--baseline", "z"]) == 2
    assert main(["report", words[0], "--together"]) == 2, "one run has nothing beside it"
    Path("file").write_text("")
    assert main(["report", "runs", "--together", "--out", "file/page.html"]) == 2


def test_a_file_that_fedsim_did_not_write_is_not_replaced_unless_it_is_named(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a", 0)
    theirs = tmp_path / "runs" / "index.html"
    theirs.write_text("<p>mine</p>")
    assert main(["report", str(tmp_path / "runs"), "--together"]) == 2
    assert "fedsim has not written it" in capsys.readouterr().err
    assert theirs.read_text() == "<p>mine</p>"
    assert main(["report", str(tmp_path / "runs"), "--together", "--out", str(theirs)]) == 0
    assert main(["report", str(tmp_path / "runs"), "--together"]) == 0
    assert main(["report", str(tmp_path / "runs"), "--together", "--out", str(tmp_path)]) == 2


def test_each_run_has_its_page_besides_and_one_run_has_no_other(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(tiny_run, runs / "tiny" / "one")
    assert main(["report", str(runs)]) == 0
    assert capsys.readouterr().out == f"{runs / 'tiny' / 'one' / 'report' / 'index.html'}\n"
    shutil.copytree(tiny_run, runs / "tiny" / "two")
    (runs / "tiny" / "one" / "report" / "index.html").unlink()
    assert main(["report", str(runs)]) == 0
    *each, last = capsys.readouterr().out.splitlines()
    assert each == [str(runs / "tiny" / name / "report" / "index.html") for name in ("one", "two")]
    assert all(Path(one).is_file() for one in each)
    assert last == f"page: {runs / 'index.html'}"
    page = (runs / "index.html").read_text()
    assert "Generated stand-in images" in page
    assert "a newer run has its seed 0" in page


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"cells": 3}', '{"cells": [{}]}', '{"runs": [1]}', '{"x": 1}']
)
def test_a_file_that_is_no_list_of_runs_is_wrong_input(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="is no list of runs"):
        find_runs([tmp_path / "x.json"])


def test_runs_of_a_sweep_that_are_gone_are_named(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "runs" / "sweeps" / "one.json"
    kept = [make("a", seed) for seed in (0, 1)]
    cells = [{"run": str(path)} for path in (*kept, tmp_path / "runs" / "a" / "gone")]
    record.parent.mkdir()
    record.write_text(json.dumps({"cells": [*cells, {"run": None}]}))
    assert main(["report", str(record), "--together"]) == 2
    out = capsys.readouterr()
    assert f"page: {record.with_suffix('.html')}" in out.out
    assert "gone: is gone, or no run folder" in out.err


def test_the_library_is_what_its_makers_ship_and_names_its_licence() -> None:
    folder = resources.files("fedsim.report") / "vendor"
    library = (folder / "plotly-basic.min.js").read_text(encoding="utf-8")
    assert "plotly.js (basic - minified) v4.1.1" in library[:200]
    assert "MIT License" in (folder / "plotly-LICENSE.txt").read_text()
    assert not re.search(r"\bnew Function\b|\beval\(", library), "the policy would stop it"


# --- In a browser --------------------------------------------------------------------------------

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PLAY = """
const told = [];
addEventListener("securitypolicyviolation", (e) => told.push("violation " + e.violatedDirective));
addEventListener("error", (e) => told.push("error " + e.message));
const first = () => document.querySelector("#g0-comparison tbody tr th").dataset.key;
const press = (column) => document.querySelectorAll("#g0-comparison thead button")[column].click();
const after = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
addEventListener("load", async () => {
  const base = document.querySelector("#g0 .base");
  const difference = (row) => document.querySelector(`#g0-comparison tr[data-row="${row}"]`)
    .cells[3].textContent;
  told.push("before " + difference(0) + " " + difference(1));
  base.value = "1";
  base.dispatchEvent(new Event("change"));
  told.push("after " + difference(1));
  press(2);
  told.push("best " + first());
  press(2);
  told.push("worst " + first());
  told.push("sorted " + document.querySelectorAll("#g0-comparison [aria-sort]").length);
  const drawn = () => document.querySelectorAll("#g0-front .scatterlayer .trace").length;
  told.push("points " + drawn());
  const box_ = document.querySelector("#g0-front .plot");
  Plotly.Fx.hover(box_, [{ curveNumber: 1, pointNumber: 0 }]);
  await after(300);
  told.push("hover " + box_.querySelector(".hoverlayer").textContent);
  document.getElementById("filter").value = "lr=3";
  document.getElementById("filter").dispatchEvent(new Event("input"));
  await after(400);
  told.push("shown " + document.getElementById("shown").textContent);
  told.push("points " + drawn());
  told.push("figures " + document.querySelectorAll(".plot svg.main-svg").length / 3);
  told.push("buttons " + [...document.querySelectorAll(".modebar-btn")]
    .some((one) => /cloud|share|edit/i.test(one.dataset.title || "")));
  const box = document.createElement("pre");
  box.id = "told";
  box.textContent = told.join("\\n");
  document.body.append(box);
});
"""


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_in_a_browser_it_sorts_filters_and_draws_under_its_policy(
    make: Make, tmp_path: Path
) -> None:
    make("a", 0, strength=1.0, settings={"lr": 1}, metrics={"auc@x": 0.5, "auc@y": 0.6})
    make("a", 0, strength=2.0, settings={"lr": 2}, metrics={"auc@x": 0.6, "auc@y": 0.7})
    make("a", 0, strength=0.3, settings={"lr": 3}, metrics={"auc@x": 0.4, "auc@y": 0.3})
    page = write_page(tmp_path / "runs")
    digest = b64encode(sha256(PLAY.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    page = page.replace("<main ", f"<script>{PLAY}</script><main ", 1)
    (tmp_path / "played.html").write_text(page)
    done = subprocess.run(
        [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=20000",
         "--enable-logging=stderr", "--dump-dom", f"file://{tmp_path / 'played.html'}"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "Content Security Policy" not in done.stderr
    (told,) = re.findall('<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    lines = told.splitlines()
    assert lines[0].startswith("before reference +")
    assert re.fullmatch(
        r"hover a lr=2AUC [\d.]+ \(95%: [\d.]+–[\d.]+\)without privacy3.000 MB, 100 s, 1 seed.*",
        lines.pop(6),
    )
    assert lines[1:] == [
        "after reference",
        "best a lr=2",
        "worst a lr=3",
        "sorted 1",
        "points 3",
        "shown 1 of 3 methods",
        "points 1",
        "figures 4",
        "buttons false",
    ]
