"""What exchanges, overrides and declarations may not be, and what they must come through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedsim import InputError, Result, RunError, run
from fedsim.api import resume
from fedsim.cli import main
from fedsim.engine.checkpoint import Checkpoints
from fedsim.errors import Interruption
from fedsim.scenario import load
from fedsim.terminal.console import Console
from tests.engine.test_bits import assert_same, lines

SMALL = "client={name: supervised, batch_size: 16, steps: 2, class_balanced: false}"
PRIVATE = (SMALL, "privacy={noise_multiplier: 1.0, expected_batch: 8, unit: record}")


def test_a_run_that_its_budget_ended_within_a_round_is_not_gone_on_with(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = (*PRIVATE, "strategy=exchanging.TrainsTwice", "rounds=3")
    cost = run_tiny(*words).rounds[0]["epsilon"]
    words = (*words, f"privacy.max_epsilon={cost * 1.15:.3f}")
    whole = run_tiny(*words)
    assert len(whole.rounds) < 3
    assert whole.rounds[-1]["exchanges"] == ["train"], "the budget ends within a round"
    save = Checkpoints.save

    def cut(self: Checkpoints, checkpoint: object) -> None:
        save(self, checkpoint)  # type: ignore[arg-type]
        if checkpoint.moment == (len(whole.rounds), 0):  # type: ignore[attr-defined]
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", cut)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run_tiny(*words)
    again = resume(Path(str(stopped.value)), [], Console(quiet=True))
    assert_same(whole, again)
    assert len(lines(again, "privacy.jsonl")) == len(lines(whole, "privacy.jsonl"))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("twice", r"asks client 0 \(client-0\) twice in one exchange of round 1"),
        ("val", "cannot be 'val': its metrics would have the names of scores"),
        ("test", "cannot be 'test'"),
        ("none", r"no exchange for round 1: its next\(\) returned None"),
    ],
)
def test_exchanges_that_cannot_be_are_refused(
    what: str, words: str, run_tiny: Callable[..., Result]
) -> None:
    with pytest.raises(RunError, match=words):
        run_tiny(SMALL, f"strategy={{name: exchanging.Odd, what: {what}}}")


def test_the_history_is_of_what_was_sent(run_tiny: Callable[..., Result]) -> None:
    words = ("strategy=exchanging.Shifted", "client=exchanging.Echoes", "rounds=1")
    result = run_tiny(*words)
    norms = load_file(result.folder / "history" / "round-000001" / "000-norms.safetensors")
    assert norms["norms"].tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "rule", ["federation.local=norm", "federation.local=head", "model.trainable=head"]
)
def test_every_model_of_a_message_is_whole_and_answers_may_hold_none(
    rule: str, run_tiny: Callable[..., Result]
) -> None:
    several = ("strategy=exchanging.SeveralModels", "client={name: exchanging.Sums, steps: 2}")
    result = run_tiny(*several, rule)
    assert [row["exchanges"] for row in result.rounds] == [["sums", "train"]] * 2
    spread = [row["metrics"]["sums_spread"] for row in result.rounds]
    assert spread[0] == 0.0
    assert (spread[1] > 0) == rule.startswith("federation.local"), "own parts are each client's"
    assert not any(row["failed"] for row in result.rounds)


WRAPPED = "federation.overrides={client-0: {wrapper: {name: exchanging.Quiet}}}"


def test_a_wrapper_hides_no_model_that_couples_records(run_tiny: Callable[..., Result]) -> None:
    coupled = ("model=odd_models.Coupled", "rounds=1")
    with pytest.raises(InputError) as plain:
        run_tiny(*PRIVATE, *coupled)
    assert "every record by itself" in str(plain.value)
    everybody = ", ".join(f"client-{k}: {{wrapper: {{name: exchanging.Quiet}}}}" for k in range(4))
    with pytest.raises(InputError) as wrapped:
        run_tiny(*PRIVATE, *coupled, f"federation.overrides={{{everybody}}}")
    assert str(wrapped.value) == str(plain.value)
    run_tiny(*PRIVATE, WRAPPED, "rounds=1")
    run_tiny(*PRIVATE, WRAPPED, "rounds=1", "privacy.augmentations=2", "client.augment=siamese")


def test_a_method_without_a_private_form_is_refused_in_overrides_too(tiny: Path) -> None:
    own = "federation.overrides={client-0: {client: {name: exchanging.NoPrivate, steps: 1}}}"
    with pytest.raises(InputError, match=r"'exchanging.NoPrivate' has no private form"):
        load(tiny, [*PRIVATE, own])
    assert load(tiny, [SMALL, own]).federation.overrides


def test_a_wrapper_made_for_another_task_is_refused(tiny: Path) -> None:
    volumes = ("data={name: msd, size: 32, embedded: {cases: 4}}", "model={name: unet}")
    flipped = "federation.overrides={client-0: {wrapper: {name: flip_labels}}}"
    with pytest.raises(InputError, match=r"wrapper: 'flip_labels' is made for images to classify"):
        load(tiny, [*volumes, "client={name: segmentation}", "federation={clients: 2}", flipped])


def test_what_a_strategy_declares_must_be_readable(tiny: Path) -> None:
    with pytest.raises(InputError, match=r"one_shot is 'yes', but must be True or False"):
        load(tiny, ["strategy=exchanging.Misdeclared"])
    with pytest.raises(InputError, match=r"payload is 'array' \(did you mean 'arrays'\?\)"):
        load(tiny, ["strategy=exchanging.Misspelt"])


def test_overrides_of_the_command_line_are_told_as_such(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tiny), "federation.overrides={client-9: {client: {steps: 1}}}"]) == 2
    told = capsys.readouterr().err
    assert "command line (federation.overrides=" in told
    assert "tiny.yaml:" not in told


def test_a_comparison_names_what_is_different_at_single_clients(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flipped = "federation.overrides={client-0: {wrapper: {name: flip_labels}}}"
    forgets = "federation.overrides={client-0: {forget: {share: 0.5}}}"
    for words in ((), (flipped,), (forgets,)):
        run(tiny, SMALL, "rounds=1", *words, runs=tmp_path / "runs")
    assert main(["compare", str(tmp_path / "runs"), "--csv", str(tmp_path / "t.csv")]) == 0
    table = (tmp_path / "t.csv").read_text()
    assert "flip_labels" in table
    assert "share: 0.5" in table
    assert "null" not in table


def test_what_a_kill_left_behind_is_removed_on_resume(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", cut)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run_tiny(SMALL)
    folder = Path(str(stopped.value))
    left = [
        folder / "checkpoint" / ".reply-000001-000001.ckpt.ab12_xyz",
        folder / "report" / ".traffic.csv.k3j4h5g6",
    ]
    kept = folder / ".notes"
    for path in (*left, kept):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    resume(folder, [], Console(quiet=True))
    assert not [path for path in left if path.exists()]
    assert kept.exists()
