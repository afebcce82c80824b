"""The toy reconstruction: another package's task, found as if it were installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import registry as registry_module
from fedsim.api import run
from fedsim.cli import main
from fedsim.errors import InputError, RunError
from fedsim.scenario import load
from fedsim.trained.load import load_model
from tests.docs.test_docs import install

ROOT = Path(__file__).parents[2]
NAMES = ("data.name=noisy_skin", "model.name=denoiser", "client.name=denoise", "plugins=[]")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The scenario of the package, which is on the path with its entry points."""
    folder = tmp_path_factory.mktemp("example") / "reconstruction"
    shutil.copytree(ROOT / "examples" / "reconstruction", folder)
    install(folder)
    # The example's own tests import it from where it lies.
    for name in [name for name in sys.modules if name.partition(".")[0] == "denoise"]:
        del sys.modules[name]
    modules = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSIM_CACHE", str(folder / "cache"))
        patch.syspath_prepend(folder)
        registry_module.default_registry.cache_clear()
        yield str(folder / "scenario.yaml")
    registry_module.default_registry.cache_clear()
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] == "denoise":
            del sys.modules[name]


@pytest.fixture(scope="module")
def runs(scenario: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, of which the second is better by its learning rate, chosen by validation."""
    place = tmp_path_factory.mktemp("denoised") / "runs"
    few = (*NAMES, "rounds=2", "client.steps=8")
    run(scenario, *few, runs=place)
    run(scenario, *few, "client.learning_rate=0.01", "evaluation.select=pooled_val", runs=place)
    return place


def folders(runs: Path) -> list[Path]:
    return sorted(path.parent for path in runs.glob("denoising/2*/run.json"))


def test_run_json_says_what_was_learned(runs: Path) -> None:
    found = json.loads((folders(runs)[0] / "run.json").read_text())
    assert found["task"]["headline"] == "psnr"
    assert [one["unit"] for one in found["task"]["metrics"]] == ["dB", ""]
    assert found["data"]["classes_by_client"] is None
    assert "scores.npz" in found["files"]


def test_the_verbs_tell_decibels(
    runs: Path, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs), "--sites", "--reach", "1"]) == 0
    out = capsys.readouterr().out
    assert "PSNR (dB)" in out
    assert "RMSE" in out
    assert "lower is better: RMSE." in out
    assert "same test records, in dB" in out
    assert "per cent" not in out
    assert main(["check", scenario, *NAMES]) == 0
    assert main(["data", "show", scenario, *NAMES, "--out", str(runs / "who.png")]) == 0
    assert (runs / "who.png").is_file()


def test_pages_tell_decibels(runs: Path) -> None:
    one, two = folders(runs)
    page = (one / "report" / "index.html").read_text()
    assert "to denoise images" in page
    assert " dB" in page
    assert "positive class" not in page
    assert "95% interval" in page
    assert main(["report", str(runs), "--together", "--out", str(runs / "all.html")]) == 0
    text = (runs / "all.html").read_text()
    assert "Highest: " in text
    assert "per cent" not in text.partition("<script")[0]
    card = (two / "MODEL_CARD.md").read_text()
    assert "to denoise images" in card
    assert "fedsim predict" not in card


def test_a_finished_run_is_resumed_and_its_model_loaded(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--resume", str(folders(runs)[0])]) == 0
    assert "is finished" in capsys.readouterr().out
    trained = load_model(folders(runs)[0])
    with pytest.raises(InputError, match="image-to-image"):
        trained.predict([])


def test_a_killed_run_goes_on_to_the_same_bits(scenario: str, tmp_path: Path) -> None:
    few = (*NAMES, "rounds=3", "client.steps=4")
    whole = run(scenario, *few, runs=tmp_path / "whole")
    code = (
        "import os, signal, sys\n"
        "from fedsim import Observer, run\n"
        "class Killer(Observer):\n"
        "    def round(self, row):\n"
        "        if row['round'] == 2:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "run(sys.argv[1], *sys.argv[3:], runs=sys.argv[2], observers=[Killer()])\n"
    )
    folder = Path(scenario).parent
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    words = [sys.executable, "-c", code, scenario, str(tmp_path / "cut"), *few]
    killed = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (cut,) = (path.parent for path in tmp_path.glob("cut/denoising/2*/run.json"))
    assert main(["run", "--resume", str(cut)]) == 0
    one, other = (load_file(place / "model.safetensors") for place in (whole.folder, cut))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    rows = [json.loads(line) for line in (cut / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3]
    assert rows[-1]["metrics"]["psnr"] == whole.rounds[-1]["metrics"]["psnr"]


@pytest.mark.parametrize("plugin", ["denoise:Denoise", "denoise:Denoiser"])
def test_its_plugins_pass_the_checks(
    plugin: str, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    goes = ["data.name=denoise:NoisySkin", "client=denoise:Denoise", "model=denoise:Denoiser"]
    words = [word for one in goes if not one.endswith(f"={plugin}") for word in ("--with", one)]
    assert main(["check-plugin", plugin, "--plugins", str(Path(scenario).parent), *words]) == 0, (
        capsys.readouterr()
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("headline", "nosuch", r"its headline names 'nosuch', which is none of its metrics"),
        ("in_rounds", ("psnr", "ssim"), r"its in_rounds names 'ssim'"),
        ("in_tables", ("mse",), r"its in_tables names 'mse'"),
    ],
)
def test_a_task_is_told_by_metrics_that_it_has(
    key: str, value: object, words: str, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from denoise import Denoising

    monkeypatch.setattr(Denoising, key, value)
    with pytest.raises(InputError, match=words):
        run(scenario, *NAMES, "rounds=1")


def test_predictions_that_are_no_numbers_end_the_run(
    scenario: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from denoise import Denoising

    found = Denoising.predict

    def spoilt(self: Denoising, *arguments: Any) -> np.ndarray:
        values = found(self, *arguments)
        values[:2] = np.nan
        return values

    monkeypatch.setattr(Denoising, "predict", spoilt)
    with pytest.raises(RunError, match=r"'image-to-image' predicts NaN for 2 of \d+ images"):
        run(scenario, *NAMES, "rounds=1", runs=tmp_path)


def test_methods_of_other_tasks_are_refused_and_those_that_go_named(scenario: str) -> None:
    with pytest.raises(InputError, match="images to denoise") as caught:
        load(scenario, [*NAMES, "client=supervised"])
    assert "denoise" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("data.positive=benign", "is for images to classify"),
        ("data.split.folds=3", "is for data of volumes"),
        ("federation.appearance={site-0: {invert: true}}", "how volumes look"),
    ],
)
def test_keys_of_other_tasks_are_refused(
    key: str, words: str, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", scenario, *NAMES, key]) == 2
    assert words in capsys.readouterr().err
