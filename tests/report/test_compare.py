"""From run folders to the table of a comparison, on the terminal and in files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from fedsim.cli import main
from fedsim.errors import InputError
from fedsim.randomness import Streams
from fedsim.report.compare import compare, find_runs, rows_of, table, text
from fedsim.report.comparison import DIFFERENCE, REACH, WIRE, Comparison
from fedsim.report.costs import Link
from fedsim.report.export import CSV_COLUMNS, csv_text, escape_latex, latex, markdown
from fedsim.report.matrix import matrix
from fedsim.report.matrix import picture as matrix_picture
from fedsim.report.over import over, picture
from fedsim.report.paired_tests import paired_tests
from fedsim.report.rows import Row
from fedsim.report.statistics import holm, interval
from fedsim.report.table import printed
from fedsim.report.tested import Predictions
from tests.yaml_bombs import YAML_BOMBS

DOCS = Path(__file__).parents[2] / "docs"
LABELS = np.arange(200) % 4 // 3  # 50 of 200 are positive.

Make = Callable[..., Path]


def probabilities(strength: float, seed: int, models: int = 1) -> np.ndarray:
    """Of models that are better the greater the strength; what is hard is hard for all of them."""
    common = np.random.default_rng(0).normal(size=LABELS.size)
    own = np.random.default_rng([seed, round(strength * 1000)]).normal(size=(models, LABELS.size))
    positive = 1 / (1 + np.exp(-(strength * LABELS + common + 0.3 * own)))
    return np.stack([1 - positive, positive], 2).astype(np.float32)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a finished run of two rounds and two clients, and returns its folder."""

    def go(
        scenario: str = "a",
        seed: int = 0,
        *,
        strength: float | None = 1.0,
        models: int = 1,
        settings: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        record: dict[str, Any] | None = None,
        failed: list[Any] | None = None,
        metrics: dict[str, float | None] | None = None,
        summary: dict[str, Any] | None = None,
        records: np.ndarray | None = None,
        folder: str = "",
        up: int = 250_000,
    ) -> Path:
        path = tmp_path / (
            folder or f"runs/{scenario}/{seed}-{len(list(tmp_path.rglob('run.json')))}"
        )
        path.mkdir(parents=True)
        about = {"name": "ham10000", "source": "path", "root": "/data", "fingerprint": "ab" * 32}
        about |= {"sizes": {"train": 1600, "val": 200, "test": 200}} | (data or {})
        whole = {"scenario": scenario, "seed": seed, "status": "done", "data": about}
        whole |= {"started": "2026-01-01T00:00:00+00:00"} | (record or {})
        (path / "run.json").write_text(json.dumps(whole))
        config = {"name": scenario, "seeds": [seed], "rounds": 2, "resources": {"workers": seed}}
        config |= {"data": {"name": about["name"], "root": "/data", "split": {"seed": 0}}}
        (path / "scenario.yaml").write_text(yaml.safe_dump(config | (settings or {})))
        scores: dict[str, float | None] = dict(metrics or {})
        if strength is not None:
            found = probabilities(strength, seed, models)
            places = np.arange(LABELS.size) if records is None else records
            np.savez(path / "predictions.npz", labels=LABELS, records=places, probabilities=found)
            scores["auc"] = float(np.mean([roc_auc_score(LABELS, one[:, 1]) for one in found]))
        total = {"mb_up_total": 4 * up / 1e6, "mb_down_total": 2.0, "wall_seconds": 100.0}
        told = {"metrics": scores} | total | (summary or {})
        (path / "summary.json").write_text(json.dumps(told))
        main_score = scores.get("auc") or 0.0
        for number in (1, 2):
            line = {"round": number, "failed": (failed or []) if number == 2 else []}
            line |= {"mb_up_total": number * 2 * up / 1e6, "mb_down_total": 1.0 * number}
            line["metrics"] = {"auc": main_score - 0.1 * (2 - number)}
            with (path / "rounds.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            for client in (0, 1):
                for direction, size in (("down", 500_000), ("up", up)):
                    message = {"round": number, "client": client, "direction": direction}
                    with (path / "traffic.jsonl").open("a") as file:
                        file.write(json.dumps(message | {"bytes": size, "fields": {}}) + "\n")
        return path

    return go


def comparison(tmp_path: Path, **options: Any) -> Comparison:
    return compare(rows_of(find_runs([tmp_path / "runs"]))[0], **options)


def two_methods(make: Make, seeds: int = 3, **changes: Any) -> None:
    """Method a, and method b that is better."""
    for seed in range(seeds):
        make("a", seed, strength=1.0)
        make("b", seed, strength=1.8, **changes)


# --- Which runs ----------------------------------------------------------------------------------


def test_runs_are_found_in_a_run_a_scenario_and_a_sweep_and_each_once(
    make: Make, tmp_path: Path
) -> None:
    first = make("a", 0, folder="runs/sweep/lr=1/a/seed0")
    second = make("a", 1, folder="runs/sweep/lr=2/a/seed1")
    (first.parent / "latest").symlink_to(first.name)
    (first / "synthetic").mkdir()
    places = [tmp_path / "runs", tmp_path / "runs" / "sweep" / "lr=1", first.parent / "latest"]
    assert [folder.path.name for folder in find_runs(places)] == ["seed0", "seed1"]
    assert [folder.path for folder in find_runs([second])] == [second]
    assert [folder.path for folder in find_runs([first.parent / "latest"])] == [
        first.parent / "latest"
    ]


def test_places_without_runs_are_all_named(make: Make, tmp_path: Path) -> None:
    make()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        find_runs([tmp_path / "runs", tmp_path / "empty", tmp_path / "gone"])
    assert [problem.message for problem in error.value.problems] == [
        "holds no run folder",
        "does not exist",
    ]


def test_runs_that_differ_in_seed_and_place_alone_are_one_row(make: Make, tmp_path: Path) -> None:
    for seed in (2, 0):
        make("a", seed, settings={"description": str(seed)})
    make("a", 1, settings={"data": {"name": "ham10000", "root": "/mnt", "split": {"seed": 0}}})
    make("a", 0, settings={"client": {"lr": 0.1}, "rounds": 3})
    make("a", 5, record={"status": "failed"})
    rows, left_out = rows_of(find_runs([tmp_path / "runs"]))
    assert {row.label: row.seeds for row in rows} == {
        "a rounds=2": [0, 1, 2],
        "a client.lr=0.1 rounds=3": [0],
    }
    (line,) = left_out
    assert line.endswith("failed, left out")


@pytest.mark.parametrize("order", [("1", "2"), ("2", "1")])
def test_the_newer_of_two_runs_of_a_seed_counts(
    order: tuple[str, str], make: Make, tmp_path: Path
) -> None:
    for place, day in zip(("x", "y"), order, strict=True):
        make("a", folder=f"runs/{place}", record={"started": f"2026-01-0{day}T00:00:00+00:00"})
    rows, left_out = rows_of(find_runs([tmp_path / "runs"]))
    (run,) = rows[0].runs
    newer, older = ("y", "x") if order == ("1", "2") else ("x", "y")
    assert run.folder.path.name == newer
    assert left_out == [f"{tmp_path / 'runs' / older}: a newer run has its seed 0, left out"]


def test_rows_of_different_data_have_different_names(make: Make, tmp_path: Path) -> None:
    make("a", data={"fingerprint": "ff" * 32})
    make("a", data={"fingerprint": "ee" * 32})
    make("b")
    make("b", data={"source": "embedded", "fingerprint": "dd" * 32})
    rows, _ = rows_of(find_runs([tmp_path / "runs"]))
    assert {row.name for row in rows} == {
        *("a data=data (contents 1)", "a data=data (contents 2)", "b (ham10000)", "b (embedded)"),
    }
    (note,) = [one for one in compare(rows).notes if one.startswith("contents 1, 2")]
    assert "not the same ones" in note


@pytest.mark.parametrize(
    ("one", "other", "labels"),
    [
        ({"root": "/x/2024/ham"}, {"root": "/x/2025/ham"}, ["2024/ham", "2025/ham"]),
        ({"root": "/x/ham"}, {"root": "/y/old"}, ["ham", "old"]),
        (
            {"root": "/x/ham", "sizes": {"train": 1900, "test": 100}},
            {"root": "/x/ham", "sizes": {"train": 900, "test": 100}},
            ["ham (2,000 records)", "ham (1,000 records)"],
        ),
        (
            {"root": "/x/ham", "skipped": 3, "sizes": {}},
            {"root": "/x/ham", "skipped": 0, "sizes": {}},
            ["ham (3 left out)", "ham"],
        ),
        (
            {"root": "/x/ham", "positive": "mel"},
            {"root": "/x/ham", "positive": "nevus"},
            ["ham (positive mel)", "ham (positive nevus)"],
        ),
    ],
)
def test_data_of_one_name_are_called_by_folder_and_what_differs(
    one: dict[str, Any], other: dict[str, Any], labels: list[str], make: Make, tmp_path: Path
) -> None:
    make("a", data=one | {"fingerprint": "ff" * 32})
    make("a", data=other | {"fingerprint": "ee" * 32})
    rows, _ = rows_of(find_runs([tmp_path / "runs"]))
    assert [row.name for row in rows] == [f"a data={label}" for label in labels]


def damage(path: Path, name: str) -> None:
    if name == "predictions.npz":
        np.savez(
            path / name, labels=LABELS[1:], records=LABELS, probabilities=np.zeros((1, 200, 2))
        )
    elif name == "an archive":
        (path / "predictions.npz").write_bytes(b"PK\x03\x04 no archive")
    elif name == "keys":
        record = json.loads((path / "run.json").read_text())
        del record["data"]["fingerprint"]
        (path / "run.json").write_text(json.dumps(record))
    else:
        (path / name).write_text("{")


@pytest.mark.parametrize(
    "name", ["predictions.npz", "an archive", "keys", "summary.json", "rounds.jsonl", "run.json"]
)
def test_damaged_runs_are_all_named(name: str, make: Make, tmp_path: Path) -> None:
    make("fine")
    for seed in (0, 1):
        path = make("a", seed)
        damage(path, name)
        if name == "rounds.jsonl":
            (path / name).write_text("{\n")
    with pytest.raises(InputError) as error:
        rows_of(find_runs([tmp_path / "runs"]))
    assert len(error.value.problems) == 2


@pytest.mark.parametrize("bomb", YAML_BOMBS)
def test_a_run_whose_settings_grow_without_end_is_named_and_the_others_are_compared(
    bomb: str, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("fine")
    path = make("wrong") / "scenario.yaml"
    path.write_text(YAML_BOMBS[bomb])
    assert main(["compare", str(tmp_path / "runs")]) == 2
    out, err = capsys.readouterr()
    assert "fine" in out
    assert f"{path}:" in err


# --- Numbers -------------------------------------------------------------------------------------


def test_means_spreads_and_intervals(make: Make, tmp_path: Path) -> None:
    two_methods(make)
    first, second = comparison(tmp_path).lines
    aucs = [[run.value("auc") for run in line.row.runs] for line in (first, second)]
    auc = first.measures["auc"]
    assert auc.mean == pytest.approx(np.mean(aucs[0]))
    assert auc.sd == pytest.approx(np.std(aucs[0], ddof=1))
    assert auc.interval is not None
    low, high = auc.interval
    # The standard error of Hanley and McNeil (1982), for 50 and 150 records.
    a = auc.mean or 0.0
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + 49 * (q1 - a * a) + 149 * (q2 - a * a)) / (50 * 150))
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.15)
    assert (low + high) / 2 == pytest.approx(a, abs=0.01)

    assert DIFFERENCE not in first.measures
    gap = second.measures[DIFFERENCE]
    each = np.subtract(aucs[1], aucs[0])
    assert (gap.mean, gap.sd, gap.n) == (
        pytest.approx(each.mean()),
        pytest.approx(each.std(ddof=1)),
        3,
    )
    assert gap.interval is not None
    assert 0 < gap.interval[0] < gap.mean < gap.interval[1]
    assert np.ptp(gap.interval) < np.ptp(auc.interval), "what is hard for both cancels"


