"""Privacy curves: which runs they need, what is run for them, and what the figure shows."""

from __future__ import annotations

import argparse
import csv
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fedsim.errors import EXIT_INTERRUPTED, InputError
from fedsim.folder.runfolder import RunFolder
from fedsim.report import privacy_picture
from fedsim.report.privacy_curve import HEADER, Point, curve_of, table
from fedsim.report.privacy_picture import picture
from fedsim.report.rows import find_runs
from fedsim.sweeping.cells import fingerprints
from fedsim.sweeping.epsilons import CurveCell, plan_curve
from fedsim.sweeping.scheduler import Sweep
from fedsim.verbs import Verbs, curve
from tests.engine.conftest import TINY

Typed = Callable[..., tuple[int, str, str]]

SMALL = TINY.replace("clients: 4", "clients: 2").replace("rounds: 2", "rounds: 1")
PLAIN = SMALL.replace("name: tiny", "name: plain")
PRIVATE = SMALL.replace("name: tiny", "name: private") + "privacy: {target_epsilon: 3}\n"
BROKEN = SMALL.replace("name: tiny", "name: broken").replace(
    "client: {name: supervised, batch_size: 16}", "client: {name: 'misbehaving:Raises'}"
)
INF = math.inf


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, the same for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def typed(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Typed:
    """Types `fedsim curve ...` in a folder with scenarios; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSIM_CACHE", str(cache))
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    for name, text in (("plain", PLAIN), ("private", PRIVATE), ("broken", BROKEN)):
        Path(f"{name}.yaml").write_text(text)
    parser = argparse.ArgumentParser()
    curve.add(Verbs(parser))

    def go(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        parsed, rest = parser.parse_known_args(["curve", *words])
        parsed.overrides += rest
        try:
            code = parsed.command(parsed)
        except InputError as error:
            return error.exit_code, "", str(error)
        out = capsys.readouterr()
        return code, out.out, out.err

    return go


def told(cells: list[CurveCell]) -> list[tuple[str, float, bool, int]]:
    """Name, epsilon, whether it is a line, and seed of each cell."""
    return [(one.cell.scenario.name, one.epsilon, one.reference, one.cell.seed) for one in cells]


# --- Cells ---------------------------------------------------------------------------------------


def test_a_curve_of_the_first_seed_is_whole_before_the_next_seed_begins(typed: Typed) -> None:
    cells = plan_curve(["private.yaml", "plain.yaml"], [], [INF, 2.0, 0.5, 2.0], [1, 0])
    assert told(cells) == [
        line
        for seed in (1, 0)
        for line in (
            ("private", 0.5, False, seed),
            ("private", 2.0, False, seed),
            ("private", INF, False, seed),
            ("plain", INF, True, seed),
        )
    ]
    blocks = [one.cell.scenario.privacy for one in cells[:4]]
    assert [block and block.target_epsilon for block in blocks] == [0.5, 2.0, None, None]
    assert len({one.cell.label for one in cells}) == len(cells)
    assert len({(one.cell.identity, one.cell.seed) for one in cells}) == len(cells)


def test_the_overrides_of_a_cell_make_its_scenario_again_where_it_is_run(typed: Typed) -> None:
    words = ["privacy.max_grad_norm=2", "rounds=5"]
    for one in plan_curve(["private.yaml", "plain.yaml"], words, [1.0, INF], [0], ["plugins=[]"]):
        again = curve_scenario(one)
        assert again == one.cell.scenario
        assert again.rounds == 5
        assert (again.privacy is None) == math.isinf(one.epsilon)
        assert again.privacy is None or again.privacy.max_grad_norm == 2


def curve_scenario(one: CurveCell) -> Any:
    """The scenario that `fedsim run` makes of the cell's words."""
    from fedsim.scenario import load

    return load(one.cell.source, one.cell.overrides)


def test_a_cell_is_the_same_whether_epsilon_is_written_1_or_1_0(typed: Typed) -> None:
    (one,) = plan_curve(["private.yaml"], [], [1], [0])
    Path("again.yaml").write_text(PRIVATE.replace("target_epsilon: 3", "target_epsilon: 1.0"))
    (other,) = plan_curve(["again.yaml"], [], [1.0], [0])
    assert one.cell.identity == other.cell.identity


def test_a_block_without_an_epsilon_is_a_privacy_block(typed: Typed) -> None:
    Path("open.yaml").write_text(PRIVATE.replace("{target_epsilon: 3}", "{delta: 1.0e-3}"))
    assert told(plan_curve(["open.yaml"], [], [1.0], [0])) == [("private", 1.0, False, 0)]


def test_a_fixed_noise_multiplier_is_refused_and_what_the_message_types_works(
    typed: Typed,
) -> None:
    Path("noise.yaml").write_text(PRIVATE.replace("target_epsilon: 3", "noise_multiplier: 1.5"))
    code, _, err = typed("noise.yaml", "--dry-run")
    assert code == 2
    assert "privacy.noise_multiplier=1.5 fixes the noise" in err
    (words,) = [line.partition("type: fedsim curve ")[2] for line in err.splitlines()[1:2]]
    code, out, err = typed(*words.split(), "--dry-run")
    assert (code, err) == (0, "")
    assert "5 cells" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["privat"], ["there is no scenario 'privat'"]),
        (["private.yaml", "nowhere", "rounds=0"], ["'nowhere'", "rounds: expected at least 1"]),
        (["private.yaml", "--epsilons", "0", "nan", "1"], ["0: epsilon must", "nan: epsilon must"]),
        (["private.yaml", "--epsilons", "inf"], ["at least one that is finite"]),
        (["private.yaml", "--epsilons", "many"], ["'many'", "0.5 1 2 inf"]),
        (["private.yaml", "privacy.target_epsilon=3"], ["type: --epsilons 3"]),
        (["private.yaml", "privacy.max_epsilon=2"], ["epsilon 4", "epsilon 8"]),
        (["plain.yaml", "--epsilons", "1"], ["no scenario here has a privacy block"]),
        (["private.yaml", "./private.yaml"], ["as that of private.yaml"]),
        (["private.yaml", "--seeds", "0"], ["--seeds 1"]),
        (["private.yaml", "--seeds", "1.5"], ["expected a whole number"]),
        (["private.yaml", "--jobs", "0"], ["--jobs 0"]),
        (["private.yaml", "--name", "../up"], ["'../up'"]),
        (["--epsilons", "1"], ["which scenarios?"]),
    ],
)
def test_all_that_is_wrong_is_said_before_anything_runs(
    typed: Typed, words: list[str], expected: list[str]
) -> None:
    code, _, err = typed(*words)
    assert code == 2
    for text in expected:
        assert text in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ([], [0]),
        (["--seeds", "3"], [0, 1, 2]),
        (["--seeds", "4", "1"], [4, 1]),
        (["--seeds", "0,5"], [0, 5]),
    ],
)
def test_one_number_of_seeds_is_a_count_and_several_are_the_seeds(
    typed: Typed, words: list[str], seeds: list[int]
) -> None:
    # The words of the command may stand between and after the options.
    code, out, _ = typed(*words, "private.yaml", "--epsilons", "1", "rounds=1", "--dry-run")
    assert code == 0
    labels = [f"private epsilon 1 seed {seed}: would run" for seed in seeds]
    lines = out.splitlines()[:-1]
    assert [line.partition("] ")[2] for line in lines] == labels


