"""In-context runs: one command, own support sets, the same bits on Ray and after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedsim import Result, run
from fedsim.errors import InputError
from fedsim.folder.runfolder import RunFolder

TINY = (
    "data.embedded={scale: 0.02, mean_slices: 8}",
    "data.split={val: 0, test: 0.34}",
    "federation.labelled_groups=1",
    "model.draws=1",
    "model.capacity=64",
)
NAME = "prostate_fewshot_incontext"


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Result]:
    return lambda *words, **keys: run(NAME, *TINY, *words, runs=tmp_path / "runs", **keys)


def models(result: Result) -> dict[str, dict]:
    return {path.name: load_file(path) for path in (result.folder / "models").iterdir()}


def test_nothing_travels_and_the_answers_are_of_the_support(go: Callable[..., Result]) -> None:
    result = go(backend="inline")
    lines = RunFolder.open(result.folder).read_lines("traffic.jsonl")
    assert all(set(line["fields"]) <= {"config", "metrics"} for line in lines)
    assert {line["round"] for line in lines} == {1}
    assert result.metrics["dice"] > 0.2  # All background has 0.
    found = models(result)
    sets = {name: arrays["support.images"].tobytes() for name, arrays in found.items()}
    assert len(set(sets.values())) == 4
    networks = {arrays["network.out_conv.conv.weight"].tobytes() for arrays in found.values()}
    assert len(networks) == 1


def test_ray_has_the_same_bits(go: Callable[..., Result]) -> None:
    here, there = go(backend="inline"), go(backend="ray", workers=2)
    assert here.metrics == there.metrics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.init=random",), "has no weights to begin with"),
        (("model.init=universeg_v1",), "fetch https://github.com/JJGO/UniverSeg"),
        (("rounds=2",), "one-shot"),
        (("model.channels=[8, 8, 8, 8]",), "does not fit"),
        (("federation.labelled_groups=50",), "50 patients or cases are wanted"),
        (("federation.labelled=0.5",), "leave one out"),
        (("model={name: unet}",), "needs a network with a support set"),
        (("client=local_segmentation",), "expects others; with it go: in_context"),
        (("model.capacity=1",), "set model.capacity"),
    ],
)
def test_what_does_not_go_is_refused(
    go: Callable[..., Result], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        go(*words, backend="inline")
    assert message in str(refused.value)
