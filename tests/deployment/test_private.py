"""Private runs over nodes: noise that nobody else can draw, and a node's own limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message
from safetensors.numpy import load_file

from fedsim import audit, run
from fedsim.deployment.budget import Budget
from fedsim.deployment.greeting import PROMISE
from fedsim.engine.result import Result
from fedsim.errors import ClientError, InputError
from fedsim.privacy.accounting import Entry, epsilon_upper
from fedsim.privacy.plan import PrivacyPlan, plan_privacy
from fedsim.scenario.schema import Privacy
from tests.deployment.conftest import TINY, Nodes

Exported = Callable[..., Path]
Deploy = Callable[..., Result]

PRIVATE = (
    *TINY,
    "privacy={noise_multiplier: 1.0, expected_batch: 12, unit: record, delta: 1e-3}",
)
"""Two clients, each with 48 training records, of which a sample has a quarter."""

NAME = "isic_iid_dpsgd"


def charged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "privacy.jsonl").read_text().splitlines()]


def changed(nodes: Nodes, change: Callable[[Message], None]) -> Nodes:
    """Nodes that are asked something else than the server sends."""
    push = nodes.push_messages

    def meddled(messages: Any) -> list[str]:
        messages = list(messages)
        for message in messages:
            if message.metadata.message_type == "train":
                change(message)
        return push(messages)

    nodes.push_messages = meddled  # type: ignore[method-assign]
    return nodes


def test_two_deployments_of_one_scenario_and_seed_have_different_noise(
    exported: Exported, deploy: Deploy, tmp_path: Path
) -> None:
    folder = exported(NAME, *PRIVATE)
    assert "noise: secret" in (folder / "scenario.yaml").read_text()
    runs = [deploy(folder, Nodes(folder, [{"client": i} for i in (0, 1)])) for _ in range(2)]
    one, other = (load_file(done.folder / "model.safetensors") for done in runs)
    assert all(one[name].tobytes() != other[name].tobytes() for name in one)
    # A simulation with noise of a seed has the same bits each time, and the same epsilon.
    simulated = run(NAME, *PRIVATE, runs=tmp_path / "simulated")
    for done in runs:
        assert done.summary["epsilon"] == simulated.summary["epsilon"] > 0
        assert charged(done.folder) == charged(simulated.folder)
    about = json.loads((runs[0].folder / "run.json").read_text())
    assert about["privacy"]["randomness"].startswith("secret")
    assert not (runs[0].folder / "checkpoint" / "noise.key").exists()
    released = about["released_without_privacy"]
    assert any("number of records of each client" in one for one in released)
    assert not any("partition" in one or "fingerprint" in one for one in released)
    with pytest.raises(InputError, match="whose records are not here"):
        audit(runs[0].folder)


def test_the_server_draws_the_noise_of_whole_clients_from_its_own_machine(
    exported: Exported, deploy: Deploy, tmp_path: Path
) -> None:
    words = (
        *TINY,
        "rounds=1",
        "strategy.weighting=uniform",
        "privacy={unit: client, noise_multiplier: 1.0, delta: 0.1}",
    )
    folder = exported(NAME, *words)
    runs = [deploy(folder, Nodes(folder, [{"client": i} for i in (0, 1)])) for _ in range(2)]
    one, other = (load_file(done.folder / "model.safetensors") for done in runs)
    assert all(one[name].tobytes() != other[name].tobytes() for name in one)
    assert runs[0].summary["epsilon"] == runs[1].summary["epsilon"] > 0


def test_a_message_that_is_repeated_gets_noise_of_its_own(
    exported: Exported, deploy: Deploy
) -> None:
    folder = exported(NAME, *PRIVATE, "rounds=1")
    nodes = Nodes(folder, [{"client": 0}, {"client": 1}])
    deploy(folder, nodes)
    asked, answered = next(
        pair
        for pair in zip(nodes.sent, nodes.received, strict=True)
        if pair[0].metadata.message_type == "train"
    )
    again = Nodes(folder, [{"client": 0}, {"client": 1}])
    again.run_config |= nodes.run_config
    asked.content[PROMISE] = ConfigRecord({"noise-multiplier": 1.0})
    (answer,) = again.send_and_receive([asked])
    first, second = (
        {
            name: array.numpy().tobytes()
            for name, array in one.content.array_records["arrays"].items()
        }
        for one in (answered, answer)
    )
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def test_a_node_keeps_its_limit_over_runs_and_the_server_says_so(
    exported: Exported, deploy: Deploy, tmp_path: Path
) -> None:
    folder, file = exported(NAME, *PRIVATE), tmp_path / "kept" / "epsilon.json"
    steps = 8  # two epochs of samples of a quarter
    costs = [epsilon_upper([Entry(1.0, 0.25, steps * n)], 1e-3).epsilon for n in (2, 3, 4)]
    limited = {"client": 1, "epsilon-limit": (costs[1] + costs[2]) / 2, "epsilon-file": str(file)}
    deploy(folder, Nodes(folder, [{"client": 0}, limited]))
    kept = json.loads(file.read_text())
    assert kept["epsilon"] == pytest.approx(costs[0])
    assert kept["releases"] == [[1.0, 0.25, 2 * steps]]
    # The first round of the second run is within the limit, the second round is not.
    nodes = Nodes(folder, [{"client": 0}, limited])
    with pytest.raises(ClientError, match=r"epsilon-limit of .*: it sends nothing") as raised:
        deploy(folder, nodes)
    assert raised.value.client == 1
    assert raised.value.round == 2
    assert json.loads(file.read_text())["epsilon"] == pytest.approx(costs[1])


def test_who_is_left_out_by_its_limit_is_told_in_the_round(
    exported: Exported, deploy: Deploy, tmp_path: Path
) -> None:
    folder = exported(NAME, *PRIVATE, "rounds=1", "faults.on_client_error=skip")
    limited = {
        "client": 1,
        "epsilon-limit": 0.01,
        "epsilon-file": str(tmp_path / "epsilon.json"),
    }
    done = deploy(folder, Nodes(folder, [{"client": 0}, limited]))
    (row,) = done.rounds
    (failed,) = row["failed"]
    assert failed["client"] == 1
    assert "epsilon-limit of 0.01" in failed["reason"]
    assert not (tmp_path / "epsilon.json").exists()


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("privacy=null",), "has no privacy mechanism"),
        (("privacy.unit=client", "privacy.noise_multiplier=1.0"), "the server adds the noise"),
        (("evaluation.on_clients=true", "rounds=1"), "answers no evaluate"),
    ],
)
def test_a_node_with_a_limit_gives_nothing_without_noise_of_its_own(
    exported: Exported, deploy: Deploy, tmp_path: Path, overrides: tuple[str, ...], why: str
) -> None:
    if "privacy.unit=client" in overrides:
        overrides = ("privacy={unit: client, noise_multiplier: 1.0, delta: 0.1}",)
        overrides += ("strategy.weighting=uniform",)
    folder = exported(NAME, *PRIVATE, *overrides)
    limited = {
        "client": 1,
        "epsilon-limit": 1000,
        "epsilon-file": str(tmp_path / "epsilon.json"),
    }
    with pytest.raises(ClientError, match=why):
        deploy(folder, Nodes(folder, [{"client": 0}, limited]))


@pytest.mark.parametrize(
    ("noise", "why"),
    [
        (0.5, r"noise multiplier of 0\.5, less than the scenario's 1"),
        (0.0, "less than the scenario's 1"),
        (None, "does not say with what noise"),
        (float("nan"), "does not say with what noise"),
        (float("inf"), "does not say with what noise"),
    ],
)
def test_a_node_refuses_less_noise_than_the_scenario_promises(
    exported: Exported, deploy: Deploy, noise: float | None, why: str
) -> None:
    folder = exported(NAME, *PRIVATE, "rounds=1")

    def weaken(message: Message) -> None:
        told = {} if noise is None else {"noise-multiplier": noise}
        message.content[PROMISE] = ConfigRecord(told)

    nodes = changed(Nodes(folder, [{"client": 0}, {"client": 1}]), weaken)
    with pytest.raises(ClientError, match=why):
        deploy(folder, nodes)


def test_a_node_keeps_to_the_scenarios_target(exported: Exported, deploy: Deploy) -> None:
    target = "privacy={target_epsilon: 8.0, expected_batch: 12, unit: record, delta: 1e-3}"
    folder = exported(NAME, *TINY, "rounds=1", target)
    done = deploy(folder, Nodes(folder, [{"client": 0}, {"client": 1}]))
    assert 7.9 < done.summary["epsilon"] <= 8.0

    def weaken(message: Message) -> None:
        message.content[PROMISE] = ConfigRecord({"noise-multiplier": 0.3})

    nodes = changed(Nodes(folder, [{"client": 0}, {"client": 1}]), weaken)
    with pytest.raises(ClientError, match="more than the scenario's epsilon of 8"):
        deploy(folder, nodes)


def test_a_node_trains_no_more_often_than_the_scenario_says(
    exported: Exported, deploy: Deploy
) -> None:
    folder = exported(NAME, *PRIVATE, "rounds=1")
    nodes = Nodes(folder, [{"client": 0}, {"client": 1}])
    deploy(folder, nodes)
    asked = next(one for one in nodes.sent if one.metadata.message_type == "train")
    asked.content[PROMISE] = ConfigRecord({"noise-multiplier": 1.0})
    (answer,) = nodes.send_and_receive([asked])
    assert answer.has_error()
    assert "training number 2, and the scenario has 1" in answer.error.reason


@pytest.mark.parametrize("asked", ["query", "query.train", "evaluate", "evaluate.train"])
def test_no_other_name_of_a_message_gets_an_answer_without_noise(
    exported: Exported, deploy: Deploy, asked: str
) -> None:
    folder = exported(NAME, *PRIVATE, "rounds=1")
    nodes = Nodes(folder, [{"client": 0}, {"client": 1}])
    deploy(folder, nodes)
    trained = next(one for one in nodes.sent if one.metadata.message_type == "train")
    question = Message(
        trained.content, trained.metadata.dst_node_id, asked, group_id=trained.metadata.group_id
    )
    (answer,) = nodes.send_and_receive([question])
    assert answer.has_error()
    assert f"answers no {asked}: what it sends would be without noise" in answer.error.reason


# --- The file -----------------------------------------------------------------------------------


def plan(unit: str = "record", **changes: Any) -> PrivacyPlan:
    settings = Privacy(noise_multiplier=1.0, expected_batch=10, unit=unit, delta=1e-4, **changes)
    return plan_privacy(settings, 1, {"here": 100}, lambda units, batch: units // batch)


def test_the_file_adds_up_over_runs(tmp_path: Path) -> None:
    budget = Budget(tmp_path / "epsilon.json", limit=100.0)
    for run_name in ("one", "one", "another"):
        spent = budget.charge(plan(), "here", run_name)
    assert spent.releases == (Entry(1.0, 0.1, 30),)
    assert spent.trainings == {"one": 2, "another": 1}
    assert spent.epsilon == epsilon_upper([Entry(1.0, 0.1, 30)], 1e-4).epsilon


def test_a_limit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    file = tmp_path / "epsilon.json"
    Budget(file, limit=100.0).charge(plan(), "here", "run")
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"has paid epsilon .* above its epsilon-limit of 0\.1"):
        Budget(file, limit=0.1).charge(plan(), "here", "run")
    assert file.read_bytes() == before


def test_no_noise_is_above_every_limit(tmp_path: Path) -> None:
    settings = Privacy(noise_multiplier=0.0, expected_batch=10, unit="record")
    bare = plan_privacy(settings, 1, {"here": 100}, lambda units, batch: 1)
    with pytest.raises(InputError, match="epsilon-limit"):
        Budget(tmp_path / "epsilon.json", limit=1e5).charge(bare, "here", "run")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be used"),
        ("{}", "cannot be used"),
        ('{"unit": "record", "delta": 1e-4, "releases": [[1, 2, 3]], "trainings": {}}', "cannot"),
        ('{"unit": "patient", "delta": 1e-4, "releases": [], "trainings": {}}', "protects every"),
        ('{"unit": "record", "delta": 1e-3, "releases": [], "trainings": {}}', "at delta 0.001"),
    ],
)
def test_a_file_that_says_something_else_lets_nothing_out(
    tmp_path: Path, text: str, why: str
) -> None:
    file = tmp_path / "epsilon.json"
    file.write_text(text)
    with pytest.raises(InputError, match=why):
        Budget(file, limit=100.0, delta=1e-4).charge(plan(), "here", "run")
    assert file.read_text() == text


def test_what_is_not_proved_is_not_released(tmp_path: Path) -> None:
    unsound = plan(filter={"reference": "paper_unsound"})
    with pytest.raises(InputError, match="nothing is proved"):
        Budget(tmp_path / "epsilon.json", limit=100.0).charge(unsound, "here", "run")
