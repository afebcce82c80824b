"""What the page of a run says, in which order, and what it must not say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, recall_score, roc_auc_score

from fedsim.report.calibration import calibrate, calibration
from fedsim.report.figures import metric_rounds
from fedsim.report.page import build_page, write_report
from fedsim.report.plot import Area, Axis, Bars, Line, Plot, axis, stairs
from fedsim.report.record import read_record
from fedsim.report.rendering import Table, cell, render
from fedsim.report.sections import privacy
from fedsim.report.sections.result import score_interval, sentence
from fedsim.report.text import closing_lines, page_lines
from tests.report.conftest import round_row, write_predictions
from tests.report.many_clients import write_run
from tests.report.test_page import Page, change_run

PLAN: dict[str, Any] = {
    "mechanism": "dp_sgd",
    "certified": True,
    "unit": "record",
    "unit_note": None,
    "adjacency": "the contents of one record replaced by nothing",
    "across_clients": "max",
    "delta": 1e-5,
    "noise_multiplier": 1.1,
    "max_epsilon": None,
    "accountants": {"epsilon_planned": "prv", "summary.json": "prv or rdp"},
    "randomness": "simulation-grade: whoever knows the seed can remove the noise",
    "clients": {"north": {"units": 30, "steps": 2}, "south": {"units": 10, "steps": 2}},
}


def page_of(folder: Path) -> str:
    """The page of a run without its figures, which take most of the time."""
    return build_page(read_record(folder), [])


def told(page: str) -> str:
    """The text of a page, with spaces between elements."""
    body = page.partition("</style>")[2]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def change(folder: Path, name: str, **values: Any) -> None:
    record = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(record | values))


def scored(folder: Path, labels: np.ndarray, probabilities: np.ndarray, **metrics: Any) -> None:
    """Give a run predictions, and the summary their AUC."""
    write_predictions(folder, labels, probabilities)
    if probabilities.shape[2] == 2:
        metrics = {"auc": roc_auc_score(labels == 1, probabilities[0, :, 1])} | metrics
    change(folder, "summary.json", metrics=metrics)


def drawn_labels(count: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities of one model that lean towards them."""
    rng = np.random.default_rng(1)
    labels = np.arange(count) % classes
    probabilities = rng.dirichlet(np.ones(classes), count) + 0.5 * np.eye(classes)[labels]
    return labels, (probabilities / probabilities.sum(1, keepdims=True))[None].astype(np.float32)


# --- Order and frame ------------------------------------------------------------------------------


def test_the_result_comes_first_and_the_fingerprint_last(make_run: Callable[..., Path]) -> None:
    folder = make_run(versions={"python": "3.11"})
    change_run(folder, fingerprint="ab" * 32)
    path = write_report(folder)
    page = Page(path)
    titles = ["Result", "Round by round", "Data and clients", "Privacy", "Communication and cost"]
    titles += ["Failed clients", "How to repeat it", "How to cite it", "Versions and fingerprint"]
    assert re.findall(r"<h2[^>]*>([^<]+)</h2>", path.read_text()) == titles
    assert page.text.index("0.612") < page.text.index("ab" * 32)
    assert page.text.index("Versions and fingerprint", 2000) < page.text.index("ab" * 32)


def test_headings_landmarks_and_links_serve_a_keyboard_and_a_screen_reader(tiny_run: Path) -> None:
    page = Page(tiny_run / "report" / "index.html")
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    first = next(one for tag, one in page.elements if tag == "a")
    assert (first["class"], first["href"]) == ("skip", "#main")
    ids = [one["id"] for _, one in page.elements if one.get("id")]
    assert len(ids) == len(set(ids))
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids
    for row in page.all("th"):
        assert row["scope"] in ("col", "row")
    style = (tiny_run / "report" / "index.html").read_text()
    assert ":focus-visible" in style
    assert "@media print" in style
    assert "prefers-color-scheme: dark" in style


def test_the_policy_lets_nothing_in(tiny_run: Path) -> None:
    (policy,) = [
        str(one["content"])
        for one in Page(tiny_run / "report" / "index.html").all("meta")
        if one.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert "script" not in policy


def test_a_page_without_pictures_of_images_is_small(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path / "run", 49, rounds=8, models=12))
    assert path.stat().st_size < 1.5e6


