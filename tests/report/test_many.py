"""A thousand clients: pictures and tables stay small, and the CSVs keep every client."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fedsim.report import page as page_module
from fedsim.report.curves import precision_recall, roc
from fedsim.report.data import class_lines
from fedsim.report.figures import clients, epsilon, figures, partition
from fedsim.report.many import MANY, quantiles, some, spread_lines, spread_rows
from fedsim.report.page import write_report
from fedsim.report.record import read_record
from fedsim.report.sheets import save_synthetic
from tests.conftest import DOT, PAINTERS
from tests.report.conftest import round_row
from tests.report.many_clients import cost, write_run


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(data.decode())))


def height(png: bytes) -> int:
    return int(Image.open(BytesIO(png)).size[1])


def test_ten_thousand_clients_are_reported_in_a_gigabyte_and_two_megabytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 10_000)
    found = cost(folder)
    assert found["mb"] < 1000
    assert found["page_mb"] < 2
    pictures = {path.stem: path.read_bytes() for path in (folder / "report").glob("*.png")}
    assert {"partition", "clients", "epsilon", "traffic", "roc"} <= set(pictures)
    assert all(height(png) < 1000 for png in pictures.values())
    page = (folder / "report" / "index.html").read_text()
    assert page.count("<tr>") < 120
    assert "site-0" not in page
    held = rows((folder / "report" / "partition.csv").read_bytes())
    assert [row["client"] for row in held] == [f"site-{k:05d}" for k in range(10_000)]
    told = rows((folder / "report" / "clients.csv").read_bytes())
    assert len(told) == 10_000 * 3 * 4
    assert len((folder / "report" / "epsilon.csv").read_text().split("\n")[0].split(",")) == 10_002


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn, and not painted."""
    for name in PAINTERS:
        monkeypatch.setattr(f"fedsim.report.{name}.png", lambda _: DOT)


@pytest.mark.parametrize(("count", "many"), [(MANY - 1, False), (MANY, True), (1000, True)])
def test_bars_rows_and_lines_for_each_client_end_at_fifty(
    tmp_path: Path, count: int, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", count)
    record = read_record(folder)
    drawn = {picture.name: picture for picture in figures(record)}
    assert ("Bands:" in drawn["clients"].caption) == many
    assert ("how many clients hold" in drawn["partition"].caption) == many
    if many:
        assert all(height(picture.png) < 1000 for picture in drawn.values())
    monkeypatch.setattr(page_module, "figures", lambda _: [*drawn.values()])  # Not once more.
    page = write_report(folder).read_text()
    assert ("site-00003" in page) != many
    assert ("median" in page) == many


def test_the_tables_tell_quantiles_of_the_scores_of_many_sites(
    tmp_path: Path, unpainted: None
) -> None:
    folder = write_run(tmp_path / "run", 1000)
    summary = json.loads((folder / "summary.json").read_text())
    summary["metrics"] |= {f"auc@site-{k:05d}": k / 1000 for k in range(1000)}
    summary["metrics"]["auc@site-00999"] = None
    (folder / "summary.json").write_text(json.dumps(summary))
    page = write_report(folder).read_text()
    line = page.partition("On the test records of each site")[2].partition("</tbody>")[0]
    cells = [part.partition("<")[0] for part in line.split('class="number">')[1:]]
    expected = [999, *np.quantile(np.arange(999) / 1000, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))]
    assert [float(cell) for cell in cells] == pytest.approx(expected, abs=1e-4)


def test_what_each_client_releases_has_a_row_or_is_told_as_quantiles(
    tmp_path: Path, unpainted: None
) -> None:
    few = write_report(write_run(tmp_path / "few", 3)).read_text()
    table = few.partition("What a client releases in a round")[2].partition("</table>")[0]
    assert all(f"site-0000{k}" in table for k in range(3))
    many = write_report(write_run(tmp_path / "many", 60)).read_text()
    table = many.partition("What a client releases in a round")[2].partition("</table>")[0]
    assert "site-" not in table
    assert "sample rate" in table


