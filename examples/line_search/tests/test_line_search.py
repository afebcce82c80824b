"""What the line search promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim import InputError, Result, run
from fedsim.registry import default_registry

SCENARIO = Path(__file__).parents[1] / "scenario.yaml"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(SCENARIO, "rounds=2", runs=tmp_path_factory.mktemp("runs"))


def test_a_round_trains_and_then_asks_for_losses(result: Result) -> None:
    assert [row["exchanges"] for row in result.rounds] == [["train", "losses"]] * 2


def test_the_best_of_three_steps_is_taken(result: Result) -> None:
    for row in result.rounds:
        losses = [row["metrics"][f"losses_loss-{k}"] for k in range(3)]
        assert row["metrics"]["losses_step"] == (0.5, 1.0, 1.5)[losses.index(min(losses))]
        assert len(set(losses)) == 3
        assert set(row["metrics_by_client"]["0"]) >= {"loss", "losses_loss-2"}


def test_both_exchanges_are_counted(result: Result) -> None:
    import json

    lines = (result.folder / "traffic.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    sent = {(r["exchange"], tuple(r["fields"])) for r in found if r["direction"] == "down"}
    assert sent == {(0, ("arrays", "config")), (1, ("model-0", "model-1", "model-2"))}


def test_wrong_steps_are_refused() -> None:
    with pytest.raises(InputError, match="steps"):
        run(SCENARIO, "strategy.steps=[0.0]")


def test_a_private_run_is_refused(tmp_path: Path) -> None:
    private = ("client.class_balanced=false", "privacy={noise_multiplier: 1.0}")
    with pytest.raises(InputError, match="exchanges"):
        run(SCENARIO, *private, runs=tmp_path)


def test_an_installed_package_has_names() -> None:
    registry = default_registry()
    if "line_search" not in registry.names("strategies"):
        pytest.skip("the package is not installed")
    assert registry.resolve("clients", "with_losses").__name__ == "WithLosses"
