"""The baselines in whole runs: the same bits on Ray and after a cut, and what they refuse."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.errors import Interruption
from fedsim.folder.runfolder import RunFolder
from fedsim.terminal.console import Console
from tests.engine.test_bits import lines

QUIET = Console(quiet=True)
STEPS = "batch_size: 8, steps: 2, learning_rate: 0.05"
HEAD = "federation.local=head"


def pair(name: str, strategy: str = "", client: str = "") -> tuple[str, str]:
    """Both halves of a method of one name."""
    return f"strategy={{name: {name}{strategy}}}", f"client={{name: {name}, {STEPS}{client}}}"


AVERAGED = {
    "scaffold": pair("scaffold"),
    "fednova": pair("fednova"),
    "feddyn": pair("feddyn"),
    "q_fedavg": pair("q_fedavg"),
    "fed_mix": pair("fed_mix"),
    "fed_dg": pair("fed_dg", client=", band: 0.1"),
    "fedadagrad": ("strategy=fedadagrad", f"client={{name: supervised, {STEPS}}}"),
    "fedadam": ("strategy=fedadam", f"client={{name: supervised, {STEPS}}}"),
    "fedyogi": ("strategy=fedyogi", f"client={{name: supervised, {STEPS}}}"),
}
OWN = {
    "apfl": pair("apfl"),
    "ditto": pair("ditto"),
    "fed_rep": (HEAD, f"client={{name: fed_rep, {STEPS}, head_steps: 1}}"),
    "fed_babu": (HEAD, *pair("fed_babu", client=", tune_steps: 1")),
    "pfedme": pair("pfedme", client=", inner_steps: 2"),
    "fed_proto": pair("fed_proto"),
    "fed_distill": pair("fed_distill"),
}
VOLUMES = ("scaffold", "fednova", "feddyn", "q_fedavg", "fed_dg", "apfl", "ditto", "pfedme")

IMAGES_FILE = """\
name: shelf
rounds: 2
data: {name: ham10000, size: 16, embedded: {images: 120, sites: 3}}
federation: {clients: 3, participation: 0.7, partition: {name: iid}}
model: {name: cnn, width: 4}
strategy: {name: fedavg}
client: {name: supervised}
resources: {backend: inline, workers: 2}
"""
VOLUMES_FILE = """\
name: shelf
rounds: 2
data: {name: msd, size: 32, embedded: {cases: 9}, split: {val: 0.2, test: 0.2}}
federation: {clients: 3, participation: 0.7, partition: {name: iid}}
model: {name: unet, channels: [4, 8]}
strategy: {name: fedavg}
client: {name: segmentation, steps: 2, batch_size: 2}
resources: {backend: inline, workers: 2}
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs of the small scenario that several tests compare with; each is made once."""
    folder = tmp_path_factory.mktemp("honest")
    (folder / "shelf.yaml").write_text(IMAGES_FILE)
    return functools.cache(lambda *words: run(folder / "shelf.yaml", *words, runs=folder / "runs"))


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Result]:
    """Runs the small scenario; `volumes` says of what."""

    def go(*overrides: str, volumes: bool = False, where: str = "runs", **options: str) -> Result:
        path = tmp_path / "shelf.yaml"
        path.write_text(VOLUMES_FILE if volumes else IMAGES_FILE)
        return run(path, *overrides, runs=tmp_path / where, **options)

    return go


def begun_on_ray_and_cut(
    go: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, *overrides: str, volumes: bool
) -> Path:
    """A run on Ray that stopped in the midst of its second round; its folder."""
    append, found = RunFolder.append, []

    def stopping(self: RunFolder, name: str, row: dict) -> None:
        append(self, name, row)
        if name == "traffic.jsonl" and row["round"] == 2:
            found.append(self.path)
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            go(*overrides, volumes=volumes, where="cut", backend="ray")
    return found[0]


def assert_alike(one: Result, other: Result) -> None:
    """All models, metrics and lines of two runs have the same bits."""
    files = sorted(p.relative_to(one.folder) for p in one.folder.rglob("*.safetensors"))
    files = [file for file in files if file.parts[0] != "checkpoint"]
    assert files
    for file in files:
        left, right = load_file(one.folder / file), load_file(other.folder / file)
        assert {n: v.tobytes() for n, v in left.items()} == {
            n: v.tobytes() for n, v in right.items()
        }, file
    assert one.metrics == other.metrics
    for name in ("rounds.jsonl", "traffic.jsonl"):
        assert lines(one, name) == lines(other, name), name


@pytest.mark.slow
@pytest.mark.parametrize("method", AVERAGED | OWN)
def test_begun_on_ray_cut_and_resumed_here_it_has_the_same_bits(
    method: str, go: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (AVERAGED | OWN)[method]
    cut = begun_on_ray_and_cut(go, monkeypatch, *overrides, volumes=False)
    resumed = resume(cut, ["resources.backend=inline"], QUIET)
    assert_alike(go(*overrides), resumed)


@pytest.mark.slow
@pytest.mark.parametrize("method", VOLUMES)
def test_of_volumes_it_has_the_same_bits_too(
    method: str, go: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (f"strategy={method}", f"client.name={method}_segmentation")
    cut = begun_on_ray_and_cut(go, monkeypatch, *overrides, volumes=True)
    resumed = resume(cut, ["resources.backend=inline"], QUIET)
    assert_alike(go(*overrides, volumes=True), resumed)


@pytest.mark.parametrize("method", [*AVERAGED, *OWN])
def test_noise_is_refused_or_made(method: str, go: Callable[..., Result]) -> None:
    private = "privacy={target_epsilon: 8, delta: 1e-3, expected_batch: 8}"
    overrides = ((AVERAGED | OWN)[method], private, "rounds=1", "client.class_balanced=false")
    flat = [*overrides[0], *overrides[1:]]
    if method in ("fedadagrad", "fedadam", "fedyogi"):
        assert go(*flat, "client.steps=null").summary["epsilon"] <= 8
        return
    with pytest.raises(InputError, match="no private form"):
        go(*flat)


SIDE_BY_SIDE = ("scaffold", "fednova", "feddyn", "q_fedavg", "fed_mix", "fed_dg")


@pytest.mark.parametrize("method", [*SIDE_BY_SIDE, "apfl", "pfedme"])
def test_fast_mode_gives_one_result_and_says_who_trains_together(
    method: str, go: Callable[..., Result]
) -> None:
    fast = (*(AVERAGED | OWN)[method], "resources.fast=true", "rounds=2")
    one, two = (go(*fast, f"resources.threads={threads}") for threads in (1, 2))
    # Who trains alone has PyTorch's threads, whose sums round as their number says.
    within = 0 if method in SIDE_BY_SIDE else 1e-5
    assert one.metrics == pytest.approx(two.metrics, abs=within, rel=0)
    computing = json.loads((one.folder / "run.json").read_text())["computing"]
    wanted = "side by side: 3 of 3 clients" if method in SIDE_BY_SIDE else None
    assert computing["together"] == wanted


@pytest.mark.parametrize("method", [*AVERAGED, "apfl", "fed_proto"])
@pytest.mark.parametrize("attack", ["{name: sign_flip}", "{name: adaptive, knows: aggregator}"])
def test_colluders_change_the_model_or_are_refused(
    method: str, attack: str, go: Callable[..., Result], honest: Callable[..., Result]
) -> None:
    many = ("federation.clients=4", "federation.participation=1", "rounds=2")
    overrides = (*(AVERAGED | OWN)[method], *many)
    adversary = f"adversary={attack[:-1]}, count: 1}}"
    if method == "fed_proto":
        with pytest.raises(InputError, match="no model travels"):
            go(*overrides, adversary)
        return
    attacked = go(*overrides, adversary)
    rows = RunFolder.open(attacked.folder).read_lines("rounds.jsonl")
    assert len(rows) == 2
    assert attacked.rounds[1]["metrics"] != honest(*overrides).rounds[1]["metrics"]