# --- Running -------------------------------------------------------------------------------------


def finish(one: CurveCell, fingerprint: str, auc: float, **summary: Any) -> Path:
    """Write what a finished run of the cell leaves behind."""
    folder = RunFolder.create(Path("runs"), one.cell.scenario.name, one.cell.seed)
    folder.write_text("scenario.yaml", one.cell.scenario.to_yaml())
    data = {"name": "ham10000", "source": "embedded", "fingerprint": fingerprint}
    record = {"seed": one.cell.seed, "status": "done", "started": "2026-01-01", "data": data}
    folder.write_json("run.json", record)
    known = {"mb_up_total": 1.5, "mb_down_total": 2.0, "wall_seconds": 1.0, "peak_rss_mb": 9.0}
    folder.write_json("summary.json", {"metrics": {"auc": auc}, **known, **summary})
    return folder.path


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_what_is_missing_runs_what_fails_stops_no_other_and_what_is_there_is_drawn(
    typed: Typed,
) -> None:
    cells = plan_curve(["private.yaml"], [], [0.5, 2.0], [0])
    data = fingerprints([cells[0].cell])[cells[0].cell.data_key]
    audit = {"epsilon_lower": 0.25}
    finish(cells[0], data, 0.6, epsilon=0.45, certified=True, delta=1e-4, audit=audit)
    finish(cells[1], data, 0.7, epsilon=1.9, certified=True, delta=1e-4, audit=None)

    names = ["private.yaml", "plain.yaml", "broken.yaml"]
    code, out, err = typed(*names, "--epsilons", "0.5", "2", "--jobs", "2", "--name", "mine")
    assert code == 1
    assert err.startswith("failed: broken seed 0: ")
    assert "RuntimeError: the scanner is on fire" in err
    assert "1 of 4 runs are missing." in out
    assert "embedded stand-in: generated images, not real data." in out
    folder = Path("runs/curves/mine")
    rows = rows_of(folder / "curve.csv")
    assert tuple(rows[0]) == HEADER
    assert [(row["scenario"], row["epsilon"], row["audited"]) for row in rows] == [
        ("private", "0.5", "0.25"),
        ("private", "2.0", ""),
        ("plain", "inf", ""),
    ]
    (run,) = [place.parent for place in Path("runs/plain").glob("2*/summary.json")]
    assert float(rows[2]["value"]) == RunFolder(run).read_json("summary.json")["metrics"]["auc"]
    assert Image.open(BytesIO((folder / "curve.png").read_bytes())).size == (800, 680)

    page = folder / "index.html"
    assert out.splitlines()[-1] == f"page: {page}"
    assert "Utility over epsilon: mine" in page.read_text()
    moved = Path("moved")
    Path("runs").rename(moved)
    named = find_runs([moved / "curves" / "mine"])
    assert [one.path.parent.name for one in named] == ["private", "private", "plain"]
    moved.rename("runs")

    code, out, err = typed(*names[:2], "--epsilons", "0.5", "2")
    assert (code, err) == (0, "")
    assert out.count("finished already") == 3
    assert rows_of(Path("runs/curves/private+plain/curve.csv")) == rows