# --- What was learned -----------------------------------------------------------------------------


def test_one_sentence_says_what_was_learned_on_which_data(
    make_run: Callable[..., Path], tiny_run: Path
) -> None:
    folder = make_run()
    change_run(folder, classes=["benign", "malignant"])
    (folder / "scenario.yaml").write_text(
        "model: {name: cnn}\nstrategy: {name: fedavg}\nclient: {name: supervised}\n"
    )
    assert sentence(read_record(folder)) == (
        "2 clients that have 40 training images of ham10000 trained one model together to tell "
        "malignant from benign, in 3 rounds; model cnn, strategy fedavg, client method supervised."
    )
    assert "the embedded stand-in for ham10000 (generated, not real data)" in sentence(
        read_record(tiny_run)
    )


def test_the_sentence_of_one_shot_private_and_own_models(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)], privacy=PLAN)
    lines = [{"round": 1, "client": 0, "direction": "up", "bytes": 900, "fields": {"images": 800}}]
    (folder / "traffic.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    change(folder, "summary.json", epsilon=2.5, unit="record", certified=True)
    one_shot = sentence(read_record(folder))
    assert "sent synthetic images, on which the server trained one model" in one_shot
    assert "with differential privacy (epsilon 2.5 for every record)" in one_shot
    (folder / "traffic.jsonl").write_text("")
    labels, probabilities = drawn_labels(30)
    write_predictions(folder, labels, np.repeat(probabilities, 2, axis=0))
    assert "trained a model each" in sentence(read_record(folder))


def test_real_images_that_were_sent_are_not_on_the_page(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)], released_without_privacy=["REAL IMAGES: 3 of each class"])
    (folder / "synthetic").mkdir()
    (folder / "synthetic" / "sheet.png").write_bytes(b"patients")
    line = {"round": 1, "client": 0, "direction": "up", "bytes": 900, "fields": {"images": 800}}
    (folder / "traffic.jsonl").write_text(json.dumps(line) + "\n")
    page = page_of(folder)
    assert "<img" not in page
    assert "The clients sent real images." in told(page)
    assert "sent some of them, on which the server trained one model" in told(page)
    change_run(folder, source="embedded")
    assert "<img" in page_of(folder)


def test_cases_are_shown_of_the_stand_in_alone(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)])
    (folder / "segmentation").mkdir()
    (folder / "segmentation" / "overlays.png").write_bytes(b"cases")
    page = page_of(folder)
    assert "<img" not in page
    assert "which this page does not hold" in told(page)
    change_run(folder, source="embedded")
    assert "<img" in page_of(folder)


def test_a_run_without_a_round_says_so(make_run: Callable[..., Path]) -> None:
    text = told(page_of(make_run([], status="interrupted")))
    assert "No round has finished yet of a run in which 2 clients that have 40 training" in text
    assert "There is no result" in text


# --- The one number -------------------------------------------------------------------------------


def test_the_headline_has_the_interval_that_a_comparison_gives(
    make_run: Callable[..., Path],
) -> None:
    from fedsim.report.pairing import Bootstrap
    from fedsim.report.rows import find_runs, rows_of

    folder = make_run(started="2026-01-01T00:00:00")
    change_run(folder, classes=["benign", "malignant"])
    (folder / "scenario.yaml").write_text("name: tiny\ndata: {name: ham10000}\n")
    labels, probabilities = drawn_labels(200)
    scored(folder, labels, probabilities)
    (row,) = rows_of(find_runs([folder]))[0]
    expected = Bootstrap().interval(row.runs, "auc")
    assert expected is not None
    record = read_record(folder)
    assert record.summary is not None
    assert score_interval(record, "auc", record.summary["metrics"]["auc"]) == expected
    text = told(page_of(folder))
    assert f"95% interval {expected[0]:.3f} to {expected[1]:.3f}" in text
    assert "on 200 test images, 100 of them malignant" in text
    assert "Only" not in text