def test_the_difference_is_over_common_seeds_and_turns_with_the_baseline(
    make: Make, tmp_path: Path
) -> None:
    for seed in (0, 1, 2):
        make("a", seed, strength=1.0)
    for seed in (1, 2, 3):
        make("b", seed, strength=1.2)
    ours = comparison(tmp_path, baseline="a").lines[1].measures[DIFFERENCE]
    theirs = comparison(tmp_path, baseline="b").lines[0].measures[DIFFERENCE]
    assert ours.n == theirs.n == 2
    printed = [text(comparison(tmp_path)), markdown(comparison(tmp_path))]
    assert re.search(r"pairs +AUC diff.*\n-+\nb +ham10000 +2 ", printed[0])
    assert re.search(
        r"^\| `b` \| ham10000 \| 3 \| [^|]* \| [^|]* \| 2 \|", printed[1], re.MULTILINE
    )
    assert ours.mean == pytest.approx(-(theirs.mean or 0))
    assert ours.sd == pytest.approx(theirs.sd)
    assert ours.interval == pytest.approx([-end for end in (theirs.interval or ())[::-1]])


def test_rows_share_their_resamples(make: Make, tmp_path: Path) -> None:
    make("a", 0)
    make("b", 0)
    found = comparison(tmp_path).lines
    assert found[1].measures[DIFFERENCE].interval == (0.0, 0.0)
    assert found[0].measures["auc"] == found[1].measures["auc"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": {"fingerprint": "ff" * 32}}, "not the same data: two versions of ham10000"),
        (
            {"data": {"fingerprint": "ff" * 32, "source": "embedded"}},
            "not the same data: embedded, ham10000",
        ),
        ({"seed": 7}, "no seed in common: 7 and 0"),
        ({"records": np.arange(200)[::-1]}, "not the same test records: the splits differ"),
        (
            {
                "strength": None,
                "metrics": {"auc": 0.7},
                "settings": {"data": {"name": "ham10000", "split": {"seed": 1}}},
            },
            "not the same test records: the splits differ",
        ),
        ({"strength": None, "metrics": {"auc": None}}, "no auc of both"),
    ],
)
def test_what_cannot_be_paired_says_why(
    changes: dict[str, Any], reason: str, make: Make, tmp_path: Path
) -> None:
    make("a", 0)
    make("b", **changes)
    found = comparison(tmp_path)
    assert found.lines[1].unpaired == reason
    assert found.lines[1].measures[DIFFERENCE].mean is None
    assert re.search(rf"^b .*{re.escape(reason)}$", text(found), re.MULTILINE)
    for exported in (latex(found), markdown(found)):
        assert reason.split(":")[0] in exported


