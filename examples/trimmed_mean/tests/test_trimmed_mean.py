"""What the robust aggregator promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from robust_mean.strategy import TrimmedMean

from fedsim import run
from fedsim.method import Received

SCENARIO = Path(__file__).parents[1] / "scenario.yaml"


def received(values: list[float]) -> list[Received]:
    return [Received(1.0, {"w": np.array([value], np.float32)}) for value in values]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"trim": 0.25}, 4.0), ({"trim": 0.0}, 252.5), ({"rule": "median"}, 4.0)],
)
def test_outliers_are_left_out(options: dict, expected: float) -> None:
    combined = TrimmedMean(**options).combine(received([1000.0, 2.0, 3.0, 5.0]))
    assert combined["w"].tolist() == [expected]


@pytest.mark.parametrize("codec", ["float32", "uint8"])
def test_codecs_and_momentum_work_unchanged(codec: str, tmp_path: Path) -> None:
    result = run(SCENARIO, f"strategy.codec={codec}", "rounds=2", "client.steps=3", runs=tmp_path)
    assert result.metrics["auc"] is not None
    assert result.rounds[-1]["exchanges"] == ["train"]
