"""GPUs: who computes on one, how many workers share it, and what is said of it.

Placement is tested with GPUs that are made up. What only a GPU can show runs in processes of their
own, for the tests hide the GPUs of this machine from themselves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from fedsim import InputError
from fedsim.engine import assembly, running, wording
from fedsim.engine.assembly import grid_of
from fedsim.grid import auto, machine
from fedsim.grid.auto import AutoGrid
from fedsim.grid.choosing import Choice
from fedsim.grid.gpu import CONTEXT_MB, MOST_PER_GPU, Share, share_of
from fedsim.grid.worker import Job
from fedsim.ledger.traffic import TrafficLedger
from fedsim.privacy import run_key
from fedsim.scenario import Resources, load
from tests.conftest import GPUS

TINY = """\
name: tiny
rounds: 2
data: {name: ham10000, size: 16, embedded: {images: 200, sites: 2}}
federation: {clients: 4}
model: {name: cnn, width: 8}
strategy: fedavg
client: {name: supervised, steps: 2, batch_size: 16}
"""
needs_gpu = pytest.mark.skipif(
    not GPUS or torch.version.cuda is None, reason="no GPU here that PyTorch can use"
)


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.mark.parametrize(
    ("block", "present", "used"),
    [
        *[({}, 0, False), ({}, 1, True), ({"gpus": 0.0}, 1, False), ({"gpus": 0.5}, 1, True)],
        ({"ray_address": "there:1"}, 1, False),
        ({"ray_address": "there:1", "gpus": 1.0}, 0, True),
    ],
)
def test_a_gpu_is_used_where_there_is_one_or_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, block: dict[str, Any], present: int, used: bool
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: present)
    assert machine.on_gpu(Resources(**block)) == used


@pytest.mark.parametrize(
    ("peak", "free", "wanted", "workers", "share"),
    [
        (400.0, [80_000.0], 10, MOST_PER_GPU, 1 / MOST_PER_GPU),
        (400.0, [80_000.0], 2, 2, 0.5),
        (400.0, [3_000.0], 10, 2, 0.5),  # 80 % of it hold two.
        (400.0, [500.0], 10, 1, 1.0),  # Not even one: it is tried, one at a time.
        (400.0, [80_000.0, 3_000.0], 10, 4, 0.5),  # The smallest decides.
        (400.0, [80_000.0, 80_000.0], 3, 3, 0.5),
    ],
)
def test_workers_share_a_gpu_as_its_memory_allows(
    peak: float, free: list[float], wanted: int, workers: int, share: float
) -> None:
    found = share_of(peak, free, wanted)
    assert (found.workers, found.gpus) == (workers, share)
    assert f"{(peak + CONTEXT_MB) / 1e3:.1f} GB of GPU memory" in found.why


@given(st.floats(0, 1e5), st.lists(st.floats(1, 2e5), min_size=1, max_size=8), st.integers(1, 100))
def test_shares_fit_and_no_worker_is_without_one(
    peak: float, free: list[float], wanted: int
) -> None:
    found = share_of(peak, free, wanted)
    each = int(1 / found.gpus + 1e-9)
    assert 1 <= found.workers <= min(wanted, each * len(free))
    assert each * found.gpus <= 1
    assert machine.workers_on(1e9, len(free), 1, found.gpus) >= found.workers
    assert each == 1 or each * (peak + CONTEXT_MB) <= min(free)


def _made(
    monkeypatch: pytest.MonkeyPatch, tiny: str, words: list[str], device: str = "cuda"
) -> tuple[Any, list[Choice], list[dict[str, Any]]]:
    """The grid of a scenario whose job is for `device`, what was said, and Ray's arguments."""
    ray = pytest.importorskip("fedsim.grid.ray")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "RayGrid", lambda *_, **options: asked.append(options))
    monkeypatch.setattr(assembly, "gpus", lambda: 2)
    monkeypatch.setattr(assembly, "cores", lambda: 16)
    nothing = np.zeros(0, np.int64)
    names = {f"client-{i}": nothing for i in range(4)}
    job = Job(load(tiny, words), 0, Path(), None, names, names, device=device)  # type: ignore[arg-type]
    said: list[Choice] = []
    return grid_of(job, TrafficLedger(), lambda: None, chosen=said.append), said, asked