@pytest.fixture
def rescored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs were scored on resamples, each time that some were."""
    score, found = Predictions.score, []

    def counted(self: Predictions, runs: Any, weights: Any = None) -> Any:
        if weights is not None:
            found.append(len(runs))
        return score(self, runs, weights)

    monkeypatch.setattr(Predictions, "score", counted)
    return found


def test_every_row_is_resampled_once_and_its_numbers_are_those_of_scoring_pairs(
    make: Make, tmp_path: Path, rescored: list[int]
) -> None:
    two_methods(make)
    for seed in range(3):
        make("c", seed, strength=2.2)
    found = comparison(tmp_path)
    assert rescored == [3, 3, 3]
    base = found.lines[0].row
    for line in found.lines[1:]:
        ours, theirs = ([run.predictions for run in one.runs] for one in (line.row, base))
        first: Any = ours[0]
        expected = interval(
            first.strata,
            lambda weights, ours=ours, first=first: first.score(ours, weights),  # type: ignore
            Streams(0).numpy("bootstrap"),
            baseline=lambda weights, theirs=theirs, first=first: first.score(theirs, weights),  # type: ignore
        )
        assert line.measures[DIFFERENCE].interval == expected


def test_without_predictions_there_are_means_but_no_intervals(make: Make, tmp_path: Path) -> None:
    two_methods(make)
    for path in tmp_path.rglob("predictions.npz"):
        path.unlink()
    found = comparison(tmp_path)
    assert found.lines[0].measures["auc"].interval is None
    gap = found.lines[1].measures[DIFFERENCE]
    assert gap.n == 3
    assert gap.interval is None
    assert "95%" not in text(found)


def test_predictions_that_are_not_those_of_the_row_give_no_interval_and_a_note(
    make: Make, tmp_path: Path
) -> None:
    two_methods(make)
    make("c", 0)
    (make("c", 1) / "predictions.npz").unlink()
    make("d", 0)
    make("d", 1, records=np.arange(200)[::-1])
    summary = make("e", 0) / "summary.json"
    told = json.loads(summary.read_text())
    summary.write_text(json.dumps(told | {"metrics": {"auc": 0.5}}))
    found = comparison(tmp_path)
    for line in found.lines[2:]:
        assert line.measures["auc"].interval is None
        assert DIFFERENCE not in line.measures or line.measures[DIFFERENCE].interval is None
    notes = "\n".join(found.notes)
    assert "c: 1 of 2 runs have no predictions.npz; no interval." in notes
    assert "d: its seeds have different test records; no interval." in notes
    assert re.search(r"e: seed 0 has AUC \d\d\.\d by predictions.npz but 50.0 by summary", notes)
    assert re.search(r"^c .*  -  ", text(found), re.MULTILINE)


def test_dice_is_compared_where_there_is_no_auc(make: Make, tmp_path: Path) -> None:
    for seed in (0, 1):
        make("a", seed, strength=None, metrics={"dice": 0.8 + seed / 100})
        make("b", seed, strength=None, metrics={"dice": 0.85 + seed / 50})
    found = comparison(tmp_path)
    gap = found.lines[1].measures[DIFFERENCE]
    assert gap.mean == pytest.approx(0.055)
    assert gap.sd == pytest.approx(np.std([0.05, 0.06], ddof=1))
    printed = text(found)
    assert "Dice diff" in printed
    assert "+5.5+-0.7" in printed
    assert "AUC" not in printed


def test_methods_on_volumes_are_compared_volume_by_volume(make: Make, tmp_path: Path) -> None:
    """Nine volumes of three sites, of which each method finds the same ones hard."""
    hard = np.array([20, 50, 80] * 3)
    for name, better in (("a", 0), ("b", 10)):
        for seed in (0, 1, 2):
            both = (hard + better + seed)[np.newaxis, :, np.newaxis] * np.array([2, 1])
            counts = np.stack([both, np.full_like(both, 200), np.full_like(both, 200)], -1)
            means = {
                "dice/zone": both[0, :, 0].mean() / 200,
                "dice/lesion": both[0, :, 1].mean() / 200,
            }
            metrics = {"dice": np.mean(list(means.values())), **means, "dice@north": 0.5}
            folder = make(name, seed, strength=None, metrics=metrics)
            np.savez(
                folder / "overlaps.npz",
                overlaps=counts.astype(np.int64),
                sites=np.repeat([0, 1, 2], 3),
                records=np.arange(9),
            )
    found = comparison(tmp_path)
    assert [one.title for one in found.columns[:3]] == ["Dice", "zone", "lesion"]
    score, gap = found.lines[0].measures["dice"], found.lines[1].measures[DIFFERENCE]
    assert score.interval is not None
    assert np.ptp(score.interval) > 0.1
    # Every volume gains as much, so that no draw of them says otherwise.
    assert gap.mean == pytest.approx(0.075)
    assert gap.interval == pytest.approx((0.075, 0.075), abs=1e-9)
    assert "test volumes (2000 resamples, stratified by site)" in text(found)
    assert "@north" not in text(found)
    assert "@north" in text(comparison(tmp_path, per_site=True))


def fold_of(make: Make, scenario: str, seed: int, fold: int, better: int = 0) -> Path:
    """A run of one of three folds: of its volumes, one from each of two sites, Dice is known."""
    voxels = np.array([40 + 10 * fold, 60]) + better + seed
    counts = np.stack([voxels, np.full(2, 100), np.full(2, 100)], -1)[np.newaxis, :, np.newaxis]
    mean = voxels.mean() / 100
    split = {"seed": 0, "folds": 3, "fold": fold}
    path = make(
        scenario,
        seed,
        strength=None,
        metrics={"dice": mean, "dice/gland": mean, "dice@south": voxels[1] / 100},
        settings={"data": {"name": "promise12", "split": split}},
        data={"name": "promise12", "sizes": {"train": 3, "val": 1, "test": 2}},
        up=250_000 * (fold + 1),
    )
    np.savez(
        path / "overlaps.npz",
        overlaps=counts.astype(np.int64),
        sites=[0, 1],
        records=[2 * fold, 2 * fold + 1],
    )
    return path


def test_the_folds_of_a_cross_validation_are_one_run(make: Make, tmp_path: Path) -> None:
    for name, better in (("a", 0), ("b", 10)):
        for seed in (0, 1):
            for fold in (2, 0, 1):
                fold_of(make, name, seed, fold, better)
    found = comparison(tmp_path, reach=0.1, link=Link(8), per_site=True)
    assert [(line.row.label, line.row.seeds) for line in found.lines] == [
        ("a", [0, 1]),
        ("b", [0, 1]),
    ]
    score, gap = found.lines[0].measures["dice"], found.lines[1].measures[DIFFERENCE]
    # Seed 0: mean of 0.50, 0.55 and 0.60 over the folds.
    assert (score.mean, score.sd) == (pytest.approx(0.555), pytest.approx(0.01 / 2**0.5))
    # North's volumes differ, south's do not: a resample moves the mean of north, 0.4 to 0.6.
    assert score.interval is not None
    assert 0.5 < score.interval[0] < 0.555 < score.interval[1] < 0.61
    assert (gap.mean, gap.interval) == (pytest.approx(0.1), pytest.approx((0.1, 0.1)))
    assert found.lines[0].measures["dice@south"].mean == pytest.approx(0.605)
    assert found.lines[0].measures["mb_up_total"].mean == pytest.approx(2.0)
    assert found.lines[0].measures[WIRE].runs == 6
    printed = text(found)
    assert "a: cross-validated; scores and costs are means over 3 folds." in printed
    assert "promise12 (6 tested in 3 folds, split seed 0)" in markdown(found)


def test_a_cross_validation_that_is_not_whole(make: Make, tmp_path: Path) -> None:
    for fold in (0, 1):
        fold_of(make, "a", 0, fold)
    rows, left_out = rows_of(find_runs([tmp_path / "runs"]))
    assert [row.label for row in rows] == ["a data.split.fold=0", "a data.split.fold=1"]
    assert not left_out
    for fold in (0, 1, 2):
        fold_of(make, "a", 7, fold)
    rows, left_out = rows_of(find_runs([tmp_path / "runs"]))
    assert [(row.label, row.seeds) for row in rows] == [("a", [7])]
    assert len(left_out) == 2
    assert "its seed 0 has 2 of 3 folds, left out" in left_out[0]


def test_a_fold_whose_overlaps_are_missing_leaves_no_interval(make: Make, tmp_path: Path) -> None:
    for fold in (0, 1, 2):
        path = fold_of(make, "a", 0, fold)
    (path / "overlaps.npz").unlink()
    score = comparison(tmp_path).lines[0].measures["dice"]
    assert (score.mean, score.interval) == (pytest.approx(0.55), None)


def test_scores_on_other_external_records_are_no_comparison(make: Make, tmp_path: Path) -> None:
    far = {"fingerprint": "cd" * 32, "sites": ["far"], "root": "/far", "size": 3}
    for name in ("a", "b"):
        make(name, metrics={"external_auc": 0.7}, data={"external": far})
    note = "external: not the same external records in all rows."
    assert note not in text(comparison(tmp_path))
    make("c", metrics={"external_auc": 0.7}, data={"external": far | {"fingerprint": "ef" * 32}})
    assert note in text(comparison(tmp_path))


def test_overlaps_that_are_damaged_are_named(make: Make, tmp_path: Path) -> None:
    folder = make(strength=None, metrics={"dice": 0.5})
    np.savez(folder / "overlaps.npz", overlaps=np.ones((1, 2, 1, 2)), sites=[0], records=[0])
    with pytest.raises(InputError, match=r"overlaps\.npz: expected sites"):
        comparison(tmp_path)


def test_costs_of_reaching_a_score_and_of_the_wire(make: Make, tmp_path: Path) -> None:
    make("a", 0, strength=3.0)
    make("a", 1, strength=3.0, up=500_000)
    make("a", 2, strength=0.1)
    found = comparison(tmp_path, reach=0.9, link=Link(8, 100))
    reached = found.lines[0].measures[REACH]
    # In round 2: 1 and 2 MB up, 2 MB down.
    assert (reached.mean, reached.n, reached.runs) == (pytest.approx(3.5), 2, 3)
    # Each round of a client: 0.5 MB down, 0.25 or 0.5 MB up, two messages.
    wire = found.lines[0].measures[WIRE]
    assert wire.mean == pytest.approx(np.mean([1.9, 2.4, 1.9]))
    printed = text(found)
    assert "MB to AUC 90" in printed
    assert "3.500+-0.707 (2/3)" in printed
    assert "8 Mbit/s and 100 ms a message" in printed
    assert "computation is not included" in printed
    assert "- (0/3)" in text(comparison(tmp_path, reach=1.0))


def test_the_baseline_is_found_by_name_or_by_words(make: Make, tmp_path: Path) -> None:
    known: dict[str, Any] = {"strength": None, "metrics": {"auc": 0.7}}
    for rate in (1, 2):
        make("a", settings={"client": {"rate": rate, "steps": rate}}, **known)
    make("a_plus", **known)
    make("b", **known)
    make("b", **known, data={"source": "embedded", "fingerprint": "dd" * 32})

    def base(words: str) -> str:
        found = comparison(tmp_path, baseline=words).baseline
        assert found is not None
        return found.name

    assert base("a client.rate=2 client.steps=2") == "a client.rate=2 client.steps=2"
    assert base("client.steps=1") == "a client.rate=1 client.steps=1"
    assert base("a_plus") == "a_plus"
    assert base("b embedded") == base("b (embedded)") == "b (embedded)"
    for words, rows in (("a", 2), ("b", 2), ("c", 5)):
        with pytest.raises(InputError) as error:
            base(words)
        assert len(error.value.problems) == rows


# --- Print ---------------------------------------------------------------------------------------


def test_the_table_marks_what_a_reader_must_know(make: Make, tmp_path: Path) -> None:
    failure = {"client": 1, "site": "north", "phase": "train", "reason": "timeout"}
    make("a", 0)
    make("a", 1, failed=[failure, failure])
    make("local", 0, models=5, strength=1.01)
    make("made_up", 0, data={"source": "embedded", "fingerprint": "dd" * 32})
    printed = table(rows_of(find_runs([tmp_path / "runs"]))[0])
    assert re.search(r"^a †  +ham10000 +2 ", printed, re.MULTILINE)
    assert "† some replies are missing: 2 client-rounds failed (a)." in printed
    assert "local: each of 5 clients has its own model; metrics are means over clients." in printed
    assert "generated stand-in images, not real data" in printed
    assert re.search(r"^local .*\[-\d.\d, \+\d.\d\] ~$", printed, re.MULTILINE)
    assert "~ the interval contains 0" in printed


@pytest.mark.parametrize(("baseline", "other", "sign"), [("a", "b", r"\+"), ("b", "a", "-")])
def test_a_difference_that_is_clear_is_not_marked(
    baseline: str, other: str, sign: str, make: Make, tmp_path: Path
) -> None:
    two_methods(make)
    printed = text(comparison(tmp_path, baseline=baseline))
    assert "~" not in printed
    ends = rf"\[{sign}\d+.\d, {sign}\d+.\d\]"
    assert re.search(rf"^{other} .*{ends}$", printed, re.MULTILINE)


def test_a_single_row_has_no_difference(make: Make, tmp_path: Path) -> None:
    make()
    found = comparison(tmp_path)
    assert found.baseline is None
    assert "minus" not in text(found)
    assert "diff" not in latex(found) + markdown(found) + csv_text(found)


METRICS = ("precision", "recall", "f1", "balanced_accuracy", "pr_auc")


def test_a_table_of_usual_size_fits_the_terminal_and_columns_follow_below(
    make: Make, tmp_path: Path
) -> None:
    for rate in (1, 2):
        for seed in (0, 1, 2):
            metrics = dict.fromkeys(METRICS, 0.7 + seed / 100)
            settings = {"client": {"image_learning_rate": rate}}
            make("isic_noniid_gdd", seed, settings=settings, metrics=metrics)
    found = comparison(tmp_path, reach=0.6, link=Link(10, 20))
    for width in (80, 120):
        assert max(map(len, text(found, width).splitlines())) <= width
    wide = text(found, 400).splitlines()
    for title in ("AUC", "95%", "P", "R", "F1", "bal.acc", "PR-AUC", "MB up", "seconds", "wire s"):
        assert title in wide[0]
        assert sum(title in line.split("  ") for line in text(found).splitlines()) <= 2
    assert "client.image_learning_rate=2" in text(found)


# --- Privacy -------------------------------------------------------------------------------------


def private(
    epsilon: float | None, certified: bool = True, delta: float = 1e-5, **more: Any
) -> dict[str, Any]:
    """The privacy entries of summary.json."""
    proved, claimed = (epsilon, None) if certified else (None, epsilon)
    told = {"epsilon": proved, "epsilon_claimed": claimed, "delta": delta, "certified": certified}
    return told | more


def with_privacy(make: Make) -> None:
    """Runs without a mechanism, with a proved epsilon, with a claimed one, and without any."""
    make("plain", summary=private(None, False, None))  # type: ignore[arg-type]
    plan = {"unit": "record", "certified": True, "delta": 1e-5}
    for seed, epsilon in enumerate((7.93, 7.98)):
        make("proved", seed, record={"privacy": plan}, summary=private(epsilon))
    make("claimed", record={"privacy": plan | {"certified": False}}, summary=private(2.5, False))
    make("silent", record={"privacy": plan}, summary=private(None, unit="patient"))


def test_epsilon_delta_unit_and_proof_have_columns(make: Make, tmp_path: Path) -> None:
    with_privacy(make)
    found = comparison(tmp_path)
    cells = {one.title: one.cells for one in printed(found)}
    assert [line.row.label for line in found.lines] == ["claimed", "plain", "proved", "silent"]
    assert cells["epsilon"] == ["2.5*", "-", "7.98", "inf"]
    assert cells["delta"] == ["1e-05", "-", "1e-05", "1e-05"]
    assert cells["unit"] == ["record", "-", "record", "patient"]
    assert cells["certified"] == ["no", "-", "yes", "yes"]
    for made in (text(found, 400), latex(found), markdown(found)):
        for title in ("epsilon", "delta", "unit", "certified"):
            assert title in made
        assert "claimed, not certified" in made
        assert "(claimed)" in made
        assert "None" not in made
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(csv_text(found)))}
    assert "None" not in csv_text(found)
    names = ("epsilon", "epsilon_claimed", "delta", "privacy_unit", "certified")
    assert {row: tuple(line[name] for name in names) for row, line in lines.items()} == {
        "claimed": ("", "2.5", "1e-05", "record", "no"),
        "plain": ("", "", "", "", ""),
        "proved": ("7.98", "", "1e-05", "record", "yes"),
        "silent": ("", "", "1e-05", "patient", "yes"),
    }


def test_one_claimed_seed_makes_a_row_claimed(make: Make, tmp_path: Path) -> None:
    make("a", 0, summary=private(3.0))
    make("a", 1, summary=private(2.0, False))
    cells = {one.title: one.cells for one in printed(comparison(tmp_path))}
    assert cells["epsilon"] == ["3*"]
    assert cells["certified"] == ["no"]


def test_without_a_private_run_there_are_no_columns_of_privacy(make: Make, tmp_path: Path) -> None:
    two_methods(make)
    found = comparison(tmp_path)
    for made in (text(found, 400), latex(found), markdown(found)):
        assert "epsilon" not in made
        assert "certified" not in made
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert all(line["epsilon"] == line["certified"] == "" for line in lines)


def test_labels_are_typed_as_settings_are(make: Make, tmp_path: Path) -> None:
    make("a", settings={"client": {"clip": None, "nesterov": True, "sizes": [1, None]}})
    make("a", settings={"client": {"clip": 0.5, "nesterov": False, "sizes": []}})
    found = comparison(tmp_path)
    assert [line.row.label for line in found.lines] == [
        "a client.clip=null client.nesterov=true client.sizes=[1, null]",
        "a client.clip=0.5 client.nesterov=false client.sizes=[]",
    ]
    for made in (text(found), latex(found), markdown(found), csv_text(found)):
        assert "None" not in made


# --- Many sites, and paths -----------------------------------------------------------------------


def test_scores_of_many_sites_are_told_as_quantiles(make: Make, tmp_path: Path) -> None:
    for seed in (0, 1):
        sites = {f"auc@site-{k:03d}": k / 100 + seed / 10 for k in range(101)}
        make("a", seed, metrics=dict(sites))
    few = {f"auc@site-{k:03d}": 0.5 for k in range(49)}
    found = comparison(tmp_path, per_site=True)
    cells = {one.title: one.cells[0] for one in printed(found)}
    assert not any(title.startswith("@site") for title in cells)
    assert [cells[f"@{name}"] for name in ("lowest", "25 %", "median", "highest")] == [
        "5.0+-7.1",
        "30.0+-7.1",
        "55.0+-7.1",
        "105.0+-7.1",
    ]
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert len([line for line in lines if line["metric"].startswith("auc@site-")]) == 101
    (median,) = [line for line in lines if line["metric"] == "auc_of_sites_median"]
    assert float(median["mean"]) == pytest.approx(0.55)
    make("b", metrics=dict(few), folder="few/b")
    one = compare(rows_of(find_runs([tmp_path / "few"]))[0], per_site=True)
    assert sum(column.title.startswith("@site") for column in one.columns if column.printed) == 49


def test_labels_and_files_carry_no_absolute_path(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("/home/somebody/a/first.pt", "/home/somebody/b/first.pt", "/srv/c d.pt"):
        make("m", settings={"model": {"init": place}}, strength=len(place) / 30)
    files = {name: tmp_path / f"t.{name}" for name in ("csv", "latex", "markdown")}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["compare", str(tmp_path / "runs"), *options]) == 0
    told = capsys.readouterr().out + "".join(path.read_text() for path in files.values())
    assert "/home/" not in told
    assert "/srv" not in told
    labels = {line["row"] for line in csv.DictReader(files["csv"].open())}
    assert labels == {f"m model.init=…/{end}" for end in ("a/first.pt", "b/first.pt", "c d.pt")}
    assert main(["compare", str(tmp_path / "runs"), "--paths", *options]) == 0
    assert "/home/somebody/a/first.pt" in files["csv"].read_text()


# --- Files ---------------------------------------------------------------------------------------


def test_the_csv_is_tidy_and_reads_back(make: Make, tmp_path: Path) -> None:
    two_methods(make, settings={"note": 'a, "b"\nc'})
    found = comparison(tmp_path, reach=0.99, link=Link(8))
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert tuple(lines[0]) == CSV_COLUMNS
    names = {line["metric"] for line in lines}
    assert {"auc", "auc_difference", "mb_up_total", "mb_to_auc_0.99", "wire_seconds_8mbit_0ms"} <= (
        names
    )
    assert len(lines) == 2 * len(names) - 1, "the baseline has no difference"
    for line, one in zip(
        [line for line in lines if line["metric"] == "auc"], found.lines, strict=True
    ):
        auc = one.measures["auc"]
        assert (float(line["mean"]), float(line["sd"])) == (auc.mean, auc.sd)
        assert (float(line["low"]), float(line["high"])) == auc.interval
        assert (line["n"], line["runs"], line["seeds"], line["unit"]) == (
            "3",
            "3",
            "0 1 2",
            "fraction",
        )
    (gap,) = [line for line in lines if line["metric"] == "auc_difference"]
    assert (gap["row"], gap["baseline"]) == ("b", "a")
    (missed, _) = [line for line in lines if line["metric"] == "mb_to_auc_0.99"]
    assert (missed["mean"], missed["sd"], missed["n"], missed["runs"]) == ("", "", "0", "3")


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("isic_noniid_gdd", r"isic\_noniid\_gdd"),
        ("50% & $5 #1 {x}", r"50\% \& \$5 \#1 \{x\}"),
        (r"C:\data", r"C:\textbackslash{}data"),
        ("a^b ~ <c>|", r"a\textasciicircum{}b $\sim$ $<$c$>$\textbar{}"),
        ("1.0+-0.2 †", r"1.0$\pm$0.2 $\dagger$"),
        ("two\nlines \x1b[31m", r"two lines \textbackslash{}x1b[31m"),
    ],
)
def test_latex_is_escaped(plain: str, escaped: str) -> None:
    assert escape_latex(plain) == escaped


def test_the_latex_table_is_whole(make: Make, tmp_path: Path) -> None:
    two_methods(make)
    make("c_d", 0, strength=0.2, failed=[1])
    made = latex(comparison(tmp_path))
    caption = re.search(r"\\caption\{(.*)\}", made)
    assert caption is not None
    assert "ham10000 (1600 train, 200 val, 200 test, split seed 0)" in caption[1]
    assert r"Seeds: 0, 1, 2 (a, b); 0 (c\_d)." in caption[1]
    order = [r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    assert sorted(order, key=made.index) == order
    columns = re.search(r"tabular\}\{(l*r*)\}", made)
    assert columns is not None
    body = made[made.index(r"\toprule") : made.index(r"\bottomrule")].splitlines()
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == 4
    assert all(line.count(" & ") == len(columns[1]) - 1 for line in rows)
    assert r"c\_d $\dagger$ &" in rows[3]
    assert re.search(r"\d--\d", rows[1]), "a dash between two ends"
    assert re.search(r"& \$-\$\d", rows[3]), "a minus sign"
    assert r"$\pm$" in rows[1]


@pytest.mark.parametrize("name", ["[x] {0.5}", "* & $%#_^~\\\\", "<a|b>"])
def test_any_name_is_a_cell_of_latex_and_nothing_more(
    make: Make, tmp_path: Path, name: str
) -> None:
    for seed in range(2):
        make("plain", seed)
    runs = find_runs([tmp_path / "runs"])
    rows, _ = rows_of(runs)
    rows[0].label = rows[0].name = name
    made = latex(compare(rows))
    (line,) = [one for one in made.splitlines() if one.endswith(r"\\") and "ham10000" in one]
    # What ends the row before takes a bracket or a star for its own.
    assert line[0] not in "[*"
    (titles,) = [one for one in made.splitlines() if one.startswith("method & ")]
    assert len(re.findall(r"(?<!\\)&", line)) == titles.count("&")
    bare = re.sub(r"\\[\\{}&$%#_]", "", made)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "#" not in bare
    assert bare.count("%") == 1, "the comment of the first line"


def test_the_markdown_table_has_cells_for_every_column(make: Make, tmp_path: Path) -> None:
    two_methods(make)
    make("c", settings={"client": {"pattern": "x|`y`"}})
    make("c", settings={"client": {"pattern": "z"}})
    header, rule, *rows = markdown(comparison(tmp_path)).splitlines()
    rows = rows[: rows.index("")]
    assert len(rows) == 4
    for line in (rule, *rows):
        assert len(re.findall(r"(?<!\\)\|", line)) == header.count("|")
    assert rows[0].startswith("| `a` | ham10000 | 3 |")
    assert r"x\|'y'" in "".join(rows)
    assert "±" in rows[0]


# --- The verb ------------------------------------------------------------------------------------


def test_the_verb_prints_and_writes(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two_methods(make)
    make("c", record={"status": "interrupted"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("old")
    files = ["--csv", "t.csv", "--latex", "new/t.tex", "--markdown", "t.md"]
    options = ["--baseline", "b", "--reach", "0.6", "--bandwidth", "10", "--latency", "20"]
    assert main(["compare", "runs", *options, *files]) == 0
    out, err = capsys.readouterr()
    for words in ("minus b: same seeds", "MB to AUC 60", "wire s", "written: new/t.tex"):
        assert words in out
    assert err.endswith("interrupted, left out\n")
    assert (tmp_path / "t.csv").read_text().startswith("row,data")
    assert (tmp_path / "new" / "t.tex").read_text().startswith("% needs")
    assert (tmp_path / "t.md").read_text().startswith("| method")


def test_a_table_goes_through_links_and_into_pipes_and_devices(
    make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make()
    runs = str(tmp_path / "runs")
    target, link, pipe = tmp_path / "target.csv", tmp_path / "link.csv", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    os.mkfifo(pipe)
    assert main(["compare", runs, "--csv", str(link), "--markdown", os.devnull]) == 0
    assert link.is_symlink()
    assert target.read_text().startswith("row,data")
    for place in (pipe, "/dev/full"):  # A pipe that nobody reads.
        assert main(["compare", runs, "--csv", str(place)]) == 2
        assert f"--csv {place}: cannot be written" in capfd.readouterr().err
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert all(stat.S_ISCHR(os.stat(path).st_mode) for path in ("/dev/full", os.devnull))
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main(["compare", runs, "--csv", str(pipe)]) == 0
    assert os.read(reader, 100).startswith(b"row,data")
    os.close(reader)


def test_one_file_is_not_written_twice(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    words = ["--csv", str(tmp_path / "t"), "--latex", str(tmp_path / "x" / ".." / "t")]
    (tmp_path / "x").mkdir()
    assert main(["compare", str(tmp_path / "runs"), *words]) == 2
    assert "is the file of --csv, too" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_the_verb_names_all_options_that_do_not_fit(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    runs = str(tmp_path / "runs")
    assert main(["compare", runs, "--reach", "75"]) == 2
    assert "did you mean 0.75?" in capsys.readouterr().err
    wrong = ["--reach", "0", "--latency", "-1", "--csv", runs]
    assert main(["compare", runs, *wrong]) == 2
    _, err = capsys.readouterr()
    for words in ("must be above 0", "must not be negative", "needs --bandwidth", "is a folder"):
        assert words in err
    assert main(["compare", runs, "--bandwidth", "0"]) == 2
    (tmp_path / "file").write_text("")
    assert main(["compare", runs, "--csv", str(tmp_path / "file" / "t.csv")]) == 2
    _, err = capsys.readouterr()
    assert "cannot be written" in err


def test_a_damaged_ledger_is_named(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (make() / "traffic.jsonl").write_text("{\n")
    assert main(["compare", str(tmp_path / "runs")]) == 0
    assert main(["compare", str(tmp_path / "runs"), "--bandwidth", "10"]) == 2
    assert "traffic.jsonl cannot be read" in capsys.readouterr().err


def test_only_unfinished_runs_are_nothing_to_compare(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(record={"status": "failed"})
    assert main(["compare", str(tmp_path / "runs")]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_the_commands_of_the_page_work(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {"data": {"name": "ham10000", "split": {"seed": 0, "fraction": 1.0}}}
    for name in ("isic_noniid_gdd", "isic_noniid_dm", "isic_noniid_fedavg"):
        make(name, settings=whole)
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "comparing.md").read_text()
    commands = re.findall(r"^\$ fedsim (compare .*)$", page, re.MULTILINE)
    assert len(commands) > 3
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    _, err = capsys.readouterr()
    assert not err


# --- A score over a setting ----------------------------------------------------------------------


def of_fractions(make: Make, *, other: bool = True) -> None:
    """Three fractions, two seeds, of one or two initialisations."""
    for fraction in (0.1, 0.3, 1.0):
        for init in ("random", "mine")[: 1 + other]:
            for seed in (0, 1):
                strength = 1.0 + fraction + (init == "mine")
                split = {"name": "ham10000", "split": {"seed": 0, "fraction": fraction}}
                settings = {"data": split, "model": {"init": init}}
                make("a", seed, strength=strength, settings=settings)


def test_rows_that_differ_in_the_axis_alone_are_one_line(make: Make, tmp_path: Path) -> None:
    of_fractions(make)
    table_ = comparison(tmp_path)
    drawn = over(table_, "data.split.fraction")
    assert set(drawn.lines) == {"model.init=random", "model.init=mine"}
    for points in drawn.lines.values():
        assert [at for at, _ in points] == [0.1, 0.3, 1.0]
        assert [one.n for _, one in points] == [2, 2, 2]
    rows = {line.row.name: line.measures["auc"].mean for line in table_.lines}
    at_least = drawn.lines["model.init=mine"][0][1]
    assert at_least.mean == rows["a data.split.fraction=0.1 model.init=mine"]
    assert picture(drawn).png.startswith(b"\x89PNG")


def test_of_one_method_the_line_has_its_name(make: Make, tmp_path: Path) -> None:
    of_fractions(make, other=False)
    assert set(over(comparison(tmp_path), "data.split.fraction").lines) == {"a"}


def test_over_a_cost_each_row_is_a_point(make: Make, tmp_path: Path) -> None:
    two_methods(make, up=125_000)
    drawn = over(comparison(tmp_path), "mb_up_total")
    assert {name: [at for at, _ in points] for name, points in drawn.lines.items()} == {
        "a": [1.0],
        "b": [0.5],
    }
    assert picture(drawn).rows[0][:2] == ["a", 1.0]


def test_over_simulated_hours_the_runs_without_a_clock_are_named_alone(
    make: Make, tmp_path: Path
) -> None:
    timed = {"simulated_hours": 1.5}
    make("a", summary=timed)
    make("b", summary={"simulated_hours": 2.5})
    assert over(comparison(tmp_path, intervals=False), "simulated_hours").lines.keys() == {"a", "b"}
    old = [make("c"), make("a", 1, summary={"simulated_hours": None})]
    with pytest.raises(InputError, match="not all rows can be drawn") as caught:
        over(comparison(tmp_path, intervals=False), "simulated_hours")
    told = {one.where: one.message for one in caught.value.problems}
    assert told == {
        "a": f"{old[1]} ran without a clock",
        "c": f"{old[0]} ran without a clock",
    }
    assert caught.value.hint == "leave these runs out: name the folder of each other run"
    with pytest.raises(InputError) as caught:
        over(comparison(tmp_path, intervals=False), "data.nothing")
    assert "simulated_hours" in caught.value.hint


def test_less_than_an_hour_is_drawn_in_minutes(make: Make, tmp_path: Path) -> None:
    make("a", summary={"simulated_hours": 0.25})
    make("b", summary={"simulated_hours": 0.5})
    drawn = picture(over(comparison(tmp_path, intervals=False), "simulated_hours"))
    assert drawn.title == "AUC over simulated minutes"
    assert "a: 15: " in drawn.alt
    assert [row[1] for row in drawn.rows] == [0.25, 0.5]


def test_hours_that_no_run_has_are_not_proposed(make: Make, tmp_path: Path) -> None:
    two_methods(make, seeds=1)
    with pytest.raises(InputError) as caught:
        over(comparison(tmp_path, intervals=False), "simulated_hours")
    assert caught.value.hint == "runs with a block federation.clock have simulated hours"
    with pytest.raises(InputError) as caught:
        over(comparison(tmp_path, intervals=False), "data.nothing")
    assert "simulated_hours" not in caught.value.hint


@pytest.mark.parametrize("key", ["data.split.fractions", "model.init", "data", "rounds.x"])
def test_an_axis_without_numbers_names_the_rows(make: Make, tmp_path: Path, key: str) -> None:
    of_fractions(make)
    with pytest.raises(InputError, match="not all rows can be drawn") as caught:
        over(comparison(tmp_path), key)
    assert len(caught.value.problems) == 6
    assert "mb_up_total" in caught.value.hint


def test_the_command_draws_it(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_fractions(make)
    runs, target = str(tmp_path / "runs"), tmp_path / "over.png"
    words = ["compare", runs, "--over", "data.split.fraction"]
    assert main([*words, "--figure", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert f"written: {target}" in capsys.readouterr().out
    for half in (words, ["compare", runs, "--figure", str(target)]):
        assert main(half) == 2
        assert "goes with" in capsys.readouterr().err


# --- A score over two settings -------------------------------------------------------------------


def of_attacks(make: Make) -> None:
    """Two attacks and none, against two rules of one strategy and another, but for one cell."""
    rules = [{"name": "fedavg"}, {"name": "robust", "rule": "median"}]
    rules.append({"name": "robust", "rule": "krum", "byzantine": 2})
    attacks = [None, {"name": "lie", "count": 2}, {"name": "min_max", "count": 2}]
    for one, attack in enumerate(attacks):
        for other, rule in enumerate(rules):
            for seed in (0, 1):
                if (one, other) == (2, 2):
                    continue
                settings = {"adversary": attack, "strategy": rule}
                if (one, other) == (1, 0):
                    make("a", seed, strength=None, metrics={"auc": 0.5}, settings=settings)
                else:
                    make("a", seed, strength=2.0 - 0.5 * one, settings=settings)


def test_attacks_by_defences_are_a_table_and_a_heat_map(make: Make, tmp_path: Path) -> None:
    of_attacks(make)
    found = matrix(comparison(tmp_path), "adversary", "strategy")
    assert set(found.rows) == {"none", "lie", "min_max"}
    assert set(found.columns) == {"fedavg", "robust median", "robust krum byzantine=2"}
    assert len(found.cells) == 8
    assert ("min_max", "robust krum byzantine=2") not in found.cells
    assert found.cells["none", "fedavg"].measure.n == 2
    assert [key for key, cell in found.cells.items() if cell.chance] == [("lie", "fedavg")]
    lines = str(found).splitlines()
    assert lines[0] == "AUC: adversary by strategy; seeds: 2"
    assert "- no finished run" in lines
    assert any(line.startswith("x within 0.02 of chance") for line in lines)
    drawn = matrix_picture(found)
    assert drawn.png.startswith(b"\x89PNG")
    assert len(drawn.rows) == 8


def test_a_block_without_a_name_is_called_by_what_differs(make: Make, tmp_path: Path) -> None:
    blocks = [
        None,
        {"unit": "client", "noise_multiplier": 0.0, "delta": 1e-4},
        {"unit": "client", "noise_multiplier": 0.5, "delta": 1e-4},
        {"unit": "record", "noise_multiplier": 0.5, "delta": 1e-4},
    ]
    for rule in ("fedavg", "robust"):
        for block in blocks:
            make("a", 0, settings={"privacy": block, "strategy": {"name": rule}})
    found = matrix(comparison(tmp_path), "strategy", "privacy")
    assert set(found.columns) == {
        "none",
        "client noise_multiplier=0.0",
        "client noise_multiplier=0.5",
        "record noise_multiplier=0.5",
    }
    alone = compare(rows_with(tmp_path, blocks[:2]))
    assert set(matrix(alone, "strategy", "privacy").columns) == {"none", "as given"}


def rows_with(tmp_path: Path, blocks: list[Any]) -> list[Row]:
    """The rows whose privacy block is one of these."""
    rows, _ = rows_of(find_runs([tmp_path / "runs"]))
    return [row for row in rows if row.runs[0].config["privacy"] in blocks]


def test_a_cell_of_several_rows_is_refused(make: Make, tmp_path: Path) -> None:
    of_attacks(make)
    with pytest.raises(InputError, match="the runs differ in something else, too"):
        matrix(comparison(tmp_path), "adversary.name", "strategy.name")
    with pytest.raises(InputError, match="name two keys"):
        matrix(comparison(tmp_path), "adversary", "adversary")


def of_losses(make: Make) -> None:
    """Two rates of loss, two rules, three seeds: the rules differ by 0.1 at one rate alone."""
    for rate in (0.0, 0.5):
        for number, name in enumerate(("fedavg", "fed_ncl")):
            for seed in range(3):
                score = 0.8 - rate / 2 + 0.01 * seed + (0.1 + 0.001 * seed) * number * (rate > 0)
                settings = {"client": {"packet_loss": rate}, "strategy": {"name": name}}
                metrics = {"dice": score, "jaccard": score / 2}
                make("a", seed, strength=None, metrics=metrics, settings=settings)


def test_columns_of_a_row_are_tested_by_seed_and_corrected(make: Make, tmp_path: Path) -> None:
    of_losses(make)
    tests = paired_tests(matrix(comparison(tmp_path), "client.packet_loss", "strategy"))
    assert {(one.row, one.p < 0.05) for one in tests} == {("0.0", False), ("0.5", True)}
    corrected = holm({(one.row, one.one, one.other): one.p for one in tests})
    assert [one.corrected for one in tests] == pytest.approx(list(corrected.values()))
    lossy = next(one for one in tests if one.row == "0.5")
    assert abs(lossy.difference.mean or 0) == pytest.approx(0.101)
    assert lossy.difference.n == 3
    # Other records, or one seed, are no pair.
    alone = matrix(comparison(tmp_path), "strategy", "client.packet_loss")
    assert len(paired_tests(alone)) == 2
    make("a", 0, strength=None, settings={"client": {"packet_loss": 0.9}}, metrics={"dice": 0.1})
    assert len(paired_tests(matrix(comparison(tmp_path), "strategy", "client.packet_loss"))) == 2


def test_several_keys_are_one_side_of_a_matrix_and_another_score_is_shown(
    make: Make, tmp_path: Path
) -> None:
    of_losses(make)
    both = "client.packet_loss,strategy"
    found = matrix(comparison(tmp_path), both, "data.name", "jaccard")
    assert set(found.rows) == {f"{r}, {n}" for r in ("0.0", "0.5") for n in ("fedavg", "fed_ncl")}
    assert found.cells["0.0, fedavg", found.columns[0]].measure.mean == pytest.approx(0.405)
    assert str(found).startswith("Jaccard: ")
    with pytest.raises(InputError, match="no score 'auc'"):
        matrix(comparison(tmp_path), both, "data.name", "auc")
    with pytest.raises(InputError, match="name two keys"):
        matrix(comparison(tmp_path), both, "strategy")


def test_the_command_prints_the_tests(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_losses(make)
    words = ["compare", str(tmp_path / "runs"), "--tests"]
    assert main([*words, "--matrix", "client.packet_loss", "strategy", "--columns", "jaccard"]) == 0
    told = capsys.readouterr().out
    assert "Jaccard: paired t-tests by seed" in told
    assert "corrected for all 2" in told
    assert main(words) == 2
    assert "--tests: goes with --matrix" in capsys.readouterr().err
    assert main([*words, "--matrix", "strategy", "data.name"]) == 2


def test_the_command_prints_the_matrix_and_draws_it(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], rescored: list[int]
) -> None:
    of_attacks(make)
    target = tmp_path / "matrix.png"
    words = ["compare", str(tmp_path / "runs"), "--matrix", "adversary", "strategy"]
    assert main([*words, "--figure", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert "AUC: adversary by strategy" in capsys.readouterr().out
    assert not rescored, "there are no intervals in it"
    assert main([*words, "--csv", str(tmp_path / "all.csv")]) == 0
    assert rescored == [2] * 7, "all cells but the one without predictions"
    assert main([*words, "--over", "rounds", "--figure", str(target)]) == 2