@pytest.mark.parametrize(
    ("count", "classes", "words"),
    [
        (40, 2, "Only 40 test images: every score below is rough"),
        (300, 30, "Only 10 test images of the class class 0"),
    ],
)
def test_few_test_records_are_warned_of(
    make_run: Callable[..., Path], count: int, classes: int, words: str
) -> None:
    folder = make_run([round_row(1)])
    labels, probabilities = drawn_labels(count, classes)
    write_predictions(folder, labels, probabilities)
    assert words in told(page_of(folder))


def test_predictions_that_do_not_agree_with_the_score_make_no_interval(
    make_run: Callable[..., Path],
) -> None:
    folder = make_run([round_row(1)])
    write_predictions(folder, *drawn_labels(40))
    assert "no interval: predictions.npz and the score do not agree" in told(page_of(folder))


def test_the_best_round_is_marked(make_run: Callable[..., Path]) -> None:
    rows = [round_row(n) for n in (1, 2, 3)]
    rows[1]["metrics"]["auc"] = 0.9
    picture = metric_rounds(read_record(make_run(rows)))
    assert picture is not None
    assert picture.plots[0].rings == [(2, 0.9)]
    assert "0.900 in round 2" in picture.caption


# --- Classes, confusion, calibration --------------------------------------------------------------


def test_classes_and_confusions_are_those_of_the_predictions(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)])
    change_run(folder, classes=["mel", "nv", "bcc"])
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    predicted = np.array([0, 0, 1, 1, 1, 2, 2, 2, 0, 1])
    probabilities = (0.2 * np.ones((10, 3)) + 0.4 * np.eye(3)[predicted])[None]
    write_predictions(folder, labels, probabilities.astype(np.float32))
    page = page_of(folder)
    table = page.partition("Scores of each class")[2].partition("</table>")[0]
    for name, count, recall in zip(
        ("mel", "nv", "bcc"), (3, 2, 5), recall_score(labels, predicted, average=None), strict=True
    ):
        row = table.partition(f">{name}<")[2].partition("</tr>")[0]
        assert f'"number">{count}<' in row
        assert f'"number">{recall:.4f}<' in row
    matrix = page.partition("Confusion matrix")[2].partition("</table>")[0]
    cells = re.findall(r"<strong>(\d+) %</strong> <span>\((\d+)\)</span>", matrix)
    assert cells == [
        ("67", "2"), ("33", "1"), ("0", "0"),
        ("0", "0"), ("100", "2"), ("0", "0"),
        ("20", "1"), ("20", "1"), ("60", "3"),
    ]  # fmt: skip


def test_many_classes_have_their_confusions_in_a_list(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)])
    write_predictions(folder, *drawn_labels(300, 60))
    text = told(page_of(folder))
    assert "The most frequent confusions" in text
    assert "Confusion matrix" not in text
    assert "classes with a value" in text


def test_golden_calibration() -> None:
    labels = np.array([0, 1, 1, 1])
    positive = np.array([0.25, 0.25, 0.75, 0.95])
    found = calibrate(labels, np.stack([1 - positive, positive], axis=1)[None])
    assert found.predicted == pytest.approx([0.25, 0.75, 0.95])
    assert found.observed.tolist() == [0.5, 1, 1]
    assert found.counts.tolist() == [2, 1, 1]
    assert found.error == pytest.approx((2 * 0.25 + 0.25 + 0.05) / 4)
    assert found.brier == pytest.approx(brier_score_loss(labels, positive))


def test_calibration_of_several_classes_is_of_the_chosen_one() -> None:
    labels = np.array([0, 1, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])[None]
    found = calibrate(labels, probabilities)
    assert found.predicted == pytest.approx([0.8])
    assert found.observed == pytest.approx([2 / 3])
    # (0.06 + 1.46 + 0.06) / 3, by hand.
    assert found.brier == pytest.approx(1.58 / 3)


# --- Private runs ---------------------------------------------------------------------------------


