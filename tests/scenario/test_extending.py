"""`extends:` in a scenario: the lines that differ, over those of another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim import scenario
from fedsim.errors import InputError
from fedsim.scenario import load

BASE = """\
# What the others differ from.

name: base
description: of the base
seeds: [1, 2]
rounds: 3
data:
  name: isic2020
  size: 32              # pixels
federation:
  clients: 4
  partition:
    name: dirichlet
    alpha: 1.0          # smaller = more skew
model: {name: convnet, width: 8}
strategy: fedavg
client:
  # a pass over the images
  name: supervised
  epochs: 1
  batch_size: 16
profiles:
  paper:
    data.size: 64
    model: {name: resnet18, width: 32}
    client.epochs: 5
  quick:
    rounds: 1
"""

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> str:
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return str(path)

    write("base", BASE)
    return write


def refused(path: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(path, overrides)
    return str(caught.value)


def test_only_the_lines_that_differ_are_written(write: Write) -> None:
    path = write(
        "mine",
        "name: mine\nextends: base.yaml\nrounds: 7\nclient: {epochs: 2}\nstrategy.codec: uint8\n"
        "federation: {partition: iid}\n",
    )
    mine = load(path)
    assert (mine.name, mine.rounds, mine.seeds) == ("mine", 7, (1, 2))
    assert mine.description == "", "it describes the other file"
    assert mine.client.parameters == {"epochs": 2, "batch_size": 16}
    assert mine.strategy.parameters == {"codec": "uint8"}
    assert mine.federation.partition.parameters == {}, "another plugin inherits nothing"
    assert mine.federation.clients == 4
    assert mine.path == Path(path)


def test_what_wins_is_command_line_profile_file_and_then_what_it_extends(write: Write) -> None:
    path = write("mine", "name: mine\nextends: base.yaml\nrounds: 7\nclient.epochs: 2\n")
    assert load(path, ["profile=paper"]).client.parameters["epochs"] == 5
    assert load(path, ["profile=quick"]).rounds == 1
    assert load(path, ["profile=quick", "rounds=9"]).rounds == 9


def test_profiles_are_merged_too_and_null_drops_one(write: Write) -> None:
    path = write(
        "mine",
        "name: mine\nextends: base.yaml\n"
        "profiles:\n  paper: {client.epochs: 6, model: {name: cnn}}\n  quick: null\n",
    )
    paper = load(path, ["profile=paper"])
    assert paper.data.size == 64
    assert paper.client.parameters["epochs"] == 6
    assert paper.model.parameters == {}, "another plugin inherits nothing"
    assert "no profile 'quick'" in refused(path, "profile=quick")
    none = write("none", "name: none\nextends: base.yaml\nprofiles: null\n")
    assert load(none).profiles == {}


def test_a_file_may_extend_a_file_that_extends_a_shipped_scenario(write: Write) -> None:
    write("between/one", "name: one\nextends: isic_noniid_gdd\nclient.iterations: 3\n")
    path = write("two", "name: two\nextends: between/one.yaml\nrounds: 2\n")
    two = load(path)
    assert two.client.parameters["iterations"] == 3
    assert two.client.parameters["matching"] == "gdd"
    assert two.to_yaml() == load("isic_noniid_gdd", ["client.iterations=3", "rounds=2"]).to_yaml(
    ).replace("name: isic_noniid_gdd", "name: two")  # fmt: skip


def test_a_problem_names_the_file_and_line_where_the_key_was_written(
    write: Write, tmp_path: Path
) -> None:
    write("base", BASE.replace("alpha: 1.0", "alpha: -1"))
    text = "name: mine\nextends: base.yaml\nclient.epochs: none\nroundz: 2\n"
    said = refused(write("mine", text))
    alpha = next(i for i, line in enumerate(BASE.splitlines(), 1) if "alpha" in line)
    assert f"{tmp_path}/base.yaml:{alpha}: federation.partition.alpha" in said
    assert f"{tmp_path}/mine.yaml:3: client.epochs" in said
    assert f"{tmp_path}/mine.yaml:4: roundz: unknown key (did you mean 'rounds'?)" in said
    assert "3 problems" in said


def test_a_file_that_extends_needs_a_name_of_its_own(write: Write) -> None:
    assert "mine.yaml:1: name: " in refused(write("mine", "extends: base.yaml\nrounds: 2\n"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("extends: isic_noniid_gd", "did you mean 'isic_noniid_gdd'"),
        ("extends: gone.yaml", "cannot read the scenario"),
        ("extends: [base.yaml]", "expected the name of a shipped scenario, or a file"),
        ("extends: mine.yaml", "it extends itself: mine.yaml -> mine.yaml"),
        ("extends: ./back.yaml", "it extends itself: mine.yaml -> back.yaml -> mine.yaml"),
        ("extend: base.yaml", "did you mean 'extends'"),
    ],
)
def test_what_cannot_be_extended_is_one_clear_error(write: Write, line: str, told: str) -> None:
    write("back", "name: back\nextends: mine.yaml\n")
    path = write("mine", f"name: mine\n{line}\n")
    said = refused(path)
    assert told in said
    assert ".yaml:2: " in said


def test_a_chain_has_an_end(write: Write) -> None:
    for number in range(20):
        below = f"link{number - 1}.yaml" if number else "base.yaml"
        write(f"link{number}", f"name: link{number}\nextends: {below}\n")
    folder = write("last", "name: last\nextends: base.yaml\n").rpartition("/")[0]
    assert load(f"{folder}/link7.yaml").rounds == 3
    assert "more than 8 files" in refused(f"{folder}/link19.yaml")


def test_only_a_file_extends(write: Write) -> None:
    path = write("mine", "name: mine\nextends: base.yaml\nprofiles: {quick: {extends: x}}\n")
    assert "only a file extends another" in refused(path, "extends=isic_noniid_gdd")
    assert "a profile cannot set 'extends'" in refused(path, "profile=quick")


def test_plugin_folders_are_found_from_the_file_that_names_them(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner" / "methods").mkdir(parents=True)
    (tmp_path / "own").mkdir()
    write("inner/base", BASE + "plugins: [methods]\n")
    path = write("mine", "name: mine\nextends: inner/base.yaml\n")
    monkeypatch.chdir("/")
    assert load(path).plugins == (str(tmp_path / "inner" / "methods"),)
    own = write("other", "name: other\nextends: inner/base.yaml\nplugins: [own]\n")
    assert load(own).plugins == (str(tmp_path / "own"),)
    alone = tmp_path / "elsewhere" / "alone.yaml"
    alone.parent.mkdir()
    alone.write_text(scenario.standalone(path))
    assert load(alone).plugins == (str(tmp_path / "inner" / "methods"),)


def test_a_standalone_copy_is_the_same_and_keeps_the_comments(write: Write, tmp_path: Path) -> None:
    text = '# Mine.\n\nname: mine\nextends: base.yaml\ndescription: "a # b\\n: c"\n'
    text += "client.epochs: 2  # two\n"
    path = write("mine", text)
    copied = scenario.standalone(path)
    assert "extends" not in copied
    assert copied.startswith("# Mine.\n\nname: mine\n")
    for kept in ("size: 32  # pixels", "alpha: 1.0  # smaller = more skew", "epochs: 2  # two"):
        assert kept in copied
    assert "  # a pass over the images\n  name: supervised" in copied
    assert "What the others differ from" not in copied
    again = write("again", copied)
    assert load(again).model_dump() == load(path).model_dump()
    chosen = ["profile=paper"]
    assert load(again, chosen).to_yaml() == load(path, chosen).to_yaml()
    assert scenario.standalone(str(tmp_path / "base.yaml")) == BASE, "as it is"


def test_shipped_variants_are_short_and_their_copies_equal(tmp_path: Path) -> None:
    variants = [name for name in scenario.names() if "\nextends: " in scenario.source(name)]
    assert len(variants) >= 25
    for name in variants:
        copied = tmp_path / f"{name}.yaml"
        copied.write_text(scenario.standalone(name))
        assert "extends" not in copied.read_text()
    for name in variants[::6]:
        assert load(tmp_path / f"{name}.yaml").to_yaml() == load(name).to_yaml()


def test_no_headline_needs_another_scenario_to_be_understood() -> None:
    headlines = {name: scenario.headline(name) for name in scenario.names()}
    assert len(set(headlines.values())) == len(headlines)
    for name, line in headlines.items():
        assert 20 < len(line) < 100, name
        assert not line.startswith(("The same", "As ")), name
        assert not [other for other in headlines if other in line.split()], name
