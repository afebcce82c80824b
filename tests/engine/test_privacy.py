"""Private runs: what they release, what it costs, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import ClientError, InputError, Result, RunError
from fedsim.api import resume
from fedsim.clients.segmentation import Segmentation
from fedsim.privacy.accounting import Entry, epsilon_rdp, largest_upper
from fedsim.report.text import closing_lines
from fedsim.scenario import load
from fedsim.terminal.console import Console
from tests.engine.test_bits import assert_same

PRIVATE = (
    "client={name: supervised, class_balanced: false, steps: 3, learning_rate: 0.1}",
    "privacy={noise_multiplier: 1.0, expected_batch: 16, delta: 1e-3, physical_batch: 8, "
    "unit: record}",
)
"""Four clients with two rounds of three releases."""


def lines(result: Result, name: str) -> list[dict]:
    return [json.loads(line) for line in (result.folder / name).read_text().splitlines()]


def test_epsilon_of_every_client_adds_up_over_rounds(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny(*PRIVATE)
    planned = json.loads((result.folder / "run.json").read_text())["privacy"]
    rows = lines(result, "privacy.jsonl")
    assert [(row["round"], row["client"]) for row in rows] == [
        (number, client) for number in (1, 2) for client in range(4)
    ]
    for row in rows:
        plan = list(planned["clients"].values())[row["client"]]
        assert row["steps"] == 3
        assert row["sample_rate"] == plan["sample_rate"] == min(1, 16 / plan["units"])
        entry = Entry(1.0, row["sample_rate"], 3 * row["round"])
        assert row["epsilon_total"] == epsilon_rdp([entry], 1e-3)
    last = result.rounds[-1]
    totals = [row["epsilon_total"] for row in rows if row["round"] == 2]
    assert last["epsilon"] == max(totals) == planned["epsilon_planned_rdp"]
    assert result.summary["epsilon"] == planned["epsilon_planned"]
    assert result.summary["unit"] == planned["unit"] == last["unit"] == "record"
    assert list(last["epsilon_by_client"].values()) == totals
    assert last["certified"] is True
    assert 0 < result.summary["epsilon"] <= result.summary["epsilon_rdp"] == last["epsilon"]


def test_a_target_is_met_by_the_largest_client_and_not_by_much_more(
    run_tiny: Callable[..., Result],
) -> None:
    target = PRIVATE[1].replace("noise_multiplier: 1.0", "target_epsilon: 4.0")
    result = run_tiny(PRIVATE[0], target, "privacy.max_epsilon=4.0")
    assert 3.99 < result.summary["epsilon"] <= 4.0 < result.summary["epsilon_rdp"]
    # The budget of as much does not stop it, and no line says that it is exceeded.
    assert result.summary["rounds"] == 2
    assert result.rounds[-1]["epsilon"] == result.summary["epsilon_rdp"]
    assert result.rounds[-1]["epsilon_upper"] == result.summary["epsilon"]


def test_losses_over_real_records_stay_at_the_sites(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny(*PRIVATE)
    for row in result.rounds:
        assert not any("loss" in name for name in row["metrics"])
        assert all(list(heard) == ["num-examples"] for heard in row["metrics_by_client"].values())


@pytest.mark.parametrize(
    "words",
    [("privacy.filter={reference: private}",), ("privacy.unit=patient", "privacy.averaging=0.5")],
)
def test_inline_and_ray_release_the_same_bits(
    words: tuple[str, ...], run_tiny: Callable[..., Result]
) -> None:
    inline = run_tiny(*PRIVATE, *words)
    parallel = run_tiny(*PRIVATE, *words, backend="ray", workers=2)
    assert_same(inline, parallel)
    assert inline.summary["epsilon"] == parallel.summary["epsilon"]


@pytest.mark.parametrize("reference", ["private", "alternating", "paper_unsound"])
def test_only_what_is_proved_has_an_epsilon(
    reference: str, run_tiny: Callable[..., Result]
) -> None:
    summary = run_tiny(*PRIVATE, f"privacy.filter={{reference: {reference}}}").summary
    certified = reference != "paper_unsound"
    assert summary["certified"] is certified
    assert (summary["epsilon"] is None) is not certified
    assert (summary["epsilon_rdp"] is None) is not certified
    assert (summary["epsilon_claimed"] is None) is certified
    (line,) = [one for one in closing_lines(summary, Path(), Path()) if one.startswith("privacy:")]
    assert ("none (paper claims " in line) is not certified


def test_a_resumed_run_has_the_same_epsilon_to_the_last_digit(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    whole = run_tiny(*PRIVATE, "rounds=4")
    broken = run_tiny(*PRIVATE, "rounds=4", "plugins=[]")
    record = json.loads((broken.folder / "run.json").read_text())
    (broken.folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    for last in sorted((broken.folder / "checkpoint").glob("round-*.ckpt"))[-1:]:
        last.unlink()
    again = resume(broken.folder, [], Console(quiet=True))
    assert_same(whole, again)
    assert lines(again, "privacy.jsonl") == lines(whole, "privacy.jsonl")
    for key in ("epsilon", "epsilon_rdp", "accountant"):
        assert again.summary[key] == whole.summary[key]


def test_a_resume_that_plans_other_noise_is_refused(run_tiny: Callable[..., Result]) -> None:
    folder = run_tiny(*PRIVATE).folder
    record = json.loads((folder / "run.json").read_text()) | {"status": "interrupted"}
    record["privacy"]["noise_multiplier"] = 1.5
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="planned differently"):
        resume(folder, [], Console(quiet=True))


def test_the_budget_is_never_passed(run_tiny: Callable[..., Result]) -> None:
    full = run_tiny(*PRIVATE, "rounds=6")
    plan = json.loads((full.folder / "run.json").read_text())["privacy"]["clients"].values()
    rates = [client["sample_rate"] for client in plan]
    costs = [
        largest_upper([[Entry(1.0, q, 3 * number)] for q in rates], 1e-3).epsilon or 0.0
        for number in range(1, 7)
    ]
    budget = (costs[2] + costs[3]) / 2
    stopped = run_tiny(*PRIVATE, "rounds=6", f"privacy.max_epsilon={budget}")
    assert stopped.summary["rounds"] == len(stopped.rounds) == 3
    assert stopped.summary["epsilon"] == costs[2] <= budget
    assert "above" in stopped.summary["stopped"]
    assert json.loads((stopped.folder / "run.json").read_text())["status"] == "done"
    assert [row["epsilon_upper"] for row in stopped.rounds] == costs[:3]
    # Another budget is another run: nothing of its noise is that of the first.
    assert stopped.rounds[0]["metrics"] != full.rounds[0]["metrics"]


def test_a_client_without_budget_is_left_out_and_the_others_go_on(
    run_tiny: Callable[..., Result],
) -> None:
    full = run_tiny(*PRIVATE, "rounds=4")
    last = full.rounds[-1]["epsilon_by_client"]
    budget = (sorted(last.values())[-1] + sorted(last.values())[-2]) / 2
    dearest = max(last, key=lambda client: last[client])
    result = run_tiny(
        *PRIVATE, "rounds=4", f"privacy.max_epsilon={budget}", "privacy.on_budget=drop_client"
    )
    assert len(result.rounds) == 4
    assert result.rounds[-1]["epsilon_upper"] <= budget
    assert int(dearest) not in result.rounds[-1]["clients"]
    assert len(result.rounds[-1]["clients"]) == 3


def test_a_stopped_run_is_scored_as_it_is(run_tiny: Callable[..., Result]) -> None:
    plain = run_tiny(*PRIVATE, "rounds=3")
    budget = (plain.rounds[1]["epsilon_upper"] + plain.rounds[2]["epsilon_upper"]) / 2
    stopped = run_tiny(*PRIVATE, "rounds=3", "evaluation.every=3", f"privacy.max_epsilon={budget}")
    assert stopped.summary["rounds"] == 2
    assert set(stopped.metrics) == set(plain.metrics)
    found = np.load(stopped.folder / "predictions.npz")
    right = found["probabilities"].argmax(-1) == found["labels"]
    assert stopped.metrics["accuracy"] == pytest.approx(right.mean())


def test_zero_gradients_are_released_as_noise_of_the_planned_size(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every release of a run is seen; with gradients of zero they are the noise alone."""
    from fedsim.privacy import mechanisms

    seen = []
    original = mechanisms.DPSGD.aggregate

    def watched(self, gradients, state, rng):
        parts = [part * 0 for part in ([gradients] if hasattr(gradients, "ndim") else gradients)]
        released, info = original(self, parts, state, rng)
        seen.append((self, released.update))
        return released, info

    monkeypatch.setattr(mechanisms.DPSGD, "aggregate", watched)
    result = run_tiny(*PRIVATE)
    planned = sum(row["steps"] for row in lines(result, "privacy.jsonl"))
    assert len(seen) == planned == 2 * 4 * 3
    for mechanism, update in seen:
        expected = 1.0 * 1.0 / mechanism.expected_batch
        assert abs(update.std().item() / expected - 1) < 5 / np.sqrt(2 * update.numel())


