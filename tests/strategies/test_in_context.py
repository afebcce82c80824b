"""In-context runs: one command, own support sets, the same bits on Ray and after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from fedsim import Result, load, run
from fedsim.api import resume
from fedsim.errors import InputError
from fedsim.federation.building import build_federation
from fedsim.folder.runfolder import RunFolder
from fedsim.models.cross_network import CrossNetwork
from fedsim.tasks.segmentation.support import unit_range
from fedsim.terminal.console import Console
from fedsim.trained.card import build_card
from tests.engine.test_bits import lines

TINY = (
    "data.size=32",
    "data.embedded={scale: 0.02, mean_slices: 8}",
    "data.split={val: 0, test: 0.34}",
    "federation.labelled_groups=1",
    "model.draws=1",
    "model.capacity=64",
)
NAME = "prostate_fewshot_incontext"
GROUPS = "federation.labelled_groups"
QUIET = Console(quiet=True)


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Result]:
    return lambda *words, **keys: run(NAME, *TINY, *words, runs=tmp_path / "runs", **keys)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(NAME, *TINY, runs=tmp_path_factory.mktemp("once"), backend="inline")


def models(result: Result) -> dict[str, dict[str, np.ndarray]]:
    return {path.name: load_file(path) for path in (result.folder / "models").iterdir()}


def assert_same(one: Result, other: Result) -> None:
    left, right = models(one), models(other)
    assert left.keys() == right.keys()
    for name, arrays in left.items():
        for part, values in arrays.items():
            assert values.tobytes() == right[name][part].tobytes(), f"{name}: {part} differs"
    assert one.metrics == other.metrics
    assert lines(one, "traffic.jsonl") == lines(other, "traffic.jsonl")


def test_nothing_travels_and_the_answers_are_of_the_support(once: Result) -> None:
    rows = RunFolder.open(once.folder).read_lines("traffic.jsonl")
    assert all(set(row["fields"]) <= {"config", "metrics"} for row in rows)
    assert {row["round"] for row in rows} == {1}
    assert once.metrics["dice"] > 0.2  # All background has 0.
    assert 0.2 < once.metrics["dice_2d"] <= 1
    found = models(once)
    sets = {name: arrays["support.images"].tobytes() for name, arrays in found.items()}
    assert len(set(sets.values())) == 4
    networks = {arrays["network.out_conv.conv.weight"].tobytes() for arrays in found.values()}
    assert len(networks) == 1


def test_a_support_set_holds_the_site_s_labelled_cases_and_no_others(once: Result) -> None:
    """No test case, no hidden label, nothing of another site: counted voxel by voxel."""
    federation = build_federation(load(NAME, list(TINY)), 0)
    for name, held in federation.train.items():
        assert len(held) == 1
        assert set(held.tolist()).isdisjoint(federation.split["test"].tolist())
        view = federation.task.view(federation.store, held, name)
        image, label = view.volume(0)
        arrays = load_file(once.folder / "models" / f"{name}.safetensors")
        there = arrays["support.slices"] >= 0
        assert arrays["support.slices"][there].tolist() == list(range(len(label)))
        assert np.array_equal(arrays["support.images"][there], unit_range(image[0].numpy()))
        assert np.array_equal(arrays["support.labels"][there], label.numpy())
        assert not arrays["support.images"][~there].any()
        assert not arrays["support.labels"][~there].any()


def test_fewer_labelled_cases_are_part_of_more_and_the_test_cases_stay() -> None:
    found = [
        build_federation(
            load(name, ["data.embedded={scale: 0.2, mean_slices: 8}", f"{GROUPS}={count}"]), seed
        )
        for name in ("prostate_fewshot", NAME)
        for seed in (0, 1)
        for count in (1, 2, 3)
    ]
    by_seed = [found[i : i + 3] for i in range(0, len(found), 3)]
    for nested in by_seed:
        for fewer, more in pairwise(nested):
            for name, held in fewer.train.items():
                assert set(held.tolist()) < set(more.train[name].tolist())
    for one in found:
        assert one.split["test"].tolist() == found[0].split["test"].tolist()
    # Each method has the same ones, each seed others.
    labels = [[one.describe()["labels"] for one in nested] for nested in by_seed]
    assert labels[0] == labels[2]
    assert labels[0] != labels[1]


def test_the_card_says_that_the_file_holds_records(once: Result) -> None:
    card = build_card(once.folder)
    assert "**The file holds images and outlines of the labelled cases (`support`)**" in card
    assert "begins at random" not in card


def test_ray_has_the_same_bits(go: Callable[..., Result], once: Result) -> None:
    assert_same(once, go(backend="ray", workers=2))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(once: Result, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedsim", "run", NAME, *TINY, "--backend", "inline", "--runs"]
    process = subprocess.Popen(
        [*command, str(tmp_path)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(12000):
        if found := list(tmp_path.glob(f"{NAME}/*/checkpoint/reply-*")):
            break
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert_same(once, resume(found[0].parents[1], [], QUIET))


def refused(go: Callable[..., Result], *words: str) -> str:
    with pytest.raises(InputError) as caught:
        go(*words, backend="inline")
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.init=random",), "has no weights to begin with"),
        (("model.init=universeg_v1",), "fetch https://github.com/JJGO/UniverSeg"),
        (("rounds=2",), "one-shot"),
        (("model.channels=[8, 8, 8, 8]",), "does not fit"),
        (("federation.labelled_groups=50",), "50 patients or cases are wanted"),
        (("federation.labelled_groups=0",), "expected at least 1, got 0"),
        (("federation.labelled_groups=1.5",), "expected a whole number, got 1.5"),
        (("federation.labelled=0.5",), "set one to null"),
        (("model={name: unet}",), "needs a network with a support set"),
        (("client=local_segmentation",), "with 'in_context' type client=in_context"),
        (("model.capacity=1",), "set model.capacity"),
        (("model.support=0",), "model.support: expected a number above 0"),
        (("model.draws=0",), "model.draws: expected a number above 0"),
        (("client.slices=some",), "expected 'outlined' or 'all'"),
        (("data.size=50",), "multiples of 8 voxels, not [50, 50]"),
        (("model.trainable=head",), "no model travels: each client keeps its own"),
        (
            ("strategy=fedavg", "client=segmentation"),
            "'in_context' is not trained, but client method 'segmentation' trains; with it go: "
            "in_context",
        ),
        (("strategy=local_only", "client=local_segmentation"), "'in_context' is not trained"),
        (
            ("privacy={noise_multiplier: 1.0}", "federation.labelled_groups=null"),
            "'in_context' has no private form",
        ),
        (
            ("adversary={name: sign_flip, count: 1}",),
            "'sign_flip' changes what clients send of a model, and with strategy 'in_context' no "
            "model travels: each client keeps its own",
        ),
    ],
)
def test_what_does_not_go_is_refused(
    go: Callable[..., Result], words: tuple[str, ...], message: str
) -> None:
    assert message in refused(go, *words)


class Runs:
    """What a pickle of bad will holds."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


