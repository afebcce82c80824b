"""Adapters through the engine: bytes, states, checkpoints, files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from fedsim import InputError, Result, run
from fedsim.adapters import attach
from fedsim.api import resume
from fedsim.errors import Interruption
from fedsim.folder.runfolder import RunFolder
from fedsim.folder.storing import decode
from fedsim.scenario import load
from fedsim.trained.load import load_model
from fedsim.trained.onnx_file import export_onnx
from tests.engine.conftest import TINY
from tests.engine.test_resume import QUIET
from tests.engine.test_sharing import field

SMALL = ("federation.clients=2", "data.embedded.images=120", "client.batch_size=32")
LORA = "model.adapter={name: lora, rank: 4}"
FROZEN_A = "model.adapter={name: lora, rank: 4, freeze_a: true}"
REIN = "model.adapter={name: rein, tokens: 10, rank: 4, layers: [features.6]}"
VIT = "model={name: tiny_vit.TinyViT, adapter: {name: rein, tokens: 6, rank: 3}}"
PRIVATE = "privacy={noise_multiplier: 1.0, expected_batch: 16, delta: 0.001}"
STEPS = ("client.steps=2", "client.class_balanced=false", "rounds=1")

# Of the tiny CNN: convolutions of 3 x 3, three layers of normalisation, a linear one.
CHANNELS = [(3, 8), (8, 16), (16, 32)]
HEAD, NORMS, BIASES = 32 * 2 + 2, 2 * (8 + 16 + 32), 2 * (8 + 16 + 32) + 2
A, B = (4 * sum(n) for n in zip(*((9 * i, o) for i, o in CHANNELS), strict=True))
ALL = 6210


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs the tiny scenario with two clients; the same words are run once."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "tiny.yaml").write_text(TINY)
    made: dict[tuple[Any, ...], Result] = {}

    def once(*overrides: str, **options: Any) -> Result:
        key = (*overrides, *options.items())
        if key not in made:
            made[key] = run(
                folder / "tiny.yaml", *SMALL, *overrides, runs=folder / "runs", **options
            )
        return made[key]

    return once


def model_of(result: Result) -> dict[str, np.ndarray]:
    return load_file(result.folder / "model.safetensors")


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal, but for a step of 1e-30 that moves what is zero."""
    return np.array_equal(one, other) or np.allclose(one, other, rtol=0, atol=1e-25)


def vit_numbers(width: int = 16, depth: int = 2) -> int:
    return depth * (6 * 3 + 3 * width) + 2 * (width**2 + width) + 1 + (width * 2 + 2)


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ((LORA,), A + B + HEAD),
        ((FROZEN_A,), B + HEAD),
        ((LORA, "model.trainable=[classifier.bias]"), A + B + 2),
        ((LORA, "model.trainable=norm+head"), A + B + NORMS + HEAD),
        ((REIN,), 10 * 4 + 4 * 16 + 2 * (16**2 + 16) + 1 + HEAD),
        ((VIT,), vit_numbers()),
        (("model.trainable=norm+head",), NORMS + HEAD),
        (("model.trainable=bias+head",), BIASES + HEAD - 2),
        ((LORA, "strategy=lora_svd"), A + B + HEAD),
        ((LORA, "federation.local=['*.lora_b.*']"), A + HEAD),
    ],
    ids=str,
)
def test_what_travels_is_what_the_formulas_say(
    words: tuple[str, ...], numbers: int, go: Callable[..., Result]
) -> None:
    result = go(*words)
    assert field(result, "up") == field(result, "down") == {4 * numbers}


def test_what_is_frozen_never_changes_and_a_checkpoint_holds_it_once(
    go: Callable[..., Result],
) -> None:
    result = go(FROZEN_A)
    model = model_of(result)
    begun = model_of(go(FROZEN_A, "rounds=1", "client.learning_rate=1e-30"))
    moved = {name for name in model if not np.array_equal(model[name], begun[name])}
    assert moved == {
        "classifier.weight",
        "classifier.bias",
        *(f"features.{k}.lora_b.weight" for k in (0, 4, 8)),
    }
    # Without an adapter the same seed begins with the same weights.
    plain = model_of(go("rounds=1", "client.learning_rate=1e-30"))
    assert all(same(begun[n], v) for n, v in plain.items())
    data = sorted((result.folder / "checkpoint").glob("round-*"))[-1].read_bytes()
    assert data.count(model["features.4.weight"].tobytes()) == 1
    assert data.count(model["features.4.lora_a.weight"].tobytes()) == 1
    held = decode(data)
    assert all("fedsim.local" not in state for state in held["contexts"].values())
    assert 4 * (ALL + A + B) <= len(data) < 4 * (ALL + A + 3 * (B + HEAD)) + 20_000


@pytest.mark.parametrize("words", [(LORA, "strategy=lora_svd"), (REIN,), (VIT,)], ids=str)
def test_a_trained_model_is_loaded_and_says_the_same(
    words: tuple[str, ...], go: Callable[..., Result], tmp_path: Path
) -> None:
    result = go(*words)
    trained = load_model(result.folder)
    assert trained.about.adapter == load(result.folder / "scenario.yaml").model.adapter
    for name, value in model_of(result).items():
        assert np.array_equal(trained.model.state_dict()[name].numpy(), value)
    with np.load(result.folder / "predictions.npz") as saved:
        assert saved["probabilities"].shape[-1] == 2
    card = (result.folder / "MODEL_CARD.md").read_text()
    (told,) = [line for line in card.splitlines() if line.startswith("- Model: ")]
    assert "adapter=" in told
    assert "null" not in told
    if words == (VIT,):
        return
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((result.folder / "model.safetensors").read_bytes())
    inputs = torch.randn(3, 3, 16, 16)
    assert torch.equal(load_model(alone).model(inputs), trained.model(inputs))


