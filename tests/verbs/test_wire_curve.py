"""Curves over megabytes: which runs they need, and what table, numbers and figure say."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fedsim.folder.runfolder import RunFolder
from fedsim.report import wire_curve
from fedsim.report.frames import points_frame
from fedsim.report.overview import title_for
from fedsim.report.privacy_curve import curve_of
from fedsim.report.wire_curve import HEADER, WirePoint, picture, rows, table
from fedsim.scenario import load
from fedsim.scenario.schema import Wire
from fedsim.sweeping.cells import fingerprints
from fedsim.sweeping.wires import WIRES, WireCell, plan_wires, wire_words
from tests.verbs.test_curve import PLAIN, cache, rows_of, typed

Typed = Callable[..., tuple[int, str, str]]
__all__ = ["cache", "typed"]  # The fixtures of the other curves.

TOPK = "{sparsify: {topk: 0.01}, error_feedback: true}"
ALONE = (
    PLAIN.replace("name: plain", "name: alone")
    .replace("strategy: {name: fedavg}", "strategy: {name: local_only}")
    .replace("client: {name: supervised,", "client: {name: local,")
)


def told(cells: list[WireCell]) -> list[tuple[str, str, int]]:
    return [(one.cell.scenario.name, one.wire, one.cell.seed) for one in cells]


def test_each_scenario_that_sends_models_is_run_in_each_way_and_others_once(typed: Typed) -> None:
    Path("alone.yaml").write_text(ALONE)
    cells = plan_wires(["plain.yaml", "alone.yaml"], ["rounds=3"], ["none", "int4", TOPK], [1, 0])
    assert told(cells) == [
        line
        for seed in (1, 0)
        for line in (
            ("plain", "none", seed),
            ("plain", "int4", seed),
            ("plain", "top 1 %, feedback", seed),
            ("alone", "none", seed),
        )
    ]
    assert len({(one.cell.identity, one.cell.seed) for one in cells}) == len(cells)
    for one in cells:
        assert load(one.cell.source, one.cell.overrides) == one.cell.scenario
        assert one.cell.scenario.rounds == 3
    # Without compression it is the run that `fedsim run` makes.
    assert cells[0].cell.scenario.wire is None


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (None, "none"),
        ({}, "none"),
        ({"codec": "uint8", "down": "uint8"}, "uint8, down uint8"),
        ({"sparsify": {"topk": 0.015}, "codec": "int4"}, "top 1.5 %, int4"),
        (
            {"sketch": {"columns": 0.05, "topk": 0.01}, "error_feedback": True},
            "sketch 5 x 0.05, top 1 %, feedback",
        ),
    ],
)
def test_ways_to_compress_have_short_names(wire: Any, words: str) -> None:
    assert wire_words(wire if wire is None else Wire(**wire)) == words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plain.yaml", "--wires", "uint4"], ["'uint4'", "none, float16, uint8, int4"]),
        (["plain.yaml", "--wires", "{codec: uint4}"], ["wire.codec"]),
        (["plain.yaml", "--wires", "{codec"], ["wire"]),
        (["plain.yaml", "wire.codec=uint8"], ["a curve over megabytes varies"]),
        (["plain.yaml", "strategy.codec=uint8", "--wires", "int4"], ["encodes the models already"]),
        (
            ["plain.yaml", "--epsilons", "1"],
            ["--epsilons: has no effect on a curve over megabytes"],
        ),
        (["plain.yaml", "./plain.yaml"], ["as that of plain.yaml"]),
        (["--wires", "int4"], ["which scenarios?"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    typed: Typed, words: list[str], expected: list[str]
) -> None:
    code, _, err = typed("--over", "megabytes", *words)
    assert code == 2
    for text in expected:
        assert text in err
    assert not Path("runs").exists()


def test_wires_have_no_effect_on_a_curve_over_epsilon(typed: Typed) -> None:
    code, _, err = typed("private.yaml", "--wires", "int4")
    assert code == 2
    assert "--wires: has no effect on a curve over epsilon" in err


def test_words_behind_the_wires_are_scenarios_and_overrides(typed: Typed) -> None:
    words = ("--over", "megabytes", "--wires", "none", TOPK, "plain.yaml", "rounds=1", "--dry-run")
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    lines = [line.partition("] ")[2] for line in out.splitlines()[:-1]]
    assert lines == [
        "plain none seed 0: would run",
        "plain top 1 %, feedback seed 0: would run",
    ]
    assert f"{len(WIRES)} cells" in typed("--over", "megabytes", "plain.yaml", "--dry-run")[1]


def finish(one: WireCell, fingerprint: str, auc: float, up: float, down: float) -> None:
    """Write what a finished run of the cell leaves behind."""
    folder = RunFolder.create(Path("runs"), one.cell.scenario.name, one.cell.seed)
    folder.write_text("scenario.yaml", one.cell.scenario.to_yaml())
    data = {"name": "ham10000", "source": "embedded", "fingerprint": fingerprint}
    record = {"seed": one.cell.seed, "status": "done", "started": "2026-01-01", "data": data}
    folder.write_json("run.json", record)
    known = {"mb_up_total": up, "mb_down_total": down, "wall_seconds": 1.0, "peak_rss_mb": 9.0}
    folder.write_json("summary.json", {"metrics": {"auc": auc}, **known})


def test_what_is_there_is_drawn(typed: Typed) -> None:
    cells = plan_wires(["plain.yaml"], [], ["none", "uint8", TOPK], [0])
    data = fingerprints([cells[0].cell])[cells[0].cell.data_key]
    for one, auc, up in zip(cells, (0.8, 0.79, 0.7), (4.0, 1.0, 0.1), strict=True):
        finish(one, data, auc, up, 5.0)
    code, out, err = typed("--over", "megabytes", "plain.yaml", "--wires", "none", "uint8", TOPK)
    assert (code, err) == (0, "")
    assert out.count("finished already") == 3
    folder = Path("runs/curves/plain-megabytes")
    found = rows_of(folder / "curve.csv")
    assert tuple(found[0]) == HEADER
    assert [(row["wire"], row["value"], row["mb_up"]) for row in found] == [
        ("top 1 %, feedback", "0.7", "0.1"),
        ("uint8", "0.79", "1.0"),
        ("none", "0.8", "4.0"),
    ]
    assert Image.open(BytesIO((folder / "curve.png").read_bytes())).size == (800, 520)
    assert title_for([folder]) == "Utility over megabytes: plain-megabytes"


def point(wire: str, seed: int, value: float | None, up: float, scenario: str = "s") -> WirePoint:
    summary = {"metrics": {"auc": value}, "mb_up_total": up, "mb_down_total": 2.0}
    data = {"name": "isic2020", "source": "embedded", "fingerprint": "aa"}
    return WirePoint(scenario, float("inf"), seed, False, summary, data, wire=wire)


def test_the_table_and_the_figure_have_means_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    plain = wire_curve.png

    def kept(figure: Any) -> bytes:
        drawn.append(figure)
        return plain(figure)

    monkeypatch.setattr(wire_curve, "png", kept)
    points = [
        *(point("none", seed, 0.8 + 0.02 * seed, 40.0) for seed in (0, 1)),
        *(point("int4", seed, 0.78 + 0.04 * seed, 5.0) for seed in (0, 1)),
        point("none", 0, None, 1.0, "other"),
        point("none", 1, 0.7, 1.0, "other"),
    ]
    found = curve_of(points)
    lines = table(found).splitlines()
    assert lines[0].split() == ["wire", "seeds", "AUC", "MB", "up", "MB", "down"]
    assert lines[2].split() == ["s", "int4", "2", "0.800+-0.028", "5.000", "2.000"]
    assert lines[3].split() == ["s", "none", "2", "0.810+-0.014", "40.000", "2.000"]
    assert lines[4].split() == ["other", "none", "2", "0.700", "1.000", "2.000"]
    assert len(rows(found)) == 6
    pytest.importorskip("pandas")
    frame = points_frame(points)
    assert frame["wire"].tolist() == ["none", "none", "int4", "int4", "none", "none"]
    assert "epsilon" not in frame
    told_of = picture(found)
    assert "s: AUC 0.800 at 7 MB (int4), 0.810 at 42 MB (none)" in told_of.alt
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"
    line = axes.get_lines()[0]
    assert [round(x, 6) for x in line.get_xdata()] == [7.0, 42.0]
    assert [round(y, 6) for y in line.get_ydata()] == [0.8, 0.81]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["s", "other", "int4", "none"]
