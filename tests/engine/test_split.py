"""Split models through the engine: bits on Ray and after a kill, traffic, what stays at clients."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.engine.checkpoint import Checkpoints
from fedsim.models.split_unet import SplitUNet
from fedsim.splitting import crossed
from fedsim.terminal.console import Console
from tests.engine.conftest import PROCESSES
from tests.engine.test_bits import assert_same, lines, model

SMALL = """\
name: halves
rounds: 2
data:
  name: msd
  size: 16
  patch: [16, 16]
  embedded: {cases: 8}
  split: {val: 0.25, test: 0.25}
federation: {clients: 2, partition: {name: iid}}
model: {name: split_unet, channels: [4, 8]}
strategy: {name: fedavg}
client:
  name: split_segmentation
  cut: deep
  packet_loss: 0.5
  burst: 3
  activations: uint8
  steps: 2
  batch_size: 4
  lossy: 1
resources: {backend: inline, workers: 2}
"""
STRATEGIES = {
    "fedavg": (),
    "auto_fedavg": ("strategy={name: auto_fedavg, steps: 2}",),
    "fed_ncl": ("strategy={name: fed_ncl, since: 1}",),
}
SCORED = ("evaluation.on_clients=true", "client.lossy_scores=true")
QUIET = Console(quiet=True)


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Result]:
    path = tmp_path / "halves.yaml"
    path.write_text(SMALL)

    def go(*words: str, **options: object) -> Result:
        return run(path, *words, runs=tmp_path / "runs", **options)  # type: ignore[arg-type]

    return go


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """A strategy's run from its begin to its end, made once."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "halves.yaml").write_text(SMALL)

    @functools.cache
    def of(strategy: str) -> Result:
        words = (*STRATEGIES[strategy], *SCORED)
        return run(folder / "halves.yaml", *words, runs=folder / "runs")

    return of


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_inline_and_ray_give_the_same_bits(
    strategy: str, whole: Callable[[str], Result], go: Callable[..., Result]
) -> None:
    words = (*STRATEGIES[strategy], *SCORED)
    assert_same(whole(strategy), go(*words, backend="ray", workers=2))


@pytest.mark.parametrize(
    ("strategy", "exchange"),
    [("fedavg", 0), ("auto_fedavg", 0), ("auto_fedavg", 1), ("auto_fedavg", 2), ("fed_ncl", 0)],
)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    strategy: str, exchange: int, whole: Callable[[str], Result], tmp_path: Path
) -> None:
    words = (*STRATEGIES[strategy], *SCORED)
    child = PROCESSES.Process(target=run_and_die, args=(words, tmp_path / "killed", exchange))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (folder,) = [path for path in (tmp_path / "killed/halves").iterdir() if not path.is_symlink()]
    assert not (folder / "summary.json").exists()
    assert_same(whole(strategy), resume(folder, [], QUIET))


def run_and_die(words: tuple[str, ...], runs: Path, exchange: int) -> None:
    """Run until the first checkpoint of the last round with so many exchanges; then SIGKILL."""
    save = Checkpoints.save

    def die(self: Checkpoints, checkpoint: Any) -> None:
        # A checkpoint after a round counts it; one within a round has those before.
        last = checkpoint.round == (1 if exchange else 2)
        if last and checkpoint.exchange == exchange:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, checkpoint)

    Checkpoints.save = die  # type: ignore[method-assign]  # the process ends by it
    runs.mkdir()
    (runs / "halves.yaml").write_text(SMALL)
    run(runs / "halves.yaml", *words, runs=runs)