def test_a_private_client_level_run_protects_clients(run_tiny: Callable[..., Result]) -> None:
    words = (
        "strategy.weighting=uniform",
        "privacy={noise_multiplier: 2.0, unit: client, max_grad_norm: 0.5}",
    )
    result = run_tiny(*words)
    assert result.rounds[-1]["epsilon"] == epsilon_rdp([Entry(2.0, 1.0, 2)], 1e-4)
    assert {row["unit"] for row in lines(result, "privacy.jsonl")} == {"client"}
    with pytest.raises(InputError, match="equal weights"):
        run_tiny(words[1])
    with pytest.raises(InputError, match="every reply"):
        run_tiny(*words, "faults.on_client_error=skip")
    with pytest.raises(InputError, match="averages models"):
        run_tiny(words[1], "strategy=local_only", "client=local")


def test_client_level_noise_has_the_size_that_is_accounted(run_tiny: Callable[..., Result]) -> None:
    """Without any training the released mean differs from the first model by the noise alone."""
    words = ("strategy.weighting=uniform", "client.learning_rate=1e-30", "rounds=1")
    model = lambda result: load_file(result.folder / "model.safetensors")  # noqa: E731
    still = model(run_tiny(*words))
    noisy = model(
        run_tiny(*words, "privacy={noise_multiplier: 2.0, unit: client, max_grad_norm: 0.5}")
    )
    moved = np.concatenate([(noisy[name] - still[name]).ravel() for name in still])
    expected = 2.0 * 0.5 / 4
    assert abs(moved.std() / expected - 1) < 5 / np.sqrt(2 * moved.size)