@pytest.mark.parametrize("backend", ["auto", "ray"])
def test_what_a_worker_gets_of_a_gpu_is_measured_first(
    monkeypatch: pytest.MonkeyPatch, tiny: str, backend: str
) -> None:
    grid, said, asked = _made(monkeypatch, tiny, [f"resources.backend={backend}"])
    assert isinstance(grid, AutoGrid)
    assert not said
    monkeypatch.setattr(auto, "measured_share", lambda wanted: Share(4, 0.5, "two fit"))
    monkeypatch.setattr(auto, "give_back", lambda: None)
    monkeypatch.setattr(grid, "_records", lambda message: 100)
    grid._exchange, grid._left = [None] * 4, [None] * 3  # type: ignore[list-item]
    choice = grid._forecast(1000.0, [None])  # type: ignore[list-item]
    assert (choice.backend, choice.workers, choice.gpus) == ("ray", 4, 0.5)
    assert choice.why.endswith("; two fit")
    assert choice.why.startswith("resources.backend=ray") == (backend == "ray")
    grid._decide(choice)
    assert said == [choice]
    assert (asked[0]["workers"], asked[0]["gpus"]) == (4, 0.5)


@pytest.mark.parametrize("fault", ["faults.client_timeout=9.0", "faults.on_client_error=skip"])
def test_clients_that_may_break_are_not_measured_and_have_a_gpu_each(
    monkeypatch: pytest.MonkeyPatch, tiny: str, fault: str
) -> None:
    _, said, asked = _made(monkeypatch, tiny, [fault])
    assert (said[0].workers, said[0].gpus) == (2, 1.0)
    assert said[0].record()["gpus"] == 1.0
    assert (asked[0]["workers"], asked[0]["gpus"]) == (2, 1.0)


def test_a_share_that_the_scenario_names_is_kept(
    monkeypatch: pytest.MonkeyPatch, tiny: str
) -> None:
    _, said, asked = _made(monkeypatch, tiny, ["resources.gpus=0.5", "resources.backend=ray"])
    assert said[0] == Choice("ray", "resources.backend=ray", 4)
    assert asked[0]["gpus"] is None
    assert "gpus" not in said[0].record()


def test_on_a_cpu_nothing_is_asked_of_gpus(monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    _, said, asked = _made(monkeypatch, tiny, ["resources.backend=ray"], device="cpu")
    assert said[0] == Choice("ray", "resources.backend=ray", 4)
    assert asked[0]["gpus"] is None


def test_what_is_computed_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    monkeypatch.setattr(wording, "has_gpu_driver", lambda: False)
    open_, zero = Resources(), Resources(gpus=0.0)
    assert wording.device_line(open_) == ""
    assert wording.describe_device(open_) == {
        "used": "cpu",
        "name": None,
        "why": "there is no GPU here",
    }
    assert wording.describe_device(zero)["why"] == "resources.gpus=0"
    monkeypatch.setattr(wording, "has_gpu_driver", lambda: True)
    assert "PyTorch sees none" in wording.device_line(open_)
    assert wording.device_line(zero) == ""
    monkeypatch.setattr(machine, "gpus", lambda: 1)
    monkeypatch.setattr(wording, "gpu_name", lambda: "Some GPU")
    assert wording.device_line(open_) == "computing on the GPU: Some GPU"
    assert wording.describe_device(open_) == {
        "used": "cuda",
        "name": "Some GPU",
        "why": "resources.gpus=auto",
    }


def test_a_run_goes_on_only_where_it_computes_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "scenario.yaml").write_text(TINY)
    scenario, begun = load(tmp_path / "scenario.yaml"), {"device": {"used": "cuda"}}
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    with pytest.raises(InputError, match="began on a GPU, and would go on on the CPU") as caught:
        running._require_device(tmp_path, scenario, begun)
    assert caught.value.exit_code == 2
    running._require_device(tmp_path, scenario, {"device": {"used": "cpu"}})
    running._require_device(tmp_path, scenario, {})  # An older run says nothing of it.
    monkeypatch.setattr(machine, "gpus", lambda: 1)
    monkeypatch.setattr(wording, "gpu_name", lambda: "Some GPU")
    running._require_device(tmp_path, scenario, begun)
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES= fedsim run --resume"):
        running._require_device(tmp_path, scenario, {"device": {"used": "cpu"}})