@pytest.mark.parametrize("words", [(LORA, "strategy=lora_svd"), (REIN,)], ids=str)
def test_a_trained_model_is_exported(words: tuple[str, ...], go: Callable[..., Result]) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    exported = export_onnx(load_model(go(*words).folder))
    assert exported.shape == (3, 16, 16)


def test_what_a_file_says_of_its_adapter_may_be_damaged(
    go: Callable[..., Result], tmp_path: Path
) -> None:
    result = go(LORA, "strategy=lora_svd")
    about = load_model(result.folder).about.metadata()
    for told, words in (
        ({"name": "lora", "rank": -1}, "damaged"),
        ({"name": "lora", "rank": 99}, "99 is too large for 'features.0'"),
        ({"name": "lora", "rank": 3}, "does not fit the model 'cnn'"),
    ):
        file = tmp_path / "other.safetensors"
        save_file(model_of(result), file, metadata=about | {"adapter": json.dumps(told)})
        with pytest.raises(InputError, match=words):
            load_model(file)


def test_a_cut_run_goes_on_to_the_same_bits(
    go: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = (LORA, "strategy=lora_svd")
    whole = go(*words)
    save = RunFolder.append

    def stopping(self: RunFolder, name: str, row: dict[str, Any]) -> None:
        save(self, name, row)
        if name == "traffic.jsonl" and row["round"] == 2:
            raise Interruption

    (tmp_path / "tiny.yaml").write_text(TINY)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "tiny.yaml", *SMALL, *words, runs=tmp_path / "runs")
    (folder,) = [p for p in (tmp_path / "runs" / "tiny").iterdir() if not p.is_symlink()]
    resumed = resume(folder, [], QUIET)
    one, other = model_of(whole), model_of(resumed)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one | other)


@pytest.mark.parametrize("adapter", [LORA, REIN])
def test_dp_sgd_moves_what_is_trained_alone(adapter: str, go: Callable[..., Result]) -> None:
    result = go(adapter, PRIVATE, *STEPS)
    begun = model_of(go(adapter, "rounds=1", "client.learning_rate=1e-30"))
    moved = {n for n, v in model_of(result).items() if not np.array_equal(v, begun[n])}
    assert {n.split(".")[0] for n in moved if "lora" not in n} <= {"classifier", "rein"}
    assert any("lora" in n or "rein" in n for n in moved)
    plain = go(PRIVATE, *STEPS)
    assert result.summary["epsilon"] == plain.summary["epsilon"]


def test_a_file_of_the_model_without_the_adapter_is_its_beginning(
    go: Callable[..., Result], tmp_path: Path
) -> None:
    pretrained = go("rounds=1")
    init = f"model.init={pretrained.folder / 'model.safetensors'}"
    still = ("rounds=1", "client.learning_rate=1e-30")
    model, given = model_of(go(LORA, init, *still)), model_of(pretrained)
    assert all(same(model[name], value) for name, value in given.items())
    seeded = model_of(go(LORA, *still))
    assert all(same(model[n], seeded[n]) for n in set(model) - set(given))
    # And a file with the adapter gives all of it; with a part of it, it fits no model.
    trained = go(LORA)
    init = f"model.init={trained.folder / 'model.safetensors'}"
    again = model_of(go(LORA, init, *still))
    assert all(same(again[n], v) for n, v in model_of(trained).items())
    half = {n: v for n, v in model_of(trained).items() if n != "features.0.lora_a.weight"}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(InputError, match=r"missing 'features\.0\.lora_a\.weight'"):
        go(LORA, f"model.init={tmp_path / 'half.safetensors'}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("model.adapter={name: lora, rank: 99}",), "rank: 99 is too large for 'features.0'"),
        (("model.adapter={name: lora, targets: [feature.0]}",), "the nearest: 'features.0'"),
        (("model.adapter={name: lora, tokens: 5}",), "lora has no tokens; it has rank"),
        (("model.adapter={name: lore}",), "model.adapter.name: expected 'lora' or 'rein'"),
        (("model.adapter={name: lora, rnk: 5}",), "did you mean 'rank'?"),
        (("model.adapter=rein",), "'layers.*' matches no layer"),
        ((FROZEN_A, "strategy=lora_svd"), "clients send no layer's two factors"),
        (("strategy=lora_svd",), "clients send no layer's two factors"),
        (("strategy=local_only", "client=local", LORA), "no model travels"),
        (("model.trainable=bias",), "expected 'all', 'head', 'norm+head' or 'bias+head'"),
        (("model.trainable=['bias+head']",), "a word of its own: model.trainable=bias+head"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_one_error(
    words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(TINY)
    with pytest.raises(InputError) as refused:
        run(tiny, *SMALL, *words, runs=tmp_path / "runs")
    assert told in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 6


def test_the_place_of_a_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        TINY.replace("cnn, width: 8}", "cnn, width: 8,\n  adapter: {name: lora,\n   rank: 99}}")
    )
    with pytest.raises(InputError) as refused:
        run(file, runs=tmp_path / "runs")
    lines = file.read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if "rank" in line]
    assert refused.value.problems[0].where == f"{file}:{number}"


def test_a_model_without_biases_or_head_says_so() -> None:
    from fedsim.wire.sharing import sharing_of
    from tests.wire.test_sharing import rules

    bare = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 2, bias=False))
    with pytest.raises(InputError, match="has no biases"):
        sharing_of(rules(trainable="bias+head"), bare)
    attach(bare, "lora", {"rank": 1}, input_shape=(4,))
    with pytest.raises(InputError, match="does not say which its last layers are"):
        sharing_of(rules(), bare)
