"""The fast mode: what it does to bits, who trains together, and what is written down of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import InputError, Result
from fedsim.api import resume
from tests.engine.test_bits import assert_same
from tests.engine.test_resume import QUIET, only, start, wait_for

SMALL = ("federation.clients=20", "data.embedded.images=400", "client.batch_size=8")
PROX = "strategy={name: flwr.serverapp.strategy.FedProx, proximal_mu: 0.1}"
WAYS = {
    "stacked": SMALL,
    "side by side": ("model=fast_models:Pooled", "data.size=32"),
    "augmented": ("client.augment=siamese",),
    "local": ("strategy=local_only", "client={name: local, steps: 3, batch_size: 8}"),
    "fedprox": (*SMALL, PROX, "client.weight_decay=0.001", "federation.participation=0.5"),
}
# One client trains apart from the others, in the midst of a stack.
OWN = "federation.overrides={client-3: {wrapper: {name: flip_labels}}}"
ON_RAY = {"backend": "ray", "workers": 2}


def computing(result: Result) -> dict[str, object]:
    found: dict[str, object] = json.loads((result.folder / "run.json").read_text())["computing"]
    return found


def checkpoints(runs: Path) -> int:
    folder = only(runs)
    return 0 if folder is None else len(list((folder / "checkpoint").glob("round-*")))


def models(result: Result) -> dict[str, np.ndarray]:
    """The weights of all models of a run, by file and name."""
    files = sorted(result.folder.rglob("*.safetensors"))
    return {f"{f.name}/{name}": array for f in files for name, array in load_file(f).items()}


def furthest(one: Result, other: Result) -> float:
    """The largest difference of two models' weights, over the largest weight of its array."""
    left, right = models(one), models(other)
    return max(float(np.abs(left[n] - right[n]).max() / np.abs(left[n]).max()) for n in left)


@pytest.mark.parametrize(
    ("together", "words", "threads"),
    [
        ("stacked: 20 of 20 clients", SMALL, 2),
        # Who trains alone computes with all threads, which may change last bits.
        ("stacked: 19 of 20 clients", (*SMALL, OWN), 1),
        ("side by side: 4 of 4 clients", WAYS["side by side"], 2),
    ],
)
def test_threads_workers_and_backends_give_the_same_bits(
    together: str, words: tuple[str, ...], threads: int, run_tiny: Callable[..., Result]
) -> None:
    one = run_tiny(*words, "resources.fast=true")
    assert computing(one)["together"] == together
    words = (*words, "resources.fast=true", f"resources.threads={threads}")
    if threads > 1:
        assert_same(one, run_tiny(*words))
    if threads == 1 or "side" in together:
        assert_same(one, run_tiny(*words, **ON_RAY))


@pytest.mark.parametrize("way", WAYS)
def test_results_agree_with_those_of_the_usual_mode(
    way: str, run_tiny: Callable[..., Result]
) -> None:
    usual, fast = run_tiny(*WAYS[way]), run_tiny(*WAYS[way], "resources.fast=true")
    # Rounding alone: some 1e-6 after two rounds.
    assert furthest(usual, fast) < 1e-4
    assert computing(usual)["together"] is None
    assert str(computing(fast)["together"]).startswith(
        "stacked" if way in ("stacked", "fedprox") else "side by side"
    )
    if way == "stacked":
        assert furthest(usual, fast) > 0, "it was not stacked"
        lines = [(r.folder / "traffic.jsonl").read_bytes() for r in (usual, fast)]
        assert lines[0] == lines[1], "what travels is the same to the byte"


def test_a_killed_run_goes_on_to_the_same_bits(
    tiny: Path, tmp_path: Path, run_tiny: Callable[..., Result]
) -> None:
    words = (*SMALL, "resources.fast=true", "rounds=3")
    process = start(tiny, tmp_path / "cut", *words, "resources.threads=2")
    try:
        wait_for(lambda: checkpoints(tmp_path / "cut") > 0, process)
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        process.wait()
    folder = only(tmp_path / "cut")
    assert folder is not None
    with pytest.raises(InputError, match=r"'resources.fast=false' would change it"):
        resume(folder, ["resources.fast=false"], QUIET)
    assert_same(resume(folder, ["resources.backend=inline"], QUIET), run_tiny(*words))


def test_a_client_that_fails_in_a_stack_is_named(run_tiny: Callable[..., Result]) -> None:
    words = (*SMALL, "resources.fast=true", "client.learning_rate=1e30", "client.epochs=3")
    result = run_tiny(*words, "faults={on_client_error: skip, min_clients: 0}")
    row = json.loads((result.folder / "rounds.jsonl").read_text().splitlines()[0])
    assert {one["kind"] for one in row["failed"]} == {"diverged"}
    assert len(row["failed"]) == 20


def test_bfloat16_agrees_within_its_precision(run_tiny: Callable[..., Result]) -> None:
    usual, mixed = run_tiny(), run_tiny("resources.precision=bfloat16")
    assert computing(mixed)["precision"] == "bfloat16"
    assert 1e-5 < furthest(usual, mixed) < 3e-2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("privacy={noise_multiplier: 1.0}", "client.class_balanced=false"), "privacy"),
        (("strategy=gdd", "client=distill", "model=convnet", "rounds=1"), "client method"),
    ],
)
def test_bfloat16_is_refused_where_it_has_no_form(
    words: tuple[str, ...], why: str, run_tiny: Callable[..., Result]
) -> None:
    with pytest.raises(InputError, match=rf"resources.precision: .*{why}"):
        run_tiny(*words, "resources.precision=bfloat16")
