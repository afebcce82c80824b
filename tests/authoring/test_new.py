"""`fedsim new`: what it writes, and what it refuses."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedsim.authoring.names import Names
from fedsim.authoring.new import rendered
from fedsim.cli import main
from fedsim.registry import KINDS
from fedsim.scenario import load
from fedsim.testing import checks
from tests.docs.test_docs import install

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new package of each kind, none of them installed."""
    folder = tmp_path_factory.mktemp("shop")
    for kind in KINDS:
        assert main(["new", kind, f"tidy_{kind}", "--into", str(folder / "deep")]) == 0
    return folder / "deep"


def test_the_packages_are_written_as_this_project_is(shop: Path) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    rules = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", "."]
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run([*ruff, *words, *rules], cwd=shop, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_scenario_finds_the_package_beside_it(kind: str, shop: Path) -> None:
    folder = shop / f"tidy_{kind}"
    scenario = load(folder / "scenario.yaml")
    assert scenario.plugins == (str(folder),)
    names = Names(kind, f"tidy_{kind}")
    assert names.path in scenario.to_yaml()


@pytest.mark.parametrize("kind", KINDS)
def test_the_package_declares_its_plugin(kind: str, shop: Path, tmp_path: Path) -> None:
    folder = shop / f"tidy_{kind}"
    about = tomllib.loads((folder / "pyproject.toml").read_text())
    assert about["project"]["name"] == f"tidy-{kind}"
    assert about["tool"]["setuptools"]["packages"] == [f"tidy_{kind}"]
    (tmp_path / "pyproject.toml").write_text((folder / "pyproject.toml").read_text())
    install(tmp_path)
    (found,) = importlib.metadata.Distribution.at(
        next(tmp_path.glob("*.dist-info"))
    ).entry_points.select(group=f"fedsim.{KINDS[kind]}")
    assert (found.name, found.value) == (f"tidy_{kind}", Names(kind, f"tidy_{kind}").path)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_a_template(kind: str) -> None:
    for path, text in rendered(Names(kind, "tidy_one")).items():
        assert "@" not in path
        assert not {word for word in ("@name@", "@class@", "@kind@", "@path@") if word in text}
        if kind != "dataset" and path.endswith(f"/{kind}.py"):
            assert "class TidyOne(" in text


# The strategy's own tests are typed by the tutorial's walk.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "strategy"])
def test_a_new_package_passes_its_checks(kind: str, shop: Path) -> None:
    path = Names(kind, f"tidy_{kind}").path
    said = [check() for check in checks(KINDS[kind], path, plugins=[shop / f"tidy_{kind}"])
            if check.name != "the manifest"]  # fmt: skip
    assert len(said) >= 5


@pytest.mark.slow
def test_the_tests_of_new_packages_pass(shop: Path) -> None:
    """All in one process, without the checks, which are asked for above."""
    folders = [str(shop / f"tidy_{kind}") for kind in KINDS if kind != "strategy"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not contract",
         "-o", f"pythonpath={' '.join(folders)}", *folders],
        cwd=shop, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "14 passed" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ShyMean", ["lower-case letters", "type: fedsim new strategy shy_mean"]),
        ("shy-mean", ["lower-case letters", "type: fedsim new strategy shy_mean"]),
        ("lambda", ["a word of Python", "type: fedsim new strategy my_lambda"]),
        ("match", ["a word of Python"]),
        ("../shy", ["lower-case letters", "type: fedsim new strategy shy"]),
        ("3", ["lower-case letters", "choose another name"]),
        ("", ["lower-case letters"]),
        ("größe", ["lower-case letters"]),
        ("a" * 41, ["longer than 40"]),
        ("tests", ["the package's tests"]),
        ("fedavg", ["there is a strategy 'fedavg' already, of fedsim-medical"]),
        ("json", ["a Python module 'json' already"]),
        ("numpy", ["a Python module 'numpy' already"]),
    ],
)
def test_a_name_that_cannot_be_is_one_error(
    name: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "strategy", name]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert len(said.splitlines()) == 2
    assert not list(tmp_path.iterdir())


def test_a_name_of_another_kind_may_be_used_again(tmp_path: Path) -> None:
    assert main(["new", "client", "fedavg", "--into", str(tmp_path)]) == 0


def test_what_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shy").mkdir()
    (tmp_path / "shy" / "thesis.txt").write_text("years")
    assert main(["new", "model", "shy", "--into", str(tmp_path)]) == 2
    assert "exists already: nothing was written" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "shy").iterdir()] == ["thesis.txt"]
    (tmp_path / "away").symlink_to(tmp_path / "nowhere")
    assert main(["new", "model", "away", "--into", str(tmp_path)]) == 2
    assert main(["new", "model", "inside", "--into", str(tmp_path / "shy" / "thesis.txt")]) == 2
    assert "choose another folder: --into DIR" in capsys.readouterr().err


def test_a_disk_that_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []

    def full(self: Path, *args: object, **kwargs: object) -> None:
        written.append(self)
        if len(written) == 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert main(["new", "model", "shy", "--into", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "shy").exists()


def test_it_says_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "dataset", "our_moles", "--into", "my data"]) == 0
    said = capsys.readouterr().out
    assert "  cd 'my data/our_moles'\n" in said
    for line in said.splitlines()[1:6]:
        assert (tmp_path / "my data" / "our_moles" / line.split()[0]).is_file()
