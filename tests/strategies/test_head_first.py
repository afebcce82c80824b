"""The head from statistics, then rounds of averaging: the first round is `feature_gram`'s."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import Result, run
from fedsim.errors import InputError
from fedsim.folder.runfolder import RunFolder
from tests.engine.conftest import TINY

ON_FEATURES = ("data.features={network: cnn, public: 40}", "model=linear")
HEAD_FIRST = ("strategy=head_first", "client={name: head_first, learning_rate: 0.3}")


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Result]:
    (tmp_path / "tiny.yaml").write_text(TINY)

    def go(*overrides: str) -> Result:
        return run(tmp_path / "tiny.yaml", *overrides, runs=tmp_path / "runs")

    return go


def model_of(result: Result) -> dict[str, np.ndarray]:
    found = load_file(result.folder / "model.safetensors")
    return {name: array for name, array in found.items() if not name.startswith("public_map.")}


def test_the_first_round_is_that_of_feature_gram(go: Callable[..., Result]) -> None:
    first = model_of(go(*ON_FEATURES, *HEAD_FIRST, "rounds=1"))
    gram = model_of(go(*ON_FEATURES, "strategy=feature_gram", "client=feature_gram", "rounds=1"))
    assert all((first[name] == gram[name]).all() for name in gram)


def test_the_rounds_after_it_train_from_there(go: Callable[..., Result]) -> None:
    first = model_of(go(*ON_FEATURES, *HEAD_FIRST, "rounds=1"))
    after = go(*ON_FEATURES, *HEAD_FIRST, "rounds=3")
    rows = RunFolder.open(after.folder).read_lines("rounds.jsonl")
    assert [row["phase"] for row in rows] == ["statistics", "train", "train"]
    still = go(*ON_FEATURES, *HEAD_FIRST, "client.learning_rate=1e-30", "rounds=3")
    for name, value in first.items():
        assert model_of(still)[name] == pytest.approx(value, abs=1e-6)
        assert not np.allclose(model_of(after)[name], value, atol=1e-4)


def test_adapters_begin_beside_a_head_that_fits(go: Callable[..., Result]) -> None:
    lora = ("model={name: cnn, width: 8, adapter: {name: lora, rank: 2}}", *HEAD_FIRST)
    first, after = model_of(go(*lora, "rounds=1")), model_of(go(*lora, "rounds=2"))
    changes = {name for name in first if not (first[name] == after[name]).all()}
    assert any("lora_b" in name for name in changes)
    assert "classifier.weight" in changes
    assert (first["features.0.weight"] == after["features.0.weight"]).all()
    assert any(first["classifier.weight"].flat)


def test_a_private_run_is_refused(go: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="has no private form"):
        go(*ON_FEATURES, *HEAD_FIRST, "privacy={target_epsilon: 4, delta: 1e-3}")


def test_a_head_that_does_not_travel_is_refused_before_anybody_is_asked(
    go: Callable[..., Result],
) -> None:
    frozen = "model={name: cnn, width: 8, trainable: ['features.*']}"
    with pytest.raises(InputError, match="'head_first' sets the model's head, but"):
        go(frozen, *HEAD_FIRST)