def test_a_private_run_tells_no_counts_of_classes(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)], privacy=PLAN)
    change_run(folder, classes=["benign", "malignant"], positive="malignant")
    labels = (np.arange(137) < 31).astype(np.int64)
    probabilities = np.random.default_rng(0).dirichlet((1, 1), (1, 137)).astype(np.float32)
    scored(folder, labels, probabilities)
    path = write_report(folder)
    text = told(path.read_text())
    assert "on 137 test images" in text
    for count in (31, 106):
        assert not re.search(rf"(?<![\d.]){count}(?![\d.%])", text), count
    assert "<span>(" not in path.read_text()
    picture = calibration(read_record(folder))
    assert picture is not None
    assert picture.header == ("predicted", "observed")
    assert "a private run tells no counts of classes" in text


def test_privacy_is_told_in_words(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)], privacy=PLAN, released_without_privacy=["test scores"])
    known = {"epsilon": 3.0, "epsilon_rdp": 3.2, "delta": 1e-5, "unit": "record"}
    change(folder, "summary.json", **known, accountant="prv", certified=True)
    text = told(page_of(folder))
    assert "What is promised: epsilon 3 at delta 1e-05, for every record" in text
    assert "at most 20.1 times as probable" in text
    # (e^3 + delta) / (1 + e^3) is 95.26 %.
    assert "right in at most 95.2 of 100" in text
    assert "whoever knows or guesses the seed can remove it" in text
    assert "numerical composition of privacy losses (PRV)" in text
    assert "NO GUARANTEE" not in text
    assert "It does not cover what is listed here" in text


@pytest.mark.parametrize(
    ("accountant", "mechanism"),
    [("prv", "DP-SGD: gradients of each step"), ("analytic", "Gaussian mechanism, once")],
)
def test_a_sum_sent_once_is_not_called_training(
    make_run: Callable[..., Path], accountant: str, mechanism: str
) -> None:
    plan = PLAN | {"accountants": {"epsilon_planned": accountant}}
    folder = make_run([round_row(1)], privacy=plan)
    known = {"epsilon": 3.0, "epsilon_rdp": 3.2, "delta": 1e-5, "unit": "record"}
    change(folder, "summary.json", **known, accountant=accountant, certified=True)
    assert mechanism in told(page_of(folder))


def test_a_claim_without_a_proof_is_no_guarantee(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)], privacy=PLAN | {"certified": False})
    change(folder, "summary.json", epsilon=None, epsilon_claimed=2.0, certified=False, delta=1e-5)
    text = told(page_of(folder))
    assert "NO GUARANTEE" in text
    assert "claims an epsilon of 2" in text
    assert "What is promised" not in text


@pytest.mark.parametrize(
    ("epsilon", "words"), [(0.5, "strong protection"), (4, "reasonable"), (900.0, "little or noth")]
)
def test_every_epsilon_has_a_judgement(epsilon: float, words: str) -> None:
    blocks = privacy._words(epsilon, 1e-5, "record", "")
    text = " ".join(getattr(block, "text", "") for block in blocks)
    assert words in text
    assert "inf" not in text.replace("information", "")


def test_an_audit_is_a_sentence(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)], privacy=PLAN)
    audit = {"level": "run", "line": "audited epsilon at least 0.4", "violation": True}
    change(folder, "summary.json", epsilon=1.0, delta=1e-5, certified=True, audit=audit)
    text = told(page_of(folder))
    assert "Attacked by an audit: audited epsilon at least 0.4" in text
    assert "violation" not in text


# --- No Python in a cell --------------------------------------------------------------------------


def test_no_cell_holds_what_only_python_reads(
    make_run: Callable[..., Path], tiny_run: Path
) -> None:
    folder = make_run(privacy=PLAN, versions={"python": "3.11", "ray": ""}, mkl_cbwr=None)
    change_run(folder, external={"root": None, "sizes": {"test": 3}}, window=None)
    (folder / "scenario.yaml").write_text(
        "federation: {labels: {clients: {north: [a, b], south: [c]}}}\n"
        "strategy: {name: fedavg, weights: {a: 1}, codec: null}\n"
    )
    for page in (page_of(folder), (tiny_run / "report" / "index.html").read_text()):
        for found in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, re.DOTALL):
            assert "None" not in found
            assert "{&#39;" not in found
            assert "[&#39;" not in found
    assert "north: a, b; south: c" in told(page_of(folder))


