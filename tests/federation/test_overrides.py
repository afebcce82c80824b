"""`federation.overrides`: single clients that are not like the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsim import InputError, Result, load, run
from fedsim.federation.building import build_federation
from fedsim.federation.clients import make_client
from fedsim.models.build import first_arrays
from fedsim.privacy.run_key import run_digest
from fedsim.scenario import activate_plugins
from fedsim.scenario.overrides import merged, override_lines
from tests.engine.conftest import TINY
from tests.engine.test_bits import model

OVERRIDES = """
  overrides:
    client-1: {client: {learning_rate: 0.02}}
    client-2: {wrapper: {name: exchanging.Negates, times: -2.0}}
    client-3: {client: {name: exchanging.Forgets, batch_size: 16, steps: 2}, forget: {share: 0.5}}
"""


def written(folder: Path, overrides: str) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(TINY.replace("alpha: 1.0}\n", "alpha: 1.0}" + overrides, 1))
    return path


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("overrides")
    return run(written(folder, OVERRIDES), "client.steps=2", "rounds=1", runs=folder / "runs")


def test_each_client_has_its_own_method(result: Result) -> None:
    scenario = load(result.folder / "scenario.yaml")
    activate_plugins(scenario)
    made = {name: make_client(scenario, name) for name in ("client-0", "client-1", "client-2")}
    assert [made["client-0"].learning_rate, made["client-1"].learning_rate] == [0.01, 0.02]
    assert made["client-1"].batch_size == made["client-0"].batch_size == 16
    assert type(made["client-2"]).__name__ == "Negates"
    assert made["client-2"].inner.steps == 2


def test_records_to_forget_are_some_of_those_it_trains_on(result: Result) -> None:
    heard = result.rounds[0]["metrics_by_client"]
    record = json.loads((result.folder / "run.json").read_text())
    assert heard["3"]["inside"] == 1
    assert 0 < heard["3"]["forget"] < heard["3"]["num-examples"]
    assert record["overrides"]["client-3"]["records_to_forget"] == heard["3"]["forget"]
    assert "forget" not in heard["0"]


def test_the_console_says_who_is_different(result: Result) -> None:
    scenario = load(result.folder / "scenario.yaml")
    told = override_lines(scenario, {})
    assert told[0] == "NOT LIKE THE OTHERS client-1: client supervised (learning_rate 0.02)"
    assert told[1] == "NOT LIKE THE OTHERS client-2: wrapped in exchanging.Negates"


def test_another_name_replaces_the_block() -> None:
    general = {"name": "a", "x": 1}
    assert merged(general, {"y": 2}) == {"name": "a", "x": 1, "y": 2}
    assert merged(general, {"name": "b", "y": 2}) == {"name": "b", "y": 2}
    assert merged(general, None) == general


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("{client: {learning_rat: 0.1}}", "did you mean 'learning_rate'"),
        ("{client: {name: supervized}}", "did you mean 'supervised'"),
        ("{client: {name: distill}}", "sends images with labels"),
        ("{wrapper: {name: exchanging.Negates, tims: 1.0}}", "did you mean 'times'"),
        ("{wrapper: {name: exchanging.Negates, inner: 1}}", "set by fedsim itself"),
        ("{forget: {share: 2.0}}", "at most 1"),
        ("{forget: {}}", "one of share, records and patients"),
        ("{clint: {}}", "unknown key (did you mean 'client'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(overrides: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"\n  overrides:\n    client-1: {overrides}\n")
    at = path.read_text().splitlines().index(f"    client-1: {overrides}") + 1
    with pytest.raises(InputError) as refused:
        load(path)
    assert message in str(refused.value)
    assert f"tiny.yaml:{at}" in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("clinet-1: {client: {epochs: 2}}", "there is no client 'clinet-1' (did you mean"),
        ("client-1: {forget: {records: [nobody]}}", "'nobody' is not with this client"),
        ("client-1: {appearance: {gamma: 2.0}}", "has images to classify"),
    ],
)
def test_what_the_data_do_not_bear_out_is_refused(
    overrides: str, message: str, tmp_path: Path
) -> None:
    scenario = load(written(tmp_path, f"\n  overrides:\n    {overrides}\n"))
    with pytest.raises(InputError) as refused:
        build_federation(scenario, 0)
    assert message in str(refused.value)


def test_each_private_form_is_asked_for(tmp_path: Path) -> None:
    private = ("client.class_balanced=false", "privacy={noise_multiplier: 1.0, expected_batch: 8}")
    path = written(tmp_path, "\n  overrides: {client-1: {wrapper: {name: exchanging.Negates}}}\n")
    with pytest.raises(InputError, match="Negates has no private form"):
        run(path, *private, runs=tmp_path)


def test_overrides_are_part_of_the_digest_that_noise_is_keyed_by(tmp_path: Path) -> None:
    digests = set()
    for overrides in (
        "",
        "{client-1: {forget: {share: 0.2}}}",
        "{client-1: {forget: {share: 0.4}}}",
    ):
        block = f"\n  overrides: {overrides}\n" if overrides else "\n"
        scenario = load(written(tmp_path, block))
        federation = build_federation(scenario, 0)
        arrays = first_arrays(scenario, federation.task, 0)
        digests.add(run_digest(scenario, 0, federation, arrays))
    assert len(digests) == 3


def test_flipped_labels_are_those_of_the_other_class(tmp_path: Path) -> None:
    flips = (
        "\n  overrides: {client-1: {wrapper: {name: 'fedsim.clients.flip_labels:FlipLabels'}}}\n"
    )
    few = ("rounds=1", "client.steps=2")
    honest = run(written(tmp_path, "\n"), *few, runs=tmp_path / "honest")
    result = run(written(tmp_path, flips), *few, runs=tmp_path / "flipped")
    losses = [one.rounds[0]["metrics_by_client"] for one in (honest, result)]
    assert losses[0]["1"]["loss"] != losses[1]["1"]["loss"]
    assert losses[0]["2"] == losses[1]["2"]
    assert any((model(honest)[name] != model(result)[name]).any() for name in model(honest))