def test_momentum_at_the_server_comes_after_the_noise(run_tiny: Callable[..., Result]) -> None:
    """A client that never moves gives noise alone, and what a server optimiser makes of it."""
    words = (
        "client.learning_rate=1e-30",
        "rounds=1",
        "privacy={noise_multiplier: 2.0, unit: client, max_grad_norm: 0.5}",
    )
    model = lambda result: load_file(result.folder / "model.safetensors")  # noqa: E731
    still = model(run_tiny(*words[:2]))
    strategy = "strategy={name: server_momentum, weighting: uniform, learning_rate: 3.0}"
    noisy = model(run_tiny(*words, strategy))
    moved = np.concatenate([(noisy[name] - still[name]).ravel() for name in still])
    # Three times the step is three times the noise, too.
    assert abs(moved.std() / (3 * 2.0 * 0.5 / 4) - 1) < 5 / np.sqrt(2 * moved.size)


@pytest.mark.parametrize("name", ["TwiceAsked", "AskedBefore", "AskedAfter"])
def test_a_client_trains_once_a_round_and_never_uncharged(
    name: str, run_tiny: Callable[..., Result]
) -> None:
    words = "twice in one exchange" if name == "TwiceAsked" else "not charged"
    with pytest.raises(RunError, match=words):
        run_tiny(*PRIVATE, f"strategy=misbehaving:{name}", "evaluation.on_clients=true")