def test_cells_are_for_people() -> None:
    values = [None, True, 0.5, 123456.7, 3e-5, 7, {"a_b": [1, None]}, "x"]
    assert [cell(value) for value in values] == [
        *("undefined", "yes", "0.5000", "1.2346e+05", "3e-05", "7", "a b: 1, undefined", "x")
    ]
    assert cell(0.256, 2) == "0.26"


def test_marks_that_mislead_a_reader_are_written_out(make_run: Callable[..., Path]) -> None:
    page = page_of(make_run(name="ward \x1b[31m \u202egnp"))
    assert "ward \\x1b[31m \\u202egnp" in page
    assert not set("\x1b\u202e") & set(page)


def test_templates_escape_every_text() -> None:
    nasty = "<b>&\"'"
    table = Table(nasty, (nasty, nasty), [(nasty, nasty)])
    page = render(
        "run.html", title=nasty, lead=nasty, warnings=[nasty], contents=[(nasty, nasty)],
        sections=[], version=nasty,
    )  # fmt: skip
    assert nasty not in page
    module = render.__globals__["environment"]().get_template("macros.html").module
    assert nasty not in str(module.table(table))


# --- Plots ----------------------------------------------------------------------------------------


def test_points_stand_where_their_axes_say() -> None:
    plot = Plot(
        "",
        Axis("x", 0, 10, []),
        Axis("y", 0, 4, []),
        [Line("a", [(0, 0), (5, 2), (5, 2), (10, 4)]), Line("", [(0, 1)])],
        [Area("b", [(0, 0), (10, 0)], [(0, 1), (10, 1)])],
    )
    assert plot.path(plot.lines[0].points) == "M0 1000L500 500L1000 0"
    assert plot.outline(plot.areas[0]) == "M0 750L1000 750L1000 1000L0 1000Z"
    assert plot.dots([(5, 2)]) == "M500 500h0"
    assert [one.name for one in plot.legend] == ["b", "a"]


def test_axes_have_few_ticks_inside_their_ends() -> None:
    for values, whole in (([1, 2, 3], True), ([0.61, 0.612], False), ([5.0], False), ([0], True)):
        found = axis("x", values, whole=whole)
        assert found.low < min(values) <= max(values) < found.high
        assert 1 <= len(found.ticks) <= 6
        assert all(found.low <= at <= found.high for at, _ in found.ticks)
        assert len({text for _, text in found.ticks}) == len(found.ticks)
    assert axis("x", [0, 3], low=0).low == 0


def test_stairs_and_bars() -> None:
    assert stairs([1, 2], [0, 10, 20]) == [(0, 1), (10, 1), (10, 2), (20, 2)]
    bars = Bars("c", "client", ("a", "b"), {"x": [1, 3], "y": [0, 2]})
    assert bars.widths("x") == [25, 75]
    assert bars.widths("y") == [0, 50]


def test_what_is_no_number_has_no_place() -> None:
    nan, far = float("nan"), float("inf")
    found = axis("x", [nan, 1.0, far])
    assert found.low < 1 < found.high < 2
    plot = Plot("", found, Axis("y", 0, 4, []))
    assert plot.path([(1.0, nan), (1.0, 2.0), (far, 2.0)]) == "M500 500"
    assert plot.dots([(nan, 1.0)]) == ""
    assert axis("x", []).ticks


def test_long_lines_are_thinned_and_end_where_they_end() -> None:
    points = [(float(k), 0.0) for k in range(5000)]
    assert len(Line("", points).drawn) == 1200
    assert len(Line("", points, thin=True).drawn) == 200
    assert Line("", points).drawn[-1] == points[-1]


# --- The terminal ---------------------------------------------------------------------------------


def test_the_last_line_of_a_run_names_the_page(tiny_run: Path) -> None:
    summary = json.loads((tiny_run / "summary.json").read_text())
    lines = closing_lines(summary, tiny_run, tiny_run.parent)
    assert lines[-1] == f"run folder: {tiny_run.name}"
    page = f"page: {tiny_run.name}/report/index.html"
    assert page_lines(tiny_run, tiny_run.parent) == [page]
    assert page_lines(tiny_run / "report", tiny_run.parent) == []
