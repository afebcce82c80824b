"""Runs that learn by statistics of features: exact, odd, hostile and private ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.linear_model import Ridge

from fedsim import InputError, Result, RunError
from fedsim.engine.prepare import prepare
from fedsim.federation.building import build_federation
from fedsim.models.build import build_model, first_arrays
from fedsim.privacy.secure_sum import masked_bytes
from fedsim.report.text import closing_lines
from fedsim.scenario import load
from fedsim.statistics import Layout, head_inputs, head_of, statistics_bytes
from fedsim.wire import load_state

SIZE, CLASSES = 32, 2  # of the head of a convnet of width 8 at 16 pixels

Run = Callable[..., Result]


def method(name: str, *more: str) -> tuple[str, ...]:
    return (
        "rounds=1",
        "model={name: convnet, width: 8}",
        f"strategy={name}",
        f"client={name}",
        *more,
    )


def private(*more: str) -> tuple[str, ...]:
    keys = ", ".join(["target_epsilon: 4.0", "delta: 1e-3", "unit: record", *more])
    return (f"privacy={{{keys}}}",)


def head(result: Result) -> tuple[np.ndarray, np.ndarray]:
    found = load_file(result.folder / "model.safetensors")
    return found["classifier.weight"], found["classifier.bias"]


def lines(result: Result, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.folder / name).read_text().splitlines()]


def told(result: Result, name: str = "run.json") -> dict[str, Any]:
    return json.loads((result.folder / name).read_text())


def vectors(tiny: Path, *overrides: str) -> tuple[np.ndarray, np.ndarray]:
    """What the first model's head sees of all training records, and their labels."""
    scenario = load(tiny, list(overrides))
    federation = build_federation(scenario, 0)
    model = build_model(scenario, federation.task)
    load_state(model, first_arrays(scenario, federation.task, 0))
    view = federation.view("train")
    found = head_inputs(model, view.images, np.arange(len(view)), torch.device("cpu"))
    return found, view.labels.numpy()


# --- exact ------------------------------------------------------------------------------------


def test_ridge_from_sums_is_ridge_on_all_records(run_tiny: Run, tiny: Path) -> None:
    asked = method("feature_gram", "strategy.codec=float64", "strategy.penalty=0.5")
    asked += ("strategy.balance=false",)
    apart = run_tiny(*asked)
    together = run_tiny(*asked, "federation.clients=1")
    for one, other in zip(head(apart), head(together), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * np.abs(other).max())
    found, labels = vectors(tiny, *asked)
    theirs = Ridge(alpha=0.5).fit(found, np.eye(2)[labels])
    weight, bias = head(apart)
    # Logits are those of least squares times one number.
    scale = float((weight * theirs.coef_).sum() / np.square(theirs.coef_).sum())
    expected = scale * theirs.coef_
    np.testing.assert_allclose(weight, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(bias, scale * theirs.intercept_, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["feature_means", "feature_gaussians"])
def test_the_partition_changes_nothing(run_tiny: Run, name: str) -> None:
    asked = method(name, "strategy.codec=float64")
    apart, together = run_tiny(*asked), run_tiny(*asked, "federation.clients=2")
    for one, other in zip(head(apart), head(together), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
    alone = run_tiny(*asked, *(["strategy.pooled=false"] if name == "feature_gaussians" else []))
    same = np.allclose(head(alone)[0], head(apart)[0])
    assert same == (name == "feature_means")


def test_the_rest_of_the_model_is_the_first_one(run_tiny: Run, tiny: Path) -> None:
    result = run_tiny(*method("feature_gram"))
    scenario = load(tiny, list(method("feature_gram")))
    federation = build_federation(scenario, 0)
    first = build_model(scenario, federation.task)
    load_state(first, first_arrays(scenario, federation.task, 0))
    found = load_file(result.folder / "model.safetensors")
    state = first.state_dict()
    assert found.keys() == state.keys()
    changed = {name for name in found if not np.array_equal(found[name], state[name].numpy())}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert head_of(first) is first.classifier


# --- on the wire ------------------------------------------------------------------------------

LAYOUTS = {
    "feature_means": Layout(SIZE, CLASSES),
    "feature_gram": Layout(SIZE, CLASSES, "full"),
    "feature_gaussians": Layout(SIZE, CLASSES, "full", True),
}


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("feature_means", "float32"),
        ("feature_gram", "float64"),
        ("feature_gram", "float16"),
        ("feature_gaussians", "uint8"),
    ],
)
def test_bytes_are_those_of_the_formula(run_tiny: Run, name: str, codec: Any) -> None:
    result = run_tiny(*method(name, f"strategy.codec={codec}"))
    sent = [line for line in lines(result, "traffic.jsonl") if line["direction"] == "up"]
    assert len(sent) == 4
    payload = sum(line["fields"]["statistics"] for line in sent)
    assert payload == statistics_bytes(4, LAYOUTS[name], codec)
    down = [line for line in lines(result, "traffic.jsonl") if line["direction"] == "down"]
    assert {name for line in down for name in line["fields"]} == {"config"}
    assert told(result)["released_without_privacy"][0].startswith("sums of the site's feature")


