"""What a private run says that no mechanism covers: each entry exactly when it applies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save

from fedsim import Result
from fedsim.engine.disclosures import released_without_privacy
from fedsim.engine.privacy import privacy_plan, with_unit
from fedsim.federation.building import build_federation
from fedsim.method.client import Task
from fedsim.models.build import first_arrays
from fedsim.scenario import activate_plugins, load
from tests.engine.conftest import TINY, run_tiny, tiny  # noqa: F401

RECORDS = (
    "client={name: supervised, class_balanced: false, steps: 3}",
    "privacy={noise_multiplier: 1.0, expected_batch: 16, delta: 1e-3}",
)
CLIENTS = ("strategy.weighting=uniform", "privacy={noise_multiplier: 2.0, unit: client}")
DISTILLED = (
    "rounds=1",
    "strategy={name: gdd, epochs: 2}",
    "client={name: distill, matching: dm, images_per_class: 2, iterations: 3, width: 8}",
    "model={name: convnet, width: 8}",
    RECORDS[1],
)


def told(path: Path, *words: str, skipped: int = 0) -> list[str]:
    """The list of a run of the tiny scenario."""
    file = path / "tiny.yaml"
    file.write_text(TINY)
    scenario = load(str(file), list(words))
    activate_plugins(scenario)
    federation = build_federation(scenario, 0)
    store = replace(federation.store, skipped=("a.jpg: broken",) * skipped)
    federation = replace(federation, store=store)
    scenario = with_unit(scenario, federation)
    plan = privacy_plan(scenario, federation)
    one_shot = scenario.strategy.name == "gdd"
    return released_without_privacy(scenario, federation, plan, one_shot=one_shot)


ALWAYS = [
    "number of records of each client",
    "error texts and tracebacks",
    "seconds and memory",
    "scores on the test split",
    "test records of each site",
    "the split and the partition",
    "fingerprint of the data",
    "hyper-parameters",
]


@pytest.mark.parametrize("words", [RECORDS, CLIENTS, DISTILLED])
@pytest.mark.parametrize("entry", ALWAYS)
def test_what_every_private_run_gives_away(
    words: tuple[str, ...], entry: str, tmp_path: Path
) -> None:
    assert sum(entry in item for item in told(tmp_path, *words)) == 1
    public = tuple(word for word in words if not word.startswith("privacy="))
    assert not any(entry in item for item in told(tmp_path, *public))


@pytest.mark.parametrize(
    ("entry", "base", "words"),
    [
        ("metrics of each client on its validation records", RECORDS, "evaluation.on_clients=true"),
        ("metrics of each client on its validation records", CLIENTS, "evaluation.on_clients=true"),
        ("pooled validation split", RECORDS, "evaluation.select=pooled_val"),
        ("pooled validation split", CLIENTS, "evaluation.select=pooled_val"),
        ("pooled validation split", RECORDS, "evaluation.val_scores=true"),
        ("largest number of records of one patient or lesion", RECORDS, "privacy.unit=record"),
        ("delays of replies", RECORDS, "faults.delay=1.0"),
        ("simulated hours of each client", RECORDS, "federation.clock.kind=synchronous"),
        ("scores on external records", RECORDS, "evaluation.external={sites: [site-2]}"),
        ("the audit", (*RECORDS, "privacy.unit=record"), "privacy.audit=run"),
        ("the audit", (*RECORDS, "privacy.unit=record"), "privacy.audit=lira"),
        ("training metrics of each client", RECORDS, CLIENTS[1]),
        ("updates of the clients, to the server", RECORDS, CLIENTS[1]),
        ("what clients keep from round to round", RECORDS, CLIENTS[1]),
        ("what colluders make of their records", RECORDS, "adversary={name: sign_flip, count: 1}"),
        ("what colluders make of their records", CLIENTS, "adversary={name: label_flip, count: 1}"),
        (
            "number of patient or lesion units of each client",
            (*RECORDS, "privacy.unit=record"),
            "privacy.unit=patient",
        ),
    ],
)
def test_an_entry_is_there_exactly_when_it_applies(
    entry: str, base: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    weights = "strategy.weighting=uniform"
    assert not any(entry in item for item in told(tmp_path, *base, weights))
    assert sum(entry in item for item in told(tmp_path, *base, weights, words)) == 1


def test_first_weights_and_their_data_are_named(tmp_path: Path) -> None:
    assert not any("model.init" in item for item in told(tmp_path, *RECORDS))
    file = tmp_path / "first.safetensors"
    first = first_arrays(load(str(tmp_path / "tiny.yaml"), []), Task(("a", "b"), 3, 16), 0)
    file.write_bytes(save({name: array.numpy() for name, array in first.items()}))
    assert sum("model.init" in item for item in told(tmp_path, *RECORDS, f"model.init={file}")) == 1


def test_records_that_cannot_be_read_are_counted_only_where_there_are_any(tmp_path: Path) -> None:
    entry = "could not be read"
    assert not any(entry in item for item in told(tmp_path, *RECORDS))
    assert sum(entry in item for item in told(tmp_path, *RECORDS, skipped=2)) == 1


def test_real_images_are_compared_in_one_shot_runs_alone(tmp_path: Path) -> None:
    entry = "comparisons with real images"
    assert not any(entry in item for item in told(tmp_path, *RECORDS))
    assert sum(entry in item for item in told(tmp_path, *DISTILLED)) == 1


def test_sites_are_scored_apart_only_where_there_are_several(tmp_path: Path) -> None:
    entry = "test records of each site"
    assert not any(entry in item for item in told(tmp_path, *RECORDS, "data.embedded.sites=1"))


def test_an_attack_on_the_mechanism_reads_no_records(tmp_path: Path) -> None:
    assert not any("audit" in item for item in told(tmp_path, *RECORDS, "privacy.audit=true"))


@pytest.mark.parametrize("words", [RECORDS, CLIENTS, DISTILLED])
def test_a_private_run_counts_no_classes_of_training_records(
    words: tuple[str, ...],
    run_tiny: Callable[..., Result],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    public = tuple(word for word in words if not word.startswith("privacy="))
    plain = json.loads((run_tiny(*public, "rounds=1").folder / "run.json").read_text())
    counts = plain["data"]["classes_by_client"]
    assert counts
    result = run_tiny(*words, "rounds=1", quiet=False)
    data = json.loads((result.folder / "run.json").read_text())["data"]
    assert data["classes_by_client"] is None
    assert data["sizes_by_client"] == plain["data"]["sizes_by_client"]
    header, *rows = (result.folder / "report" / "partition.csv").read_text().splitlines()
    assert header == "client,train,val"
    assert len(rows) == 4
    printed = capsys.readouterr().out
    assert not any(str(tuple(row)) in printed or str(row) in printed for row in counts.values())


def test_a_private_one_shot_run_counts_no_classes_when_it_looks_for_leakage(
    run_tiny: Callable[..., Result],  # noqa: F811
) -> None:
    public = tuple(word for word in DISTILLED if not word.startswith("privacy="))
    keys = ("members", "non_members", "auc_by_class")
    for words, counted in ((public, True), (DISTILLED, False)):
        folder = run_tiny(*words).folder
        found = json.loads((folder / "synthetic" / "leakage.json").read_text())
        assert all((found["membership"][key] is not None) is counted for key in keys)
        for numbers in (found["overall"], *found["by_client"].values()):
            assert (numbers["compared_images"] is not None) is counted
