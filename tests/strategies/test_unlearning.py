"""Procedures of unlearning as strategies: golden numbers of quadratic losses, and refusals.

The federation is that of `tests/unlearning/test_formulas.py`, asked by messages.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedsim import InputError
from fedsim.method.exchanges import ANEW, WITHOUT_FORGOTTEN, Exchange, RoundState
from fedsim.strategies.unlearn_fedaccum import FedAccum
from fedsim.strategies.unlearn_federaser import FedEraser
from fedsim.strategies.unlearn_ifu import IFU
from fedsim.strategies.unlearn_last_update import LastUpdate
from fedsim.strategies.unlearn_pga import PGA
from fedsim.strategies.unlearn_retraining import FineTuning, Scratch
from fedsim.strategies.unlearn_ukd import UKD
from fedsim.strategies.unlearning import REMEMBERED, Remember, Unlearning, procedure
from fedsim.wire import tensor_record, tensors
from fedsim.wire.buffers import Roles
from fedsim.wire.flower import configure_identity


@pytest.fixture(autouse=True)
def identity() -> None:
    """Messages are made in a process that has one."""
    configure_identity()


CENTRES = (1.0, 5.0, 2.0, 3.0)
NAMES = ["C1", "C2", "C3", "C4"]
NODES = [10, 11, 12, 13]


class Point(torch.nn.Module):
    """A model of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(1))


def answer(message: Message, steps: int) -> Message:
    """What a client of quadratic loss sends back; who is asked to ascend runs away from its own."""
    client = NODES.index(message.metadata.dst_node_id)
    weight = tensors(message.content.array_records["arrays"])["w"].astype(np.float64)
    centre = CENTRES[client]
    found = centre + (weight - centre) * 0.9**steps
    metrics = {"num-examples": 1 + client}
    if message.metadata.message_type.endswith("ascend"):
        found = weight - 1e3
        metrics |= {"distance": 1.0, "num-steps": 2.0, "score": 0.5}  # type: ignore[dict-item]
    content = RecordDict(
        {"arrays": tensor_record({"w": np.float32(found)}), "metrics": MetricRecord(metrics)}
    )
    return SimpleNamespace(content=content, metadata=message.metadata)  # type: ignore[return-value]


def server(rounds: int, **changes: Any) -> Any:
    first = tensor_record({"w": np.zeros(1, np.float32)})
    known = {
        "names": NAMES,
        "rounds": rounds,
        "round": 1,
        "phase": "train",
        "device": torch.device("cpu"),
        "roles": Roles(parameters=frozenset({"w"})),
        "validate": None,
        "first_arrays": first,
        "forgets": {},
        "new_model": Point,
        "sample_clients": lambda: [0, 1, 2, 3],
        "client_of": lambda reply: NODES.index(reply.metadata.dst_node_id),
        "generator": lambda purpose: torch.Generator().manual_seed(0),
    }
    return SimpleNamespace(**(known | changes))


class Driver:
    """Rounds as the loop makes them, without a loop."""

    def __init__(self, strategy: Unlearning | Remember, rounds: int, **changes: Any) -> None:
        self.strategy, self.rounds = strategy, rounds
        self.server = server(rounds, **changes)
        strategy.setup(self.server)
        self.arrays: ArrayRecord = self.server.first_arrays
        self.asked: list[list[int]] = []
        self.configs: list[list[dict[str, Any]]] = []

    def run(self, first: int = 1, last: int | None = None, steps: int = 5) -> list[float]:
        found = []
        grid = SimpleNamespace(get_node_ids=lambda: NODES)
        for number in range(first, (last or self.rounds) + 1):
            self.server.round, self.server.phase = number, self.strategy.phase(number)
            state = RoundState(
                number, self.rounds, 0, self.server.phase, self.arrays, [0, 1, 2, 3], grid
            )  # type: ignore[arg-type]
            exchange = self.strategy.next(state)
            assert isinstance(exchange, Exchange)
            messages = exchange.made()
            self.asked.append([NODES.index(one.metadata.dst_node_id) for one in messages])
            self.configs.append([dict(one.content.config_records["config"]) for one in messages])
            arrays, _ = exchange.aggregate(iter([answer(one, steps) for one in messages]))
            self.arrays = self.arrays if arrays is None else arrays
            assert self.strategy.next(RoundState(**vars(state) | {"exchange": 1})) is None
            found.append(self.weight)
        return found

    @property
    def weight(self) -> float:
        return float(tensors(self.arrays)["w"][0])


def after(strategy: Unlearning, rounds: int) -> list[float]:
    return Driver(strategy, rounds).run()


