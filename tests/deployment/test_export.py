"""`fedsim export NAME DIR`: what it writes, and what it refuses."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedsim import __version__
from fedsim.cli import main
from fedsim.deployment.export import deployed, export_app
from fedsim.deployment.exported import Facts, exported_scenario
from fedsim.deployment.refusing import require_deployable
from fedsim.errors import InputError
from fedsim.scenario import load
from fedsim.scenario.files import names
from tests.deployment.conftest import TINY
from tests.yaml_bombs import YAML_BOMBS

NAME = "isic_iid_fedavg"


def test_an_app_has_what_flower_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "app"
    assert main(["export", NAME, str(folder), *TINY, "seeds=[3, 4]"]) == 0
    assert "a Flower app of isic_iid_fedavg, for 2 node(s)" in capsys.readouterr().out
    about = tomllib.loads((folder / "pyproject.toml").read_text())
    app = about["tool"]["flwr"]["app"]
    assert app["components"] == {
        "serverapp": "app_isic_iid_fedavg.server:app",
        "clientapp": "app_isic_iid_fedavg.client:app",
    }
    assert app["publisher"]
    assert app["config"]["seed"] == 3
    assert about["project"]["dependencies"] == [f"fedsim-medical=={__version__}"]
    package = folder / "app_isic_iid_fedavg"
    for half in ("server", "client"):
        # They hold a call, and no method.
        compile((package / f"{half}.py").read_text(), half, "exec")
        assert f"{half}_app(Path(__file__).parent)" in (package / f"{half}.py").read_text()
    assert "@" not in (folder / "README.md").read_text().replace("--", "")
    values = yaml.safe_load((package / "scenario.yaml").read_text())
    assert values["data"]["root"] is None
    assert values["resources"]["workers"] is None
    assert exported_scenario(package, None).resolved() == values
    facts = Facts.read(package)
    assert facts.clients == ("client-0", "client-1")
    assert facts.classes == ("benign", "malignant")
    assert facts.input_shape == (3, 16, 16)
    assert not facts.root


def test_private_noise_becomes_secret_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    private = "privacy={noise_multiplier: 1.0, expected_batch: 12, unit: record, delta: 1e-3}"
    assert (
        main(["export", NAME, str(tmp_path / "app"), *TINY, "client.class_balanced=false", private])
        == 0
    )
    assert "its noise is secret" in capsys.readouterr().out
    found = exported_scenario(tmp_path / "app" / "app_isic_iid_fedavg", None)
    assert found.privacy is not None
    assert found.privacy.noise == "secret"


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense", "DIR"],
        ["nonsense", "--onnx"],
        [NAME],
        [NAME, "rounds=2"],
        [".", "DIR"],
        [NAME, "DIR", "--card"],
        [NAME, "DIR", "--client", "x"],
    ],
)
def test_the_wrong_words_are_told_of_both_uses(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 2
    told = capsys.readouterr().err
    assert "fedsim export RUN --onnx" in told
    assert "fedsim export NAME DIR" in told
    assert not (tmp_path / "DIR").exists()


def test_a_folder_with_something_in_it_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="no empty folder: nothing was written"):
        export_app(load(NAME, TINY), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_only_a_simulation_can_do_is_refused_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    scenario = load(
        NAME,
        [
            *TINY,
            f"plugins=[{tmp_path / 'methods'}]",
            "privacy={noise_multiplier: 1.0, trust: secure_sum, audit: mechanism}",
            "faults={on_client_error: skip, dropout: 0.1, delay: 2.0, deadline: 5.0}",
            "federation.overrides={client-0: {wrapper: {name: flip_labels}}}",
            "federation.local=head",
            "federation.clock.kind=synchronous",
        ],
    )
    with pytest.raises(InputError) as raised:
        require_deployable(scenario)
    told = [problem.message for problem in raised.value.problems]
    for key in (
        *("federation.local", "federation.overrides.client-0.wrapper", "privacy.trust"),
        *("privacy.audit", "faults.dropout", "faults.delay", "faults.deadline", "plugins"),
        "federation.clock",
    ):
        assert sum(line.startswith(f"{key}:") for line in told) == 1, key
    assert len(told) == 9
    assert "as it is" in raised.value.headline


def test_what_ships_is_refused_for_reasons_or_is_the_same_scenario_again(tmp_path: Path) -> None:
    refused = set()
    for name in names():
        if name.startswith("my_"):  # they have no data
            continue
        scenario = load(name)
        if scenario.privacy is not None and scenario.privacy.audit:
            scenario = load(name, ["privacy.audit=false"])
        try:
            require_deployable(scenario)
        except InputError as error:
            refused.add(name)
            assert all(problem.message for problem in error.problems)
            continue
        text = deployed(scenario).to_yaml()
        (tmp_path / "scenario.yaml").write_text(text)
        assert exported_scenario(tmp_path, None).to_yaml() == text, name
    hiding = {name for name in names() if "_fewlabels_" in name}
    assert len(hiding) == 9
    assert {name for name in refused if "local" not in name} == hiding | {
        *("isic_noniid_random", "isic_noniid_gdd_plus", "isic_oneshot_features"),
        *("isic_sites_fedbn", "isic_sites_fedper"),
        *("lesion_split_shallow", "lesion_split_deep"),
        *("prostate_fewshot", "prostate_fewshot_incontext"),  # They hide labels.
        "isic_longtail_creff",  # Its server gets gradients of each class.
        *("isic_noniid_disbelieve", "isic_sites_unlearning"),  # They have attackers.
        *("prostate_centres_fedbn", "prostate_centres_fedper", "hippocampus_partial_disjoint"),
    }


@pytest.mark.parametrize(
    ("name", "overrides", "why"),
    [
        ("isic_noniid_local", (), "keeps a model at each client"),
        ("isic_sites_fedbn", (), "federation.local"),
        ("isic_noniid_random", (), "would send the server REAL IMAGES"),
        ("isic_oneshot_features", (), "sums of the site's feature vectors"),
        ("isic_noniid_gdd", ("client.init=real",), "real pixels"),
    ],
)
def test_a_method_that_the_server_must_not_see_through_is_refused(
    name: str, overrides: tuple[str, ...], why: str
) -> None:
    with pytest.raises(InputError, match="cannot be deployed") as raised:
        require_deployable(load(name, overrides))
    assert any(why in problem.message for problem in raised.value.problems)


def test_weights_of_this_machine_are_refused_and_those_of_a_name_are_not(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"")
    with pytest.raises(InputError) as raised:
        require_deployable(load(NAME, [f"model.init={file}"]))
    assert "a file of this machine" in raised.value.problems[0].message
    require_deployable(load(NAME, ["model.init=package:some-weights==1.0/a.safetensors"]))


def test_an_app_of_another_version_or_damaged_is_refused(exported: Callable[..., Path]) -> None:
    folder = exported(NAME, *TINY)
    path = folder / "deployment.yaml"
    text = path.read_text()
    path.write_text(text.replace(__version__, "0.0.1"))
    with pytest.raises(InputError, match=r"of fedsim 0\.0\.1, and here is"):
        Facts.read(folder)
    for wrong in ("", "version: 1", "- a", text + "more: 1\n", *YAML_BOMBS.values()):
        path.write_text(wrong)
        with pytest.raises(InputError, match="is not what `fedsim export` wrote"):
            Facts.read(folder)
