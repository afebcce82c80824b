"""Buffers are not weights: with all strategies and codecs, by name and by Flower's paths."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flwr.serverapp.strategy as flower_strategies
import numpy as np
import pytest
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from safetensors.numpy import load_file

from fedsim import InputError, Result
from tests.plugins.odd_models import BEYOND_FLOAT32

SMALL = (
    "data.embedded={images: 90, sites: 3}",
    "data.split={val: 0, test: 0.3}",
    "federation.clients=3",
    "federation.partition=iid",
    "model={name: odd_models.Odd}",
)

AVERAGING = [
    *("Bulyan", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedMedian", "FedProx"),
    *("FedTrimmedAvg", "FedYogi", "Krum", "MultiKrum", "QFedAvg"),
]
REFUSED = {
    "DifferentialPrivacyClientSideAdaptiveClipping": "privacy ledger",
    "DifferentialPrivacyClientSideFixedClipping": "privacy ledger",
    "DifferentialPrivacyServerSideAdaptiveClipping": "privacy ledger",
    "DifferentialPrivacyServerSideFixedClipping": "privacy ledger",
    "FedXgbBagging": "boosted trees",
    "FedXgbCyclic": "boosted trees",
}

OURS = [
    "{name: fedavg}",
    "{name: fedavg, codec: float16}",
    "{name: fedavg, codec: uint8, weighting: uniform}",
    "{name: server_momentum, momentum: 0.99, learning_rate: 5.0}",
    "{name: server_momentum, momentum: 0.9, codec: uint8}",
]


def model_of(result: Result) -> dict[str, np.ndarray]:
    return load_file(result.folder / "model.safetensors")


def lines(result: Result, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.folder / name).read_text().splitlines()]


def require_right_buffers(model: dict[str, np.ndarray]) -> None:
    assert model["table"].dtype == model["count"].dtype == np.int64
    assert model["table"].tolist() == [BEYOND_FLOAT32, 3]
    assert model["count"].tolist() == BEYOND_FLOAT32
    assert model["mask"].dtype == np.bool_
    assert model["mask"].tolist() == [True, False]
    assert model["cover"].tolist() == [0.0, -np.inf]
    assert model["precise"].dtype == np.float64
    assert model["precise"].tolist() == [1 / 3]
    assert model["temperature"].shape == model["count"].shape == ()
    assert model["norm.running_var"].dtype == np.float32
    assert (model["norm.running_var"] > 0).all()
    assert not np.array_equal(model["norm.running_mean"], np.zeros(8)), "it was never averaged"


def test_the_lists_name_all_of_flowers_strategies() -> None:
    found = {
        name
        for name, kind in inspect.getmembers(flower_strategies, inspect.isclass)
        if issubclass(kind, FlowerStrategy) and kind is not FlowerStrategy
    }
    assert found == {*AVERAGING, *REFUSED}


@pytest.mark.parametrize("name", AVERAGING)
def test_flowers_strategies_run_by_path_with_their_defaults(
    name: str, run_tiny: Callable[..., Result]
) -> None:
    result = run_tiny(*SMALL, f"strategy=flwr.serverapp.strategy.{name}")
    assert len(result.rounds) == 2
    require_right_buffers(model_of(result))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mean_of_weights_is_refused_with_the_reason(
    name: str, run_tiny: Callable[..., Result]
) -> None:
    with pytest.raises(InputError) as caught:
        run_tiny(f"strategy=flwr.serverapp.strategy.{name}")
    assert REFUSED[name] in str(caught.value)
    assert "type strategy.name=fedavg" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


def test_qfedavg_learns_the_rate_and_the_name_of_the_loss(run_tiny: Callable[..., Result]) -> None:
    name = "strategy={name: flwr.serverapp.strategy.QFedAvg, q: 0.0, client_learning_rate: 0.5}"
    far = run_tiny(*SMALL, name, "client.learning_rate=0.02", "rounds=1")
    path = "strategy={name: flwr.serverapp.strategy.QFedAvg, q: 0.0}"
    same = run_tiny(*SMALL, path, "client.learning_rate=0.02", "rounds=1")
    # Without fairness the learning rate cancels out, up to rounding.
    np.testing.assert_allclose(
        model_of(far)["head.weight"], model_of(same)["head.weight"], rtol=1e-5, atol=1e-7
    )
    with pytest.raises(InputError, match="training losses"):
        run_tiny(path, "privacy={noise_multiplier: 2.0}", "client.class_balanced=false")


@pytest.mark.parametrize("strategy", OURS)
def test_buffers_keep_their_types_their_values_and_their_sign(
    strategy: str, run_tiny: Callable[..., Result]
) -> None:
    result = run_tiny(*SMALL, f"strategy={strategy}", "client.learning_rate=0.001", "rounds=3")
    require_right_buffers(model_of(result))


def test_running_statistics_are_the_clients_weighted_means(run_tiny: Callable[..., Result]) -> None:
    """Server momentum moves weights along a sum, and leaves statistics to the mean."""
    words = (*SMALL, "rounds=1", "client.learning_rate=1e-30")
    fast = "strategy={name: server_momentum, learning_rate: 9.0}"
    plain, extrapolated = (model_of(run_tiny(*words, word)) for word in ("strategy=fedavg", fast))
    for name in ("norm.running_mean", "norm.running_var"):
        assert np.array_equal(plain[name], extrapolated[name])


def test_integers_travel_down_once_and_never_up(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny(*SMALL, "evaluation.on_clients=true", "federation.participation=0.67")
    model = model_of(result)
    integers = sum(a.nbytes for a in model.values() if a.dtype.kind in "ib")
    rest = sum(a.nbytes for a in model.values()) - integers
    assert integers == 2 * 8 + 2 + 8
    seen: set[int] = set()
    for row in lines(result, "traffic.jsonl"):
        arrays = row["fields"].get("arrays")
        if row["direction"] == "down":
            assert arrays == rest + integers * (row["client"] not in seen)
            seen.add(row["client"])
        elif arrays is not None:
            assert arrays == rest
    assert seen == {0, 1, 2}


def test_ray_gives_the_same_bits_as_one_process(run_tiny: Callable[..., Result]) -> None:
    inline, ray = (model_of(run_tiny(*SMALL, backend=b)) for b in ("inline", "ray"))
    assert inline.keys() == ray.keys()
    for name in inline:
        assert np.array_equal(inline[name], ray[name]), name


def test_a_model_starts_the_next_run_as_it_is(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    from safetensors.numpy import save_file

    first = run_tiny(*SMALL, "rounds=1")
    path = first.folder / "model.safetensors"
    still = ("rounds=1", "client.learning_rate=1e-30")
    again = run_tiny(*SMALL[:-1], f"model={{name: odd_models.Odd, init: {path}}}", *still)
    assert model_of(again)["temperature"].tolist() == model_of(first)["temperature"].tolist()

    rounded = model_of(first)
    rounded["table"] = rounded["table"].astype(np.float32)
    del rounded["norm.running_var"]
    save_file(rounded, tmp_path / "rounded.safetensors")
    with pytest.raises(InputError) as caught:
        run_tiny(f"model={{name: odd_models.Odd, init: {tmp_path / 'rounded.safetensors'}}}")
    assert "'table' is float32 where the model has integers" in str(caught.value)
    assert "missing 'norm.running_var'" in str(caught.value)


def test_gdd_and_local_only_train_a_model_with_buffers(run_tiny: Callable[..., Result]) -> None:
    from .conftest import GDD

    distilled = model_of(run_tiny(*GDD, *SMALL))
    steps = distilled["count"] - BEYOND_FLOAT32
    assert steps == 2, "the server's own training counts: two epochs of one batch"
    require_right_buffers(distilled | {"count": distilled["count"] - steps})
    alone = run_tiny(*SMALL, "strategy=local_only", "client=local", "rounds=1")
    assert alone.metrics["auc"] is not None


CLIENT_LEVEL = (
    "strategy.weighting=uniform",
    "privacy={noise_multiplier: 2.0, unit: client, max_grad_norm: 0.5}",
)


@pytest.mark.parametrize(
    ("model", "where"),
    [("Odd", "norm: BatchNorm2d keeps running statistics"), ("Remembers", "scale: a buffer that")],
)
def test_client_level_privacy_refuses_what_learns_beside_parameters(
    model: str, where: str, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        run_tiny(*SMALL[:-1], *CLIENT_LEVEL, f"model=odd_models.{model}")
    assert where in str(caught.value)
    assert not list((tmp_path / "runs").rglob("privacy.jsonl")), "something was charged"


def test_client_level_noise_is_on_trained_parameters_alone(run_tiny: Callable[..., Result]) -> None:
    words = (*SMALL[:-1], "model=odd_models.Still", "client.learning_rate=1e-30", "rounds=1")
    still = model_of(run_tiny(*words, CLIENT_LEVEL[0]))
    noisy = model_of(run_tiny(*words, *CLIENT_LEVEL))
    untouched = {"frozen.weight", "frozen.bias", "table", "scale"}
    for name, value in still.items():
        assert noisy[name].dtype == value.dtype
        assert noisy[name].shape == value.shape
        assert np.array_equal(noisy[name], value) == (name in untouched), name


def test_qfedavg_wants_one_rate_of_all_clients(run_tiny: Callable[..., Result]) -> None:
    name = "strategy={name: flwr.serverapp.strategy.QFedAvg, q: 0.0}"
    own = "federation.overrides={client-1: {client: {learning_rate: 0.5}}}"
    with pytest.raises(InputError, match="one client_learning_rate for all clients, but client-1"):
        run_tiny(name, own)
    run_tiny(f"{name[:-1]}, client_learning_rate: 0.1}}", own)


@pytest.mark.parametrize("name", ["fedavg", "server_momentum", "flwr.serverapp.strategy.QFedAvg"])
def test_an_app_of_another_library_gets_and_sends_whole_states(
    name: str, run_tiny: Callable[..., Result]
) -> None:
    own = ", client_learning_rate: 1.0" if name.endswith("QFedAvg") else ""
    words = (*SMALL[:-1], "model=odd_models.Still", "client=odd_models:foreign")
    result = run_tiny(*words, f"strategy={{name: '{name}'{own}}}")
    model = model_of(result)
    assert model["table"].dtype == np.int64
    assert model["table"].tolist() == [BEYOND_FLOAT32, 3]
    assert model["scale"].tolist() == [1.0], "the mean of 0.5 + 2 x 0.25, however it is weighted"
    up = [r["fields"]["arrays"] for r in lines(result, "traffic.jsonl") if r["direction"] == "up"]
    assert set(up) == {4 * sum(a.size for a in model.values() if a.dtype.kind == "f")}