def test_an_interrupted_curve_shows_what_is_there(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = plan_curve(["private.yaml"], [], [1.0], [0])
    finish(cells[0], fingerprints([cells[0].cell])[cells[0].cell.data_key], 0.6)

    def stopped(sweep: Sweep) -> int:
        sweep._skip_what_is_done()
        return EXIT_INTERRUPTED

    monkeypatch.setattr(Sweep, "run", stopped)
    code, out, err = typed("private.yaml", "--epsilons", "1", "2", "4")
    assert code == 130
    assert "to go on, type the same command again" in err
    assert "2 of 3 runs are missing" in out
    (row,) = rows_of(Path("runs/curves/private/curve.csv"))
    assert (row["epsilon"], row["value"], row["mb_up"]) == ("1.0", "0.6", "1.5")


# --- Numbers and figure --------------------------------------------------------------------------

EMBEDDED = {"name": "isic2020", "source": "embedded", "fingerprint": "aa"}
REAL = {"name": "ham10000", "source": "path", "fingerprint": "bb"}


def point(
    scenario: str,
    epsilon: float,
    seed: int = 0,
    value: float | None = 0.7,
    *,
    reference: bool = False,
    audited: float | None = None,
    data: dict[str, str] = EMBEDDED,
    **summary: Any,
) -> Point:
    """A finished run."""
    known = {
        "metrics": {"auc": value, "accuracy": 0.9},
        "mb_up_total": 0.25,
        "mb_down_total": 0.5,
        "epsilon": None if math.isinf(epsilon) else 0.9 * epsilon,
        "delta": None if math.isinf(epsilon) else 1e-4,
        "unit": None if math.isinf(epsilon) else "record",
        "certified": not math.isinf(epsilon),
        "audit": None if audited is None else {"epsilon_lower": audited},
    }
    return Point(scenario, epsilon, seed, reference, known | summary, data)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were drawn."""
    drawn: list[Any] = []
    plain = privacy_picture.png

    def kept(figure: Any) -> bytes:
        drawn.append(figure)
        return plain(figure)

    monkeypatch.setattr(privacy_picture, "png", kept)
    return drawn


def legend(figure: Any) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.axes[0].get_legend().get_texts()]


def lines(axes: Any, colour: str, style: str) -> list[tuple[list[float], list[float]]]:
    """The data of the lines of a colour and style."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if line.get_color() == colour and line.get_linestyle() == style
    ]


