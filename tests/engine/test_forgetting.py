"""Unlearning of finished runs: the same bits as inside a run, lineage, refusals, the table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.api.forgetting import forget, forget_all
from fedsim.cli import main
from fedsim.engine.checkpoint import Checkpoints
from fedsim.engine.criteria import FILE, gap, level, rounds_until, table_of, verdict
from fedsim.engine.forgetting import Asked, Finished, falls
from fedsim.errors import EXIT_DONE, Interruption
from fedsim.folder.identity import edited
from fedsim.observers.standard import starter
from fedsim.scenario import load
from fedsim.terminal.console import Console
from tests.engine.conftest import TINY
from tests.engine.test_bits import assert_same
from tests.engine.test_unlearning import PROCEDURES, words

QUIET = Console(quiet=True)
METHODS = "{fedaccum: {}, federaser: {}, ukd: {steps: 2, batch_size: 4}, pga: {steps: 3}, "
METHODS += "ifu: {psi: 0.02, sigma: 0.001}, last_update: {}}"
SHORT = ("client.steps=2", "evaluation.every=3", "rounds=3")
SITES = ("federation={partition: natural}", "data.split={val: 0, test: 0.3}")


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    folder = tmp_path_factory.mktemp("forgetting")
    (folder / "tiny.yaml").write_text(TINY)

    def started(*overrides: str, **options: Any) -> Result:
        return run(folder / "tiny.yaml", *overrides, runs=folder / "runs", **options)

    return started


@pytest.fixture(scope="module")
def remembered(go: Callable[..., Result]) -> Result:
    return go(*SHORT, f"strategy={{name: remember, methods: {METHODS}}}")


@pytest.fixture(scope="module")
def plain(go: Callable[..., Result]) -> Result:
    return go(*SHORT, "strategy={name: fedavg, weighting: uniform}")


@pytest.mark.parametrize("name", PROCEDURES)
def test_the_weights_are_those_of_a_run_that_unlearns_itself(
    name: str, remembered: Result, go: Callable[..., Result], tmp_path: Path
) -> None:
    assert_same(go(*words(name)), forget(remembered, "client-1", name, rounds=1, runs=tmp_path))


@pytest.mark.parametrize("name", ["scratch", "finetune"])
def test_a_run_that_kept_nothing_allows_what_needs_nothing(
    name: str, plain: Result, go: Callable[..., Result], tmp_path: Path
) -> None:
    assert_same(go(*words(name)), forget(plain, "client-1", name, rounds=1, runs=tmp_path))


def test_somebody_else_s_procedure_is_one_file(go: Callable[..., Result], tmp_path: Path) -> None:
    name = "own_unlearning.LastMean"
    kept = go(*SHORT, f"strategy={{name: remember, methods: {{{name}: {{}}, fedaccum: {{}}}}}}")
    own = forget(kept, "client-1", name, rounds=1, runs=tmp_path)
    assert json.loads((own.folder / "run.json").read_text())["scenario"] == "tiny_lastmean"
    block = f"strategy={{name: {name}, train_rounds: 3, client: client-1}}"
    assert_same(go(*SHORT[:2], block, "rounds=5"), own)
    # It is the code's form of FedAccum, of which this run has what it needs, too.
    same = forget(kept, "client-1", "fedaccum", form="paper_code", rounds=1, runs=tmp_path)
    assert_same(same, own)


def test_what_needs_a_history_says_what_to_switch_on(plain: Result, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        forget(plain, "client-1", "ifu", runs=tmp_path)
    told = str(error.value)
    assert "ifu needs what this run did not keep" in told
    assert "it kept no bounds of each client" in told
    assert "strategy=remember" in told
    assert "with this run still go: scratch, finetune" in told
    assert not list(tmp_path.iterdir())


def test_what_was_kept_for_other_numbers_is_refused(remembered: Result, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kept for psi 0\.02, not 0\.5"):
        forget(remembered, "client-1", "ifu", psi=0.5, runs=tmp_path)


def test_the_new_run_knows_its_parent_and_is_whole(remembered: Result, tmp_path: Path) -> None:
    found = forget(remembered, "client-2", "finetune", rounds=2, runs=tmp_path)
    record = json.loads((found.folder / "run.json").read_text())
    parent = json.loads((remembered.folder / "run.json").read_text())
    assert record["parent"] == {
        "run_id": parent["run_id"],
        "scenario": "tiny",
        "folder": remembered.folder.name,
        "rounds": 3,
    }
    assert record["run_id"] != parent["run_id"]
    assert record["scenario"] == "tiny_finetune"
    assert record["status"] == "done"
    assert edited(found.folder, record) == []
    assert edited(remembered.folder, parent) == []
    assert [row["phase"] for row in found.rounds] == ["train"] * 3 + ["unlearn"] + ["retrain"] * 2


def test_a_new_run_that_is_interrupted_goes_on(
    remembered: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = forget(remembered, "client-1", "federaser", rounds=2, runs=tmp_path / "whole")
    save = Checkpoints.save

    def stop(self: Checkpoints, checkpoint: Any) -> None:
        save(self, checkpoint)
        if checkpoint.round == 5:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt) as end:
            forget(remembered, "client-1", "federaser", rounds=2, runs=tmp_path)
    assert_same(wanted, resume(Path(str(end.value)), [], QUIET))


def test_records_leave_their_client_and_only_where_that_is_defined(
    remembered: Result, go: Callable[..., Result], tmp_path: Path
) -> None:
    from fedsim.federation.building import build_federation
    from fedsim.scenario import load

    federation = build_federation(load(str(remembered.folder / "scenario.yaml"), []), 0)
    held = federation.train["client-1"]
    names = [federation.store.ids[i] for i in held.tolist()][:3]
    found = forget(remembered, "client-1", "scratch", records=names, rounds=1, runs=tmp_path)
    last = found.rounds[-1]["metrics_by_client"]["1"]["num-examples"]
    assert last == len(held) - 3
    with pytest.raises(InputError, match="pga is defined for whole clients"):
        forget(remembered, "client-1", "pga", records=names, runs=tmp_path)
    with pytest.raises(InputError, match="not with this client"):
        forget(remembered, "client-1", "scratch", patients=["nobody"], runs=tmp_path)


def test_what_cannot_be_unlearned_is_refused(
    remembered: Result, go: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is no client 'client-9'"):
        forget(remembered, "client-9", runs=tmp_path)
    with pytest.raises(InputError, match="no strategy 'unlearn_nonsense'"):
        forget(remembered, "client-1", "nonsense", runs=tmp_path)
    gone = tmp_path / "gone"
    shutil.copytree(remembered.folder, gone)
    shutil.rmtree(gone / "checkpoint")
    with pytest.raises(InputError, match="no checkpoint of its last round"):
        forget(gone, "client-1", runs=tmp_path)
    again = forget(remembered, "client-1", "finetune", rounds=0, runs=tmp_path)
    with pytest.raises(InputError, match="has unlearned already"):
        forget(again, "client-2", runs=tmp_path)
    robust = go("strategy=robust", "rounds=1")
    with pytest.raises(InputError, match="is a run of strategy 'robust'") as error:
        forget(robust, "client-1", runs=tmp_path)
    assert "unlearning goes on from fedavg and remember alone" in str(error.value)
    assert "type strategy=remember next time" in str(error.value)


# --- The table -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(go: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a backdoor at one of three sites, and two procedures."""
    backdoor = "adversary={name: backdoor, clients: [site-1]}"
    result = go(*SHORT, *SITES, "strategy=remember", backdoor)
    runs = tmp_path_factory.mktemp("table")
    asked = [Asked("site-1", name, {}, 1, {}) for name in ("scratch", "finetune")]
    found = forget_all(result.folder, asked, runs, QUIET)
    return found, runs


