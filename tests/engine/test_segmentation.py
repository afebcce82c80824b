"""Segmentation through the engine: partial labels, bits, resume, traffic, and a private run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from safetensors.numpy import load_file
from safetensors.torch import save_file

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.federation import building
from fedsim.scenario import Scenario, load
from fedsim.sweeping.cells import fingerprints, plan, standing
from fedsim.terminal.console import Console
from tests.engine.test_bits import assert_same

SMALL = """\
name: parts
rounds: 2
data:
  name: msd
  size: 32
  patch: [32, 32]
  embedded: {cases: 8}
  split: {val: 0.2, test: 0.25}
federation:
  clients: 2
  labels:
    clients: {client-0: [anterior], client-1: [posterior]}
model: {name: unet, channels: [4, 8]}
strategy: {name: fedavg, weighting: uniform}
client: {name: segmentation, steps: 2, batch_size: 4}
resources: {backend: inline, workers: 2}
"""


@pytest.fixture
def run_small(tmp_path: Path) -> Callable[..., Result]:
    path = tmp_path / "parts.yaml"
    path.write_text(SMALL)

    def go(*overrides: str, **options: object) -> Result:
        return run(path, *overrides, runs=tmp_path / "runs", **options)  # type: ignore[arg-type]

    return go


LOCAL = ("strategy=local_only", "client={name: local_segmentation, steps: 2, batch_size: 4}")


@pytest.mark.parametrize("words", [(), LOCAL], ids=["sent", "kept"])
def test_the_fast_mode_gives_the_same_bits_however_it_runs(
    words: tuple[str, ...], run_small: Callable[..., Result]
) -> None:
    fast = (*words, "resources.fast=true")
    one = run_small(*fast)
    about = json.loads((one.folder / "run.json").read_text())["computing"]
    assert about["together"] == "side by side: 2 of 2 clients"
    for other in (run_small(*fast, "resources.threads=2"), run_small(*fast, backend="ray")):
        assert overlaps(one) == overlaps(other)
        if not words:
            assert_same(one, other)
    # It is the same training, but for rounding.
    usual = run_small(*words).metrics
    assert all(abs(usual[name] - value) < 1e-3 for name, value in one.metrics.items())


def overlaps(result: Result) -> bytes:
    with np.load(result.folder / "overlaps.npz") as found:
        return b"".join(found[name].tobytes() for name in sorted(found.files))


CONDIST = ("client={name: condist, steps: 2, batch_size: 4}", "strategy=server_momentum")


def test_all_structures_are_scored_on_all_test_volumes(run_small: Callable[..., Result]) -> None:
    result = run_small()
    assert set(result.metrics) == {
        "dice",
        "dice_2d",
        "dice/anterior",
        "dice/posterior",
        "jaccard",
    }
    found = np.load(result.folder / "overlaps.npz")
    assert found["overlaps"].shape == (1, 2, 2, 3)
    assert found["structures"].tolist() == ["anterior", "posterior"]
    # The truth holds both structures, whoever labels them.
    assert (found["overlaps"][0, :, :, 2] > 0).all()
    assert (result.folder / "segmentation" / "overlays.png").is_file()
    assert (result.folder / "report" / "index.html").is_file()


def test_inline_and_ray_segment_with_the_same_bits(run_small: Callable[..., Result]) -> None:
    assert_same(run_small(*CONDIST), run_small(*CONDIST, backend="ray", workers=2))


def test_a_resumed_run_goes_on_with_optimiser_and_momentum(
    run_small: Callable[..., Result],
) -> None:
    whole, broken = run_small(*CONDIST, "rounds=3"), run_small(*CONDIST, "rounds=3")
    record = json.loads((broken.folder / "run.json").read_text())
    (broken.folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    sorted((broken.folder / "checkpoint").glob("round-*.ckpt"))[-1].unlink()
    assert_same(whole, resume(broken.folder, [], Console(quiet=True)))


def test_distillation_sends_what_averaging_sends_and_two_numbers(
    run_small: Callable[..., Result],
) -> None:
    def sent(result: Result) -> list[dict[str, int]]:
        rows = map(json.loads, (result.folder / "traffic.jsonl").read_text().splitlines())
        return [row["fields"] for row in rows if row["direction"] == "up"]

    plain, distilled = sent(run_small()), sent(run_small(*CONDIST))
    assert [fields["arrays"] for fields in plain] == [fields["arrays"] for fields in distilled]
    for one, other in zip(plain, distilled, strict=True):
        assert one.keys() == other.keys()
        assert other["metrics"] - one["metrics"] == 2 * 8


def test_a_dynunet_travels_once(run_small: Callable[..., Result]) -> None:
    from fedsim.models.dynunet import DynUNet

    result = run_small("model={name: dynunet, channels: [4, 8, 8], heads: 1}", "rounds=1")
    model = DynUNet(3, 1, (32, 32), channels=(4, 8, 8), heads=1)
    parameters = sum(p.numel() for p in model.parameters())
    rows = map(json.loads, (result.folder / "traffic.jsonl").read_text().splitlines())
    assert {row["fields"]["arrays"] for row in rows} == {4 * parameters}


# A decoder of a tiny transformer, on whole slices: each is seen by the transformer once.
TOKENS = (
    "model={name: vit_decoder, trainable: head, remember: 40, resolution: 28, channels: [4, 8], "
    "width: 12, depth: 2, heads: 2, grid: 3}",
)


def test_of_a_frozen_transformer_the_decoder_alone_travels(
    run_small: Callable[..., Result],
) -> None:
    from fedsim.models.vit_decoder import ViTDecoder

    result = run_small(*TOKENS)
    scenario = load(result.folder / "scenario.yaml")
    model = ViTDecoder(3, 1, (32, 32), **scenario.model.parameters)
    decoder = sum(p.numel() for p in model.decoder.parameters())
    rows = map(json.loads, (result.folder / "traffic.jsonl").read_text().splitlines())
    assert {row["fields"]["arrays"] for row in rows} == {4 * decoder}

    trained, resting = (load_file(result.folder / "model.safetensors"), first(scenario))
    assert trained.keys() == resting.keys()
    moved = {name for name in trained if not np.array_equal(trained[name], resting[name])}
    assert moved == {name for name in trained if name.startswith("decoder.")}
    features = sum(p.numel() for p in model.features.parameters())
    for path in (result.folder / "checkpoint").glob("round-*.ckpt"):
        assert 4 * features < path.stat().st_size < 8 * features  # once, beside all else


def first(scenario: Scenario) -> dict[str, np.ndarray]:
    """The first arrays of a run with seed 0."""
    from fedsim.engine.prepare import prepare
    from fedsim.models.build import first_arrays
    from fedsim.wire import tensors

    return tensors(first_arrays(scenario, prepare(scenario, 0).task, 0))


def test_what_is_remembered_of_slices_changes_no_bit(run_small: Callable[..., Result]) -> None:
    whole, few = run_small(*TOKENS), run_small(*TOKENS, "model.remember=1")
    assert_same(whole, few)
    assert_same(whole, run_small(*TOKENS, backend="ray", workers=2))
    record = json.loads((few.folder / "run.json").read_text())
    (few.folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    sorted((few.folder / "checkpoint").glob("round-*.ckpt"))[-1].unlink()
    assert_same(whole, resume(few.folder, [], Console(quiet=True)))


def test_a_decoder_begins_beside_weights_of_a_transformer(
    run_small: Callable[..., Result], tmp_path: Path
) -> None:
    from fedsim.models import ViTS14
    from tests.pretrained.test_loading import as_dinov2

    source = ViTS14(2, 3, 28, width=12, depth=2, heads=2, grid=3)
    save_file(as_dinov2(source), tmp_path / "vit.safetensors")
    result = run_small(*TOKENS, f"model.init={tmp_path / 'vit.safetensors'}", "rounds=1")
    trained = load_file(result.folder / "model.safetensors")
    kept = json.loads((result.folder / "run.json").read_text())["pretrained"]["kept"]
    assert sorted(kept) == sorted(name for name in trained if name.startswith("decoder."))
    for name, values in source.features.state_dict().items():
        assert np.array_equal(trained[f"features.{name}"], values.numpy()), name
    with pytest.raises(
        InputError, match=r"does not fit model 'unet'.*unexpected 'features"
    ) as caught:
        run_small(f"model.init={tmp_path / 'vit.safetensors'}")
    assert "the same names and shapes" in caught.value.hint


def test_local_models_are_scored_one_by_one(run_small: Callable[..., Result]) -> None:
    result = run_small("strategy=local_only", "client={name: local_segmentation, steps: 1}")
    heard = result.rounds[-1]["metrics_by_client"]
    assert all("test_dice" in values for values in heard.values())
    assert not (result.folder / "model.safetensors").exists()
    assert np.load(result.folder / "overlaps.npz")["overlaps"].shape[0] == 2


def test_a_private_run_trains_the_network_by_cases(run_small: Callable[..., Result]) -> None:
    words = (
        "client.dice=record",
        "client.learning_rate=0.05",
        "privacy={noise_multiplier: 1.0, expected_batch: 2, delta: 0.05}",
    )
    result = run_small(*words)
    assert result.summary["certified"] is True
    assert result.summary["epsilon"] > 0
    with pytest.raises(InputError, match="record"):
        run_small("client.dice=batch", *words[1:])


def test_pooled_validation_chooses_by_dice(run_small: Callable[..., Result]) -> None:
    result = run_small("evaluation.select=pooled_val", "evaluation.on_clients=true")
    assert all("val_dice" in row["metrics"] for row in result.rounds)
    # A client's own score knows nothing of what it does not label.
    heard = result.rounds[-1]["metrics_by_client"]
    assert "val_dice/posterior" not in heard["0"]


def test_labels_that_do_not_fit_are_refused(run_small: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="the clients are"):
        run_small("federation.labels.clients={a: [anterior]}")
    with pytest.raises(InputError, match="do not fit") as caught:
        run_small("federation.labels.clients={client-0: [liver], client-1: [anterior]}")
    assert "liver" in str(caught.value)
    with pytest.raises(InputError, match="images to classify"):
        run_small("data={name: ham10000, embedded: {images: 100}}", "model=cnn")


def test_folds_put_every_case_into_one_test(run_small: Callable[..., Result]) -> None:
    tested = []
    for fold in range(3):
        result = run_small("data.split.folds=3", f"data.split.fold={fold}", "rounds=1")
        tested += np.load(result.folder / "overlaps.npz")["records"].tolist()
    assert sorted(tested) == list(range(8))


CENTRES = (
    "data={name: promise12, size: 32, embedded: {scale: 0.25}}",
    "federation={partition: {name: natural}}",
)


def test_a_site_that_takes_no_part_is_scored_from_outside(run_small: Callable[..., Result]) -> None:
    result = run_small(*CENTRES, "evaluation.external.sites=[centre-2, centre-4]")
    data = json.loads((result.folder / "run.json").read_text())["data"]
    assert list(data["sizes_by_client"]) == ["centre-1", "centre-3"]
    assert data["external"]["sites"] == ["centre-2", "centre-4"]
    assert sum(data["sizes"].values()) + data["external"]["size"] == 67  # 8 + 6 + 7 + 46
    assert result.metrics["external_dice"] == result.metrics["external_dice/prostate"] >= 0
    assert np.load(result.folder / "overlaps.npz")["overlaps"].shape[1] == data["sizes"]["test"]
    assert result.metrics["dice@centre-4"] is None


def write_elsewhere(root: Path, seed: int) -> None:
    """A folder of three cases in PROMISE12's layout."""
    draws = np.random.default_rng(seed)
    root.mkdir(exist_ok=True)
    for case in range(3):
        mask = np.zeros((6, 40, 40), np.uint8)
        mask[2:4, 15:25, 15:25] = 1
        for name, array in (("", draws.normal(size=mask.shape)), ("_segmentation", mask)):
            image = sitk.GetImageFromArray(array.astype(np.float32 if name == "" else np.uint8))
            sitk.WriteImage(image, root / f"Case{case:02}{name}.mhd")
    (root / "centres.csv").write_text(
        "case,centre\n" + "".join(f"Case0{i},far\n" for i in range(3))
    )