def test_the_csv_says_of_each_run_what_its_summary_says() -> None:
    points = [
        point("a", 0.5, 1, 0.1 + 0.2, audited=0.125),
        point("a", 0.5, 0, 0.6, certified=False),
        point("b", INF, 0, None, reference=True, data=REAL),
    ]
    drawn = picture(curve_of(points))
    assert drawn.csv.decode().splitlines() == [
        "scenario,epsilon,seed,metric,value,mb_up,mb_down,audited,audit,epsilon_reported,certified,data"
        ",unit,delta",
        "a,0.5,0,auc,0.6,0.25,0.5,,,0.45,False,embedded,record,0.0001",
        "a,0.5,1,auc,0.30000000000000004,0.25,0.5,0.125,consistent,0.45,True,embedded,record,0.0001",
        "b,inf,0,auc,,0.25,0.5,,,,False,ham10000,,",
    ]


def test_figure_and_table_say_whose_epsilon_it_is(figures: list[Any]) -> None:
    alike = curve_of([point("a", 1.0), point("b", 1.0), point("local", INF, reference=True)])
    assert "epsilon is for every record." in table(alike)
    picture(alike)
    assert figures[-1].axes[1].get_xlabel().startswith("ε for every record, aimed at")
    other = curve_of([point("a", 1.0), point("b", 1.0, unit="patient")])
    assert "epsilon is for every" not in table(other)
    assert "b, for every patient or lesion" in table(other)
    picture(other)
    assert figures[-1].axes[1].get_xlabel().startswith("ε, aimed at")
    assert {"a for every record", "b for every patient or lesion"} <= set(legend(figures[-1]))


def test_what_two_runs_differ_by_is_not_magnified(figures: list[Any]) -> None:
    curve = curve_of([point("a", 1.0, value=0.748), point("a", 8.0, value=0.733)])
    assert "one seed: how much a value spreads is not known" in curve.notes
    picture(curve)
    low, high = figures[-1].axes[0].get_ylim()
    assert high - low == pytest.approx(0.1)
    assert (low + high) / 2 == pytest.approx(0.7405)
    two = curve_of([point("a", 1.0, 0), point("a", 1.0, 1)])
    assert not [note for note in two.notes if "one seed" in note]


def test_the_figure_shows_means_and_spread_over_epsilon_and_level_lines(
    figures: list[Any],
) -> None:
    values = {0.5: [0.55, 0.6, 0.59], 4.0: [0.7, 0.72, 0.74], INF: [0.8, 0.81, 0.83]}
    points = [point("a", e, k, v) for e, some in values.items() for k, v in enumerate(some)]
    points += [point("local", INF, k, 0.6 + k / 10, reference=True) for k in range(2)]
    curve = curve_of(points)
    picture(curve)
    (figure,) = figures
    utility, megabytes = figure.axes
    means = {e: statistics.fmean(some) for e, some in values.items()}
    blue, orange = privacy_picture.COLOURS[:2]
    assert ([0.5, 4.0], [means[0.5], means[4.0]]) in lines(utility, blue, "-")
    assert [y for _, y in lines(utility, blue, "--")] == [[means[INF]] * 2]
    assert [y for _, y in lines(utility, orange, "--")] == [[pytest.approx(0.65)] * 2]
    band = utility.collections[0].get_paths()[0].vertices
    sd = statistics.stdev(values[0.5])
    assert band[:, 1].min() == pytest.approx(means[0.5] - sd)
    assert ([0.5, 4.0], [0.75, 0.75]) in lines(megabytes, blue, "-")
    assert utility.get_xscale() == "log"
    labels = [label.get_text() for label in utility.get_xticklabels()]
    assert labels == ["0.5", "4", "∞"]
    at = utility.get_xticks()
    assert at[-1] > 4.0
    assert legend(figure) == [
        "a",
        "local (reference, no privacy)",
        "without privacy",
        "± 1 sd over seeds",
    ]
    assert "0.57+-" not in table(curve)
    assert "0.580+-0.026" in table(curve)


def test_without_runs_at_infinity_there_is_no_break(figures: list[Any]) -> None:
    points = [point("a", 1.0), point("a", 2.0), point("local", INF, reference=True)]
    picture(curve_of(points))
    labels = [label.get_text() for label in figures[0].axes[0].get_xticklabels()]
    assert labels == ["1", "2"]
    assert "without privacy" not in legend(figures[0])