def test_all_train_alike_and_scratch_and_fine_tuning_go_on() -> None:
    trained = [1.1261525, 1.79113429, 2.18379939, 2.4156642]
    found = after(Scratch(4, "C2"), 9)
    assert found[:4] == pytest.approx(trained)
    assert found[4:] == pytest.approx([0, 0.81902, 1.30264312, 1.58821774, 1.75684669])
    found = after(FineTuning(4, "C2"), 9)
    assert found[4:] == pytest.approx([2.4156642, 2.24544555, 2.14493314, 2.08558157, 2.05053506])


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        (FedAccum(4, "C2"), 1.1871342),
        (FedAccum(4, "C2", "paper_code"), 2.1085317),
        (UKD(4, "C2", steps=0), 0.89035065),
        (UKD(4, "C2", "paper_code"), -0.38492089),
        # theta_T - (theta_c - theta_3) / 4, of 2.4156642, 3.3370617 and 2.18379939.
        (LastUpdate(4, "C2"), 2.12734862),
        (IFU(4, "C2", psi=0.9, sigma=0.0), 1.79113429),
        (IFU(4, "C2", psi=0.0, sigma=0.5), 0.0),
        (IFU(4, "C2", psi=1e9, sigma=0.0), 2.4156642),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Unlearning) else "",
)
def test_what_the_server_makes_by_itself(strategy: Unlearning, wanted: float) -> None:
    driver = Driver(strategy, 5)
    assert driver.run()[-1] == pytest.approx(wanted, rel=1e-6)
    assert driver.asked[-1] == []


@pytest.mark.parametrize(
    ("every", "rounds", "wanted"),
    [(1, 8, [0.81902, 1.21130976, 1.29684236, 1.27175313]), (2, 6, [0.81902, 1.12053753])],
)
@pytest.mark.parametrize("steps", [2, 5])
def test_federaser(every: int, rounds: int, wanted: list[float], steps: int) -> None:
    driver = Driver(FedEraser(4, "C2", every), rounds)
    driver.run(last=4)
    assert driver.run(first=5, steps=steps) == pytest.approx(wanted, rel=1e-6)
    assert driver.asked[4:] == [[]] + [[0, 2, 3]] * (len(wanted) - 1)


def test_the_model_of_pga_is_in_its_ball_whatever_the_client_sends() -> None:
    torch.manual_seed(0)
    driver = Driver(PGA(4, "C2"), 6)
    driver.run(last=5)
    assert driver.asked[-1] == [1]
    radius = driver.configs[-1][0]["radius"]
    assert abs(driver.weight - 2.1085317) == pytest.approx(radius, rel=1e-5)
    driver.run(first=6)
    assert driver.asked[-1] == [0, 2, 3]


def test_ifu_is_fine_tuning_or_scratch_at_the_ends_of_psi() -> None:
    tuned, scratch = after(FineTuning(4, "C2"), 8), after(Scratch(4, "C2"), 8)
    assert after(IFU(4, "C2", psi=1e9, sigma=0.0), 8) == tuned
    assert after(IFU(4, "C2", psi=0.0, sigma=0.3), 8) == scratch


def test_noise_has_the_standard_deviation_that_was_asked_for() -> None:
    # A model of a million weights; the leaver never answers, so its bound is 0.
    driver = Driver(IFU(1, "C2", psi=1.0, sigma=0.025), 2)
    memory = next(iter(driver.strategy._memories.values()))
    whole = {"w": np.full(1_000_000, 3.0, np.float32)}
    memory.restart, memory.checkpoints = {1: 1}, {1: whole}  # type: ignore[attr-defined]
    noise = driver.strategy.unlearned({})["w"] - 3.0  # type: ignore[union-attr]
    assert noise.std() == pytest.approx(0.025, rel=0.01)
    assert noise.mean() == pytest.approx(0.0, abs=1e-4)


def test_the_leaver_is_never_asked_again_and_all_others_begin_anew_once() -> None:
    driver = Driver(FineTuning(2, "C2"), 5, sample_clients=lambda: [1, 3])
    driver.run()
    assert driver.asked == [[1, 3], [1, 3], [], [3], [3]]
    assert [[ANEW in config for config in some] for some in driver.configs[3:]] == [[True], [False]]
    alone = Driver(FineTuning(2, "C2"), 4, sample_clients=lambda: [1])
    alone.run()
    assert alone.asked[-1] == [0, 2, 3]


def test_records_are_left_out_by_those_who_retrain() -> None:
    driver = Driver(Scratch(2, None), 4, forgets={"C2": 0.5})
    driver.run()
    assert driver.asked == [[0, 1, 2, 3], [0, 1, 2, 3], [], [0, 1, 2, 3]]
    assert all(config[WITHOUT_FORGOTTEN] for config in driver.configs[-1])
    assert not any(WITHOUT_FORGOTTEN in config for config in driver.configs[0])