def test_a_folder_of_elsewhere_is_scored_from_outside(
    run_small: Callable[..., Result], tmp_path: Path
) -> None:
    root = tmp_path / "elsewhere"
    write_elsewhere(root, 0)
    words = [*CENTRES, f"evaluation.external.root={root}"]
    result = run_small(*words)
    data = json.loads((result.folder / "run.json").read_text())["data"]
    assert data["external"]["root"] == str(root)
    assert data["external"]["size"] == 3
    assert result.metrics["external_dice/prostate"] is not None

    (cell,) = plan([str(tmp_path / "parts.yaml")], [*words, "resources.backend=inline"])
    for seed, action in ((0, "done"), (1, "run")):
        write_elsewhere(root, seed)
        there = fingerprints([cell])[cell.data_key]
        assert standing(cell, tmp_path / "runs", there).action == action


@pytest.mark.parametrize(
    ("sites", "told"),
    [
        ("[centre-9]", "names centre-9, but the sites are centre-1, centre-2"),
        ("[centre-1, centre-2, centre-3, centre-4]", "nobody is left to train"),
    ],
)
def test_external_sites_that_make_no_sense_are_refused(
    sites: str, told: str, run_small: Callable[..., Result]
) -> None:
    with pytest.raises(InputError, match=told):
        run_small(*CENTRES, f"evaluation.external.sites={sites}")


