"""A league of seconds: embedded images, two methods, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from fedsim.report.statistics import measure
from fedsim.scenario import load
from tests.report.test_compare import LABELS, Make, comparison, make  # noqa: F401 - a fixture
from tests.sweeping.conftest import Typed
from tests.tuning.conftest import Trials
from tests.yaml_bombs import YAML_BOMBS

LEAGUE = """\
passes: 1
trials: 2
tuning_seed: 100
seeds: [0, 1]
baseline: fedavg
settings:
  skewed: {scenario: tiny.yaml, words: [federation.partition.alpha=0.1], methods: images}
  sites: {scenario: tiny.yaml, words: [federation.clients=null, federation.partition=natural],
    methods: images}
methods:
  images:
    fedavg: ["rounds=1", "client.learning_rate=log(1e-3,1e-1)"]
    fedavgm: ["rounds=1", "strategy={name: server_momentum, momentum: 0.9}"]
"""


def rows() -> list[dict[str, str]]:
    """The lines of league.csv."""
    with Path("runs/league.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_league_is_tuned_run_and_told(typed: Typed, trials: Trials) -> None:
    Path("league.yaml").write_text(LEAGUE)
    code, out, err = typed("league", "league.yaml")
    assert code == 0, err
    assert "2 settings, 4 methods in them: 4 trials and 8 runs, passes: 1" in out
    assert len(trials.commands) == 4 + 8
    found = rows()
    assert [(one["setting"], one["method"]) for one in found] == [
        ("skewed", "fedavg"),
        ("skewed", "fedavgm"),
        ("sites", "fedavg"),
        ("sites", "fedavgm"),
    ]
    assert all(one["seeds"] == "2" for one in found)
    assert [bool(one["difference_low"]) for one in found] == [False, True, False, True]
    assert [bool(one["difference_p"]) for one in found] == [False, True, False, True]
    for one in found[1::2]:
        apart = float(one["difference_low"]) > 0 or float(one["difference_high"]) < 0
        # One method beside the baseline: Holm's correction changes nothing.
        assert one["difference_p_holm"] == one["difference_p"]
        assert (float(one["difference_p"]) <= 0.05) == apart
        assert (one["difference_is_real"] == "1") <= apart
    assert all(float(one["worst_site_mean"]) <= float(one["score_mean"]) for one in found[2:])
    assert out.count("written: runs/league") == 2
    markdown = Path("runs/league.md").read_text().splitlines()
    assert markdown[0].startswith("| setting | method | seeds | score | worst site |")
    assert len(markdown) == 2 + 4
    # Typed again, nothing is run, and the table is the same.
    assert typed("league", "league.yaml")[0] == 0
    assert len(trials.commands) == 4 + 8
    assert rows() == found


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("baseline: fedavg", "baseline: fedprox", "the baseline 'fedprox' is not among them"),
        ("methods: images}", "methods: volumes}", "there is no list 'volumes'"),
        (
            "tiny.yaml, words: [federation.clients",
            "tiny.yaml, instead: {moon: [rounds=1]}, words: [federation.clients",
            "'images' has no such method",
        ),
        ("tuning_seed: 100", "tuning_seed: 1", "one of the seeds that are compared"),
        ("trials: 2", "trials: 0", "trials: expected at least 1, got 0"),
        ("trials: 2", "tries: 2", "tries: unknown key (did you mean 'trials'?)"),
        ("passes: 1", "passes: 2", "1 rounds of 1 passes are 1, and not 2"),
        ('["rounds=1", "strategy', '["rounds=2", "strategy', "2 rounds of 1 passes are 2, and"),
        (
            '["rounds=1", "strategy',
            '["rounds=1", "client.batch_size=8", "strategy',
            "client.batch_size is 8, and 16 of the baseline",
        ),
        ("momentum: 0.9", "momentun: 0.9", "skewed.fedavgm: command line"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds: a seed is given twice"),
        ("seeds: [0, 1]", "seeds: [0, -1]", "seeds.1: expected at least 0, got -1"),
        ("trials: 2", "trials: true", "trials: expected a whole number, got true"),
        ("passes: 1", "passes: .inf", "passes: expected a finite number, got inf"),
        ("skewed:", "a/b:", "settings: 'a/b' is no name of a folder"),
        ("skewed:", "..:", "settings: '..' is no name of a folder"),
        ("skewed:", "/tmp/x:", "settings: '/tmp/x' is no name of a folder"),
        ("skewed:", "league.csv:", "'league.csv' is the name of something else"),
        ("fedavgm:", "FedAvg:", "methods.images: 'FedAvg' is the name of something else"),
        ("fedavgm:", "tuning:", "'tuning' is the name of something else"),
        ("fedavgm:", "a b:", "skewed.a b: command line (name=a b)"),
        (
            '["rounds=1", "strategy',
            '["rounds=choice(1,2)", "strategy',
            "sites.fedavgm: 2 rounds of 1 passes are 2, and not 1",
        ),
        (
            '["rounds=1", "strategy',
            '["rounds=1", "client.batch_size=int(16,32)", "strategy',
            "client.batch_size is 32, and 16 of the baseline",
        ),
        (
            '["rounds=1", "strategy',
            '["rounds=1", "client={name: supervised}", "strategy',
            "client.batch_size is 32, and 16 of the baseline",
        ),
        (
            '["rounds=1", "strategy',
            '["rounds=1", "federation.participation=0.5", "strategy',
            "federation.participation is another than that of the baseline",
        ),
        (
            '["rounds=1", "strategy',
            '["rounds=1", "evaluation.select=pooled_val", "strategy',
            "evaluation.select is another than that of the baseline",
        ),
    ],
)
def test_an_unfair_or_wrong_league_is_refused(
    old: str, new: str, told: str, typed: Typed, trials: Trials
) -> None:
    assert old in LEAGUE
    Path("league.yaml").write_text(LEAGUE.replace(old, new))
    code, _, err = typed("league", "league.yaml")
    assert code == 2
    assert told in err
    assert not trials.commands


@pytest.mark.parametrize(
    "text", [*YAML_BOMBS.values(), "trials: [", "trials: 3\n"], ids=[*YAML_BOMBS, "open", "twice"]
)
def test_a_league_that_cannot_be_read_is_named(text: str, typed: Typed) -> None:
    Path("league.yaml").write_text(LEAGUE + text)
    code, _, err = typed("league", "league.yaml", "--dry-run")
    assert code == 2
    assert "  league.yaml:" in err


def test_a_folder_of_data_goes_to_the_settings_on_these_data(typed: Typed, trials: Trials) -> None:
    Path("league.yaml").write_text(LEAGUE)
    here = Path.cwd()
    code, out, _ = typed("league", "league.yaml", "--data", f"ham10000={here}", "--dry-run")
    assert code == 0
    assert out.count(f"data.root={here}") == 4
    assert typed("league", "league.yaml", "--data", "ham10000=nowhere")[0] == 2
    code, _, err = typed("league", "league.yaml", "--data", f"ham1000={here}", "--dry-run")
    assert code == 2
    assert "--data ham1000: no setting has such data (did you mean 'ham10000'?)" in err


def test_a_file_that_was_edited_tells_of_its_own_runs_alone(typed: Typed, trials: Trials) -> None:
    before = LEAGUE.replace('"client.learning_rate=log(1e-3,1e-1)"', "client.learning_rate=0.1")
    Path("league.yaml").write_text(before)
    assert typed("league", "league.yaml")[0] == 0
    after = before.replace("seeds: [0, 1]", "seeds: [1]").replace("rate=0.1", "rate=0.2")
    Path("league.yaml").write_text(after.replace("momentum: 0.9", "momentum: 0.5"))
    code, _, err = typed("league", "league.yaml")
    assert code == 0, err
    assert [(one["method"], one["seeds"]) for one in rows()] == 2 * [
        ("fedavg", "1"),
        ("fedavgm", "1"),
    ]
    assert len(list(Path("runs/skewed").glob("fedavg*/*seed*"))) == 4 + 2


def test_a_setting_whose_baseline_failed_stops_no_other(typed: Typed, trials: Trials) -> None:
    one = LEAGUE.replace('"client.learning_rate=log(1e-3,1e-1)"', "client.learning_rate=0.1")
    own = "instead: {fedavg: [rounds=1, client.learning_rate=1.0e+30]}"
    Path("league.yaml").write_text(one.replace("skewed: {", f"skewed: {{{own}, "))
    code, out, _ = typed("league", "league.yaml")
    assert code == 1
    assert "skewed is left out: no run of fedavg is finished there" in out
    assert [(row["setting"], row["method"]) for row in rows()] == [
        ("sites", "fedavg"),
        ("sites", "fedavgm"),
    ]


def test_a_difference_is_real_after_correction_and_with_every_seed() -> None:
    from fedsim.tuning.league import Score, table

    none = measure([None])

    def score(p: float, corrected: float, one_sign: bool) -> Score:
        found = measure([0.02, 0.03], (0.01, 0.04) if p < 0.05 else (-0.01, 0.04), p)
        rest = (none, none, none, none, none)
        return Score("skewed", "moon", 100.0, *rest, found, corrected, one_sign)

    assert [score(0.001, 0.02, True).real, score(0.001, 0.02, True).apart] == [True, True]
    assert [score(0.01, 0.2, True).real, score(0.01, 0.2, True).apart] == [False, True]
    assert score(0.001, 0.02, False).real is False
    assert score(0.2, 0.2, True).apart is False
    lines = table([score(0.001, 0.02, True), score(0.01, 0.2, True), score(0.2, 0.2, True)], "avg")
    assert [line[-1] for line in lines] == [
        "minus avg",
        "+2.5 [+1.0, +4.0] **",
        "+2.5 [+1.0, +4.0] *",
        "+2.5 [-1.0, +4.0]",
    ]


def test_each_p_is_corrected_for_those_of_all_methods(make: Make, tmp_path: Path) -> None:  # noqa: F811
    from fedsim.tuning.league import scores_of

    for seed in range(2):
        make("avg", seed, strength=1.0)
        make("near", seed, strength=1.03)
        make("far", seed, strength=1.3)
        # On other records there is no difference to test.
        make("other", seed, strength=1.8, records=np.arange(LABELS.size) + 1)
    found = scores_of("skewed", comparison(tmp_path, baseline="avg"))
    assert [one.method for one in found] == ["avg", "far", "near", "other"]
    p = {one.method: one.difference and one.difference.p for one in found}
    assert p["avg"] is p["other"] is None
    far, near = p["far"], p["near"]
    assert far is not None
    assert near is not None
    assert 0 < far < near / 2
    assert [one.corrected for one in found] == [None, 2 * far, near, None]


def test_the_shelf_is_a_fair_league() -> None:
    from fedsim.tuning.league import places, read_league

    league = read_league(Path(__file__).parents[2] / "examples" / "league" / "shelf.yaml")
    found = places(league, {}, [])
    assert {one.setting for one in found} == {
        "ham_dirichlet_01",
        "ham_dirichlet_1",
        "ham_sites",
        "hippocampus",
    }
    # Every method has something to tune.
    assert all(one.tuned for one in found)
    assert len(league.seeds) == 3
    assert load("isic_sites_fedavg").data.name == "ham10000"


def test_a_shared_model_is_a_reference_for_own_models_at_home(make: Make, tmp_path: Path) -> None:  # noqa: F811
    from fedsim.tuning.league import scores_of

    shared = {"auc@a": 0.6, "auc@b": 0.9, "auc@c": None}
    for seed in range(2):
        make("avg", seed, metrics=shared)
    (alone,) = scores_of("sites", comparison(tmp_path, baseline="avg"))
    assert alone.own.mean is None  # Nobody says that clients are sites.
    for seed in range(2):
        make("ditto", seed, metrics={"auc@a": 0.5, "auc@b": 0.5, "auc@own": 0.8, "auc@others": 0.2})
    found = scores_of("sites", comparison(tmp_path, baseline="avg"))
    assert [one.own.mean for one in found] == pytest.approx([0.75, 0.8])