def test_a_file_of_weights_that_does_not_go_is_one_clear_error(
    go: Callable[..., Result], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    fits = CrossNetwork((16, 16, 16, 16)).state_dict()
    mark = tmp_path / "code-ran"
    files: dict[str, object] = {
        "code.pt": {**fits, "more": Runs(mark)},
        "module.pt": CrossNetwork((16, 16)),
        "missing.pt": {name: fits[name] for name in fits if name != "out_conv.conv.bias"},
        "numbers.pt": fits | {"out_conv.conv.bias": torch.tensor([torch.nan])},
        "levels.pt": CrossNetwork((16,) * 5).state_dict(),
        "layout.pt": {name.replace(".vmapped.", "."): value for name, value in fits.items()},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    save_file(fits, tmp_path / "fits.safetensors")
    whole = (tmp_path / "fits.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.pt").write_text("<html>Not Found</html>")
    says = {
        "code.pt": "reading it could run code",
        "module.pt": "reading it could run code",
        "missing.pt": "missing 'network.out_conv.conv.bias'",
        "numbers.pt": "no numbers",
        "levels.pt": "unexpected 'enc_blocks",
        "layout.pt": "unexpected 'enc_blocks.0.target.conv.weight'",
        "cut.safetensors": "damaged",
        "page.pt": "is not a file of weights",
        "nowhere.pt": "there is no file",
    }
    for name, message in says.items():
        assert message in refused(go, f"model.init={tmp_path / name}"), name
    assert not mark.exists()