def test_the_table_has_a_row_for_each_procedure_and_one_for_before(table: Any) -> None:
    found, runs = table
    (name, rows), *others = found.groups.items()
    assert not others
    assert name == "tiny: site-1 leaves"
    assert [row[0] for row in rows] == ["before", "scratch", "finetune"]
    text = "\n".join(found.lines())
    assert "guarantee: exact" in text
    assert "forgotten" not in text
    assert "embedded stand-in" in text
    assert found.markdown().count("\n|") == 5
    for file in runs.rglob(FILE):
        told = json.loads(file.read_text())
        assert told["rounds"] == 1
        assert told["mb"] > 0
        attack = told["after"]["membership"]
        assert attack["auc_low"] <= attack["auc"] <= attack["auc_high"]
        assert 0 <= told["after"]["backdoor"] <= 1
        assert told["relearning"] is None or 0 <= told["relearning"] <= 10


def test_a_clock_goes_on_and_the_table_says_what_has_none(
    go: Callable[..., Result], table: Any, tmp_path: Path
) -> None:
    clock = "federation.clock={kind: deadline, deadline: 60, speed: 20}"
    late = go(*SHORT, clock, "strategy={name: fedavg, weighting: uniform}")
    found = forget_all(late.folder, [Asked("client-1", "scratch", {}, 1, {})], tmp_path, QUIET)
    (line,) = found.about.values()
    assert line.endswith("rounds without federation.clock, which wait for the client.")
    (file,) = tmp_path.rglob("rounds.jsonl")
    hours = [json.loads(row)["simulated_hours"] for row in file.read_text().splitlines()]
    assert hours == sorted(hours)
    assert hours[-1] > late.rounds[-1]["simulated_hours"]
    assert not any("clock" in line for line in table[0].about.values())


