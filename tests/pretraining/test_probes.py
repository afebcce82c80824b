"""Probes of frozen features: golden numbers, classes that are missing, and the verb."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedsim.cli import main
from fedsim.pretraining.probes import logistic_regression, nearest_neighbours, penalty

WORDS = (
    "isic_noniid_fedavg",
    "data={name: ham10000, size: 8, embedded: {images: 150, sites: 3}}",
    "federation.clients=3",
    "model=linear",
    "client.augment=none",
)
FEATURES = "data.features={network: convnet, whiten: 0, public: 0}"


def test_all_neighbours_give_the_prior() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((10, 3)).astype(np.float32)
    labels = np.array([0] * 7 + [2] * 3)
    for neighbours in (10, 50):
        found = nearest_neighbours(vectors, labels, vectors[:4], 3, neighbours)
        assert found == pytest.approx(np.tile([0.7, 0.0, 0.3], (4, 1)))
        assert found.dtype == np.float32


def test_neighbours_golden() -> None:
    vectors = np.array([[0.0], [1], [2], [10]], np.float32)
    labels = np.array([0, 1, 1, 0])
    asked = np.array([[0.9], [9]], np.float32)
    assert nearest_neighbours(vectors, labels, asked, 2, 1).tolist() == [[0, 1], [1, 0]]
    assert nearest_neighbours(vectors, labels, asked, 2, 3)[0] == pytest.approx([1 / 3, 2 / 3])


def test_the_penalty_golden() -> None:
    assert penalty(384, 9) == pytest.approx(0.0289352, rel=1e-5)
    assert 1 / penalty(384, 9) == pytest.approx(34.56)


def test_logistic_regression_is_at_its_minimum() -> None:
    """At the minimum the penalty's slope is that of the losses: lambda w = sum of (y - p) x."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    vectors = (rng.standard_normal((60, 4)) + labels[:, None]).astype(np.float32)
    step = np.concatenate([np.zeros((1, 4)), np.eye(4)]).astype(np.float32)
    odds = logistic_regression(vectors, labels, step, 2).astype(np.float64)
    logits = np.log(odds[:, 1] / odds[:, 0])
    weights = logits[1:] - logits[0]
    p = 1 / (1 + np.exp(-(vectors @ weights + logits[0])))
    slope = (labels - p) @ vectors
    assert slope == pytest.approx(penalty(4, 2) * weights, abs=0.02)
    assert (labels - p).sum() == pytest.approx(0, abs=0.02)


def test_a_class_that_was_not_there_to_learn_from_has_no_probability() -> None:
    vectors = np.eye(4, dtype=np.float32)
    found = logistic_regression(vectors, np.array([0, 0, 2, 2]), vectors, 4)
    assert (found[:, [1, 3]] == 0).all()
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", *WORDS, FEATURES]) == 0
    out = capsys.readouterr().out
    assert "centralised upper reference" in out
    assert "20 nearest neighbours; " in out
    assert "lambda = 100 / (128 numbers * 2 classes) = 0.3906, scikit-learn's C = 2.56" in out
    external = ("evaluation.external={sites: [site-2]}", "data.split.fraction=0.5")
    found = []
    for more in ((), external, external):
        assert main(["probe", *WORDS, FEATURES, *more, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    alone, outside, again = found
    assert outside == again
    assert alone["external"] is None
    assert [one["name"] for one in alone["probes"]] == ["knn", "linear"]
    assert all(one["external"] is None for one in alone["probes"])
    assert all(0 <= one["external"]["auc"] <= 1 for one in outside["probes"])
    assert outside["sizes"]["train"] < 0.6 * alone["sizes"]["train"]


def test_a_scenario_without_features_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "isic_noniid_fedavg", WORDS[1]]) == 2
    error = capsys.readouterr().err
    assert "no data.features" in error
    assert "data.features=dinov2_vits14" in error


def test_a_pretrained_backbone_is_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--count=20", "--size=8", "--epochs=1", "--out=b.safetensors", "-q")
    assert main(["pretrain", *words]) == 0
    features = FEATURES.replace("convnet", "convnet, weights: b.safetensors")
    scores = []
    for one in (FEATURES, features):
        assert main(["probe", *WORDS, one, "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[1]["features"]["weights_sha256"]
    assert scores[0]["probes"] != scores[1]["probes"]
