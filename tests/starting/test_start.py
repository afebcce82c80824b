"""`fedsim start`, and what it writes: it must load, fit the data, and run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedsim.cli import main
from fedsim.scenario import load
from fedsim.starting.found import Found, Setting
from fedsim.starting.named import name_of
from fedsim.starting.text import Sheet, flow, scenario_text
from tests.starting.own import class_folders, table, volumes


def typed(*words: str) -> tuple[int, str]:
    """Exit code and all output of a command."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main(list(words))
    return code, text.getvalue()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder to work in, with its own cache."""
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEDSIM_CACHE", str(folder / "cache"))
        patch.delenv("FEDSIM_DATA", raising=False)
        yield folder


@pytest.fixture(scope="module")
def own(desk: Path) -> str:
    """What is said of a folder for each class, one file of which is broken."""
    class_folders(desk / "own images", {"melanoma": 12, "nevus": 24})
    (desk / "own images" / "nevus" / "broken.png").write_bytes(b"no picture")
    code, output = typed("start", "own images")
    assert code == 0, output
    return output


def test_it_says_what_it_found(own: str) -> None:
    for said in (
        "records: 36 images of 2 classes: nevus 24, melanoma 12",
        "positive class: melanoma ('nevus' sounds like what is not looked for",
        "data.positive: nevus in the scenario takes the other",
        "patients: not known",
        "sites: not known",
        "sizes: 24x20 px; 8-bit colour",
        "cannot be used: 1 (nevus/broken.png: not a picture in a known format)",
        "wrote experiment.yaml: 2 clients (dirichlet, alpha 0.5), 30 rounds",
    ):
        assert said in own
    commands = [line.split("  ")[1] for line in own.splitlines() if line.startswith("  fedsim ")]
    verbs = ("data show", "check", "run")
    here = [f"fedsim {verb} experiment.yaml" for verb in verbs]
    assert commands == [*here, "fedsim predict RUN FILE"]


def test_the_file_is_what_was_said(own: str, desk: Path) -> None:
    scenario = load(desk / "experiment.yaml")
    assert scenario.name == "own-images"
    assert scenario.data.root == str(desk / "own images")
    assert scenario.data.positive == "melanoma"
    assert scenario.data.skip_bad is True
    assert all(line.isprintable() for line in (desk / "experiment.yaml").read_text().splitlines())


def test_the_commands_that_are_named_work(own: str, desk: Path) -> None:
    """The third one, `fedsim run`, is typed by the test of the tutorial."""
    code, output = typed("check", "experiment.yaml")
    assert code == 0, output
    assert "own-images: valid, and one tiny round of it runs" in output
    code, output = typed("data", "show", "experiment.yaml")
    assert code == 0, output
    assert "client-1" in output


def test_the_private_block_can_be_uncommented(own: str, desk: Path) -> None:
    lines = (desk / "experiment.yaml").read_text().splitlines()
    start = lines.index("# privacy:")
    lines[start:] = [line.removeprefix("# ") for line in lines[start:]]
    text = "\n".join(lines).replace("class_balanced: true ", "class_balanced: false ")
    (desk / "private.yaml").write_text(text + "\n")
    code, output = typed("check", "private.yaml", "data.size=32", "client.batch_size=4")
    assert code == 0, output


def test_it_overwrites_nothing(own: str, desk: Path) -> None:
    before = (desk / "experiment.yaml").read_bytes()
    code, output = typed("start", "own images")
    assert code == 2
    assert "experiment.yaml exists already, and is left as it is" in output
    assert (desk / "experiment.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere", "--out", "x.yaml"), "does not exist"),
        (("own images", "--out", "x.txt"), "is no .yaml file"),
        (("own images", "--out", "no/x.yaml"), "there is no folder no"),
        (("experiment.yaml", "--out", "y.yaml"), "is not a folder"),
    ],
)
def test_wrong_words_are_one_error(own: str, desk: Path, words: tuple[str, ...], says: str) -> None:
    code, output = typed("start", *words)
    assert code == 2
    assert says in output
    assert len(output.splitlines()) < 6
    assert not (desk / "x.txt").exists()
    assert not (desk / "y.yaml").exists()


def test_sites_and_patients_of_a_table_are_used(desk: Path) -> None:
    rows = [f"{i:03d},{'nv' if i % 3 else 'mel'},P{i // 2},{'AB'[i // 24]}" for i in range(48)]
    table(desk / "table", "Image,dx,Patient,Hospital", rows)
    code, output = typed("start", "table", "--out", "table.yaml")
    assert code == 0, output
    assert "patients (or lesions): 24, with up to 2 records each" in output
    assert "sites: A 24, B 24" in output
    assert "48 images were found by their names in folders below" in output
    scenario = load("table.yaml")
    assert scenario.federation.partition.name == "natural"
    assert typed("check", "table.yaml")[0] == 0


def test_a_column_of_clients_says_who_holds_what(desk: Path) -> None:
    rows = [f"{i:03d},{'nv' if i % 3 else 'mel'},trust-{i % 2}" for i in range(36)]
    table(desk / "clients", "Image,dx,Client", rows)
    code, output = typed("start", "clients", "--out", "clients.yaml")
    assert code == 0, output
    assert "2 clients (table, column Client)" in output
    code, output = typed("data", "show", "clients.yaml")
    assert code == 0, output
    assert "trust-0" in output
    assert "trust-1" in output


def test_volumes_get_a_scenario_that_checks(desk: Path) -> None:
    volumes(desk / "volumes", 6)
    code, output = typed("start", "volumes", "--out", "volumes.yaml")
    assert code == 0, output
    assert "records: 6 volumes, outlines of structure" in output
    assert "sizes: 6 x 16 x 16 voxels (slices x rows x columns) of 3 x 0.8 x 0.8 mm" in output
    code, output = typed("check", "volumes.yaml", "client.batch_size=2", "data.size=32")
    assert code == 0, output


def test_data_status_and_show_take_a_folder_or_a_name(own: str, desk: Path) -> None:
    code, output = typed("data", "status", "own images")
    assert code == 0, output
    assert "a folder for each class" in output
    assert "read by the data set folder" in output
    code, output = typed("data", "show", "own images", "--out", "who.png")
    assert code == 0, output
    assert "36 images of 64x64 px" in output
    assert (desk / "who.png").stat().st_size > 5000
    code, output = typed("data", "status", "ham10000")
    assert code == 0, output
    assert "HAM10000_metadata.csv" in output
    assert "promise12" not in output
    small = "data.embedded={images: 60, sites: 2}"
    code, output = typed("data", "show", "ham10000", small)
    assert code == 0, output
    assert "EMBEDDED STAND-IN for ham10000" in output
    code, output = typed("data", "show", "ham1000")
    assert code == 2
    assert "did you mean 'ham10000'" in output


def test_classes_too_small_to_split_are_one_error(desk: Path) -> None:
    class_folders(desk / "tiny", {"a": 1, "b": 5})
    code, output = typed("start", "tiny", "--out", "tiny.yaml")
    assert code == 2
    assert "class 'a': has 1 group (" in output
    assert not (desk / "tiny.yaml").exists()


@pytest.mark.parametrize("value", ["no", "010", "a: b", "# x", "1_000", "ü", "x\ny", [1, "on"]])
def test_any_value_is_read_as_it_was_written(value: object) -> None:
    assert yaml.safe_load(f"key: {flow(value)}") == {"key": value}


def test_nobodys_text_ends_a_comment() -> None:
    odd = "x\nrounds: 99\r\u2028rounds: 98"
    found = Found("folder", "images", odd, Path("/data"), (Setting("csv", "t.csv", odd),))
    text = scenario_text(Sheet("odd", found, 32, partition_why=odd))
    assert yaml.safe_load(text)["rounds"] == 3


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("skin", "skin"),
        ("My Images (2)", "My-Images-2"),
        ("日本", "experiment"),
        ("con", "experiment"),
    ],
)
def test_a_scenario_is_called_like_its_folder(folder: str, name: str) -> None:
    assert name_of(Path("/data") / folder) == name


def test_sites_that_are_too_small_are_said_and_not_used(desk: Path) -> None:
    rows = [f"{i:03d},{'nv' if i % 3 else 'mel'},{'B' if i == 5 else 'A'}" for i in range(24)]
    table(desk / "lonely", "Image,dx,Hospital", rows)
    code, output = typed("start", "lonely", "--out", "lonely.yaml")
    assert code == 0, output
    assert "natural does not fit: a site is too small to be a client; made up instead" in output
    assert load("lonely.yaml").federation.partition.name == "dirichlet"
