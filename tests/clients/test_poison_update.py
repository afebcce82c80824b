"""A poisoned update: what is sent in the place of the model that was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import InputError, Result, RunError, run
from tests.engine.conftest import TINY

ONE = "federation.clients=1"
SMALL = ("client={name: supervised, batch_size: 16, steps: 3}", "rounds=1", ONE)


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The final model of a run with one client, by name."""
    folder = tmp_path_factory.mktemp("poison")
    (folder / "tiny.yaml").write_text(TINY)

    def started(*words: str) -> dict[str, Any]:
        result = run(folder / "tiny.yaml", *SMALL, *words, runs=folder / "runs")
        return load_file(result.folder / "model.safetensors")

    return started


def poisoned(**parameters: float) -> str:
    inside = "".join(f", {key}: {value}" for key, value in parameters.items())
    return f"federation.overrides={{client-0: {{wrapper: {{name: poison_update{inside}}}}}}}"


@pytest.fixture(scope="module")
def first(go: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return go(poisoned(factor=0.0))


@pytest.fixture(scope="module")
def trained(go: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return go()


def test_a_free_rider_sends_back_what_came(first: dict[str, Any], trained: dict[str, Any]) -> None:
    assert any((first[name] != trained[name]).any() for name in first)


@pytest.mark.parametrize("factor", [-1.0, 1.0, 5.0])
@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_the_change_is_multiplied(
    factor: float, codec: str, go: Any, first: dict[str, Any], trained: dict[str, Any]
) -> None:
    strategy = f"strategy={{name: fedavg, codec: {codec}}}"
    found = go(poisoned(factor=factor), strategy)
    tolerance = 1e-6 if codec == "float32" else 5e-3
    for name, value in found.items():
        wanted = first[name] + factor * (trained[name] - first[name])
        assert value == pytest.approx(wanted, abs=tolerance), name


def test_noise_is_as_large_as_it_is_said(go: Any, first: Any, trained: Any) -> None:
    found = go(poisoned(factor=0.0, noise=2.0))
    change = np.concatenate([(trained[n] - first[n]).reshape(-1) for n in first])
    noise = np.concatenate([(found[n] - first[n]).reshape(-1) for n in first])
    assert noise.std() == pytest.approx(2 * np.sqrt(np.square(change).mean()), rel=0.05)


def test_robust_rules_meet_a_boosted_client(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    attack = poisoned(factor=-100.0)

    def auc(strategy: str) -> float:
        words = ("client={name: supervised, batch_size: 16, steps: 8}", attack, strategy)
        result: Result = run(tmp_path / "tiny.yaml", *words, "rounds=3", runs=tmp_path / "runs")
        return result.metrics["auc"] or 0.0

    assert auc("strategy={name: robust, rule: median}") > auc("strategy=fedavg") + 0.05


def test_a_reply_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    gdd = (
        *("rounds=1", "strategy={name: gdd, epochs: 1}", "model={name: convnet, width: 8}"),
        "client={name: distill, images_per_class: 1, iterations: 1, width: 8}",
    )
    with pytest.raises((RunError, InputError), match="changes models, and the reply has none"):
        run(tmp_path / "tiny.yaml", *gdd, poisoned(), runs=tmp_path / "runs")
