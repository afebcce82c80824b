"""The mean of the products is not the product of the means; factored again it is the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st

from fedsim import InputError
from fedsim.adapters import factor_pairs, factored, product
from fedsim.method import Received
from fedsim.strategies.fedavg import FedAvg
from fedsim.strategies.lora_svd import LoRASVD
from fedsim.wire import tensor_record

A, B, HEAD = "body.lora_a.weight", "body.lora_b.weight", "head.weight"


def client(seed: int, weight: float = 1.0, rank: int = 2) -> Received:
    rng = np.random.default_rng(seed)
    shapes = {A: (rank, 3, 3, 3), B: (8, rank, 1, 1), HEAD: (2, 8)}
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return Received(weight, drawn)


def begun(strategy: FedAvg, sent: dict[str, Any]) -> FedAvg:
    strategy.content(1, tensor_record(sent), ConfigRecord({}))
    return strategy


def test_golden_numbers_of_two_clients() -> None:
    # Client 0 trained B A = [[1]], client 1 the same by factors of the other sign.
    one, other = np.array([[1.0]]), np.array([[-1.0]])
    assert product((one + other) / 2, (one + other) / 2) == 0, "the means of the factors cancel"
    mean = (product(one, one) + product(other, other)) / 2
    a, b = factored(mean, 1)
    assert (a, b) == (1.0, 1.0)


def test_averaging_factors_leaves_a_gap_that_averaging_products_closes() -> None:
    clients = [client(0, 3.0), client(1, 1.0)]
    mean = (3 * product(clients[0].arrays[A], clients[0].arrays[B])
            + product(clients[1].arrays[A], clients[1].arrays[B])) / 4  # fmt: skip
    plain = begun(FedAvg(), clients[0].arrays).combine(clients)
    svd = begun(LoRASVD(), clients[0].arrays).combine(clients)
    gap = np.linalg.norm(product(plain[A], plain[B]) - mean)
    left = np.linalg.norm(product(svd[A], svd[B]) - mean)
    # Eckart & Young: what is lost are the smaller singular values.
    tail = np.linalg.svd(mean, compute_uv=False)[2:]
    assert left == pytest.approx(np.sqrt(np.square(tail).sum()), rel=1e-6)
    assert left < 0.7 * gap
    assert np.array_equal(svd[HEAD], plain[HEAD]), "all else is averaged as ever"
    assert {n: v.shape for n, v in svd.items()} == {n: v.shape for n, v in plain.items()}


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_no_factors_of_the_rank_are_nearer(seed: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    change = rng.normal(size=(6, 5))
    a, b = factored(change, rank)
    best = np.linalg.norm(product(a, b) - change)
    for _ in range(5):
        near_a, near_b = (v + 0.1 * rng.normal(size=v.shape) for v in (a, b))
        assert best <= np.linalg.norm(product(near_a, near_b) - change)
    assert np.allclose(a @ a.T, np.eye(rank)), "rows of length 1"


@given(st.integers(0, 10_000))
def test_a_product_of_the_rank_comes_back_and_factors_are_the_same_whoever_made_it(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 5)), rng.normal(size=(6, 2))
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    found = factored(product(a, b), 2)
    assert np.allclose(product(*found), product(a, b))
    again = factored(product(turn.T @ a, b @ turn), 2)
    assert all(np.allclose(x, y, atol=1e-6) for x, y in zip(found, again, strict=True))
    assert (found[0][np.arange(2), np.abs(found[0]).argmax(1)] > 0).all()


def test_what_nobody_trained_can_still_be_trained() -> None:
    a, b = factored(np.zeros((4, 6)), 2)
    assert not b.any()
    assert np.allclose(np.linalg.norm(a, axis=1), 1.0)


def test_changes_are_averaged_as_the_models_that_they_make() -> None:
    sent = client(9).arrays
    models = [client(0, 3.0), client(1, 1.0)]
    changes = [
        Received(one.weight, {n: v - sent[n] for n, v in one.arrays.items()}, sent)
        for one in models
    ]
    whole = begun(LoRASVD(), sent).combine(models)
    moved = begun(LoRASVD(codec="float16"), sent).combine(changes)
    for name, value in whole.items():
        assert np.allclose(moved[name] + sent[name], value, atol=1e-5), name


def test_pairs_are_those_of_which_both_travel() -> None:
    assert factor_pairs([B, HEAD, A, "x.lora_a.weight", "y.lora_b.weight"]) == [(A, B)]
    assert LoRASVD.linear is False, "no noise on a sum covers it"


def test_without_pairs_there_is_nothing_to_do() -> None:
    class Roles:
        order = (B, HEAD)

    class Server:
        roles = Roles()

    with pytest.raises(InputError) as refused:
        LoRASVD().setup(Server())  # type: ignore[arg-type]
    assert "model.adapter=lora" in refused.value.hint
    assert "strategy.name=fedavg" in refused.value.hint