def test_models_of_their_own_are_scored_at_home_and_away(run_small: Callable[..., Result]) -> None:
    local = ("strategy=local_only", "client={name: local_segmentation, steps: 1, batch_size: 2}")
    result = run_small(*CENTRES, *local, "rounds=1")
    sites = [f"centre-{number}" for number in (1, 2, 3, 4)]
    each = [result.rounds[-1]["metrics_by_client"][str(number)] for number in range(4)]
    table = np.array([[scores[f"test_dice@{site}"] for site in sites] for scores in each])
    assert result.metrics["dice@own"] == pytest.approx(np.diag(table).mean())
    away = table[~np.eye(4, dtype=bool)].mean()
    assert result.metrics["dice@others"] == pytest.approx(away)


def test_who_was_at_a_site_outside_is_not_trained_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "parts.yaml"
    path.write_text(SMALL)
    scenario = load(path, [*CENTRES, "evaluation.external.sites=[centre-2]"])
    store = building.open_store(scenario)
    outside = np.flatnonzero(store.sites == store.site_names.index("centre-2"))
    inside = np.flatnonzero(store.sites == store.site_names.index("centre-1"))
    groups = np.array(store.groups)
    groups[inside[0]] = groups[outside[0]]  # one patient, scanned at both
    monkeypatch.setattr(building, "open_store", lambda *_: replace(store, groups=groups))
    built = building.build_federation(scenario, 0)
    used = np.concatenate(list(built.split.values()))
    assert built.external is not None
    assert not set(groups[used]) & set(groups[built.external[1]])
    assert len(used) + len(outside) + 1 == len(groups)
