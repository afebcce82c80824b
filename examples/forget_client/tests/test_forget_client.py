"""What forgetting a client promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim import Result, RunError, run

SCENARIO = Path(__file__).parents[1] / "scenario.yaml"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(SCENARIO, "rounds=3", runs=tmp_path_factory.mktemp("runs"))


def test_the_last_rounds_are_a_phase_without_the_client(result: Result) -> None:
    found = [(row["phase"], row["clients"]) for row in result.rounds]
    assert found == [("train", [0, 1, 2, 3]), ("forget", [0, 2, 3]), ("forget", [0, 2, 3])]


def test_the_phase_is_marked_in_the_pictures(result: Result) -> None:
    assert "forget" in (result.folder / "report" / "index.html").read_text()


def test_somebody_is_asked_where_the_client_alone_was_sampled(tmp_path: Path) -> None:
    few = ("federation.participation=0.25", "rounds=4", "strategy.forget_rounds=3")
    result = run(SCENARIO, *few, "client.steps=1", runs=tmp_path)
    assert all(1 not in row["clients"] and row["clients"] for row in result.rounds[1:])


def test_unknown_clients_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="client 'client-9' is none of client-0, client-1"):
        run(SCENARIO, "strategy.client=client-9", runs=tmp_path)