def test_without_loss_a_run_has_the_bits_of_the_model_in_one_piece(
    go: Callable[..., Result],
) -> None:
    plain = {"optimizer": "adamw", "loss": "dice", "clip": "null", "weight_decay": 0.0}
    rates = {"learning_rate": 0.001, "last_learning_rate": 0.001, "steps": 2, "batch_size": 4}
    whole = ", ".join(f"{k}: {v}" for k, v in {**plain, **rates}.items())
    whole = f"client={{name: segmentation, {whole}}}"
    same = ["client.learning_rate=0.001", "client.last_learning_rate=0.001"]
    same += ["client.packet_loss=0", "client.burst=null", "client.activations=float32"]
    expected = go(whole)
    for cut in SplitUNet.cuts:
        found = go(*same, f"client.cut={cut}")
        assert {n: v.tobytes() for n, v in model(found).items()} == {
            n: v.tobytes() for n, v in model(expected).items()
        }
        assert found.metrics == expected.metrics


def test_clients_of_one_size_are_averaged_alike(go: Callable[..., Result]) -> None:
    sizes = [row["num-examples"] for row in go("rounds=1").rounds[0]["metrics_by_client"].values()]
    assert len(set(sizes)) == 1
    assert_same(go(), go("strategy.weighting=uniform"))


def fields(result: Result, direction: str) -> list[dict[str, int]]:
    rows = lines(result, "traffic.jsonl")
    return [row["fields"] for row in rows if row["direction"] == direction]  # type: ignore[misc]


@pytest.mark.parametrize("codec", ["float32", "float16"])
@pytest.mark.parametrize("cut", SplitUNet.cuts)
def test_the_traffic_is_that_of_the_formula(
    cut: str, codec: str, go: Callable[..., Result]
) -> None:
    found = go(f"client.cut={cut}", "rounds=1", f"strategy.codec={codec}")
    net = SplitUNet(3, 1, (16, 16), channels=(4, 8))
    each = crossed(net, cut, (1, 16, 16), "uint8")
    held = net.parts(cut).server_names(net.state_dict())
    mine = {
        name: value
        for name, value in net.state_dict().items()
        if name not in held and not name.endswith("num_batches_tracked")
    }
    parameters = set(dict(net.named_parameters()))
    width = {"float32": 4, "float16": 2}[codec]  # of parameters: buffers are not encoded
    arrays = sum(v.numel() * (width if n in parameters else 4) for n, v in mine.items())
    for direction in ("up", "down"):
        for row in fields(found, direction):
            assert row["features"] == 2 * 4 * each[f"{direction}/features"]
            assert row["gradients"] == 2 * 4 * each[f"{direction}/gradients"]
            assert row["arrays"] == arrays


def test_what_stays_at_clients_is_counted_nowhere(go: Callable[..., Result]) -> None:
    # The server's part that each client has for itself never travelled, nor does it with others.
    whole = go("rounds=1", *SCORED)
    own = go("rounds=1", *SCORED, "federation.local=['down.1.*']")
    for direction in ("up", "down"):
        assert fields(own, direction) == fields(whole, direction)
    norms = go("rounds=1", "federation.local=norm")
    net = SplitUNet(3, 1, (16, 16), channels=(4, 8))
    held = set(net.parts("deep").server_names(dict(net.named_parameters())))
    convolutions = {n: p for n, p in net.named_parameters() if p.dim() > 1 or "enlarge" in n}
    convolutions["logits.bias"] = net.logits.bias
    sent = sum(4 * p.numel() for n, p in convolutions.items() if n not in held)
    assert fields(norms, "up")[0]["arrays"] == sent


@pytest.mark.parametrize("rule", ["head", "norm"])
def test_a_gradient_is_not_taken_for_the_part_that_stays(
    rule: str, go: Callable[..., Result]
) -> None:
    words = ("rounds=1", f"federation.local={rule}")
    plain, learned = go(*words), go(*words, "strategy=auto_fedavg")
    start = "logits." if rule == "head" else "down.0.0.1."
    for client in ("client-0", "client-1"):
        one, other = (
            load_file(result.folder / "models" / f"{client}.safetensors")
            for result in (plain, learned)
        )
        own = [name for name in one if name.startswith(start)]
        assert own
        # Both trained alike from the same model, and validation changes nothing of it.
        assert all(np.array_equal(one[name], other[name]) for name in own)


def test_weights_that_are_learned_need_validation_cases(go: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="no validation cases"):
        go("strategy=auto_fedavg", "data.split.val=0")
