"""FedAdagrad, FedAdam, FedYogi: golden steps, a known optimum, and what a restart keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord

from fedsim.method import Received
from fedsim.strategies.fedopt import FedAdagrad, FedAdam, FedOpt, FedYogi
from fedsim.wire import tensor_record
from tests.strategies.quadratics import averaged, weights_after

KINDS = [FedAdagrad, FedAdam, FedYogi]


def step(strategy: FedOpt, change: float) -> float:
    strategy.content(1, tensor_record({"w": np.zeros(1, np.float32)}), ConfigRecord())
    one = Received(1.0, {"w": np.full(1, change, np.float32)})
    return float(strategy.combine(iter([one]))["w"][0])


@pytest.mark.parametrize(
    ("strategy", "second"),
    [
        # v after changes of 0.5 and then 0.25, from tau^2 = 0.01.
        (FedAdagrad(0.1, beta_1=0.9, tau=0.1), [0.26, 0.3225]),
        (FedAdam(0.1, tau=0.1), [0.0124, 0.012901]),
        # 0.01 + 0.01 * 0.25, then + 0.01 * 0.0625: both squares are larger than v.
        (FedYogi(0.1, tau=0.1), [0.0125, 0.013125]),
    ],
)
def test_two_steps_of_the_papers_algorithm(strategy: FedOpt, second: list[float]) -> None:
    # m: 0.1 * 0.5 = 0.05, then 0.9 * 0.05 + 0.1 * 0.25 = 0.07.
    wanted = [0.1 * m / (v**0.5 + 0.1) for m, v in zip([0.05, 0.07], second, strict=True)]
    assert [step(strategy, 0.5), step(strategy, 0.25)] == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_they_come_to_rest_where_fedavg_does(name: str, tmp_path: Path) -> None:
    # There, and only there, the mean change is 0. A large tau makes the rates alike: no hovering.
    how = f"strategy={{name: {name}, learning_rate: 1, tau: 1, beta_1: 0.5, weighting: uniform}}"
    assert weights_after(tmp_path, how, "rounds=40") == pytest.approx(averaged(), abs=1e-3)


def test_yogi_forgets_a_large_square_more_slowly_than_adam() -> None:
    adam, yogi = FedAdam(), FedYogi()
    for strategy in (adam, yogi):
        for change in (10.0, 0.0, 0.1):
            step(strategy, change)
    assert yogi._second["w"] > adam._second["w"]


@pytest.mark.parametrize("kind", KINDS)
def test_m_and_v_survive_a_restart_to_the_bit(kind: type[FedOpt]) -> None:
    before, after, fresh = kind(), kind(), kind()
    step(before, 0.3)
    after.load_state_dict(before.state_dict())
    wanted = step(before, 0.2)
    assert step(after, 0.2) == wanted != step(fresh, 0.2)