def test_noise_is_keyed_by_where_it_is_computed(monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    assert load(tiny).resources.gpus == "auto"
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    assert run_key._rounding(load(tiny)) == run_key._rounding(load(tiny, ["resources.gpus=0.0"]))
    monkeypatch.setattr(machine, "gpus", lambda: 1)
    assert run_key._rounding(load(tiny)) == run_key._rounding(load(tiny, ["resources.gpus=1.0"]))


# --- on a GPU ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared images of all these tests."""
    return tmp_path_factory.mktemp("cache")


def _typed(folder: Path, cache: Path, *words: str) -> str:
    """What `fedsim` prints where the GPUs are to be seen."""
    done = subprocess.run(
        [sys.executable, "-m", "fedsim", *words],
        cwd=folder,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": GPUS, "FEDSIM_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def _found(folder: Path, name: str) -> Path:
    return next(folder.rglob(name))


@needs_gpu
@pytest.mark.slow
def test_a_gpu_is_used_and_shared_and_its_bits_are_the_same_everywhere(
    tiny: str, tmp_path: Path, cache: Path
) -> None:
    shown = {
        name: _typed(tmp_path, cache, "run", tiny, "--runs", name, *words)
        for name, words in {
            "here": ["--backend", "inline"],
            "again": ["--backend", "inline"],
            "there": ["--backend", "ray"],
            "cpu": ["--backend", "inline", "resources.gpus=0.0"],
            "half": ["--backend", "inline", "resources.precision=bfloat16"],
        }.items()
    }
    assert "computing on the GPU" in shown["here"]
    assert "GB of GPU memory" in shown["there"]
    assert "GPU" not in shown["cpu"]
    record = json.loads(_found(tmp_path / "there", "run.json").read_text())
    assert record["device"]["used"] == "cuda"
    assert record["backend"]["gpus"] == 1 / min(MOST_PER_GPU, 4)
    files = {name: _found(tmp_path / name, "model.safetensors") for name in shown}
    assert files["here"].read_bytes() == files["again"].read_bytes()
    assert files["here"].read_bytes() == files["there"].read_bytes()
    weights = {name: load_file(path) for name, path in files.items()}
    for key, exact in weights["cpu"].items():
        # Sums in another order, and eight bits of a number in the place of 24.
        torch.testing.assert_close(weights["here"][key], exact, rtol=0, atol=1e-4)
        torch.testing.assert_close(weights["half"][key], exact, rtol=0, atol=2e-2)
    assert files["half"].read_bytes() != files["here"].read_bytes()


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    [
        *("isic_noniid_gdd", "isic_noniid_dpsgd", "isic_noniid_disbelieve", "isic_sites_fedbn"),
        *("prostate_partial_condist", "isic_noniid_gdd_plus", "isic_noniid_gdd_private"),
    ],
)
def test_shipped_scenarios_run_on_a_gpu(scenario: str, tmp_path: Path, cache: Path) -> None:
    words = ["run", scenario, "rounds=1", "--backend", "inline", "--runs", "runs"]
    _typed(tmp_path, cache, *words)
    assert json.loads(_found(tmp_path, "run.json").read_text())["device"]["used"] == "cuda"
    metrics = json.loads(_found(tmp_path, "summary.json").read_text())["metrics"]
    assert all(np.isfinite(value) for value in metrics.values() if isinstance(value, float))
