"""Runs, tables, sweeps, curves and audits as objects: what the verbs do, from Python."""

from __future__ import annotations

import builtins
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import Result
from fedsim.cli import main
from fedsim.errors import InputError
from fedsim.privacy.attacks import Subject
from fedsim.privacy.audit import LowerBound
from fedsim.privacy.verdict import Level, Verdict
from tests.engine.conftest import TINY

Typed = Callable[..., tuple[int, Any, str]]
PRIVATE = (
    "client.class_balanced=false",
    "privacy={noise_multiplier: 2.0, delta: 1e-3, unit: record}",
    "data.window=[0.0, 255.0]",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with tiny.yaml, that is the current one."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("FEDSIM_DATA", raising=False)
        # Nothing here looks at pages.
        patch.setattr("fedsim.report.page.write_page", lambda _, paths: None)
        yield folder


@pytest.fixture(scope="module")
def results(place: Path) -> list[Result]:
    """Two seeds of a method, one of another, and one that is private, below runs/; and what a sweep
    and a curve are to find there, below other/."""
    for words in (
        ("strategy.codec=float32", "client.learning_rate=0.02"),
        ("strategy.codec=uint8", "client.learning_rate=0.02"),
        ("client.class_balanced=false", "privacy={target_epsilon: 8.0, delta: 1e-3}", "rounds=1"),
    ):
        fedsim.run("tiny.yaml", *words, seed=0, runs="other")
    return [
        fedsim.run("tiny.yaml", seed=0),
        fedsim.run("tiny.yaml", seed=1),
        fedsim.run("tiny.yaml", "strategy.codec=uint8", "client.learning_rate=0.02", seed=0),
        fedsim.run("tiny.yaml", *PRIVATE, seed=0),
    ]


@pytest.fixture
def typed(results: list[Result], capsys: pytest.CaptureFixture[str]) -> Typed:
    """Types a command with --json; returns exit code, the document and standard error."""

    def go(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main([*words, "--json"])
        out = capsys.readouterr()
        return code, json.loads(out.out), out.err

    return go


# --- DataFrames ----------------------------------------------------------------------------------


def test_rounds_are_a_frame(results: list[Result]) -> None:
    frame = results[0].rounds_frame()
    assert frame.index.name == "round"
    assert list(frame.index) == [1, 2]
    assert frame["auc"].tolist() == [row["metrics"]["auc"] for row in results[0].rounds]
    assert frame["mb_up_total"].iloc[-1] == results[0].summary["mb_up_total"]
    assert frame["clients"].tolist() == [4, 4]
    private = results[3].rounds_frame()
    assert private["epsilon"].is_monotonic_increasing


def test_clients_are_a_frame(results: list[Result]) -> None:
    frame = results[3].clients_frame()
    assert frame.index.names == ["round", "client"]
    assert len(frame) == 8
    row = results[3].rounds[1]
    assert frame.loc[(2, "3"), "epsilon"] == row["epsilon_by_client"]["3"]


def test_runs_are_a_frame_with_the_settings_that_differ(results: list[Result]) -> None:
    frame = fedsim.load_runs("runs")
    assert len(frame) == 4
    assert list(frame)[:3] == ["scenario", "seed", "data"]
    assert list(frame)[-1] == "run"
    changed = frame[frame["strategy.codec"] == "uint8"]
    assert changed["client.learning_rate"].tolist() == [0.02], "a number stays one"
    assert "client.batch_size" not in frame
    assert "name" not in frame
    private = frame[frame["epsilon"].notna()]
    assert private["run"].tolist() == [str(results[3].folder)]
    assert private["certified"].tolist() == [True]
    row = frame[frame["run"] == str(results[0].folder)].iloc[0]
    assert row["auc"] == results[0].metrics["auc"]
    assert row["mb_up"] == results[0].summary["mb_up_total"]
    assert fedsim.load_runs(results[0], results[1])["seed"].tolist() == [0, 1]


def test_without_pandas_one_sentence_says_what_to_install(
    results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def no_pandas(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_pandas)
    for call in (results[0].rounds_frame, fedsim.load_runs, fedsim.compare(results[0]).frame):
        with pytest.raises(InputError, match="pandas is not installed") as caught:
            call()
        assert "pip install pandas" in caught.value.hint


def test_a_damaged_run_is_left_out_with_a_warning(results: list[Result], tmp_path: Path) -> None:
    copy = tmp_path / "runs" / "tiny"
    for result in results[:2]:
        (copy / result.folder.name).mkdir(parents=True)
        for file in result.folder.iterdir():
            if file.is_file():
                (copy / result.folder.name / file.name).write_bytes(file.read_bytes())
    (copy / results[1].folder.name / "summary.json").write_text("{}")
    with pytest.warns(UserWarning, match="these runs were left out"):
        frame = fedsim.load_runs(tmp_path / "runs")
    assert frame["seed"].tolist() == [0]
    with pytest.warns(UserWarning, match=r"summary\.json"):
        assert len(fedsim.compare(tmp_path / "runs").lines) == 1


# --- Comparisons ---------------------------------------------------------------------------------


def test_a_comparison_is_the_verbs_table(
    results: list[Result], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    found = fedsim.compare("runs")
    assert main(["compare", "runs"]) == 0
    assert capsys.readouterr().out == f"{found}\n"
    frame = found.frame()
    auc = frame[(frame["row"] == found.lines[0].row.label) & (frame["metric"] == "auc")]
    assert auc["mean"].item() == found.lines[0].measures["auc"].mean
    assert auc["n"].item() == len(found.lines[0].row.runs)
    assert found.frame()["sd"].dtype.kind == "f"


def test_no_table_has_a_none_of_python(results: list[Result]) -> None:
    found = fedsim.compare("runs", reach=1.0, bandwidth=10.0, latency=5.0, sites=True)
    for text in (str(found), found.latex(), found.markdown(), found.csv(), found._repr_html_()):
        assert "None" not in text
        assert "nan" not in text.lower().split()
    assert "data.window=null" in found.markdown(), "there is one to be told"


def test_a_notebook_shows_tables_and_escapes_names(results: list[Result]) -> None:
    shown = results[3]._repr_html_()
    assert "<td>" in shown
    assert "epsilon, for every record" in shown
    assert "stand-in" in shown
    found = fedsim.compare(results[0], results[2], names={"tiny": "<b>ours</b>"})
    shown = found._repr_html_()
    assert shown.count("<tr>") == 3
    assert "<b>" not in shown
    assert "&lt;b&gt;ours&lt;/b&gt; client.learning_rate=0.02 strategy.codec=uint8" in shown
    assert "<script" not in shown


def test_columns_and_names_are_chosen(results: list[Result]) -> None:
    label = fedsim.compare("runs").lines[1].row.label
    found = fedsim.compare(
        "runs",
        columns=["mb up", "AUC", "epsilon"],
        names={label: "small", "AUC": "area", "tiny": "other"},
    )
    header, *_ = found.markdown().splitlines()
    assert header == "| method | MB up | area | 95% | epsilon |"
    assert found.lines[1].row.name == "small"
    assert all(found.lines[k].row.name.split()[0] == "other" for k in (0, 2))
    assert "minus" not in found.text(), "the difference was not chosen"
    assert set(found.frame()["metric"]) == {"mb_up_total", "auc"}
    assert r"\begin{tabular}{lrrrr}" in found.latex()
    data_first = fedsim.compare("runs", columns=["data", "auc_difference"])
    assert r"\begin{tabular}{llrrr}" in data_first.latex()
    assert "minus" in data_first.text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": ["acu"]}, "did you mean 'auc'"),
        ({"columns": []}, "these are there: data, seeds"),
        ({"names": {"tyny": "x"}}, "no such row"),
        ({"baseline": "nothing"}, "is no row"),
        ({"latency": 5.0}, "needs --bandwidth"),
    ],
)
def test_options_that_do_not_fit_are_said(
    options: dict[str, Any], told: str, results: list[Result]
) -> None:
    with pytest.raises(InputError) as caught:
        fedsim.compare("runs", **options)
    assert told in str(caught.value)


def test_two_rows_cannot_get_one_name(results: list[Result]) -> None:
    labels = [line.row.label for line in fedsim.compare("runs").lines]
    with pytest.raises(InputError, match="several rows would be called 'x'"):
        fedsim.compare("runs", names=dict.fromkeys(labels, "x"))


def test_the_verb_takes_columns_and_names(
    results: list[Result], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    label = "tiny client.class_balanced=false"
    labels = [line.row.label for line in fedsim.compare("runs").lines]
    (private,) = [one for one in labels if one.startswith(label)]
    file = tmp_path / "table.tex"
    words = ["--columns", "auc,epsilon", "--names", f"{private}=Private", "--latex", str(file)]
    assert main(["compare", "runs", *words]) == 0
    out = capsys.readouterr().out
    assert "Private" in out
    assert "MB up" not in out.partition("Metrics")[0]
    assert "Private & " in file.read_text()
    assert main(["compare", "runs", "--names", "no sign"]) == 2
    assert "expected OLD=NEW" in capsys.readouterr().err


def test_a_long_latex_table_is_divided_over_pages(
    results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fedsim.compare("runs")
    short = found.latex()
    assert "longtable" not in short
    monkeypatch.setattr("fedsim.report.export.MOST_ROWS", 2)
    text = found.latex()
    assert r"\usepackage{booktabs,longtable}" in text
    assert text.count(r"\toprule") == 2, "on the first page and on all others"
    assert text.index(r"\endfirsthead") < text.index(r"\endhead") < text.index(r"\endfoot")
    rows = [line for line in short.splitlines() if line.startswith("tiny")]
    assert len(rows) == 3
    assert all(row in text for row in rows)
    assert text.count("{") == text.count("}")


# --- Sweeps, curves, audits ----------------------------------------------------------------------


def test_a_sweep_runs_what_is_missing_and_gives_frame_and_table(
    results: list[Result], capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"strategy.codec": ["float32", "uint8"], "client.learning_rate": 0.02}
    planned = fedsim.sweep("tiny.yaml", values, seeds=2, runs="other", dry_run=True)
    assert [cell["status"] for cell in planned.cells] == ["done", "would run"] * 2
    assert [cell["seed"] for cell in planned.cells] == [0, 1, 0, 1]
    swept = fedsim.sweep("tiny.yaml", values, seeds=[0], runs="other")
    assert [cell["status"] for cell in swept.cells] == ["done", "done"]
    assert swept.folders == planned.folders
    assert swept.failed == []
    assert sorted(swept.frame()["strategy.codec"]) == ["float32", "uint8"]
    assert [line.row.label for line in swept.compare().lines] == [
        "tiny strategy.codec=float32",
        "tiny strategy.codec=uint8",
    ]
    assert "<table>" in swept._repr_html_()
    assert capsys.readouterr().out == "", "quiet"


def test_values_of_a_sweep_may_be_anything(place: Path) -> None:
    from fedsim.api.studies import _axis
    from fedsim.sweeping.cells import split_values

    values: list[Any] = ["a,b", "x", None, True, 1.5, [1, 2], {"name": "fedavg"}, "it's", "no"]
    parts = split_values(_axis(values))
    import yaml

    assert [yaml.safe_load(part) for part in parts] == values


def test_what_is_wrong_with_a_sweep_is_said_before_anything_runs(place: Path) -> None:
    with pytest.raises(InputError, match="one number is a count"):
        fedsim.sweep("tiny.yaml", seeds=0)
    with pytest.raises(InputError, match="has 2 problems"):
        fedsim.sweep("tiny.yaml", {"rounds": [0, "x"]})
    with pytest.raises(InputError, match="which scenarios"):
        fedsim.sweep([])
    with pytest.raises(InputError, match="expected at least 1"):
        fedsim.sweep("tiny.yaml", jobs=0)


def test_a_curve_of_runs_that_are_there_is_drawn(place: Path, results: list[Result]) -> None:
    values = {
        "client.class_balanced": False,
        "privacy": {"target_epsilon": 8.0, "delta": 1e-3},
        "rounds": 1,
    }
    drawn = fedsim.curve("tiny.yaml", values, epsilons=[8.0], name="mine", runs="other")
    assert (drawn.wanted, len(drawn.points)) == (1, 1)
    frame = drawn.frame()
    assert frame["epsilon"].tolist() == [8.0]
    assert frame["auc"].tolist() == [drawn.points[0].value("auc")]
    assert drawn._repr_png_() == (place / "other/curves/mine/curve.png").read_bytes()
    assert drawn.csv == (place / "other/curves/mine/curve.csv").read_bytes()
    assert "tiny" in str(drawn)
    assert drawn.sweep is not None
    assert len(drawn.sweep.folders) == 1


def test_an_audit_gives_the_verdict(
    results: list[Result], typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked: list[tuple[Any, ...]] = []

    def attack(subject: Subject, level: Level, seed: int, **_: Any) -> Verdict:
        attacked.append((subject.name, level, seed))
        claimed = subject.claimed_epsilon or 0.0
        bound = LowerBound(0.5, 0.95, cap=6.0, trials=1000, errors=3)
        return Verdict(level, claimed, subject.delta, subject.accountant, True, bound, "a stub")

    monkeypatch.setattr("fedsim.privacy.verdict.audit", attack)
    verdict = fedsim.audit("tiny.yaml", *PRIVATE, level="run", seed=5)
    assert not verdict.violation
    of_run = fedsim.audit(results[3].folder)
    assert of_run.claimed == pytest.approx(results[3].summary["epsilon"], rel=1e-6)
    code, document, err = typed("audit", str(results[3].folder))
    assert attacked == [("tiny", "run", 5), *[("tiny", "mechanism", 0)] * 2]
    assert (code, document["violation"]) == (0, False)
    assert document["claimed_epsilon"] == of_run.claimed
    assert document["line"] == of_run.line()
    assert "claims epsilon" in err
    with pytest.raises(InputError, match="no privacy block"):
        fedsim.audit("tiny.yaml")


# --- JSON ----------------------------------------------------------------------------------------


def test_compare_as_json_is_the_table(typed: Typed) -> None:
    found = fedsim.compare("runs")
    code, document, _ = typed("compare", "runs")
    assert code == 0
    assert [row["row"] for row in document["rows"]] == [line.row.name for line in found.lines]
    first = document["rows"][0]
    assert first["measures"]["auc"]["mean"] == found.lines[0].measures["auc"].mean
    assert first["measures"]["mb_up_total"]["unit"] == "MB"
    assert first["privacy"] is None
    assert {row["privacy"]["unit"] for row in document["rows"] if row["privacy"]} == {"record"}
    assert document["notes"] == found.notes


def test_check_data_plugins_and_clean_as_json(typed: Typed, place: Path) -> None:
    code, document, _ = typed("check", "tiny.yaml")
    assert (code, document["valid"], document["resolved"]["rounds"]) == (0, True, 2)

    _, document, _ = typed("data", "status")
    assert {one["name"] for one in document["datasets"]} >= {"isic2020", "folder"}
    assert document["cache"]["bytes"] > 0

    _, document, _ = typed("data", "show", "tiny.yaml")
    assert sum(document["data"]["sizes"].values()) == 260
    assert len(document["data"]["classes_by_client"]) == 4
    assert (place / document["picture"]).is_file()
    _, document, _ = typed("data", "prepare", "tiny.yaml", *PRIVATE)
    assert document["data"]["classes_by_client"] is None, "a private run publishes no counts"
    assert document["picture"] is None

    _, document, _ = typed("plugins")
    assert {"group", "name", "value"} <= set(document[0])

    _, document, _ = typed("clean", "runs", "--dry-run")
    assert document["dry_run"] is True
    assert document["count"] == len(document["items"]) >= 4
    assert document["bytes"] == sum(item["bytes"] for item in document["items"])
    assert all(Path(item["path"]).is_dir() for item in document["items"])


def test_the_examples_of_the_page_run(
    place: Path,
    results: list[Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # They run what other tests must not find.
    desk = shutil.copytree(place, tmp_path / "desk", symlinks=True)
    monkeypatch.chdir(desk)
    page = (Path(__file__).parents[2] / "docs/python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number} of python.md", "exec"), names)
    told = capsys.readouterr().out
    assert "FedAvg" in told
    assert "strategy.codec=uint8 seed 1" in told


def test_the_functions_of_the_page_are_there() -> None:
    page = (Path(__file__).parents[2] / "docs/python.md").read_text()
    named = set(re.findall(r"`?fedsim\.(\w+)[(`.]", page))
    assert {"run", "sweep", "curve", "audit", "compare", "load_runs", "load"} <= named
    assert all(hasattr(fedsim, name) for name in named)


def test_the_notebook_runs(place: Path, results: list[Result]) -> None:
    notebook = json.loads((Path(__file__).parents[2] / "examples/numbers.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6
    assert all(cell["outputs"] == [] for cell in cells), "what is shown depends on the machine"
    names: dict[str, Any] = {}
    exec("".join(cells[0]["source"]), names)
    for codec, seed in (("float32", 0), ("float32", 1), ("uint8", 0), ("uint8", 1)):
        # What the sweep would start processes for stands there already.
        words = [*names["words"], f"strategy.codec={codec}"]
        fedsim.run("isic_noniid_fedavg", *words, seed=seed, backend="inline", runs="runs-notebook")
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert len(names["table"].lines) == 2
    assert len(names["runs"]) == 5
    assert names["swept"].failed == []
