"""Compression around methods: bytes, bits, what is kept back, and who refuses it."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from safetensors.numpy import load_file

from fedsim import InputError, Result, RunError
from fedsim.api import resume
from fedsim.engine.checkpoint import Checkpoints
from fedsim.errors import ClientError, Interruption
from fedsim.privacy.client_level import ClientLevel
from fedsim.privacy.releases import Releases
from fedsim.scenario import load
from fedsim.terminal.console import Console
from fedsim.wire import tensors
from fedsim.wire.compression import CODES, Compression, rows_of
from fedsim.wire.payload import RESIDUAL, Payload
from tests.engine.conftest import GDD
from tests.engine.test_bits import assert_same, lines
from tests.engine.test_resume import only, start, wait_for

SPARSE = "wire={codec: int4, sparsify: {topk: 0.05}, error_feedback: true, down: uint8}"
SKETCH = "wire={sketch: {rows: 3, columns: 0.1, topk: 0.02}, error_feedback: true}"
SCAFFOLD = ("strategy=scaffold", "client=scaffold", "wire.codec=uint8")
QUIET = Console(quiet=True)


def weights(result: Result) -> np.ndarray:
    """All floating arrays of the final model, one after another."""
    found = load_file(result.folder / "model.safetensors")
    return np.concatenate([v.reshape(-1) for _, v in sorted(found.items()) if v.dtype.kind == "f"])


def fields(result: Result, direction: str, record: str = "arrays") -> set[int]:
    """Payload bytes of a record in the messages that train."""
    rows = lines(result, "traffic.jsonl")
    return {row["fields"][record] for row in rows if row["direction"] == direction}  # type: ignore[index]


@pytest.mark.parametrize(
    "wire",
    [
        "wire.codec=float16",
        "wire.codec=uint8",
        "wire.codec=int4",
        "wire.down=uint8",
        SPARSE,
        SKETCH,
    ],
)
def test_what_travels_has_the_bytes_of_the_formulas(
    wire: str, run_tiny: Callable[..., Result]
) -> None:
    result = run_tiny(wire, "rounds=1")
    settings = load(result.folder / "scenario.yaml").wire
    assert settings is not None
    model = load_file(result.folder / "model.safetensors")
    rows = rows_of([value.shape for value in model.values()])
    size = sum(value.size for value in model.values())
    assert fields(result, "up") == {Compression(settings).bytes(rows)}
    bits = {"float32": 4 * size, "uint8": size + 8 * sum(count for count, _ in rows)}
    assert fields(result, "down") == {bits[settings.down]}


def test_control_variates_have_the_bytes_of_the_formulas_too(
    run_tiny: Callable[..., Result],
) -> None:
    result = run_tiny(*SCAFFOLD, "rounds=1", "wire.down=uint8")
    settings = load(result.folder / "scenario.yaml").wire
    assert settings is not None
    model = load_file(result.folder / "model.safetensors")
    rows = rows_of([value.shape for value in model.values()])
    size = sum(value.size for value in model.values())
    assert fields(result, "up", "control") == {Compression(settings).bytes(rows)}
    assert fields(result, "down", "control") == {size + 8 * sum(count for count, _ in rows)}


def test_a_wire_that_changes_nothing_has_the_bits_of_none(run_tiny: Callable[..., Result]) -> None:
    assert_same(run_tiny("wire.codec=float32"), run_tiny())


@pytest.mark.parametrize(
    ("wire", "most"),
    [("wire.codec=float16", 1e-5), ("wire.codec=uint8", 1e-3), ("wire.codec=int4", 2e-2)],
)
def test_the_strategy_is_handed_models_as_without_compression(
    wire: str, most: float, run_tiny: Callable[..., Result]
) -> None:
    plain, coded = weights(run_tiny("rounds=1")), weights(run_tiny("rounds=1", wire))
    assert 0 < np.abs(plain - coded).max() < most


def test_the_server_keeps_its_own_model_where_the_broadcast_is_rounded(
    run_tiny: Callable[..., Result],
) -> None:
    # A rate at which no weight moves by half a step of the broadcast's codec.
    words = ("client.learning_rate=0.000001", "rounds=2")
    first, last = (run_tiny(*words[:1], f"rounds={n}", "wire.down=uint8") for n in (1, 2))
    assert (weights(first) != weights(last)).mean() > 0.5


@pytest.mark.parametrize("wire", [(SPARSE,), (SKETCH,), ("wire.codec=uint8",), SCAFFOLD])
def test_inline_and_ray_give_the_same_bits(
    wire: tuple[str, ...], run_tiny: Callable[..., Result]
) -> None:
    words = (*wire, "federation.participation=0.5", "rounds=3")
    assert_same(run_tiny(*words), run_tiny(*words, backend="ray", workers=2))


@pytest.mark.parametrize("wire", [SPARSE, SKETCH])
def test_a_killed_run_goes_on_to_the_same_bits(
    wire: str, tiny: Path, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    words = (wire, "federation.participation=0.5", "rounds=8")
    runs = tmp_path / "killed"
    process = start(tiny, runs, *words)

    def come() -> bool:
        folder = only(runs)
        rows = folder and folder / "rounds.jsonl"
        return bool(rows and rows.exists() and len(rows.read_text().splitlines()) >= 3)

    wait_for(come, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    folder = only(runs)
    assert folder is not None
    assert_same(run_tiny(*words), resume(folder, [], QUIET))


def test_a_client_that_is_not_asked_keeps_what_it_kept_back(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save
    seen: list[dict[int, bytes]] = []

    def note(self: Checkpoints, checkpoint: Any) -> None:
        kept = {
            client: tensors(state.array_records[RESIDUAL])["residual"].tobytes()
            for client, state in checkpoint.contexts.items()
            if RESIDUAL in state.array_records
        }
        seen.append(kept)
        save(self, checkpoint)

    monkeypatch.setattr(Checkpoints, "save", note)
    result = run_tiny(SPARSE, "federation.participation=0.5", "rounds=4")
    asked = [set(row["clients"]) for row in result.rounds]
    for number, (before, after) in enumerate(itertools.pairwise(seen), 1):
        for client in before:
            assert (before[client] == after[client]) == (client not in asked[number])
        assert set(after) == set(before) | asked[number]
    assert len(seen[-1]) > len(seen[0])


def test_buffers_integers_and_odd_shapes_travel_as_they_are(
    run_tiny: Callable[..., Result],
) -> None:
    small = (
        "data.embedded={images: 90, sites: 3}",
        "data.split={val: 0, test: 0.3}",
        "federation.clients=3",
        "federation.partition=iid",
        "model={name: odd_models.Odd}",
    )
    plain, coded = (run_tiny(*small, *more) for more in ((), (SPARSE.replace("uint8", "float16"),)))
    before, after = (load_file(one.folder / "model.safetensors") for one in (plain, coded))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        if value.dtype.kind in "iub":
            assert (value == after[name]).all()
        # A mask of the model is infinite from the first.
        assert (np.isfinite(value) == np.isfinite(after[name])).all()


def test_a_model_that_is_no_numbers_is_still_seen_as_that(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(RunError, match="diverge"):
        run_tiny("client=misbehaving:Diverges", "wire.codec=uint8")
    words = ("client=misbehaving:Diverges", "faults.on_client_error=skip")
    plain, coded = run_tiny(*words), run_tiny(*words, SPARSE)
    assert [row["failed"] for row in coded.rounds] == [row["failed"] for row in plain.rounds]
    assert coded.rounds[0]["failed"][0]["kind"] == "diverged"


def test_what_cannot_be_decoded_is_a_failure_of_that_client(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    compress = Payload.compress

    def spoiled(self: Payload, content: Any, start: Any, *rest: Any) -> None:
        compress(self, content, start, *rest)
        record = dict(content.array_records["arrays"])
        del record["#ranges"]
        fresh = ArrayRecord()
        for name, array in record.items():
            fresh[name] = array
        content["arrays"] = fresh

    monkeypatch.setattr(Payload, "compress", spoiled)
    with pytest.raises(ClientError, match="cannot be read: '#ranges' is missing"):
        run_tiny("wire.codec=uint8")


PRIVATE = (
    "model={name: cnn, width: 8}",
    "client={name: supervised, steps: 2, momentum: 0, class_balanced: false}",
    "rounds=2",
)


def test_noise_comes_first_and_the_codec_after_it(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    private = (*PRIVATE, "privacy={noise_multiplier: 1.0, expected_batch: 8, delta: 1e-3}")
    told: list[str] = []

    def noted(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def note(self: Any, *words: Any) -> Any:
            told.append(name)
            return method(self, *words)

        monkeypatch.setattr(kind, name, note)

    plain = run_tiny(*private)
    noted(Releases, "release")
    noted(Payload, "compress")
    coded = run_tiny(*private, SPARSE)
    # Two clients' steps each, in two rounds; what is compressed is a model that has its noise.
    assert told == ["release", "release", "compress"] * 8
    # Nobody pays for the compression.
    assert [row["epsilon"] for row in plain.rounds] == [row["epsilon"] for row in coded.rounds]
    assert len(fields(coded, "up")) == 1 < fields(plain, "up").pop() // fields(coded, "up").pop()


def test_updates_are_clipped_as_they_arrive(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    private = "privacy={unit: client, noise_multiplier: 0.5, max_grad_norm: 0.1, delta: 1e-3}"
    aggregate = ClientLevel.aggregate_train
    seen: list[set[str]] = []

    def note(self: ClientLevel, number: int, replies: Any) -> Any:
        held = list(replies)
        seen.extend(set(reply.content.array_records["arrays"]) for reply in held)
        return aggregate(self, number, held)

    monkeypatch.setattr(ClientLevel, "aggregate_train", note)
    result = run_tiny(private, "strategy.weighting=uniform", SPARSE)
    assert len(seen) == 8
    assert not any(CODES in names for names in seen)
    assert result.rounds[-1]["epsilon"] is not None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (GDD, "clients send images with labels, and compression is for models"),
        (("strategy=local_only", "client.name=local"), "no model travels"),
        (("strategy.codec=uint8",), "encodes the models already"),
        (("strategy=feddyn", "client=feddyn"), "drift apart where these arrive rounded"),
        (("strategy=remember",), "must be what the client sent"),
        (
            ("privacy={noise_multiplier: 1.0, delta: 1e-3, trust: secure_sum}",),
            "sum of masks that were rounded",
        ),
    ],
)
def test_methods_that_need_exact_arrays_refuse_it(
    words: tuple[str, ...], why: str, run_tiny: Callable[..., Result]
) -> None:
    with pytest.raises(InputError) as refused:
        run_tiny(*words, "wire.codec=uint8")
    problems = [one.message for one in refused.value.problems if one.message.startswith("wire: ")]
    assert len(problems) == 1
    assert why in problems[0]
    assert "type wire=null" in problems[0]


@pytest.mark.parametrize(
    "strategy",
    [
        "{name: scaffold}",
        "{name: fednova}",
        "{name: fedadam}",
        "{name: server_momentum}",
        "{name: robust, rule: median}",
        "{name: flwr.serverapp.strategy.FedAdam}",
    ],
)
def test_strategies_know_nothing_of_it(strategy: str, run_tiny: Callable[..., Result]) -> None:
    own = {"scaffold": "scaffold", "fednova": "fednova"}
    client = next((c for name, c in own.items() if name in strategy), "supervised")
    result = run_tiny(f"strategy={strategy}", f"client.name={client}", SPARSE)
    plain = run_tiny(f"strategy={strategy}", f"client.name={client}")
    assert np.isfinite(weights(result)).all()
    up, before = (sum(row["mb_up"] for row in one.rounds) for one in (result, plain))
    assert up < before


def test_clients_that_train_together_compress_each_for_itself(
    run_tiny: Callable[..., Result],
) -> None:
    words = ("resources.fast=true", "client={name: supervised, steps: 2, batch_size: 8}")
    one, other = run_tiny(*words, SPARSE), run_tiny(*words, SPARSE, backend="ray", workers=2)
    assert len(fields(one, "up")) == 1
    assert_same(one, other)


def test_an_interrupted_round_is_not_fed_back_twice(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (SPARSE, "rounds=3")
    whole = run_tiny(*words)
    save = Checkpoints.save

    def cut(self: Checkpoints, checkpoint: Any) -> None:
        # The clients of round 2 have answered, and nothing of it is kept.
        if checkpoint.round == 2:
            raise Interruption
        save(self, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", cut)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run_tiny(*words)
    assert_same(whole, resume(Path(str(stopped.value)), [], QUIET))
