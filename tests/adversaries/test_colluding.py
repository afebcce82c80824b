"""Colluders in runs: attacks against rules, bits, a kill, what is told, what is refused."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import InputError, Result, load, run
from fedsim.adversaries import ModelPoisoning
from fedsim.adversaries.conspiracy import conspiracy
from fedsim.adversaries.data import Backdoor
from fedsim.api import resume
from fedsim.engine.assembly import assembled
from fedsim.engine.checkpoint import Checkpoints
from fedsim.engine.loop import Rounds
from fedsim.engine.outcome import outcome
from fedsim.engine.prepare import Prepared, prepare
from fedsim.engine.strategies import build_strategy
from fedsim.errors import Interruption
from fedsim.folder.runfolder import RunFolder
from fedsim.method.received import norm
from fedsim.models.build import first_arrays
from fedsim.privacy.run_key import run_digest
from fedsim.registry import default_registry
from fedsim.robust import RULES
from fedsim.terminal.console import Console
from fedsim.wire.flower import tensors
from tests.engine.test_bits import assert_same

SCENARIO = """\
name: colluding
rounds: 2
data:
  name: ham10000
  size: 8
  embedded: {images: 140, sites: 1}
federation: {clients: 7}
model: {name: cnn, width: 2}
strategy: {name: fedavg, weighting: uniform}
client: {name: supervised, batch_size: 8, steps: 1}
evaluation: {every: 2}
resources: {backend: inline, workers: 2}
"""
ATTACKS = tuple(default_registry().names("adversaries"))
STRATEGIES = ("fedavg", *RULES)
# A rule is handed replies, and cannot tell who made them: each attack meets one rule, and each rule
# an attack. The adaptive one tries the rule, and meets all.
PAIRS = (
    *(("adaptive", strategy) for strategy in STRATEGIES),
    *(
        (attack, STRATEGIES[k % len(STRATEGIES)])
        for k, attack in enumerate(sorted(set(ATTACKS) - {"adaptive"}))
    ),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("colluding") / "colluding.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture(scope="module")
def prepared(path: Path) -> Prepared:
    return prepare(load(path), 0)


def words(strategy: str, attack: str, **more: Any) -> list[str]:
    """The overrides of an attack on a strategy."""
    inside = "".join(f", {key}: {value}" for key, value in more.items())
    ours = strategy == "fedavg"
    rule = "{name: fedavg, weighting: uniform}" if ours else f"{{name: robust, rule: {strategy}}}"
    return [f"strategy={rule}", f"adversary={{name: {attack}, count: 2{inside}}}"]


def rounds_of(
    prepared: Prepared, path: Path, overrides: list[str], folder: RunFolder | None = None
) -> Rounds:
    """The rounds of another scenario on data that are prepared already.

    Those that a folder has a checkpoint of are not run again.
    """
    scenario = load(path, overrides)
    made = replace(
        prepared,
        scenario=scenario,
        strategy=build_strategy(scenario, 7),
        conspiracy=conspiracy(scenario, prepared.names, 0, prepared.task),
    )
    with assembled(made, folder=folder) as rounds:
        if rounds.checkpoints and (found := rounds.checkpoints.latest()):
            rounds.restore(found)
        rounds.run()
    return rounds


@dataclass(frozen=True)
class Attacked:
    """An attack on a rule that remembers, run for two rounds in one process.

    Attributes:
        overrides: what it was run with.
        rounds: as they ended.
        folder: with their checkpoints.
    """

    overrides: list[str]
    rounds: Rounds
    folder: RunFolder

    def assert_same(self, other: Rounds) -> None:
        """Refuse another model, or other colluders seen."""
        before, after = tensors(self.rounds.arrays), tensors(other.arrays)
        assert all(before[name].tobytes() == after[name].tobytes() for name in before)
        assert self.rounds.tally == other.tally
        assert self.rounds.metrics == other.metrics


@pytest.fixture(scope="module")
def attacked(
    prepared: Prepared, path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Attacked]:
    """Attack and strategy -> what came of it; run once."""

    @functools.cache
    def made(attack: str, strategy: str) -> Attacked:
        overrides = words(strategy, attack, **({"tries": 4} if attack == "adaptive" else {}))
        if strategy in RULES:
            overrides.append("strategy.momentum=0.5")
        if strategy == "centred_clipping":
            overrides.append("strategy.radius=0.002")  # Changes are longer: the centre matters.
        folder = RunFolder(tmp_path_factory.mktemp(f"{attack}-{strategy}"))
        folder.write_json("run.json", {"run_id": attack, "seed": 0, "scenario_sha256": strategy})
        return Attacked(overrides, rounds_of(prepared, path, overrides, folder), folder)

    return made


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_runs_against_every_rule(
    attack: str, attacked: Callable[[str, str], Attacked]
) -> None:
    for strategy in STRATEGIES:
        rounds = attacked(attack, strategy).rounds
        # Two free riders are nearer to each other than anybody else: Krum takes them.
        assert rounds.learned is not (attack == "free_rider" and strategy == "krum"), strategy
        assert rounds.tally.colluders == 4, strategy
        assert rounds.tally.honest == 10, strategy
        assert rounds.tally.colluders_left is not None, strategy
        assert rounds.metrics["auc"] is not None, strategy


@pytest.mark.parametrize(("attack", "strategy"), PAIRS)
def test_every_attack_on_every_rule_ends_in_the_same_bits_after_a_kill(
    attack: str,
    strategy: str,
    attacked: Callable[[str, str], Attacked],
    prepared: Prepared,
    path: Path,
) -> None:
    whole = attacked(attack, strategy)
    # Whenever a kill comes in round 2, this is what it leaves.
    second = max((whole.folder.path / "checkpoint").iterdir())
    second.unlink()
    again = rounds_of(prepared, path, whole.overrides, whole.folder)
    whole.assert_same(again)
    assert second.exists()


@pytest.mark.parametrize(("attack", "strategy"), PAIRS)
def test_on_ray_every_attack_on_every_rule_has_the_same_bits(
    attack: str,
    strategy: str,
    attacked: Callable[[str, str], Attacked],
    prepared: Prepared,
    path: Path,
) -> None:
    whole = attacked(attack, strategy)
    whole.assert_same(rounds_of(prepared, path, [*whole.overrides, "resources.backend=ray"]))


@pytest.mark.parametrize("strategy", ["{name: fedavg, codec: uint8}", "{name: server_momentum}"])
def test_attacks_are_sent_in_the_form_of_the_method(
    strategy: str, prepared: Prepared, path: Path
) -> None:
    overrides = [f"strategy={strategy}", "adversary={name: free_rider, clients: [client-1]}"]
    rounds = rounds_of(prepared, path, [*overrides, "rounds=1", "evaluation.inspect=true"])
    assert rounds.learned
    assert rounds.tally.colluders == 1


# --- whole runs


@pytest.fixture(scope="module")
def go(path: Path) -> Callable[..., Result]:
    return lambda *overrides: run(path, *overrides, runs=path.parent / "runs")


ADAPTIVE = words("krum", "adaptive", tries=4)
FLIPPED = words("median", "label_flip")


@pytest.fixture(scope="module")
def whole(go: Callable[..., Result]) -> Result:
    return go(*words("norm_clipping", "disbelieve"), "rounds=3")


def test_a_kill_changes_no_bit(
    whole: Result, go: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def cut(self: Checkpoints, checkpoint: Any) -> None:
        save(self, checkpoint)
        if checkpoint.moment == (2, 0):
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", cut)
        with pytest.raises(KeyboardInterrupt) as stopped:
            go(*words("norm_clipping", "disbelieve"), "rounds=3")
    again = resume(Path(str(stopped.value)), [], Console(quiet=True))
    assert_same(whole, again)
    assert [row["attacks"] for row in again.rounds] == [row["attacks"] for row in whole.rounds]
    assert again.summary["metrics"] == whole.summary["metrics"]


def test_one_process_and_ray_give_the_same_bits(go: Callable[..., Result]) -> None:
    both = [*FLIPPED[:1], "adversary={name: backdoor, count: 2, pixels: 2}", "rounds=1"]
    assert_same(go(*both), go(*both, "resources.backend=ray"))


def test_the_record_says_who_colludes_and_what_they_know(whole: Result) -> None:
    record = json.loads((whole.folder / "run.json").read_text())["adversary"]
    assert record["name"] == "disbelieve"
    assert record["poisons"] == "model"
    assert record["picked_by"] == "seed"
    assert record["knows"] == "own"
    assert len(record["clients"]) == 2
    ours = [int(name.removeprefix("client-")) for name in record["clients"]]
    for row in whole.rounds:
        (attack,) = row["attacks"]
        assert attack["clients"] == ours
        assert attack["distance"] <= attack["bound"]
        assert attack["feasible"] is (attack["steps"] > 0)


def test_the_server_sees_colluders_send_one_vector(whole: Result) -> None:
    (attack,), (seen,) = whole.rounds[0]["attacks"], whole.rounds[0]["seen"]
    assert seen["clients"] == list(range(7))
    one, other = attack["clients"]
    assert seen["distance"][one] == seen["distance"][other]
    assert seen["cosine"][one] == seen["cosine"][other]
    assert all(-1 <= cosine <= 1 for cosine in seen["cosine"])
    # Nobody's change is as long as 1, so clipping does nothing to them.
    assert seen["weight"] == pytest.approx([1 / 7] * 7, abs=1e-6)
    assert seen["chosen"] == [True] * 7


def test_the_summary_says_what_clipping_promises(whole: Result) -> None:
    assert whole.summary["certificate"] == {
        "colluders": 2,
        "replies": 7,
        "norm_per_round": pytest.approx(2 / 7),
    }


def test_the_picture_of_a_loud_attack_tells(prepared: Prepared, path: Path) -> None:
    overrides = words("median", "scaling", factor=1e3)
    metrics = rounds_of(prepared, path, overrides).tally.metrics()
    assert metrics["flagged_recall"] == 1
    assert metrics["flagged_precision"] == 1
    assert metrics["left_out_recall"] is not None


def test_data_poisoning_changes_the_data_of_colluders_alone(prepared: Prepared, path: Path) -> None:
    overrides = ["adversary={name: label_flip, clients: [client-2]}", "rounds=1"]
    honest = rounds_of(prepared, path, ["rounds=1", "evaluation.inspect=true"])
    poisoned = rounds_of(prepared, path, overrides)
    ours, others = honest.server, poisoned.server
    assert ours.names == others.names
    before, after = (tensors(one.arrays) for one in (honest, poisoned))
    assert any((before[name] != after[name]).any() for name in before)


def test_a_backdoor_is_a_square_on_colluders_images(prepared: Prepared) -> None:
    import torch

    view = prepared.federation.client_view(prepared.names[0])
    attack = Backdoor(target=1, share=1.0, pixels=3)
    poisoned = attack.poisoned(view, prepared.task, torch.Generator().manual_seed(0))
    assert (poisoned.labels == 1).all()
    clean, marked = view.pixels(), poisoned.pixels()
    assert (clean[:, :-3, :-3] == marked[:, :-3, :-3]).all()
    assert (
        marked[:, -3:, -3:] == np.array([[255, 0, 255], [0, 255, 0], [255, 0, 255]])[..., None]
    ).all()
    assert (poisoned.images([0, 2])[1] == poisoned.images()[2]).all()


def test_the_success_of_a_backdoor_is_measured_on_other_classes(prepared: Prepared) -> None:
    view = prepared.federation.view("test")

    def predict(one: Any) -> np.ndarray:
        # Sees class 1 wherever the corner is white.
        taken = one.pixels()[:, -1, -1, 0] == 255
        return np.stack([~taken, taken], axis=1).astype(np.float32)

    found = Backdoor(target=1, pixels=3).scores(predict, view, prepared.task)
    assert found == {"backdoor_success": 1.0}
    missed = Backdoor(target=0, pixels=3).scores(predict, view, prepared.task)
    assert missed == {"backdoor_success": 0.0}


# --- with privacy

CLIENTS = "privacy={unit: client, noise_multiplier: 0, max_grad_norm: 0.002}"
RECORDS = "privacy={unit: record, noise_multiplier: 1.0, expected_batch: 8}"
MODELS = [
    name
    for name in ATTACKS
    if issubclass(default_registry().resolve("adversaries", name), ModelPoisoning)
]


@pytest.fixture(scope="module")
def private(prepared: Prepared, path: Path) -> Callable[..., Rounds]:
    """The first round with a privacy block, as it ended."""

    def go(*overrides: str) -> Rounds:
        words = ["rounds=1", "client.class_balanced=false", "strategy.weighting=uniform"]
        scenario = load(path, [*words, *overrides])
        with assembled(prepare(scenario, 0, federation=prepared.federation)) as rounds:
            rounds.run()
        return rounds

    return go


@pytest.mark.parametrize("attack", sorted(set(MODELS) - {"adaptive"}))
def test_the_server_of_private_clients_clips_what_colluders_send(
    attack: str, private: Callable[..., Rounds]
) -> None:
    loud = ", factor: 1e6" if attack in ("sign_flip", "scaling") else ""
    block = "adversary={{name: {}, clients: [client-1, client-2]{}}}"
    nothing = private(CLIENTS, block.format("free_rider", ""))
    sent = private(CLIENTS, block.format(attack, loud))
    before, after = tensors(nothing.arrays), tensors(sent.arrays)
    moved = norm({name: after[name].astype(float) - before[name] for name in before})
    certificate = outcome(sent.prepared, sent).summary["certificate"]
    assert certificate["norm_per_round"] == pytest.approx(2 * 0.002 / 7)
    assert moved <= certificate["norm_per_round"] * (1 + 1e-4)
    # Two loud ones that learned much the same get most of it.
    assert not loud or moved > certificate["norm_per_round"] / 2


def test_clipping_without_noise_is_the_rule_that_clips(
    private: Callable[..., Rounds], prepared: Prepared, path: Path
) -> None:
    block = "adversary={name: sign_flip, clients: [client-1, client-2], factor: 5.0}"
    one = private(CLIENTS, block)
    rule = "strategy={name: robust, rule: norm_clipping, radius: 0.002}"
    other = rounds_of(prepared, path, ["rounds=1", "client.class_balanced=false", rule, block])
    before, after = tensors(one.arrays), tensors(other.arrays)
    apart = norm({name: after[name].astype(float) - before[name] for name in before})
    assert other.learned
    assert apart < 1e-3 * 0.002


@pytest.mark.parametrize("attack", MODELS)
def test_noise_of_their_own_keeps_no_colluder_from_sending_something_else(
    attack: str, private: Callable[..., Rounds]
) -> None:
    honest, sent = private(RECORDS), private(RECORDS, f"adversary={{name: {attack}, count: 2}}")
    assert sent.learned
    assert sent.tally.colluders == 2
    before, after = tensors(honest.arrays), tensors(sent.arrays)
    assert any((before[name] != after[name]).any() for name in before)
    assert outcome(sent.prepared, sent).summary["certificate"] is None


def test_what_an_adversary_is_written_in_is_part_of_what_noise_is_keyed_by(
    tmp_path: Path, path: Path, prepared: Prepared
) -> None:
    arrays, digests = first_arrays(prepared.scenario, prepared.task, 0), set()
    file = tmp_path / "own_attack.py"
    for factor in (-1, -2):
        file.write_text(
            "from fedsim.adversaries.plain import SignFlip\n"
            f"class Own(SignFlip):\n    times = {factor}\n"
        )
        block = "adversary={name: 'own_attack:Own', count: 1}"
        scenario = load(path, [f"plugins=[{tmp_path}]", block])
        digests.add(run_digest(scenario, 0, prepared.federation, arrays))
    assert len(digests) == 2


# --- what is refused


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["adversary={name: lie, count: 4}"], "4 of 7 clients: .* at most 3 can collude"),
        (["adversary={name: lie, clients: [a, b, c, d]}"], "adversary.clients: 4 of 7 clients"),
        (["adversary={name: lie, count: 0}"], "adversary.count: expected at least 1"),
        (["adversary={name: lie}"], "expected one of clients and count"),
        (["adversary={name: lie, clients: [a, a]}"], "each only once"),
        (["adversary={name: lie, count: 1}"], "needs what 2 colluders trained, and there is 1"),
        (["adversary={name: liar, count: 2}"], "there is no adversary 'liar' .did you mean 'lie'"),
        (["adversary={name: lie, count: 2, zz: 1}"], "adversary.zz: unknown key"),
        (["adversary={name: lie, count: 2, knows: all}"], "adversary.knows: expected"),
        (["adversary={name: adaptive, count: 2, knows: own}"], "has a use for aggregator only"),
        (["adversary={name: label_flip, count: 2, knows: own}"], "which changes data: leave it"),
        (
            [CLIENTS, "adversary={name: lie, count: 2, knows: updates}"],
            "adversary.knows: with privacy.unit=client 'lie' cannot know what all .*knows=own",
        ),
        (
            [f"{CLIENTS[:-1]}, trust: secure_sum}}", "adversary={name: label_flip, count: 2}"],
            "privacy.trust: secure_sum takes for granted that all clients are honest",
        ),
        (
            ["adversary={name: adaptive, count: 2}", "strategy=flwr.serverapp.strategy.FedAvg"],
            "has none that can be tried",
        ),
        (
            ["adversary={name: disbelieve, count: 2, works_on: gradients, projection: true}"],
            "adversary.projection: projection has no effect with works_on: gradients",
        ),
    ],
)
def test_what_is_wrong_is_one_error(overrides: list[str], says: str, path: Path) -> None:
    with pytest.raises(InputError, match=says) as refused:
        load(path, overrides)
    assert refused.value.exit_code == 2
    assert len(refused.value.problems) == 1


def test_a_one_shot_method_has_no_model_to_poison() -> None:
    with pytest.raises(InputError, match=r"'lie' changes what clients send of a model, and with"):
        load("isic_noniid_gdd", ["adversary={name: lie, count: 2}"])
    assert load("isic_noniid_gdd", ["adversary={name: label_flip, count: 2}"]).adversary


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["adversary={name: lie, clients: [client-1, clinet-2]}"], "did you mean 'client-2'"),
        (
            ["adversary={name: backdoor, count: 1, target: mole}"],
            "adversary.target: target 'mole' is no class",
        ),
        (
            ["adversary={name: backdoor, count: 1, pixels: 8}"],
            "adversary.pixels: a square of 8 pixels covers images of 8",
        ),
        (
            ["privacy={unit: client, noise_multiplier: 1.0}", "evaluation.inspect=true"],
            "privacy.unit: client keeps from everybody",
        ),
        (
            ["privacy={unit: client, noise_multiplier: 1.0}", *words("krum", "lie")],
            "is linear in the replies",
        ),
        (
            ["privacy={unit: client, noise_multiplier: 1.0}", ADAPTIVE[1]],
            "tries the rule of the server",
        ),
    ],
)
def test_what_does_not_go_with_the_run_is_refused_before_it(
    overrides: list[str], says: str, path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        prepare(load(path, overrides), 0)


def test_the_seed_picks_other_clients(prepared: Prepared, path: Path) -> None:
    scenario = load(path, words("median", "lie"))
    found = [conspiracy(scenario, prepared.names, seed, prepared.task) for seed in range(4)]
    assert len({one.clients for one in found if one is not None}) > 1
    again = conspiracy(scenario, prepared.names, 2, prepared.task)
    assert again == found[2] or (again is not None and again.clients == found[2].clients)  # type: ignore[union-attr]