def test_a_run_in_which_nobody_waited_is_refused(go: Callable[..., Result], tmp_path: Path) -> None:
    clock = "federation.clock={kind: buffered, buffer: 2}"
    result = go(*SHORT, clock, "strategy={name: fedavg, weighting: uniform}")
    with pytest.raises(InputError, match=r"clock\.kind=buffered: unlearning goes on in rounds"):
        forget(result, "client-1", "scratch", runs=tmp_path)


def test_the_verb_prints_the_table_again(table: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found, runs = table
    assert main(["forget", str(runs), "--table"]) == EXIT_DONE
    assert capsys.readouterr().out.strip() == "\n".join(found.lines()).strip()


def test_the_verb_says_before_what_it_will_do(
    remembered: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    asked = ["forget", str(remembered.folder), "--client", "client-1", "--dry-run"]
    assert main(asked) == EXIT_DONE
    told = capsys.readouterr().out
    assert all(f"{name}: client-1 leaves" in told for name in PROCEDURES)
    assert "MB up" in told
    assert "uses       the models of the last round" in told
    # Parameters may follow the name.
    assert main([*asked, "--method", "ifu", "psi=0.5"]) == InputError.exit_code
    assert "kept for psi 0.02, not 0.5" in capsys.readouterr().err
    latest = tmp_path / "latest"  # That of the runs is another's, as the order of the tests has it.
    latest.symlink_to(remembered.folder)
    assert Finished(latest).lineage()["folder"] == latest.resolve().name
    assert not (tmp_path / "runs").exists()
    # Errors name what to type.
    assert main(["forget", str(remembered.folder)]) == InputError.exit_code
    assert "--client" in capsys.readouterr().err
    assert main([*asked, "sigma=0.1"]) == InputError.exit_code
    assert "name one with --method" in capsys.readouterr().err
    (tmp_path / "names.csv").write_text("patient\nsomebody\n")
    assert main([*asked, "--patients", "names.csv"]) == InputError.exit_code
    assert "'somebody' is not with this client" in capsys.readouterr().err


def test_what_is_of_the_training_cannot_be_chosen_later(remembered: Result, tmp_path: Path) -> None:
    for key, value in {"train_rounds": 1, "weighting": "samples", "codec": "uint8"}.items():
        with pytest.raises(InputError, match=f"{key} is that of the training"):
            forget(remembered, "client-1", "ifu", runs=tmp_path, **{key: value})
    assert not any(tmp_path.iterdir())


def test_lists_of_patients_that_name_nobody_are_refused(
    remembered: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    asked = ["forget", str(remembered.folder), "--client", "client-1", "--dry-run"]
    for text in ("", "patient\n", "\ufeffpatient_id\n\n , \n"):
        (tmp_path / "names.csv").write_text(text)
        assert main([*asked, "--patients", "names.csv"]) == InputError.exit_code
        assert "names.csv names no patient" in capsys.readouterr().err
    assert main([*asked, "--patients", "somebody", ""]) == InputError.exit_code
    assert "a name is empty" in capsys.readouterr().err
    # A record without a name is nobody's: not even Python's "" takes it out.
    with pytest.raises(InputError):
        forget(remembered, "client-1", "scratch", patients=[""], runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_the_strategy_refuses_is_refused_before_there_is_a_folder(
    plain: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = records_of(plain, "client-1")
    with pytest.raises(InputError, match="these are all its records"):
        forget(plain, "client-1", "scratch", records=ids, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def records_of(result: Result, client: str) -> list[str]:
    """Names of a client's training records."""
    federation = Finished(result.folder).prepared(
        Asked(client, "scratch", {}, 1, {}), starter(QUIET)
    ).federation  # fmt: skip
    return [federation.store.ids[i] for i in federation.train[client].tolist()]


@pytest.mark.parametrize(
    ("name", "words", "falling"),
    [
        ("isic_noniid_fedavg", (), False),
        ("prostate_centres_fedavg", (), True),
        ("prostate_centres_fedavg", ("client.last_learning_rate=0.2",), False),
        ("prostate_unlearning", (), False),
    ],
)  # fmt: skip
def test_a_learning_rate_that_falls_is_seen(
    name: str, words: tuple[str, ...], falling: bool
) -> None:
    assert falls(load(name, words)) == falling


def test_a_patient_to_test_with_is_told_from_a_stranger(plain: Result, tmp_path: Path) -> None:
    asked = Asked("client-1", "scratch", {}, 1, {})
    federation = Finished(plain.folder).prepared(asked, starter(QUIET)).federation
    tested = federation.store.ids[int(federation.split["test"][0])]
    with pytest.raises(InputError) as error:
        forget(plain, "client-1", "scratch", records=[tested], runs=tmp_path)
    assert "one to validate or test with" in str(error.value)
    assert "did you mean" not in str(error.value)


def test_the_cost_told_before_counts_who_is_asked(remembered: Result) -> None:
    finished = Finished(remembered.folder)

    def told(name: str, rounds: int) -> str:
        asked = Asked("client-1", name, {}, rounds, {})
        return "\n".join(finished.lines(asked, finished.prepared(asked, starter(QUIET))))

    assert "about 0.000 MB up" in told("ukd", 0)
    assert "about 0.000 MB up" not in told("pga", 0)
    assert "about 0.000 MB up" not in told("federaser", 0)
    assert "MB of history" in told("ifu", 1)
    assert "0 MB of history" in told("scratch", 1)


def test_a_scenario_whose_client_leaves_prints_the_table(
    go: Callable[..., Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    strategy = (
        "strategy={name: remember, leaver: site-1, retrain_rounds: 0, methods: {fedaccum: {}}}"
    )
    code = main(["run", str(file), *SHORT, *SITES, strategy, "--runs", str(tmp_path / "runs")])
    told = capsys.readouterr().out
    assert code == EXIT_DONE
    assert all(f"\n{name}" in told for name in ("before", "scratch", "finetune", "fedaccum"))


def losses(*values: float) -> np.ndarray:
    return np.array(values)


def found_with(method: str, trained: list[float], unseen: list[float]) -> dict[str, Any]:
    return {"method": method, "after": {"losses": {"trained": trained, "unseen": unseen}}}


def test_differences_are_those_of_means() -> None:
    rng = np.random.default_rng(0)
    better = level(losses(1.0, 2.0), losses(2.0, 4.0), rng)
    assert better.value == 1.5
    assert better.low >= 1.0
    more = gap((losses(1.0), losses(5.0)), (losses(2.0), losses(3.0)), rng)
    assert (more.value, more.low, more.high) == (3.0, 3.0, 3.0)


def test_verdicts_say_no_more_than_was_measured() -> None:
    draws = np.random.default_rng(1)
    base = draws.normal(1.0, 0.1, 40)
    reference = found_with("scratch", base.tolist(), base.tolist())

    def of(trained: np.ndarray, unseen: np.ndarray) -> str:
        return verdict(found_with("ifu", trained.tolist(), unseen.tolist()), reference)

    noise = draws.normal(0, 0.1, 40)
    alike = of(base + noise - noise.mean(), base)
    assert alike == "not distinguishable from retraining at this sample size (40 records)"
    assert of(base - 0.5, base).startswith("STILL KNOWS ITS RECORDS")
    assert of(base - 0.5, base - 0.5).startswith("fits its records better than retraining")
    assert "as a damaged model would" in of(base + 0.5, base + 0.5)
    marked = [found_with(name, base.tolist(), base.tolist()) for name in ("ifu", "scratch")]
    marked[0]["after"]["backdoor"], marked[1]["after"]["backdoor"] = 0.8, 0.3
    assert verdict(*marked).startswith("STILL SHOWS THE PLANTED MARK")
    marked[0]["after"]["backdoor"] = 0.35
    assert verdict(*marked).startswith("not distinguishable")
    assert "no retrained model" in verdict(found_with("ifu", [1.0], [1.0]), None)
    assert "reference" in verdict(reference, None)
    assert "forgotten" not in " ".join([alike, of(base - 0.5, base)])
    # No judgement of what cannot be judged.
    assert of(base * np.nan, base).startswith("not judged: its losses")
    few = [found_with(name, [1.0] * 9, [1.0] * 40) for name in ("ifu", "scratch")]
    assert verdict(*few).startswith("not judged: 9 record(s) are too few")
    assert verdict(reference | {"falls": True}, None).startswith("a weak reference")
    untrained = reference | {"rounds": 0}
    assert "no reference" in verdict(untrained, None)
    assert "no retrained model" in verdict(found_with("ifu", [1.0] * 40, [1.0] * 40), untrained)
    # Without unseen records nothing is said of them.
    alone = [found_with("ifu", (base - 0.5).tolist(), []), found_with("scratch", base.tolist(), [])]
    assert "unseen" not in verdict(*alone)


def test_requests_and_trainings_that_differ_are_never_one_row(table: Any, tmp_path: Path) -> None:
    _, runs = table
    found = [json.loads(file.read_text()) for file in sorted(runs.rglob(FILE))]
    scratch = next(one for one in found if one["method"] == "scratch")
    other = scratch | {"parent": "another", "seed": 1}
    changes: list[dict[str, Any]] = [
        {}, {"parameters": {"codec": "uint8"}}, {"retrain_rounds": 2}, {"training": "another"},
        {"forget": {"patients": ["P1", "P2"]}},
    ]  # fmt: skip
    rows = {}
    for number, change in enumerate(changes):
        folders = []
        for place, one in enumerate((scratch, other | change)):
            path = tmp_path / f"{number}-{place}"
            (path / "report").mkdir(parents=True)
            (path / "report" / FILE).write_text(json.dumps(one))
            folders.append(path)
        made = table_of(folders)
        rows[number] = [
            (name, row[0], row[1]) for name, some in made.groups.items() for row in some
        ]
    one, two = "tiny: site-1 leaves", "tiny: P1, P2 of site-1 are forgotten"
    assert ("scratch", "2") in [row[1:] for row in rows[0]]
    told = ["scratch (1 round(s) after)", "scratch (codec uint8, 1 round(s) after)"]
    assert [row[1:] for row in rows[1][1:]] == [(name, "1") for name in told]
    told = [f"scratch ({number} round(s) after)" for number in (1, 2)]
    assert [row[1:] for row in rows[2][1:]] == [(name, "1") for name in told]
    assert {row[0] for row in rows[3]} == {one, f"{one} (2)"}
    assert {row[0] for row in rows[4]} == {one, two.replace("P1", "patients P1")}


def test_rounds_until_a_score_count_those_with_clients() -> None:
    found = {"utility_by_round": [[0, 0.2], [1, None], [2, 0.5], [3, 0.7]]}
    assert rounds_until(found, 0.5) == 2
    assert rounds_until(found, 0.1) == 0
    assert rounds_until(found, 0.9) is None


def test_a_table_of_nothing_is_refused(remembered: Result) -> None:
    with pytest.raises(InputError, match="none of these runs took a client out"):
        table_of([remembered.folder])