@pytest.mark.parametrize("name", ["scratch", "finetune", *REMEMBERED])
def test_what_is_kept_for_anybody_serves_who_leaves(name: str) -> None:
    more = {"steps": 0} if name == "ukd" else {}  # It would distil, which needs a real model.

    def strategy() -> Any:
        return type(procedure(name, {}))(4, "C2", **more)

    torch.manual_seed(0)
    inside = Driver(strategy(), 12)
    inside.run(last=4)
    torch.manual_seed(1)
    wanted = inside.run(first=5)

    before = Driver(Remember(), 4)
    before.run()
    later = Driver(strategy(), 12)
    later.arrays = before.arrays
    later.strategy.load_state_dict(before.strategy.state_dict() | {"told": []})
    torch.manual_seed(1)
    assert later.run(first=5) == wanted


def test_a_certificate_follows_from_the_stored_numbers() -> None:
    strategy = IFU(4, "C2", epsilon=1.0, delta=0.1, sigma=2.0)
    driver = Driver(strategy, 5)
    driver.run()
    found = strategy.unlearning()
    assert found is not None
    bounds = np.concatenate([[0.0], np.cumsum(found["terms"])])
    assert found["bounds"] == pytest.approx(bounds)
    assert found["restart"] == int(np.flatnonzero(bounds <= found["psi_allowed"]).max())
    certificate = found["certificate"]
    assert certificate["psi"] == pytest.approx(bounds[found["restart"]])
    assert not certificate["certified"]
    assert certificate["epsilon"] is None
    assert certificate["epsilon_claimed"] <= 1.0
    assert "C2" in found["guarantee"]


def test_what_is_of_coordinates_never_prints_a_certificate() -> None:
    strategy = IFU(4, "C2", psi=0.9, sigma=2.0, norm="coordinatewise")
    Driver(strategy, 5).run()
    found = strategy.unlearning()
    assert found is not None
    assert found["restart"] == 2
    assert found["certificate"]["epsilon"] is None
    assert found["certificate"]["epsilon_claimed"] is None
    assert found["guarantee"].startswith("NO CERTIFICATE")


@pytest.mark.parametrize(
    ("strategy", "changes", "words"),
    [
        (Scratch(4, "C9"), {}, "there is no client 'C9'"),
        (Scratch(9, "C2"), {}, "rounds: 9 are too few"),
        (FedEraser(8, "C2", 2), {}, "8 to train and 4 to unlearn"),
        (Scratch(4), {}, "nobody leaves"),
        (Scratch(4), {"forgets": {"C2": 1.0}}, "all its records"),
        (FedAccum(4), {"forgets": {"C2": 0.5}}, "defined for whole clients"),
        (Scratch(4, "C2"), {"validate": print}, "best model on validation data"),
        (
            Scratch(4, "C2"),
            {"roles": Roles(parameters=frozenset({"w"}), averaged=frozenset({"mean"}))},
            "running statistics",
        ),
        (Scratch(4, "C2"), {"roles": Roles(local=frozenset({"head"}))}, "stay at the clients"),
        (IFU(4, "C2", convex=True), {}, "not convex"),
    ],
)
def test_what_cannot_be_done_is_refused(
    strategy: Unlearning, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        strategy.setup(server(9, **changes))


def test_parameters_are_checked() -> None:
    for wrong in ({"delta": 1.0}, {"contraction": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            IFU(4, "C2", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no procedure of unlearning"):
        procedure("fedsim.strategies.fedavg:FedAvg", {})
    both = {"ukd": {}, "fedsim.strategies.unlearn_ukd:UKD": {"form": "paper_code"}}
    with pytest.raises(InputError, match="with other settings"):
        Remember(both).setup(server(4))


def test_storage_is_told_for_each_procedure() -> None:
    strategy = Remember()
    strategy.setup(server(500))
    record = tensor_record({"w": np.zeros(1000, np.float32)})
    kept = strategy.keeps(record)
    assert sorted(kept) == sorted(REMEMBERED)
    assert kept["fedaccum"] == 4 * 4000
    # Four checkpoints and two numbers a round; not 500 models of 5.
    assert kept["ifu"] <= 4 * 4000 + 8 * 4 * 2 * 501
    assert kept["federaser"] <= 4 * 4000 + 8 * 4 * 502


def test_there_is_nothing_to_retrain_on_alone() -> None:
    with pytest.raises(ValueError, match="nobody is left"):
        Scratch(4, "C2").check_clients(1)
