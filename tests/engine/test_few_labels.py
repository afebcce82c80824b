"""Methods for few labels through the engine: bits, resume, the wire, and what is refused."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim import InputError, Result, load, run
from fedsim.api import resume
from fedsim.terminal.console import Console
from tests.engine.conftest import TINY
from tests.engine.test_bits import assert_same, model
from tests.engine.test_segmentation import SMALL

IMAGES = ("pseudo_label", "mean_teacher", "fixmatch")
VOLUMES = ("pseudo_label_segmentation", "mean_teacher_segmentation", "fed_cot")


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs a method with few labels: of images or of volumes, by its name; each run is made once.

    A test that goes on with a run does it in a copy.
    """
    tmp_path = tmp_path_factory.mktemp("few_labels")
    volumes = SMALL.replace(
        "labels:\n    clients: {client-0: [anterior], client-1: [posterior]}", ""
    )
    texts = {"images": TINY, "volumes": volumes.replace("cases: 8", "cases: 12")}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)

    @functools.cache
    def run_it(method: str, *overrides: str, **options: object) -> Result:
        kind = "volumes" if method in (*VOLUMES, "segmentation") else "images"
        own = "client.batch_size=16" if kind == "images" else "client.batch_size=4"
        words = ["federation.labelled=0.3", f"client={{name: {method}, steps: 3}}", own]
        if method == "fed_cot":
            words.append("strategy=fed_cot")
        path = tmp_path / f"{kind}.yaml"
        return run(path, *words, *overrides, runs=tmp_path / "runs", **options)  # type: ignore[arg-type]

    return run_it


@pytest.mark.parametrize("word", ["client.weight=0.0", "federation.labelled=1.0"])
@pytest.mark.parametrize("method", [*IMAGES, *VOLUMES])
def test_with_nothing_to_learn_it_is_averaging_on_labelled_records_to_the_bit(
    method: str, word: str, go: Callable[..., Result]
) -> None:
    plain = [word] if word.startswith("federation") else []
    expected = model(go("segmentation" if method in VOLUMES else "supervised", *plain))
    found = model(go(method, word))
    assert all((found[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("method", [*IMAGES, *VOLUMES])
def test_a_resumed_run_ends_with_the_same_bits(
    method: str, go: Callable[..., Result], tmp_path: Path
) -> None:
    unsure = () if "teacher" in method or method == "fed_cot" else ("client.threshold=0.5",)
    words = ("rounds=3", *unsure)
    whole, broken = go(method, *words), tmp_path / "broken"
    shutil.copytree(whole.folder, broken)
    record = json.loads((broken / "run.json").read_text())
    (broken / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    sorted((broken / "checkpoint").glob("round-*.ckpt"))[-1].unlink()
    (broken / "model.safetensors").unlink()
    assert_same(whole, resume(broken, [], Console(quiet=True)))
    plain = model(go("segmentation" if method in VOLUMES else "supervised", "rounds=3"))
    assert any((model(whole)[name] != plain[name]).any() for name in plain)


@pytest.mark.parametrize("method", ["mean_teacher", "fed_cot"])
def test_on_ray_the_bits_are_the_same(method: str, go: Callable[..., Result]) -> None:
    assert_same(go(method), go(method, backend="ray", workers=2))


def test_the_wire_is_twice_that_of_averaging(go: Callable[..., Result]) -> None:
    def rows(result: Result) -> list[tuple[str, dict[str, int]]]:
        lines = (result.folder / "traffic.jsonl").read_text().splitlines()
        return [(row["direction"], row["fields"]) for row in map(json.loads, lines)]

    plain, doubled = rows(go("segmentation")), rows(go("fed_cot"))
    assert len(plain) == len(doubled)
    for (way, one), (other_way, two) in zip(plain, doubled, strict=True):
        assert way == other_way
        assert two["teacher"] == two["arrays"] == one["arrays"]
        assert two.keys() - one.keys() == {"teacher"}
    sent = [sum(f["arrays"] + f.get("teacher", 0) for _, f in found) for found in (plain, doubled)]
    assert sent[1] == 2 * sent[0]


def test_what_is_learned_of_unlabelled_records_is_reported(go: Callable[..., Result]) -> None:
    heard = go("fixmatch", "client.threshold=0.0", "rounds=1").rounds[0]["metrics_by_client"]
    assert all(one["kept"] == 1 and one["unlabelled-loss"] > 0 for one in heard.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["client=fixmatch"], "all labels are known: set federation.labelled"),
        (
            ["client=fixmatch", "federation.labelled=0.5", "resources.precision=bfloat16"],
            "trains in float32 alone",
        ),
        (
            ["client=mean_teacher_segmentation", "federation.labelled=0.5"],
            "is made for volumes to segment",
        ),
        (
            ["federation.overrides={client-1: {client: {name: fixmatch}}}"],
            "all labels are known: set federation.labelled",
        ),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], message: str, tiny: Path) -> None:
    with pytest.raises(InputError) as refused:
        load(tiny, words)
    assert message in str(refused.value)
