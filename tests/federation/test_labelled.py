"""`federation.labelled`: which training records have labels, and that the others' are hidden."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim import InputError, Result, load
from fedsim.api import resume
from fedsim.data.split import labelled_share
from fedsim.federation.building import build_federation
from fedsim.federation.holdings import Federation
from fedsim.models.build import first_arrays
from fedsim.privacy.run_key import run_digest
from fedsim.terminal.console import Console
from tests.engine.conftest import TINY
from tests.engine.test_bits import model
from tests.engine.test_on_features import ON_FEATURES
from tests.engine.test_segmentation import SMALL


def built(*words: str, seed: int = 0, text: str = TINY, tmp_path: Path) -> Federation:
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return build_federation(load(path, list(words)), seed)


@pytest.fixture
def tiny_federation(tmp_path: Path) -> Callable[..., Federation]:
    return lambda *words, **options: built(*words, tmp_path=tmp_path, **options)


def test_a_share_is_rounded_up_in_each_class_and_takes_whole_groups() -> None:
    labels = np.array([0] * 30 + [1] * 3 + [2] * 4)
    groups = np.concatenate([np.arange(33), [40, 40, 41, 41]])
    taken = labelled_share(labels, groups, share=0.1, rng=np.random.default_rng(0))
    assert np.bincount(labels[taken]).tolist() == [3, 1, 2]
    rest = np.setdiff1d(np.arange(len(labels)), taken)
    assert set(groups[taken]).isdisjoint(groups[rest])
    everything = labelled_share(labels, groups, share=1.0, rng=np.random.default_rng(0))
    assert everything.tolist() == list(range(len(labels)))
    nothing = np.zeros(0, np.int64)
    assert not len(labelled_share(nothing, nothing, share=0.5, rng=np.random.default_rng(0)))
    with pytest.raises(ValueError, match="above 0"):
        labelled_share(labels, groups, share=0.0, rng=np.random.default_rng(0))


def test_shares_are_nested_and_labelled_and_hidden_records_are_all(
    tiny_federation: Callable[..., Federation],
) -> None:
    whole = tiny_federation()
    found = [tiny_federation(f"federation.labelled={share}") for share in ("0.1", "0.4", "1")]
    for smaller, larger in pairwise(found):
        for name, held in smaller.train.items():
            assert len(held)
            assert set(held.tolist()) <= set(larger.train[name].tolist())
    for one in found:
        for name, held in whole.train.items():
            both = np.concatenate([one.train[name], one.unlabelled[name]])
            assert np.sort(both).tolist() == held.tolist()
            # Each class that a client has is among what it has labels of.
            here = whole.store.labels[held], whole.store.labels[one.train[name]]
            assert set(here[0]) == set(here[1])
        groups = whole.store.groups
        known, hidden = one.split["train"], one.split["unlabelled"]
        assert set(groups[known].tolist()).isdisjoint(groups[hidden].tolist())
        assert one.split["test"].tolist() == whole.split["test"].tolist()
    assert not any(len(held) for held in found[-1].unlabelled.values())
    assert whole.unlabelled == {}


def test_they_are_the_same_for_every_method_and_others_for_another_seed(
    tiny_federation: Callable[..., Federation],
) -> None:
    words = ("federation.labelled=0.3", "federation.partition=iid")
    first = tiny_federation(*words)
    other = tiny_federation(*words, "model.width=4", "client.learning_rate=0.5", "rounds=7")
    described = first.describe()["labels"]
    assert other.describe()["labels"] == described
    assert described["labelled"] == len(first.split["train"])
    assert tiny_federation(*words, seed=1).describe()["labels"] != described


def test_single_clients_have_their_own_share(tiny_federation: Callable[..., Federation]) -> None:
    one = tiny_federation("federation.labelled={client-1: 0.2}")
    sizes = one.describe()["sizes_by_client"]
    assert sizes["client-0"]["unlabelled"] == 0
    assert sizes["client-1"]["unlabelled"] > sizes["client-1"]["train"]


def test_a_file_names_the_labelled_records(
    tiny_federation: Callable[..., Federation], tmp_path: Path
) -> None:
    whole = tiny_federation()
    ids = whole.store.ids
    chosen = [int(held[0]) for held in whole.train.values()]
    outside = ids[int(whole.split["test"][0])]
    path = tmp_path / "labelled.txt"
    path.write_text("\n".join([*(ids[i] for i in chosen), "", outside]))
    found = tiny_federation(f"federation.labelled={path}")
    assert found.split["train"].tolist() == sorted(chosen)
    path.write_text("nobody\n" + ids[chosen[0]])
    with pytest.raises(InputError, match="names 1 record that the data have not"):
        tiny_federation(f"federation.labelled={path}")
    path.write_text(ids[chosen[0]])
    with pytest.raises(InputError, match="names no training record of client-1"):
        tiny_federation(f"federation.labelled={path}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["federation.labelled=0"], "federation.labelled"),
        (["federation.labelled=1.5"], "federation.labelled"),
        (["federation.labelled={client-0: 2.0}"], "federation.labelled"),
        (["federation.labelled=nowhere.txt"], "there is no file"),
        (
            ["federation.labelled=0.5", "privacy={noise_multiplier: 1.0}"],
            "private training takes labelled records alone",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], message: str, tiny: Path) -> None:
    with pytest.raises(InputError) as refused:
        load(tiny, words)
    assert message in str(refused.value)


def test_a_wrong_share_of_a_client_is_one_problem(tiny: Path) -> None:
    """A block is what the key takes, so that nothing is said of the block itself."""
    with pytest.raises(InputError) as refused:
        load(tiny, ["federation.labelled={client-0: 2.0}"])
    (problem,) = refused.value.problems
    assert problem.message == "federation.labelled.client-0: expected at most 1, got 2.0"


def test_a_client_that_there_is_not_is_refused(
    tiny_federation: Callable[..., Federation],
) -> None:
    with pytest.raises(InputError, match=r"no client 'clinet-1' \(did you mean 'client-1'"):
        tiny_federation("federation.labelled={clinet-1: 0.5}")


def test_labels_of_images_cannot_be_read(tiny_federation: Callable[..., Federation]) -> None:
    one = tiny_federation("federation.labelled=0.5")
    hidden = one.unlabelled["client-0"]
    view = one.task.unlabelled_view(one.store, hidden, "client-0")
    assert torch.equal(view.images(), one.task.view(one.store, hidden).images())
    for read in (lambda: view.labels, lambda: view.of_class(0), lambda: next(view.batches(2))):
        with pytest.raises(RuntimeError, match="hidden"):
            read()


def test_labels_of_volumes_cannot_be_read(tmp_path: Path) -> None:
    one = built("federation.labelled=0.3", text=SMALL, tmp_path=tmp_path)
    hidden = one.unlabelled["client-0"]
    view = one.task.unlabelled_view(one.store, hidden, "client-0")
    draws = [torch.Generator().manual_seed(0) for _ in range(3)]
    images, labels = view.patches(4, (48, 48), draws[0])
    seen = one.task.view(one.store, hidden, "client-0")
    assert torch.equal(images, seen.patches(4, (48, 48), draws[1])[0])
    assert (labels == -1).all()
    assert (view.volume(0)[1] == -1).all()
    with pytest.raises(RuntimeError, match="hidden"):
        view.patches(4, (32, 32), draws[2], 0.5)


def test_training_goes_by_labelled_records_alone(run_tiny: Callable[..., Result]) -> None:
    """The labelled baseline is the usual training on fewer records."""
    result = run_tiny("federation.labelled=0.5", "rounds=1")
    about = json.loads((result.folder / "run.json").read_text())["data"]
    heard = result.rounds[0]["metrics_by_client"]
    for number, name in enumerate(about["sizes_by_client"]):
        assert heard[str(number)]["num-examples"] == about["sizes_by_client"][name]["train"]
    assert about["labels"]["labelled"] == about["sizes"]["train"]
    assert about["labels"]["unlabelled"] == about["sizes"]["unlabelled"] > 0
    other = run_tiny("rounds=1")
    assert any((model(other)[name] != model(result)[name]).any() for name in model(other))


def test_a_run_is_not_resumed_with_other_labels(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    found = built(tmp_path=tmp_path)
    ids, path = found.store.ids, tmp_path / "labelled.txt"
    first = [ids[int(i)] for held in found.train.values() for i in held[:2]]
    path.write_text("\n".join(first))
    result = run_tiny(f"federation.labelled={path}")
    record = json.loads((result.folder / "run.json").read_text())
    (result.folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    sorted((result.folder / "checkpoint").glob("round-*.ckpt"))[-1].unlink()
    path.write_text("\n".join([*first, ids[int(found.train["client-0"][2])]]))
    with pytest.raises(InputError, match="the data are not those"):
        resume(result.folder, [], Console(quiet=True))


def test_they_are_part_of_the_digest_that_noise_is_keyed_by(tiny: Path) -> None:
    digests = set()
    for word in ("null", "0.5", "0.4"):
        scenario = load(tiny, [f"federation.labelled={word}"])
        federation = build_federation(scenario, 0)
        arrays = first_arrays(scenario, federation.task, 0)
        digests.add(run_digest(scenario, 0, federation, arrays))
    assert len(digests) == 3


def test_labels_of_vectors_cannot_be_read_and_vectors_teach(
    run_tiny: Callable[..., Result], tiny: Path
) -> None:
    words = (*ON_FEATURES, "federation.labelled=0.3")
    one = build_federation(load(tiny, words), 0)
    view = one.task.unlabelled_view(one.store, one.unlabelled["client-0"], "client-0")
    assert view.images().shape == (len(view), 128)
    with pytest.raises(RuntimeError, match="hidden"):
        _ = view.labels
    method = "client={name: pseudo_label, steps: 3, threshold: 0.5, learning_rate: 0.5}"
    heard = run_tiny(*words, method, "rounds=1").rounds[0]["metrics_by_client"]
    assert any(found["kept"] > 0 for found in heard.values())