def test_audited_bounds_stand_left_of_their_points_unless_they_contradict_them(
    figures: list[Any],
) -> None:
    points = [
        point("a", 1.0, audited=0.4),
        point("a", 2.0, audited=0.0),
        point("a", 4.0, audited=5.0, certified=False),
    ]
    picture(curve_of(points))
    (utility, _) = figures[0].axes
    marks = {
        line.get_marker(): line.get_xdata()[0]
        for line in utility.get_lines()
        if len(line.get_xdata()) == 1
    }
    assert marks["|"] == 0.4
    assert marks["X"] == 5.0
    assert marks["<"] == utility.get_xlim()[0] < 0.4
    assert legend(figures[0]) == [
        "a (claimed, not certified)",
        "audited lower bound of ε",
        "audited bound left of the axis",
        "audited bound above ε",
    ]


def test_audits_that_could_not_bite_and_checks_that_failed_have_marks_of_their_own(
    figures: list[Any],
) -> None:
    capped = {"epsilon_lower": 0.6, "claim_above_cap": True, "violation": False}
    failed = {"epsilon_lower": 0.5, "claim_above_cap": False, "violation": True}
    curve = curve_of([point("a", 8.0, audit=capped), point("a", 2.0, audit=failed)])
    picture(curve)
    (utility, _) = figures[0].axes
    marks = {
        line.get_marker(): line.get_xdata()[0]
        for line in utility.get_lines()
        if len(line.get_xdata()) == 1
    }
    assert (marks["P"], marks["d"]) == (0.5, 0.6)
    assert legend(figures[0])[1:] == [
        "audited bound, and a check failed",
        "audited bound, ε above its cap",
    ]
    assert [row[8] for row in curve.rows] == ["violation", "claim above cap"]
    shown = table(curve)
    assert ">= 0.50 (violation)" in shown
    assert ">= 0.60 (claim above cap)" in shown


@pytest.mark.parametrize(
    ("points", "expected", "note"),
    [
        ([point("a", 1.0)], 1, "embedded stand-in: generated images, not real data"),
        ([point("a", 1.0, data=REAL)], 1, ""),
        ([point("a", 1.0, data=REAL)], 5, "4 of 6 runs are missing"),
        (
            [point("a", 1.0), point("b", 1.0, data=REAL)],
            2,
            "embedded stand-in: generated images, not real data; "
            "not all lines are of the same data",
        ),
    ],
)
def test_the_picture_says_what_its_numbers_are_not(
    figures: list[Any], points: list[Point], expected: int, note: str
) -> None:
    alone = curve_of(points, expected=expected)
    both = [replace(one, seed=1) for one in points]
    picture(curve_of([*points, *both], expected=expected + len(points)))
    assert alone.notes[-1 if "missing" not in note else -2].startswith("one seed: ")
    written = [text.get_text() for text in figures[0].texts]
    assert (note in written) == bool(note)
    assert len(written) == (2 if note else 1)


def test_the_metric_is_auc_or_dice_or_what_is_asked_for() -> None:
    volumes = [point("a", 1.0, metrics={"dice": 0.8, "dice/zone": 0.7})]
    assert curve_of(volumes).metric == "dice"
    assert curve_of(volumes, "dice/zone").points[0].value("dice/zone") == 0.7
    assert curve_of([point("a", 1.0)]).metric == "auc"
    with pytest.raises(InputError, match=r"'f1'[\s\S]*accuracy, auc"):
        curve_of([point("a", 1.0)], "f1")


@pytest.mark.parametrize("number", range(2))
def test_any_mixture_of_runs_can_be_drawn(number: int) -> None:
    draws = random.Random(number)
    points = [
        point(
            f"method_{method}",
            epsilon,
            seed,
            draws.choice([None, draws.random()]),
            audited=draws.choice([None, 0.0, draws.random() * 20]),
            mb_up_total=draws.choice([0.0, 0.01, 300.0]),
            certified=draws.random() < 0.5,
        )
        for method in range(9)
        for epsilon in [1.0, *draws.sample([0.01, 0.5, 1.05, 8.0, 1000.0, INF], 4)]
        for seed in range(draws.randint(1, 3))
    ]
    curve = curve_of(points)
    assert Image.open(BytesIO(picture(curve).png)).size == (800, 680)
    assert len(table(curve).splitlines()) == 2 + 9 * 5 + 1 + len(curve.notes)  # and whose epsilon
