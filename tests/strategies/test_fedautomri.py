"""A tiny FedAutoMRI run: what travels in which phase, and the same bits after a cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.numpy import load_file

from fedsim import InputError, Observer, run
from fedsim.models.auto_mri import in_use, searching
from fedsim.strategies.fedautomri import FedAutoMRI

SMALL = (
    "rounds=3",
    "strategy.search=0.34",
    "data.size=16",
    "data.embedded.patients=4",
    "data.embedded.per_patient=1",
    "model.width=2",
    "model.unrolls=1",
    "client.steps=2",
    "client.batch_size=2",
    "evaluation.every=3",
)


class Cut(Observer):
    """Ends a run after its second round."""

    essential = True

    def round(self, row: dict) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole")
    return Path(run("brain_recon_fedautomri", *SMALL, "resources.backend=inline", runs=runs).folder)


def test_it_searches_then_trains_what_was_derived(whole: Path) -> None:
    rows = [json.loads(line) for line in (whole / "rounds.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["search", "train", "train"]
    arrays = load_file(whole / "model.safetensors")
    gates = arrays["gates"]
    assert not searching(gates)
    assert gates.sum() == 6
    used = in_use(arrays, gates)
    unused = set(arrays) - set(used) - {"alphas", "gates"}
    assert unused
    assert not any(np.any(arrays[name]) for name in unused)


def test_only_what_is_in_use_travels_after_the_search(whole: Path) -> None:
    arrays = load_file(whole / "model.safetensors")
    size = {name: value.nbytes for name, value in arrays.items()}
    searched = sum(value for name, value in size.items() if name != "gates")
    trained = sum(size[name] for name in in_use(arrays, arrays["gates"]))
    sent = [json.loads(line) for line in (whole / "traffic.jsonl").read_text().splitlines()]
    up = {(row["round"], row["fields"]["arrays"]) for row in sent if row["direction"] == "up"}
    for round_, want in ((1, searched), (2, trained), (3, trained)):
        found = {count for number, count in up if number == round_}
        assert found
        assert all(want <= count < 1.5 * want + 20_000 for count in found)
    assert trained < searched / 3


def test_pictures_are_drawn(whole: Path) -> None:
    names = {path.name for path in (whole / "reconstruction").iterdir()}
    assert names == {"slices.png", "slices.csv", "architecture.png", "architecture.csv"}
    assert "Reconstructions" in (whole / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["rounds=1"], "leaves none of 1 rounds to train"),
        (["data.split.val=0.0"], "scanner-1 has no validation slices"),
        (["model={name: modl, width: 2}"], r"the model is a MoDL: type\s+model.name=auto_mri"),
        (["strategy={name: fedavg}"], "with 'fedautomri' type strategy=fedautomri"),
        (
            ["model={name: modl, width: 2}", "client={name: reconstruction, steps: 1}"],
            "strategy 'fedautomri' expects models of the kind 'architecture'; with 'fedautomri' "
            "type client=fedautomri",
        ),
        (["data.acceleration=16"], "2 lines in the middle are more than the 1 of 16"),
        (["privacy={noise_multiplier: 1, expected_batch: 2}"], "'fedautomri' has no private form"),
        (["privacy={noise_multiplier: 1, unit: client}"], "needs a strategy that averages models"),
        (["model.trainable=[alphas]"], "its arrays do not travel, such as 'cells.0.before.0.bias'"),
        (["federation.local=[stem.*]"], "2 of its arrays do not travel, such as 'stem.bias'"),
    ],
)
def test_what_does_not_go_together_is_one_error(
    keys: list[str], words: str, tmp_path: Path
) -> None:
    small = [key for key in SMALL if not ("{name: modl" in str(keys) and key.startswith("model."))]
    small = [key for key in small if not ("client={" in str(keys) and key.startswith("client."))]
    with pytest.raises(InputError, match=words):
        run("brain_recon_fedautomri", *small, *keys, "resources.backend=inline", runs=tmp_path)


def test_logits_are_averaged_by_samples_as_weights_are() -> None:
    first = ArrayRecord({"alphas": Array(np.zeros((9, 8), np.float32))})
    second = ArrayRecord({"alphas": Array(np.full((9, 8), 4.0, np.float32))})
    replies = []
    for record, slices in ((first, 3), (second, 1)):
        metrics = MetricRecord({"num-examples": slices, "loss": 0.0})
        content = RecordDict({"arrays": record, "metrics": metrics})
        asked = Message(RecordDict(), dst_node_id=1, message_type="train")
        replies.append(Message(content, reply_to=asked))
    strategy = FedAutoMRI()
    strategy.content(1, first, ConfigRecord())
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert np.array_equal(arrays["alphas"].numpy(), np.full((9, 8), 1.0, np.float32))


def test_two_runs_have_the_same_bits(whole: Path, tmp_path: Path) -> None:
    again = run("brain_recon_fedautomri", *SMALL, "resources.backend=inline", runs=tmp_path)
    one, other = (
        load_file(whole / "model.safetensors"),
        load_file(again.folder / "model.safetensors"),
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_cut_run_goes_on_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    from fedsim.cli import main

    options = (*SMALL, "resources.backend=inline")
    with pytest.raises(KeyboardInterrupt):
        run("brain_recon_fedautomri", *options, runs=tmp_path, observers=[Cut()])
    (cut,) = (path.parent for path in tmp_path.glob("brain_recon_fedautomri/2*/run.json"))
    assert main(["run", "--resume", str(cut)]) == 0
    one, other = load_file(whole / "model.safetensors"), load_file(cut / "model.safetensors")
    assert all(np.array_equal(one[name], other[name]) for name in one)