def test_what_is_released_is_on_disk_before_it_is_released(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(ClientError):
        run_tiny("client=misbehaving:Broken", PRIVATE[1])
    (folder,) = (tmp_path / "runs" / "tiny").glob("*seed0")
    rows = (folder / "privacy.jsonl").read_text().splitlines()
    assert [json.loads(row)["client"] for row in rows] == [0, 1, 2, 3]


def test_dropping_clients_does_not_go_with_clients_as_units(
    run_tiny: Callable[..., Result],
) -> None:
    with pytest.raises(InputError, match="pay alike"):
        run_tiny(
            "strategy.weighting=uniform",
            "privacy={noise_multiplier: 2.0, unit: client, on_budget: drop_client}",
        )


def test_copies_that_are_all_alike_are_refused(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="all alike"):
        run_tiny(*PRIVATE, "privacy.augmentations=2")
    assert run_tiny(*PRIVATE, "privacy.augmentations=2", "client.augment=siamese", "rounds=1")


def test_patients_must_be_known(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="do not say which records"):
        run_tiny(*PRIVATE, "privacy.unit=patient", "data.embedded.views=1")


@pytest.mark.parametrize(
    ("kind", "said"), [("Twice", "with several clients"), ("Empty", "has no training records")]
)
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_partitions_that_no_epsilon_fits_are_refused(
    kind: str, said: str, unit: str, run_tiny: Callable[..., Result]
) -> None:
    partition = f"federation.partition={{name: odd_partitions:{kind}}}"
    with pytest.raises(InputError, match=said):
        run_tiny(*PRIVATE, partition, "federation.clients=2", f"privacy.unit={unit}")


def test_records_of_several_clients_pay_for_all_releases(run_tiny: Callable[..., Result]) -> None:
    words = (*PRIVATE, "federation.partition={name: odd_partitions:Twice}", "federation.clients=2")
    shared = run_tiny(*words, "privacy.unit=patient", "privacy.shared_patients=true")
    planned = json.loads((shared.folder / "run.json").read_text())["privacy"]
    entries = [
        Entry(one["noise_multiplier"], one["sample_rate"], one["steps"] * 2)
        for one in planned["clients"].values()
    ]
    assert len(entries) == 2
    assert shared.rounds[-1]["epsilon"] == epsilon_rdp(entries, 1e-3)


def test_where_records_repeat_a_patient_the_patient_is_the_unit(
    run_tiny: Callable[..., Result],
) -> None:
    block = PRIVATE[1].replace(", unit: record", "")
    result = run_tiny(PRIVATE[0], block, "rounds=1")
    record = json.loads((result.folder / "run.json").read_text())["privacy"]
    assert record["unit"] == result.summary["unit"] == "patient"
    assert {row["unit"] for row in lines(result, "privacy.jsonl")} == {"patient"}
    assert load(result.folder / "scenario.yaml").privacy.unit == "patient"  # type: ignore[union-attr]
    assert record["unit_note"] is None
    assert "all records of one patient or lesion" in record["adjacency"]
    explicit = run_tiny(PRIVATE[0], block, "rounds=1", "privacy.unit=patient")
    assert_same(result, explicit)
    # One image a lesion: nothing is repeated, and the record is the unit.
    single = run_tiny(PRIVATE[0], block, "rounds=1", "data.embedded.views=1")
    assert single.summary["unit"] == "record"
    assert single.summary["unit_note"] is None
    assert load(single.folder / "scenario.yaml").privacy.unit == "record"  # type: ignore[union-attr]


def test_a_resumed_run_keeps_the_unit_that_it_began_with(run_tiny: Callable[..., Result]) -> None:
    folder = run_tiny(PRIVATE[0], PRIVATE[1].replace(", unit: record", ""), "rounds=1").folder
    record = json.loads((folder / "run.json").read_text()) | {"status": "interrupted"}
    (folder / "run.json").write_text(json.dumps(record))
    assert resume(folder, [], Console(quiet=True)).summary["unit"] == "patient"


def test_a_guarantee_for_records_says_what_it_is_worth_to_a_patient(
    run_tiny: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    from fedsim.report.page import write_report

    result = run_tiny(*PRIVATE, "rounds=1", quiet=False)
    record = json.loads((result.folder / "run.json").read_text())["privacy"]
    most = record["most_records"]
    assert most >= 2
    note = result.summary["unit_note"]
    assert (
        f"a patient or lesion with k records has about k times epsilon, and one here has {most}"
        in note
    )
    assert f"NOTE {note}" in " ".join(capsys.readouterr().out.split())
    write_report(result.folder)
    assert note in (result.folder / "report" / "index.html").read_text()


def test_methods_without_a_private_form_are_refused(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="class_balanced"):
        run_tiny(PRIVATE[1])
    with pytest.raises(InputError, match="no private form"):
        run_tiny(PRIVATE[1], "client=misbehaving:Counts")
    with pytest.raises(InputError, match="ClientApp"):
        run_tiny(PRIVATE[1], "client=misbehaving:foreign")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def criterion(self, site): return None", "overrides criterion"),
        ("def fit(self, *a, **k): return 0.0", "overrides fit"),
        ('private = "none"', "has no private form"),
        ("def augmented(self, site): return None", ""),
        (
            "def criterion(self, site): return None\n"
            "    def fit_private(self, *a, **k): super().fit_private(*a, **k)",
            "",
        ),
    ],
)
def test_what_derives_from_a_private_method_changes_both_of_its_forms(
    body: str, told: str, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    # DP-SGD never calls `criterion`: the run would silently minimise another loss.
    plugins, module = tmp_path / "plugins", f"deriving_{tmp_path.name}"
    plugins.mkdir()
    (plugins / f"{module}.py").write_text(
        f"from fedsim.clients.supervised import Supervised\nclass Own(Supervised):\n    {body}\n"
    )
    words = (*PRIVATE, "rounds=1", f"client.name={module}:Own", f"plugins=[{plugins}]")
    if not told:
        run_tiny(*words)
        return
    with pytest.raises(InputError, match=told):
        run_tiny(*words)


def test_what_derives_from_private_segmentation_changes_both_of_its_forms() -> None:
    class Objective(Segmentation):
        def objective(self, model: Any, site: Any) -> Any:
            return super().objective(model, site)

    class Both(Objective):
        def _losses(self, view: Any) -> Any:
            return super()._losses(view)

    with pytest.raises(ValueError, match="Objective overrides objective, which private training"):
        Objective(dice="record").private_steps(8, 4)
    assert Both(dice="record").private_steps(8, 4) == Both(dice="record").steps


def test_a_delta_that_allows_publishing_a_record_is_refused(
    run_tiny: Callable[..., Result],
) -> None:
    with pytest.raises(InputError, match="1/n"):
        run_tiny(*PRIVATE, "privacy.delta=0.1")


def test_a_budget_below_the_first_round_is_refused_before_anything_is_released(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="one round costs epsilon"):
        run_tiny(*PRIVATE, "privacy.max_epsilon=0.01")
    assert not list((tmp_path / "runs").glob("*/*/rounds.jsonl"))


def test_a_client_that_releases_less_than_it_is_charged_for_is_caught(
    run_tiny: Callable[..., Result],
) -> None:
    with pytest.raises(RunError, match="charged for"):
        run_tiny("client=misbehaving:Silent", PRIVATE[1])


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("resampled", "drew a second sample before it released the first"),
        ("many rows", "rows out of a sample of"),
        ("fifty times", "made a release without a sample"),
        ("wider", r"rows of 4 torch\.float32 after rows of 3"),
        ("caught", "asked for one more sample"),
        ("left over", "drew a sample that it did not release"),
        ("after the round", "used site.releases after its round was over"),
    ],
)
def test_a_client_method_that_breaks_the_rule_of_releases_is_named(
    how: str, what: str, run_tiny: Callable[..., Result]
) -> None:
    with pytest.raises(ClientError, match=rf"Releases\.train .*{what}"):
        run_tiny(f"client={{name: misbehaving:Releases, how: {how}}}", PRIVATE[1])


