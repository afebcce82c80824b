"""CReFF: what travels and what it weighs, federated features, and the re-trained classifier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import functional as F

from fedsim import InputError, Result, run
from fedsim.api import estimate, resume
from fedsim.folder.runfolder import RunFolder
from fedsim.losses import class_gradients
from fedsim.scenario import load
from fedsim.strategies.creff import CReFF
from fedsim.terminal.console import Console
from tests.clients.test_moon import stop_in_round
from tests.engine.test_bits import assert_same

CLASSES, WIDTH, CLIENTS = 7, 16, 3
SMALL = f"""\
name: creff
rounds: 2
data:
  name: ham10000
  task: diagnosis
  size: 16
  embedded: {{images: 160, sites: 1}}
federation: {{clients: {CLIENTS}, partition: iid}}
model: {{name: cnn, width: {WIDTH // 4}}}
strategy: {{name: creff, features: 5, matching_steps: 10, epochs: 20, batch_size: 8}}
client: {{name: creff, batch_size: 8}}
resources: {{backend: inline, workers: 2}}
"""
FEDAVG = ("strategy=fedavg", "client={name: long_tail, loss: cross_entropy, batch_size: 8}")


@pytest.fixture
def run_small(tmp_path: Path) -> Callable[..., Result]:
    path = tmp_path / "creff.yaml"
    path.write_text(SMALL)

    def go(*overrides: str, **options: Any) -> Result:
        return run(path, *overrides, runs=tmp_path / "runs", **options)

    return go


def model_of(result: Result) -> dict[str, bytes]:
    found = load_file(result.folder / "model.safetensors")
    return {name: value.tobytes() for name, value in found.items()}


def rows(result: Result, name: str) -> list[dict[str, Any]]:
    return RunFolder.open(result.folder).read_lines(name)


def test_without_retraining_it_is_fedavg_to_the_bit(run_small: Callable[..., Result]) -> None:
    plain, still = run_small(*FEDAVG), run_small("strategy.epochs=0")
    assert model_of(still) == model_of(plain)
    assert still.metrics == plain.metrics


def test_the_extractor_is_fedavgs_and_the_classifier_is_not(
    run_small: Callable[..., Result],
) -> None:
    """Clients train from the averaged model with its own classifier, in every round."""
    plain, creff = model_of(run_small(*FEDAVG)), model_of(run_small())
    assert {name for name in plain if plain[name] != creff[name]} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_the_same_bits_on_ray(run_small: Callable[..., Result]) -> None:
    assert_same(run_small(), run_small(backend="ray"))


def test_a_run_cut_after_any_round_goes_on_to_the_same_bits(
    run_small: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small("rounds=3")
    for cut in (1, 2):
        with monkeypatch.context() as patch:
            stop_in_round(patch, cut + 1)
            with pytest.raises(KeyboardInterrupt):
                run_small("rounds=3", f"name=cut{cut}")
        (folder,) = (path.parent for path in (tmp_path / "runs").glob(f"cut{cut}/*seed*/run.json"))
        assert_same(resume(folder, [], Console(quiet=True)), whole)


def test_bytes_are_those_of_the_card(run_small: Callable[..., Result]) -> None:
    result = run_small("federation.partition={name: dirichlet, alpha: 0.3}")
    parameters = sum(one.size for one in load_file(result.folder / "model.safetensors").values())
    held = classes_of_clients(result)
    assert len(set(held)) > 1
    for row in rows(result, "traffic.jsonl"):
        fields = row["fields"]
        assert fields["arrays"] == 4 * parameters
        if row["direction"] == "down":
            assert fields["retrained"] == 4 * CLASSES * (WIDTH + 1)
        else:
            assert fields["gradients"] == held[row["client"]] * (4 * CLASSES * WIDTH + 8)


def classes_of_clients(result: Result) -> list[int]:
    """How many classes each client trains on."""
    run_json = json.loads((result.folder / "run.json").read_text())
    return [
        sum(count > 0 for count in counts)
        for counts in run_json["data"]["classes_by_client"].values()
    ]


def test_a_trial_counts_the_features_that_checkpoints_hold(
    run_small: Callable[..., Result], tmp_path: Path
) -> None:
    few, many = (
        estimate(load(tmp_path / "creff.yaml", [f"strategy.features={n}"]), 0, Console(quiet=True))
        for n in (5, 5005)
    )
    # Two checkpoints are kept.
    assert many.disk_mb - few.disk_mb == pytest.approx(2 * CLASSES * 5000 * WIDTH * 4 / 1e6)


def test_what_gradients_tell_is_listed(run_small: Callable[..., Result]) -> None:
    run_json = json.loads((run_small("rounds=1").folder / "run.json").read_text())
    assert any("which classes" in item for item in run_json["released_without_privacy"])


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    shapes = ((9, WIDTH), (CLASSES, WIDTH), (CLASSES,))
    features, weight, bias = (torch.randn(shape, generator=draws) for shape in shapes)
    return features, weight, bias


class Alone:
    """What a server offers."""

    device = torch.device("cpu")
    task = type("Task", (), {"num_classes": CLASSES})

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(len(purpose))

    def steps(self, total: int, _: str) -> range:
        return range(total)


def strategy(**settings: Any) -> CReFF:
    made = CReFF(**settings)
    made.server = Alone()  # type: ignore[assignment]
    made._size, made._head = WIDTH, {"weight": "fc.weight", "bias": "fc.bias"}
    return made


def test_matching_brings_gradients_nearer() -> None:
    real, weight, bias = case()
    classes = torch.tensor([1, 4])
    wanted = class_gradients(torch.stack([real, real + 1]), weight, bias, classes)
    found = []
    for steps in (0, 50, 200):
        server = strategy(features=6, matching_steps=steps)
        server._retrained = {"weight": weight, "bias": bias}
        found.append(server.match(classes, wanted))
        assert server._matched is not None
        assert server._matched.nonzero().flatten().tolist() == [1, 4]
    assert found[2] < found[1] < found[0]
    assert found[2] < 0.2 * found[0]


def test_features_of_classes_that_nobody_has_stay() -> None:
    real, weight, bias = case()
    server = strategy(features=6, matching_steps=5)
    server._retrained = {"weight": weight, "bias": bias}
    wanted = class_gradients(real[None], weight, bias, torch.tensor([2]))
    server.match(torch.tensor([2]), wanted)
    assert server._features is not None
    before = server._features.clone()
    server.match(torch.tensor([3]), wanted)
    moved = (before != server._features).flatten(1).any(1)
    assert moved.nonzero().flatten().tolist() == [3]


def test_the_classifier_learns_all_classes_alike() -> None:
    server = strategy(features=4, epochs=60, learning_rate=0.1)
    centres = 3 * torch.eye(CLASSES, WIDTH)
    server._features = centres[:, None].repeat(1, 4, 1)
    server._matched = torch.ones(CLASSES, dtype=torch.bool)
    # The averaged one says class 0 of everything.
    server._averaged = {
        "fc.weight": torch.zeros(CLASSES, WIDTH).numpy(),
        "fc.bias": F.one_hot(torch.tensor(0), CLASSES).float().numpy(),
    }
    layer = server._retrain()
    weight, bias = (torch.from_numpy(layer[f"fc.{name}"]) for name in ("weight", "bias"))
    assert F.linear(centres, weight, bias).argmax(1).tolist() == list(range(CLASSES))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (FEDAVG[:1], "with 'creff' type strategy=creff"),
        (FEDAVG[1:], "with 'creff' type client=creff"),
        (("model={name: cnn, width: 4, trainable: ['features.*']}",), "does not travel"),
        (("strategy.features=0",), "features"),
        (("privacy={noise_multiplier: 1.0}",), "no private form"),
    ],
)
def test_what_does_not_go_is_one_error(
    words: tuple[str, ...], told: str, run_small: Callable[..., Result]
) -> None:
    with pytest.raises(InputError, match=told):
        run_small(*words)


def test_what_a_run_would_cost_is_told(tmp_path: Path) -> None:
    # Its state between rounds holds tensors, which the estimate of the disk counts, too.
    path = tmp_path / "creff.yaml"
    path.write_text(SMALL)
    assert estimate(load(path), 0, Console(quiet=True)).disk_mb > 0
