"""Figures of a run: what they show is what the run folder says, and nothing hollow is drawn."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as their_roc_curve

from fedsim.report.curves import precision_recall, precision_recall_curve, roc, roc_curve
from fedsim.report.drawing import Picture
from fedsim.report.figures import (
    NAMES,
    clients,
    epsilon,
    figures,
    metric_hours,
    metric_megabytes,
    metric_rounds,
    partition,
    traffic,
    work,
)
from fedsim.report.record import Record, read_record
from tests.report.conftest import round_row, write_predictions

SEEN = {
    "exchange": 0,
    "clients": [0, 1],
    "distance": [0.5, 4.0],
    "cosine": [0.9, None],
    "weight": [1.0, 0.0],
    "chosen": [True, False],
    "flagged": [False, True],
}

WORK = [
    {"client": 0, "asked": 1, "from": 0.0, "to": 0.5, "outcome": "used"},
    {"client": 1, "asked": 1, "from": 0.25, "to": 9.0, "outcome": "late"},
]


def one(draw: Callable[[Record], Picture | None], folder: Path) -> Picture:
    """The one figure that `draw` makes of a run."""
    picture = draw(read_record(folder))
    assert picture is not None
    return picture


def drawn(folder: Path) -> dict[str, Picture]:
    """All figures of a run, by name."""
    return {picture.name: picture for picture in figures(read_record(folder))}


def table(picture: Picture) -> list[dict[str, str]]:
    return list(csv.DictReader(picture.csv.decode().splitlines()))


def test_the_csvs_of_metrics_hold_the_numbers_of_the_rounds_unrounded(
    make_run: Callable[..., Path],
) -> None:
    folder = make_run()
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    over_rounds = table(one(metric_rounds, folder))
    over_traffic = table(one(metric_megabytes, folder))
    assert [int(row["round"]) for row in over_rounds] == [1, 2, 3]
    assert [float(row["auc"]) for row in over_rounds] == [row["metrics"]["auc"] for row in lines]
    assert [float(row["auc"]) for row in over_traffic] == [row["metrics"]["auc"] for row in lines]
    assert [float(row["mb_total"]) for row in over_traffic] == [
        row["mb_up_total"] + row["mb_down_total"] for row in lines
    ]
    assert set(over_rounds[0]) == {"round", "failed", "auc"}  # Neither sites nor training metrics.


def test_metrics_of_several_units_have_axes_of_their_own(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("fedsim.report.figures.png", lambda figure: seen.append(figure) or b"")
    names = {"psnr": ("dB", 1.0), "ssim": ("%", 100.0), "gain": ("dB", 1.0)}
    task = {
        "name": "own",
        "records": "slices",
        "goal": "to reconstruct",
        "headline": "psnr",
        "in_rounds": list(names),
        "in_tables": list(names),
        "metrics": [
            {"name": name, "title": name.upper(), "unit": unit, "scale": scale, "better": "higher"}
            for name, (unit, scale) in names.items()
        ],
    }
    values = [{"psnr": 20.0 + k, "ssim": 0.6 + k / 10, "gain": 1.0 + k} for k in (1, 2)]
    rounds = [round_row(k + 1, metrics=one) for k, one in enumerate(values)]
    folder = make_run(rounds, task=task)
    for draw in (metric_rounds, metric_megabytes):
        picture = one(draw, folder)
        decibels, share = seen.pop().axes
        assert (decibels.get_ylabel(), share.get_ylabel()) == (
            "on the test split (dB)",
            "on the test split",
        )
        assert [list(line.get_ydata()) for line in decibels.get_lines()] == [[21, 22], [2, 3]]
        assert [list(line.get_ydata()) for line in share.get_lines()] == [[0.7, 0.8]]
        assert [[line.name[:4] for line in plot.lines] for plot in picture.plots] == [
            ["PSNR", "GAIN"],
            ["SSIM"],
        ]
        assert picture.header[2:] == tuple(names)
    assert len(one(metric_rounds, folder).plots[0].rings) == 1
    assert not one(metric_rounds, folder).plots[1].rings


def test_the_csv_of_traffic_adds_up_the_messages_of_each_round(
    make_run: Callable[..., Path],
) -> None:
    rows = table(one(traffic, make_run()))
    assert len(rows) == 6
    assert rows[0] == {
        "round": "1",
        "direction": "up",
        "bytes": "8100",
        "arrays_bytes": "8000",
        "metrics_bytes": "32",
    }
    assert rows[1] == {
        "round": "1",
        "direction": "down",
        "bytes": "18100",
        "arrays_bytes": "18000",
        "metrics_bytes": "",
    }


def test_the_csv_of_clients_names_them_and_leaves_counts_of_records_out(
    make_run: Callable[..., Path],
) -> None:
    rows = table(one(clients, make_run()))
    told = {(row["client"], int(row["round"])): float(row["value"]) for row in rows}
    assert told == {
        **{("north", number): 1.0 / number for number in (1, 2, 3)},
        **{("south", number): 3.0 / number for number in (1, 2, 3)},
    }
    assert {row["metric"] for row in rows} == {"loss"}


def test_the_csv_of_epsilon_holds_each_client_s(make_run: Callable[..., Path]) -> None:
    rounds = [
        round_row(n, epsilon=2.0 * n, epsilon_by_client={"0": 2.0 * n, "1": 1.0 * n}, delta=1e-5)
        for n in (1, 2)
    ]
    rows = table(one(epsilon, make_run(rounds)))
    assert rows == [
        {"round": "1", "epsilon": "2.0", "epsilon of north": "2.0", "epsilon of south": "1.0"},
        {"round": "2", "epsilon": "4.0", "epsilon of north": "4.0", "epsilon of south": "2.0"},
    ]


def test_who_was_not_asked_has_spent_what_they_had_spent(make_run: Callable[..., Path]) -> None:
    spent = [{"0": 1.0}, {"1": 2.0}, {"0": 3.0, "1": None}]
    rounds = [
        round_row(n, epsilon=float(n), epsilon_by_client=told, delta=1e-5)
        for n, told in enumerate(spent, 1)
    ]
    rows = table(one(epsilon, make_run(rounds)))
    assert [row["epsilon of north"] for row in rows] == ["1.0", "1.0", "3.0"]
    assert [row["epsilon of south"] for row in rows] == ["", "2.0", "2.0"]


def test_without_a_privacy_mechanism_there_is_no_figure_of_epsilon(
    make_run: Callable[..., Path],
) -> None:
    assert epsilon(read_record(make_run())) is None


def test_one_round_makes_no_curves(make_run: Callable[..., Path]) -> None:
    assert set(drawn(make_run([round_row(1, epsilon=1.0)]))) == {"partition"}


def test_a_run_without_rounds_shows_the_partition_only(make_run: Callable[..., Path]) -> None:
    assert set(drawn(make_run([], status="interrupted"))) == {"partition"}


def test_metrics_that_are_measured_now_and_then_are_drawn_where_they_are(
    make_run: Callable[..., Path],
) -> None:
    rounds = [round_row(n) for n in (1, 2, 3, 4)]
    rounds[0]["metrics"] = rounds[2]["metrics"] = {}
    rounds[3]["metrics"]["dice"] = None
    rows = table(one(metric_rounds, make_run(rounds)))
    assert [row["auc"] != "" for row in rows] == [False, True, False, True]
    assert "dice" not in rows[0]


def test_failed_clients_change_the_pictures_over_rounds(make_run: Callable[..., Path]) -> None:
    rounds = [round_row(n) for n in (1, 2, 3)]
    folder = make_run(rounds)
    before = one(metric_rounds, folder)
    rounds[1]["failed"] = [{"client": 1, "site": "south", "phase": "train", "reason": "raised"}]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rounds))
    after = one(metric_rounds, folder)
    assert after.png != before.png
    assert "failed" in after.caption
    assert [row["failed"] for row in table(after)] == ["0", "1", "0"]


def test_the_partition_is_told_by_class_where_the_run_says_so(
    make_run: Callable[..., Path],
) -> None:
    folder = make_run()
    assert table(one(partition, folder)) == [
        {"client": "north", "train": "30", "val": "2"},
        {"client": "south", "train": "10", "val": "2"},
    ]
    record = json.loads((folder / "run.json").read_text())
    record["data"]["classes"] = ["benign", "malignant"]
    record["data"]["classes_by_client"] = {"north": [29, 1], "south": [10, 0]}
    (folder / "run.json").write_text(json.dumps(record))
    assert table(one(partition, folder)) == [
        {"client": "north", "benign": "29", "malignant": "1"},
        {"client": "south", "benign": "10", "malignant": "0"},
    ]


@pytest.mark.parametrize(("models", "classes"), [(1, 2), (3, 2), (1, 4), (3, 9)])
def test_curves_are_drawn_of_every_model_and_class(
    make_run: Callable[..., Path], models: int, classes: int
) -> None:
    folder = make_run()
    rng = np.random.default_rng(0)
    labels = np.arange(60) % classes
    probabilities = rng.dirichlet(np.ones(classes), (models, 60)).astype(np.float32)
    write_predictions(folder, labels, probabilities)
    scored = 1 if classes == 2 else classes
    for draw in (roc, precision_recall):
        rows = table(one(draw, folder))
        assert len({(row["model"], row["class"]) for row in rows}) == models * scored
    expected = np.mean([roc_auc_score(labels == 1, one[:, 1]) for one in probabilities])
    assert f"class 1: AUC {expected:.3f}" in one(roc, folder).alt


def test_a_test_split_of_one_class_has_no_curves(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    write_predictions(folder, np.zeros(5, np.int64), np.full((1, 5, 2), 0.5, np.float32))
    record = read_record(folder)
    assert roc(record) is precision_recall(record) is None


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40).filter(
        lambda pairs: len({positive for positive, _ in pairs}) == 2
    )
)
def test_areas_and_corners_are_those_of_scikit_learn(pairs: list[tuple[bool, int]]) -> None:
    positive = np.array([one for one, _ in pairs])
    scores = np.array([score / 6 for _, score in pairs])
    ours = roc_curve(positive, scores)
    assert ours.area == pytest.approx(roc_auc_score(positive, scores))
    assert precision_recall_curve(positive, scores).area == pytest.approx(
        average_precision_score(positive, scores)
    )
    # Leaving out the points between corners changes nothing.
    x, y, _ = their_roc_curve(positive, scores, drop_intermediate=False)
    everything = set(zip(x.tolist(), y.tolist(), strict=True))
    assert set(zip(ours.x.tolist(), ours.y.tolist(), strict=True)) <= everything
    assert np.trapezoid(ours.y, ours.x) == pytest.approx(ours.area)


def test_golden_curves() -> None:
    positive = np.array([True, False, True, False])
    scores = np.array([0.9, 0.8, 0.4, 0.1])
    ours = roc_curve(positive, scores)
    assert ours.x.tolist() == [0, 0, 0.5, 0.5, 1]
    assert ours.y.tolist() == [0, 0.5, 0.5, 1, 1]
    assert ours.area == 0.75
    ours = precision_recall_curve(positive, scores)
    assert ours.x.tolist() == [0, 0.5, 0.5, 1, 1]
    assert ours.y.tolist() == [1, 1, 0.5, 2 / 3, 0.5]
    assert ours.area == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_metrics_over_simulated_hours_and_who_worked_when(make_run: Callable[..., Path]) -> None:
    last = [{"client": 0, "asked": 2, "from": 0.5, "to": 8.0, "outcome": "unused"}]
    folder = make_run(
        [
            round_row(1, simulated_hours=1.5, work=WORK[:1]),
            round_row(2, simulated_hours=4.0, work=[*WORK[1:], *last]),
        ]
    )
    hours = table(one(metric_hours, folder))
    assert [float(row["simulated_hours"]) for row in hours] == [1.5, 4.0]
    picture = one(work, folder)
    rows = table(picture)
    assert [(row["client"], row["outcome"]) for row in rows] == [
        ("north", "used"),
        ("south", "late"),
        ("north", "unused"),
    ]
    (plot,) = picture.plots
    # The first client is on top; what outlives the run ends with the picture.
    assert [text for _, text in plot.y.ticks] == ["north", "south"]
    assert [area.name for area in plot.areas] == ["current model", "too late", "unfinished"]
    assert [area.upper[1][0] for area in plot.areas] == [0.5, plot.x.high, plot.x.high]
    assert plot.areas[0].upper[0][1] > plot.areas[1].upper[0][1]
    assert "2 clients, 3 tasks, 1 of them used" in picture.alt


@pytest.mark.parametrize(
    ("hours", "unit", "end"),
    [(1.0, "hours", 1), (0.5, "minutes", 30), (0.0125, "seconds", 45)],
)
def test_time_is_drawn_in_a_unit_that_can_be_read(
    make_run: Callable[..., Path], hours: float, unit: str, end: int
) -> None:
    done = [{"client": 0, "asked": 1, "from": 0.0, "to": hours, "outcome": "used"}]
    rows = [round_row(1, simulated_hours=hours / 2, work=[])]
    folder = make_run([*rows, round_row(2, simulated_hours=hours, work=done)])
    over, who = one(metric_hours, folder), one(work, folder)
    assert over.title == f"Test metrics over simulated {unit}"
    assert f"stands at {end} {unit}" in over.alt
    assert f"{end} simulated {unit}" in who.alt
    assert over.plots[0].x.label == who.plots[0].x.label == f"simulated {unit}"
    assert [x for x, _ in over.plots[0].lines[0].points] == pytest.approx([end / 2, end])
    assert [x for x, _ in who.plots[0].areas[0].upper] == pytest.approx([0, end])
    # Files keep to hours.
    assert [float(row["simulated_hours"]) for row in table(over)] == [hours / 2, hours]
    assert [float(row["to_hour"]) for row in table(who)] == [hours]


def test_a_run_without_a_clock_has_no_hours_to_draw(make_run: Callable[..., Path]) -> None:
    record = read_record(make_run([round_row(n, simulated_hours=None, work=None) for n in (1, 2)]))
    assert metric_hours(record) is work(record) is None


def test_every_figure_is_readable_and_says_when_the_data_are_a_stand_in(
    make_run: Callable[..., Path],
) -> None:
    folder = make_run(
        [round_row(n, epsilon=1.0 * n, seen=[SEEN], simulated_hours=n, work=WORK) for n in (1, 2)]
    )
    rng = np.random.default_rng(0)
    write_predictions(folder, np.arange(20) % 2, rng.dirichlet((1, 1), (1, 20)))
    real = drawn(folder)
    assert tuple(real) == NAMES
    record = json.loads((folder / "run.json").read_text())
    record["data"]["source"] = "embedded"
    (folder / "run.json").write_text(json.dumps(record))
    stand_in = drawn(folder)
    for name in NAMES:
        assert real[name].alt
        assert real[name].caption
        for picture, marked in ((real[name], False), (stand_in[name], True)):
            pixels = np.asarray(Image.open(BytesIO(picture.png)).convert("RGB"))
            assert pixels.shape[1] == 800
            assert (pixels[0] == 255).all()
            box = (pixels[-20:, 10:200] == (0xFF, 0xF3, 0xC4)).all(axis=2)
            assert box.any() == marked, name
