"""Fed-MAS through the engine: what travels, how replies count, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors.numpy import load_file

from fedsim import InputError, Result, RunError, run
from fedsim.engine.assembly import buffers_of
from fedsim.strategies.fed_mas import FedMAS
from fedsim.wire import pack_state, tensor_record, tensors
from tests.engine.test_bits import assert_same
from tests.strategies.quadratics import SILENT_AVERAGE

SMALL = """\
name: mas
rounds: 2
data:
  name: ham10000
  task: diagnosis
  size: 16
  embedded: {images: 160, sites: 1}
  features: {network: cnn, public: 0, beside: true}
federation: {clients: 3, partition: iid}
model: {name: projected, network: {name: cnn, width: 4}, dimensions: 128, hidden: 16}
strategy: {name: fed_mas}
client: {name: fed_mas, batch_size: 8}
resources: {backend: inline, workers: 2}
"""


@pytest.fixture
def run_small(tmp_path: Path) -> Callable[..., Result]:
    path = tmp_path / "mas.yaml"
    path.write_text(SMALL)

    def go(*overrides: str, **options: Any) -> Result:
        return run(path, *overrides, runs=tmp_path / "runs", **options)

    return go


def test_the_same_bits_on_ray(run_small: Callable[..., Result]) -> None:
    one = run_small()
    assert_same(one, run_small(backend="ray"))
    reported = json.loads((one.folder / "rounds.jsonl").read_text().splitlines()[0])
    factors = [found["rescue-factor"] for found in reported["metrics_by_client"].values()]
    assert len(set(factors)) == 3
    assert all(0 < factor < 7 * 16 for factor in factors)
    # The numbers of the classes stay at the client.
    assert {key for found in reported["metrics_by_client"].values() for key in found} == {
        "loss",
        "num-examples",
        "rescue-factor",
    }


def test_without_alignment_it_is_the_balanced_softmax(run_small: Callable[..., Result]) -> None:
    root = Path(__file__).parents[2]
    mas = run_small("client.alignment=0", SILENT_AVERAGE, f"plugins=[{root}]")
    plain = run_small("client={name: long_tail, batch_size: 8}", "strategy.name=fedavg",
                      "strategy.weighting=uniform")  # fmt: skip
    left, right = (load_file(one.folder / "model.safetensors") for one in (mas, plain))
    assert all(np.array_equal(left[name], right[name]) for name in left)


def test_a_client_that_diverges_is_named_and_its_classes_are_not(
    run_small: Callable[..., Result],
) -> None:
    with pytest.raises(RunError, match="its training diverged") as stopped:
        run_small("client.learning_rate=1e20")
    assert "Distances" not in str(stopped.value)


def reply(value: float, factor: object) -> Any:
    metrics = MetricRecord({"num-examples": 5})
    if factor is not None:
        metrics["rescue-factor"] = factor  # type: ignore[assignment]
    content = RecordDict(
        {"arrays": tensor_record({"w": np.full(2, value, np.float32)}), "metrics": metrics}
    )
    return SimpleNamespace(content=content)


def combined(*replies: Any) -> float:
    strategy = FedMAS()
    strategy.content(1, tensor_record({"w": np.zeros(2, np.float32)}), ConfigRecord())
    arrays, _ = strategy.aggregate_train(1, replies)
    assert isinstance(arrays, ArrayRecord)
    return float(tensors(arrays)["w"][0])


def test_replies_count_by_their_factors() -> None:
    assert combined(reply(1.0, 0.88), reply(2.0, 1.48)) == pytest.approx(1.6271186)
    # Factors of 0 count nothing beside others, and alike among themselves.
    assert combined(reply(1.0, 0.0), reply(2.0, 1.48)) == pytest.approx(2.0)
    assert combined(reply(1.0, 0.0), reply(2.0, 0.0)) == pytest.approx(1.5)
    # Identical clients: their model.
    assert combined(reply(3.0, 0.2), reply(3.0, 0.7)) == pytest.approx(3.0)


def test_running_statistics_count_by_the_same_factors() -> None:
    model = torch.nn.BatchNorm1d(2)
    buffers = buffers_of(model, FedMAS(), None)
    buffers.begin(pack_state(model.state_dict()))
    for value, factor in ((1.0, 0.88), (2.0, 1.48)):
        content = reply(value, factor).content
        torch.nn.init.constant_(model.running_mean, value)
        content["arrays"] = pack_state(model.state_dict())
        buffers.take(content)
    found = tensors(buffers.restored(ArrayRecord()))
    assert found["running_mean"] == pytest.approx([1.6271186] * 2)


@pytest.mark.parametrize("factor", [-0.1, float("nan"), float("inf")])
def test_a_factor_that_is_none_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="rescue-factor"):
        combined(reply(1.0, factor))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("model={name: cnn, width: 4}",), "needs a model that gives logits and projections"),
        (("model.dimensions=127",), "type model.dimensions=128"),
        (("data.features=null",), "there are none"),
        (("model.network=unet",), "cannot be constructed|no parts|unet"),
        (("client.normalise=both",), "paper"),
        (("resources.precision=bfloat16",), "trains in float32 alone"),
        (("client={name: supervised, batch_size: 8}",), "with 'fed_mas' type client=fed_mas"),
    ],
)
def test_what_does_not_go_is_one_error(
    words: tuple[str, ...], told: str, run_small: Callable[..., Result]
) -> None:
    with pytest.raises(InputError, match=told):
        run_small(*words)