# --- odd and hostile --------------------------------------------------------------------------


def test_a_client_that_fails_is_left_out(run_tiny: Run) -> None:
    result = run_tiny(*method("feature_gram"), "faults.on_client_error=skip", "faults.dropout=0.5")
    assert result.summary["failed"] > 0
    assert result.summary["metrics"]["auc"] is not None


@pytest.mark.parametrize("name", ["feature_means", "feature_gram", "feature_gaussians"])
def test_sites_of_one_class_and_few_records(run_tiny: Run, name: str) -> None:
    few = "{name: dirichlet, alpha: 0.3, min_samples: 1, min_classes: 1}"
    result = run_tiny(*method(name), f"federation={{clients: 16, partition: {few}}}")
    assert np.isfinite(head(result)[0]).all()
    assert np.isfinite(head(result)[1]).all()


def test_a_model_whose_head_is_not_one_linear_layer_is_refused(
    run_tiny: Run, tmp_path: Path
) -> None:
    (tmp_path / "headless.py").write_text(
        "from torch import nn\n"
        "class Deep(nn.Module):\n"
        "    made_for, head = 'images', 'last'\n"
        "    def __init__(self, num_classes, in_channels, image_size):\n"
        "        super().__init__()\n"
        "        wide = in_channels * image_size ** 2\n"
        "        self.last = nn.Sequential(nn.Linear(wide, 4), nn.Linear(4, num_classes))\n"
        "    def forward(self, x):\n        return self.last(x.flatten(1))\n"
    )
    plugins = f"plugins=[{tmp_path}]"
    with pytest.raises(InputError, match=r"the head of Deep is 'last' \(Sequential\)"):
        run_tiny(*method("feature_gram"), plugins, "model={name: headless.Deep}")


HOSTILE = """
import numpy as np
from flwr.app import ConfigRecord
from fedsim.clients.feature_statistics import FeatureGram
from fedsim.wire import tensor_record, tensors

class Hostile(FeatureGram):
    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how

    def train(self, content, site):
        reply = super().train(content, site)
        sent = dict(tensors(reply["statistics"]))
        if self.how == "shape":
            sent["second"] = sent["second"][:-1]
        if self.how == "nan":
            sent["sums"] = np.full_like(sent["sums"], np.nan)
        if self.how == "counts":
            sent["counts"] = sent["counts"] + 1e6
        if self.how == "missing":
            del sent["sums"]
        if self.how == "noise":
            reply["noise"] = ConfigRecord({"second": "loud"})
        reply["statistics"] = tensor_record(sent)
        return reply
"""


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("shape", r"site 'client-1' sent second of shape \(527,\); expected \(528,\)"),
        ("nan", "'client-1'.*NaN or infinite in sums"),
        ("counts", "site 'client-1' sent counts of classes that do not add up"),
        ("missing", "site 'client-1' sent no array 'sums'"),
        ("noise", "site 'client-1' sent could not convert"),
    ],
)
def test_a_hostile_client_is_named(run_tiny: Run, tmp_path: Path, how: str, says: str) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    override = (
        f"federation.overrides={{client-1: {{client: {{name: hostile.Hostile, how: {how}}}}}}}"
    )
    with pytest.raises(RunError, match=says):
        run_tiny(*method("feature_gram"), f"plugins=[{tmp_path}]", override)


# --- private ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["feature_means", "feature_gram", "feature_gaussians"])
def test_one_release_of_all_records_at_the_exact_epsilon(run_tiny: Run, name: str) -> None:
    result = run_tiny(*method(name), *private("max_epsilon: 4.0", "expected_batch: 7"))
    planned, rows = told(result)["privacy"], lines(result, "privacy.jsonl")
    assert {(row["sample_rate"], row["steps"]) for row in rows} == {(1.0, 1)}
    assert planned["accountants"]["epsilon_planned"] == result.summary["accountant"] == "analytic"
    assert 4 * (1 - 1e-8) < result.summary["epsilon"] <= 4
    assert result.summary["trust"] == "own_noise"
    assert result.summary["trust_note"] is result.summary["masked_sum_mb"] is None
    assert not [one for one in told(result)["released_without_privacy"] if "sums of" in one]
    assert np.isfinite(head(result)[0]).all()