def test_a_client_method_that_keeps_the_rule_runs(run_tiny: Callable[..., Result]) -> None:
    assert run_tiny("client={name: misbehaving:Releases, how: well}", PRIVATE[1]).rounds


DISTILLED = (
    "rounds=1",
    "strategy={name: gdd, epochs: 2}",
    "client={name: distill, matching: dm, images_per_class: 2, iterations: 3, width: 8}",
    "model={name: convnet, width: 8}",
    "privacy={noise_multiplier: 1.0, expected_batch: 16, delta: 1e-3, unit: record}",
)


def test_every_client_sends_all_classes_at_a_certified_price(
    run_tiny: Callable[..., Result],
) -> None:
    result = run_tiny(*DISTILLED, "federation.partition={name: shards, shards_per_client: 1}")
    assert result.summary["certified"] is True
    assert result.summary["epsilon"] > 0
    for path in sorted((result.folder / "synthetic").glob("*.npz")):
        assert np.load(path)["labels"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("word", ["matching=gdd", "init=real", "layers=all"])
def test_forms_without_a_guarantee_are_refused(word: str, run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="private form only with"):
        run_tiny(*DISTILLED, f"client.{word}")


def test_an_audited_run_holds_a_bound_on_its_own_training(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny(*PRIVATE, "privacy.audit=run")
    found = result.summary["audit"]
    assert found["level"] == "run"
    assert found["violation"] is False
    assert 0 <= found["epsilon_lower"] <= found["claimed_epsilon"]
    assert_same(result, run_tiny(*PRIVATE))


def test_an_audit_that_cannot_be_made_is_refused_before_the_first_round(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="cannot be audited at the level 'lira'"):
        run_tiny(*DISTILLED, "privacy.audit=lira")
    assert not list(tmp_path.rglob("run.json"))
    with pytest.raises(InputError, match="need unit: record"):
        run_tiny(*PRIVATE, "privacy.audit=run", "privacy.unit=patient")
