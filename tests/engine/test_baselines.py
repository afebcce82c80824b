"""The reference lines: local-only, random selection, centralised."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from fedsim import Result
from fedsim.data.store import Store
from fedsim.errors import Interruption
from fedsim.tasks.classification import Classification
from fedsim.wire.codecs import image_bytes
from tests.engine.test_resume import QUIET

LOCAL = ("strategy=local_only", "client={name: local, steps: 3, batch_size: 16}")
RANDOM = (
    "rounds=1",
    "strategy={name: gdd, epochs: 2}",
    "client={name: random_selection, images_per_class: 3}",
)


def test_local_only_sends_no_model_and_reports_means_over_clients(
    run_tiny: Callable[..., Result],
) -> None:
    result = run_tiny(*LOCAL)
    assert not (result.folder / "model.safetensors").exists()
    fields = [json.loads(line)["fields"] for line in (result.folder / "traffic.jsonl").open()]
    assert all("arrays" not in of_message for of_message in fields)
    own = result.rounds[-1]["metrics_by_client"]
    assert len({own[client]["test_auc"] for client in own}) > 1, "clients share a model"
    for name in ("auc", "accuracy"):
        mean = np.mean([own[client][f"test_{name}"] for client in own])
        assert result.metrics[name] == pytest.approx(mean)
    assert result.metrics == {
        k: v for k, v in result.rounds[-1]["metrics"].items() if k != "train_loss"
    }
    with np.load(result.folder / "predictions.npz") as saved:
        assert saved["probabilities"].shape == (4, len(saved["labels"]), 2)
        assert saved["probabilities"].dtype == np.float32


def test_each_own_model_is_asked_once_and_its_answers_are_kept(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, predict = [], Classification.predict

    def counted(self: Classification, *words: object) -> np.ndarray:
        asked.append(predict(self, *words))  # type: ignore[arg-type]
        return asked[-1]

    monkeypatch.setattr(Classification, "predict", counted)
    result = run_tiny(*LOCAL, "rounds=2")
    assert len(asked) == 2 * 4, "two rounds of four models"
    with np.load(result.folder / "predictions.npz") as saved:
        assert np.array_equal(saved["probabilities"], np.stack(asked[4:]).astype(np.float32))


def test_local_models_start_alike_and_go_on_from_round_to_round(
    run_tiny: Callable[..., Result],
) -> None:
    # Two rounds of local training and one round of it: the second round went on from the first.
    one, two = run_tiny(*LOCAL, "rounds=1"), run_tiny(*LOCAL)
    assert one.rounds[0]["metrics"] == two.rounds[0]["metrics"]
    assert one.metrics != two.metrics
    # FedAvg's clients train from the same first weights: their loss in round 1 is the same.
    averaged = run_tiny("client.steps=3")
    losses = [r.rounds[0]["metrics_by_client"]["2"]["loss"] for r in (one, averaged)]
    assert losses[0] == losses[1]


def test_local_only_has_the_same_bits_on_ray_and_after_a_cut(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedsim.api import resume
    from fedsim.folder.runfolder import RunFolder

    inline, ray = run_tiny(*LOCAL), run_tiny(*LOCAL, backend="ray")
    assert inline.metrics == ray.metrics
    append, seen = RunFolder.append, []

    def stopping(self: RunFolder, name: str, row: dict) -> None:
        append(self, name, row)
        seen.append(self.path)
        if name == "rounds.jsonl":
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_tiny(*LOCAL)
    assert resume(seen[-1], [], QUIET).metrics == inline.metrics


def test_random_selection_sends_the_sites_own_images_and_says_so(
    run_tiny: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_tiny(*RANDOM, "federation.partition=iid", quiet=False)
    assert "CLIENTS SEND REAL IMAGES" in capsys.readouterr().out
    record = json.loads((result.folder / "run.json").read_text())
    assert record["released_without_privacy"][0].startswith("REAL IMAGES: 3 of each class")
    up = [json.loads(line) for line in (result.folder / "traffic.jsonl").open()]
    assert sum(row["fields"].get("images", 0) for row in up) == image_bytes(4, 2, 3, 16)
    stored = {image.tobytes() for image in _store(result).images}
    for path in (result.folder / "synthetic").glob("client-*.npz"):
        with np.load(path) as saved:
            pixels = saved["images"].transpose(0, 2, 3, 1)
            assert sorted(saved["labels"]) == [0, 0, 0, 1, 1, 1]
        assert {np.ascontiguousarray(image).tobytes() for image in pixels} <= stored


def _store(result: Result) -> Store:
    from fedsim.federation.opening import open_store
    from fedsim.scenario import load

    return open_store(load(str(result.folder / "scenario.yaml")))


def test_one_client_can_hold_everything(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("federation.clients=1", "federation.partition=iid")
    sizes = json.loads((result.folder / "run.json").read_text())["data"]
    assert sizes["sizes_by_client"]["client-0"]["train"] == sizes["sizes"]["train"]