def test_little_noise_gives_what_none_gives(run_tiny: Run) -> None:
    asked = ("strategy.codec=float64", "client.norm=100", "strategy.penalty=0.5")
    asked = (*method("feature_gram", *asked), "strategy.balance=false")
    exact = head(run_tiny(*asked))[0]
    little = "privacy={noise_multiplier: 0.001, delta: 1e-3, unit: record}"
    near = head(run_tiny(*asked, little, "client.norm=1"))[0]
    cosine = (near * exact).sum() / np.linalg.norm(near) / np.linalg.norm(exact)
    assert cosine > 0.5


def test_a_patient_is_one_unit(run_tiny: Run) -> None:
    asked = (*method("feature_gram"), "privacy={target_epsilon: 4.0, delta: 1e-3}")
    result = run_tiny(*asked)
    clients = told(result)["privacy"]["clients"].values()
    records = told(result)["data"]["sizes"]["train"]
    assert result.summary["unit"] == "patient"
    assert sum(one["units"] for one in clients) < records
    assert {(one["sample_rate"], one["steps"]) for one in clients} == {(1.0, 1)}


def test_private_runs_repeat_to_the_bit(run_tiny: Run) -> None:
    asked = (*method("feature_gaussians"), *private())
    first, again = head(run_tiny(*asked)), head(run_tiny(*asked))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_shared_noise_is_told_wherever_epsilon_is(run_tiny: Run) -> None:
    result = run_tiny(*method("feature_gram"), *private("trust: secure_sum"))
    note = "holds only if all of them are honest"
    planned, summary = told(result)["privacy"], result.summary
    assert planned["trust"] == summary["trust"] == result.rounds[-1]["trust"] == "secure_sum"
    assert note in planned["trust_note"]
    assert note in summary["trust_note"]
    assert summary["masked_sum_mb"] == masked_bytes(4, LAYOUTS["feature_gram"].numbers) / 1e6
    closing = "\n".join(closing_lines(summary, result.folder, result.folder))
    assert note in closing
    assert "if the sum is masked, which would take" in closing
    page = (result.folder / "report" / "index.html").read_text()
    assert "Each client adds a share of the noise. Epsilon is of the sum of all 4 clients" in page


def test_shared_noise_has_half_the_deviation_of_own_noise(tiny: Path) -> None:
    plans = [
        prepare(load(tiny, [*method("feature_gram"), *private(f"trust: {trust}")]), 0).privacy
        for trust in ("own_noise", "secure_sum")
    ]
    own, shared = (next(iter(plan.clients.values())) for plan in plans if plan)
    assert own.entry == shared.entry
    assert shared.mechanism.deviation == pytest.approx(own.mechanism.deviation / 2)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["strategy.codec=uint8"], "with strategy.codec=uint8 each client rounds"),
        (["federation.participation=0.5"], "does not go with federation.participation=0.5"),
        (["faults.on_client_error=skip"], "does not go with faults.on_client_error=skip"),
        (["faults.dropout=0.1"], "does not go with faults.dropout=0.1"),
        (["faults.deadline=3.0", "faults.delay=1.0"], "does not go with faults.deadline"),
        (["privacy.on_budget=drop_client"], "does not go with privacy.on_budget=drop_client"),
        (["privacy.audit=run"], "does not go with privacy.audit=run"),
        (["privacy.unit=client"], "does not go with privacy.unit=client"),
        (
            ["federation.overrides.client-1.client.norm=0.001"],
            r"does not go with federation.overrides.client-1.client",
        ),
        (
            ["federation.overrides.client-1.wrapper.name=poison_update"],
            r"does not go with federation.overrides.client-1.wrapper",
        ),
        (
            ["strategy=fedavg", "client={name: supervised, class_balanced: false}"],
            "'supervised' does not declare that",
        ),
        (
            ["strategy=feature_gaussians", "client=feature_gaussians", "strategy.pooled=false"],
            "with strategy.pooled=false each client has its Gaussians",
        ),
    ],
)
def test_shared_noise_is_refused_where_it_would_not_do(
    tiny: Path, overrides: list[str], says: str
) -> None:
    asked = [*method("feature_gram"), *private("trust: secure_sum"), *overrides]
    with pytest.raises(InputError, match=says):
        prepare(load(tiny, asked), 0)


def test_a_filter_does_not_go_with_sums(tiny: Path) -> None:
    asked = [*method("feature_gram"), *private("filter: {reference: private}")]
    with pytest.raises(InputError, match="'feature_gram' sends sums over all of them"):
        prepare(load(tiny, asked), 0)


def test_the_bytes_of_a_masked_sum() -> None:
    # Two keys; two sealed shares for each other client; 36 bits a coordinate; a share of each.
    each = 64 + 9 * 92 + 75_000 * 36 // 8 + 10 * 32
    assert masked_bytes(10, 75_000) == 10 * each
    assert masked_bytes(1, 8) == 64 + 32 + 32
