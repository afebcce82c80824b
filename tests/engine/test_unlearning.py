"""Unlearning in runs: phases, who is asked, the same bits after a kill and on Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.engine.checkpoint import Checkpoints
from fedsim.engine.criteria import record_losses
from fedsim.errors import Interruption
from fedsim.tasks.segmentation.metrics import dice
from fedsim.terminal.console import Console
from tests.engine.conftest import PROCESSES, TINY
from tests.engine.test_bits import assert_same, model
from tests.tasks.segmentation.test_evaluation import CPU, TASK, Threshold
from tests.tasks.segmentation.volumes import Shapes

QUIET = Console(quiet=True)
COMMON = ("client.steps=2", "evaluation.every=3")
PROCEDURES: dict[str, tuple[str, int]] = {
    "scratch": ("", 5),
    "finetune": ("", 5),
    "last_update": ("", 5),
    "fedaccum": ("", 5),
    "federaser": ("", 6),
    "ukd": (", steps: 2, batch_size: 4", 5),
    "pga": (", steps: 3", 5),
    "ifu": (", psi: 0.02, sigma: 0.001", 5),
}


def words(name: str, client: str = "client-1") -> tuple[str, ...]:
    """Three rounds with all, the procedure, and one round without the client."""
    more, rounds = PROCEDURES[name]
    block = f"{{name: unlearn_{name}, train_rounds: 3, client: {client}{more}}}"
    return (*COMMON, f"strategy={block}", f"rounds={rounds}")


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    folder = tmp_path_factory.mktemp("unlearning")
    (folder / "tiny.yaml").write_text(TINY)

    def started(*overrides: str, **options: Any) -> Result:
        return run(folder / "tiny.yaml", *overrides, runs=folder / "runs", **options)

    return started


@pytest.fixture(scope="module")
def whole(go: Callable[..., Result]) -> Callable[[str], Result]:
    made: dict[str, Result] = {}

    def of(name: str) -> Result:
        if name not in made:
            made[name] = go(*words(name))
        return made[name]

    return of


@pytest.mark.parametrize("name", PROCEDURES)
def test_the_phases_and_who_is_asked_in_them(name: str, whole: Callable[[str], Result]) -> None:
    found = whole(name)
    everybody, others = [0, 1, 2, 3], [0, 2, 3]
    first = {"pga": [1]}.get(name, [])
    wanted = [("train", everybody)] * 3 + [("unlearn", first)]
    wanted += [("unlearn", others)] * (name == "federaser") + [("retrain", others)]
    assert [(row["phase"], row["clients"]) for row in found.rounds] == wanted
    assert found.summary["unlearning"]["client"] == "client-1"
    free = found.rounds[3]
    assert (free["mb_up"] == free["mb_down"] == 0) == (name != "pga")


@pytest.mark.parametrize("name", PROCEDURES)
def test_the_server_s_work_survives_an_end_in_any_phase(
    name: str, whole: Callable[[str], Result], go: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save = Checkpoints.save
    wanted, rounds = whole(name), PROCEDURES[name][1]
    folder: Path | None = None
    # After the training, after the unlearning, and between: one run, stopped again and again.
    for place in sorted({3, 4, rounds - 1}):

        def stop(self: Checkpoints, checkpoint: Any, at: int = place) -> None:
            save(self, checkpoint)
            if checkpoint.exchange == 0 and checkpoint.round == at:
                raise Interruption

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", stop)
            with pytest.raises(KeyboardInterrupt) as end:
                go(*words(name)) if folder is None else resume(folder, [], QUIET)
        folder = Path(str(end.value))
    assert folder is not None
    assert_same(wanted, resume(folder, [], QUIET))


@pytest.mark.parametrize("name", PROCEDURES)
def test_the_same_bits_after_a_kill_in_the_midst_of_any_phase(
    name: str, whole: Callable[[str], Result], go: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    wanted, rounds = whole(name), PROCEDURES[name][1]
    folder = cut_before(2, monkeypatch, lambda: go(*words(name)))
    # The server's work of its own is where a kill is a real one.
    child = PROCESSES.Process(target=resume_and_die, args=(folder, 4))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    cut_before(rounds, monkeypatch, lambda: resume(folder, [], QUIET))
    assert_same(wanted, resume(folder, [], QUIET))


def cut_before(place: int, monkeypatch: pytest.MonkeyPatch, begin: Callable[[], Result]) -> Path:
    """Run until the work of a round is done, and keep nothing of it; the folder."""
    save = Checkpoints.save

    def stop(self: Checkpoints, checkpoint: Any) -> None:
        if checkpoint.round == place and checkpoint.exchange == 0:
            raise Interruption
        save(self, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt) as end:
            begin()
    return Path(str(end.value))


def resume_and_die(folder: Path, place: int) -> None:
    """Go on until the work of a round is done; then SIGKILL, with nothing of it kept."""
    save = Checkpoints.save

    def die(self: Checkpoints, checkpoint: Any) -> None:
        if checkpoint.round == place and checkpoint.exchange == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, checkpoint)

    Checkpoints.save = die  # type: ignore[method-assign]  # the process ends by it
    resume(folder, [], QUIET)


@pytest.mark.parametrize("name", ["federaser", "pga", "ifu"])
def test_ray_gives_the_same_bits(
    name: str, whole: Callable[[str], Result], go: Callable[..., Result]
) -> None:
    assert_same(whole(name), go(*words(name), backend="ray", workers=2))


def test_the_training_is_that_of_federated_averaging(
    go: Callable[..., Result], whole: Callable[[str], Result]
) -> None:
    plain = go(*COMMON, "strategy={name: fedavg, weighting: uniform}", "rounds=3")
    kept = go(*COMMON, "strategy=remember", "rounds=3")
    assert_same(plain, kept)
    # Fine-tuning begins where they end.
    assert whole("finetune").rounds[2]["metrics"] == plain.rounds[-1]["metrics"]


def test_scratch_forgets_what_a_client_was_asked_to_and_keeps_the_rest(
    go: Callable[..., Result],
) -> None:
    block = "strategy={name: unlearn_scratch, train_rounds: 2}"
    forgets = "federation.overrides={client-1: {forget: {share: 0.5}}}"
    found = go(*COMMON, block, forgets, "rounds=4")
    held = [row["metrics_by_client"]["1"]["num-examples"] for row in found.rounds if row["clients"]]
    assert held[0] == held[1] > held[2] > 0
    assert 0 < found.summary["unlearning"]["records_by_client"]["client-1"] < 1
    whole = [
        row["metrics_by_client"]["0"]["num-examples"] for row in found.rounds if row["clients"]
    ]
    assert len(set(whole)) == 1


def test_records_nobody_named_and_whole_clients_as_records_are_refused(
    go: Callable[..., Result],
) -> None:
    with pytest.raises(InputError, match="nobody leaves"):
        go(*COMMON, "strategy={name: unlearn_scratch, train_rounds: 1}", "rounds=3")
    forgets = "federation.overrides={client-1: {forget: {share: 0.5}}}"
    with pytest.raises(InputError, match="defined for whole clients"):
        go(*COMMON, "strategy={name: unlearn_fedaccum, train_rounds: 1}", forgets, "rounds=3")


def test_what_clients_kept_of_the_training_is_dropped_once(go: Callable[..., Result]) -> None:
    block = "strategy={name: unlearn_finetune, train_rounds: 2, client: client-1}"
    counts = "client={name: exchanging.Counts, batch_size: 16, steps: 2}"
    found = go(block, counts, "rounds=5")
    seen = [row["metrics_by_client"].get("0", {}).get("seen") for row in found.rounds]
    assert seen == [1, 2, None, 1, 2]


def test_the_model_of_a_linear_network_may_be_certified(go: Callable[..., Result]) -> None:
    block = "name: unlearn_ifu, train_rounds: 2, client: client-1, sigma: 0.5, delta: 0.1"
    features = "data.features={network: convnet, public: 0, whiten: 0}"
    plain = ("model=linear", features, "client.momentum=0.0", "rounds=4")
    found = go(*COMMON, f"strategy={{{block}, convex: true}}", *plain)
    told = found.summary["unlearning"]
    assert told["certificate"]["certified"]
    assert told["certificate"]["epsilon"] <= 1.0
    assert told["bounds"][told["restart"]] <= told["psi_allowed"]


def test_noise_is_added_once_and_the_bits_repeat(
    whole: Callable[[str], Result], go: Callable[..., Result]
) -> None:
    again = go(*words("ifu"))
    assert_same(whole("ifu"), again)
    other = go(*words("ifu"), seed=1)
    assert any(
        not np.array_equal(value, model(other)[name]) for name, value in model(again).items()
    )


def test_how_badly_a_volume_is_known_is_one_minus_dice_of_the_whole() -> None:
    volumes = Shapes(3)
    predicted = TASK.predict(Threshold(), volumes, CPU)
    whole = dice(predicted.sum(1))
    assert whole.shape == (3, 2)
    found = record_losses(TASK, predicted, volumes)
    assert found == pytest.approx(1 - whole.mean(1))