def test_sizes_alone_are_drawn_as_a_distribution(
    make_run: Callable[..., Path],
) -> None:
    folder = make_run()
    record = json.loads((folder / "run.json").read_text())
    sizes = {f"site-{k}": {"train": k, "val": 1} for k in range(1000)}
    record["data"]["sizes_by_client"] = sizes
    (folder / "run.json").write_text(json.dumps(record))
    picture = partition(read_record(folder))
    assert picture is not None
    assert height(picture.png) < 500
    assert [int(row["train"]) for row in rows(picture.csv)] == list(range(1000))
    assert (
        "1000 clients hold 1 to 1000 (median 500.5; half of them 250.75 to 750.25)" in picture.alt
    )


def test_bands_are_the_quantiles_of_the_clients_that_report(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    from fedsim.report import figures as module

    monkeypatch.setattr(
        module, "draw_bands", lambda axes, x, spread, colour: seen.append((x, spread))
    )
    values = {str(k): {"loss": float(k)} for k in range(101)}
    lines = [
        round_row(n, metrics_by_client=values, epsilon=100.0,
                  epsilon_by_client={k: v["loss"] for k, v in values.items()})
        for n in (1, 2)
    ]  # fmt: skip
    record = read_record(make_run(lines))
    assert clients(record) is not None
    assert epsilon(record) is not None
    assert len(seen) == 2
    for x, spread in seen:
        assert x == [1, 2]
        assert np.array(spread).tolist() == [[0, 5, 25, 50, 75, 95, 100]] * 2


@pytest.mark.parametrize("models", [MANY - 1, MANY, 200])
def test_curves_of_many_models_keep_the_area_of_each(
    tmp_path: Path, models: int, unpainted: None
) -> None:
    folder = write_run(tmp_path / "run", 60, models=models)
    for draw in (roc, precision_recall):
        picture = draw(read_record(folder))
        assert picture is not None
        found = rows(picture.csv)
        own = {row["model"] for row in found} - {"mean", "median"}
        assert {str(k) for k in range(models)} <= own
        if models >= MANY:
            areas = [float(row["area"]) for row in found if row["area"] and row["class"] == "nv"]
            assert len(areas) == models
            assert f"nv: {'AUC' if draw is roc else 'average precision'} {np.mean(areas):.3f}" in (
                picture.alt
            )


def test_a_sheet_of_many_clients_shows_some(tmp_path: Path) -> None:
    sent = {f"c{k}": (np.zeros((1, 3, 8, 8), np.uint8), np.zeros(1, np.int64)) for k in range(60)}
    save_synthetic(tmp_path / "synthetic", sent, ("a", "b"))
    assert len(list((tmp_path / "synthetic").glob("c*.png"))) == 60
    assert height((tmp_path / "synthetic" / "sheet.png").read_bytes()) < 1000


def test_quantiles_and_samples_of_a_list() -> None:
    assert quantiles(range(101)).tolist() == [0, 5, 25, 50, 75, 95, 100]
    assert spread_rows({"a": [None, 1.0, 3.0], "b": [None]}) == [
        ("a", 2, 1.0, 1.1, 1.5, 2.0, 2.5, 2.9, 3.0),
        ("b", 0, *[None] * 7),
    ]
    lines = spread_lines("of 3 clients", {"x": [0, 0, 4]})
    assert lines[0] == ("of 3 clients", "x")
    assert lines[1] == ("lowest", "0")
    assert lines[-1] == ("have none", "2")
    assert some(range(100), 4) == [0, 33, 66, 99]
    assert some("ab", 4) == ["a", "b"]


@pytest.mark.parametrize("count", [MANY - 1, MANY, 1000])
def test_the_table_of_data_show_tells_the_spread_of_many_clients(count: int) -> None:
    labels = np.arange(4 * count) % 2
    train = {f"client-{k}": np.arange(4 * k, 4 * k + 4) for k in range(count)}
    store = SimpleNamespace(labels=labels, classes=("benign", "malignant"))
    split = {"train": np.arange(4 * count), "test": np.arange(3)}
    federation = SimpleNamespace(store=store, train=train, split=split)
    lines = [line.split() for line in class_lines(federation)]  # type: ignore[arg-type]
    assert lines[-1] == ["(test)", "2", "1", "3"]
    if count < MANY:
        assert len(lines) == count + 3
        return
    assert lines[0] == ["of", str(count), "clients", "benign", "malignant", "all"]
    assert ["median", "2", "2", "4"] in lines
    assert len(lines) == 11
