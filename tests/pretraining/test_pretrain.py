"""Pretraining end to end: the file, its bits, interruptions, and who takes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from fedsim.cli import main
from fedsim.errors import InputError
from fedsim.models.classifier import Classifier
from fedsim.models.convnet import ConvNet
from fedsim.pretrained import load_pretrained
from fedsim.pretraining import Pretraining, pretrain, public_images
from fedsim.pretraining.images import PublicImages
from fedsim.pretraining.keeping import UNFINISHED

SMALL = Pretraining(parameters={"width": 8}, epochs=3, batch_size=16)
WORDS = ("pretrain", "model.width=8", "--count=40", "--size=16", "--epochs=2", "--batch-size=16")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def images() -> PublicImages:
    """Forty textures between two colours each, 16 px."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 2, 1, 1, 3))
    texture = np.repeat(np.repeat(rng.random((40, 8, 8, 1)), 2, 1), 2, 2)
    pixels = colours[:, 0] * texture + colours[:, 1] * (1 - texture)
    return PublicImages(pixels.astype(np.uint8), "0" * 64, "folder")


def test_the_file_has_a_backbone_and_says_what_it_is(images, tmp_path):
    out = tmp_path / "b.safetensors"
    about = pretrain(images, SMALL, out)
    model = ConvNet(num_classes=5, in_channels=3, image_size=16, width=8)
    backbone = {n for n in model.state_dict() if n.startswith("features.")}
    assert set(load_file(out)) == backbone
    with safe_open(out, framework="np") as file:
        assert file.metadata() == about
    assert about["method"] == "simclr"
    assert json.loads(about["architecture_arguments"]) == {"width": 8}
    assert about["images_fingerprint"] == "0" * 64
    assert (about["epochs"], about["seed"], about["images_count"]) == ("3", "0", "40")
    assert not list(tmp_path.glob(f"*{UNFINISHED}"))


def test_it_learns(images, tmp_path):
    """The loss falls far below that of the first epoch, which is about that of no knowledge."""
    told: list[str] = []
    settings = Pretraining(parameters={"width": 16}, epochs=15, batch_size=20, learning_rate=3e-3)
    about = pretrain(images, settings, tmp_path / "b.safetensors", say=told.append)
    losses = [float(line.rpartition(" ")[2]) for line in told]
    assert len(losses) == 15
    assert losses[0] == pytest.approx(np.log(39), abs=0.2)
    assert np.mean(losses[-3:]) < losses[0] - 0.4
    assert float(about["loss"]) == pytest.approx(losses[-1], abs=1e-4)


def test_a_model_with_another_head_takes_it_and_keeps_its_own(images, tmp_path):
    out = tmp_path / "b.safetensors"
    pretrain(images, SMALL, out)
    model = ConvNet(num_classes=7, in_channels=3, image_size=16, width=8)
    head = model.classifier.weight.clone()
    load_pretrained(model, str(out))
    assert torch.equal(model.classifier.weight, head)
    for name, tensor in load_file(out).items():
        assert torch.equal(model.state_dict()[name], tensor)


class Normed(Classifier):
    """A classifier with running statistics and a head of its own name."""

    head = "last.top"

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.last = nn.ModuleDict({"top": nn.Linear(16, num_classes)})


def test_running_statistics_are_learned_and_any_head_is_left_out(images, tmp_path):
    out = tmp_path / "b.safetensors"
    pretrain(images, Pretraining(f"{__name__}:Normed", epochs=1, batch_size=16), out)
    assert not any(name.startswith("last") for name in load_file(out))
    model = Normed(num_classes=3, in_channels=3, image_size=16)
    load_pretrained(model, str(out))
    norm = model.features[1]
    assert int(norm.num_batches_tracked) == 2
    assert not torch.allclose(norm.running_mean, torch.zeros(4))


@pytest.mark.parametrize(
    "settings", [SMALL, Pretraining(parameters={"width": 8}, epochs=2, koleo=0.1)]
)
def test_the_same_seed_gives_the_same_bytes(images, tmp_path, settings):
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        torch.rand(3)  # nothing that was drawn before matters
        pretrain(images, settings, file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_seed_and_koleo_matter(images, tmp_path):
    kinds = [{}, {"seed": 1}, {"koleo": 0.1}]
    found = []
    for i, kind in enumerate(kinds):
        file = tmp_path / f"{i}.safetensors"
        pretrain(images, Pretraining(parameters={"width": 8}, epochs=1, **kind), file)
        found.append(load_file(file)["features.0.weight"])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


class Stop(Exception):
    """What ends a pretraining."""


def test_an_interrupted_one_goes_on_with_the_same_bits(images, tmp_path):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    pretrain(images, SMALL, whole)

    def stop(done: int, total: int, what: str) -> None:
        if done == total - 1:
            raise Stop

    with pytest.raises(Stop):
        pretrain(images, SMALL, cut, progress=stop)
    assert not cut.exists()
    told: list[str] = []
    pretrain(images, SMALL, cut, say=told.append)
    assert told[0] == "goes on after epoch 2 of 3"
    assert len(told) == 2
    assert cut.read_bytes() == whole.read_bytes()


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(images, tmp_path):
    out = tmp_path / "b.safetensors"

    def stop(done: int, total: int, what: str) -> None:
        if done == total:
            raise Stop

    with pytest.raises(Stop):
        pretrain(images, SMALL, out, progress=stop)
    told: list[str] = []
    other = Pretraining(parameters={"width": 8}, epochs=3, batch_size=16, seed=1)
    pretrain(images, other, out, say=told.append)
    assert len(told) == 3


def test_a_damaged_checkpoint_is_said_to_be(images, tmp_path):
    out = tmp_path / "b.safetensors"
    out.with_name(out.name + UNFINISHED).write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"no checkpoint.*damaged.*\n.*rm "):
        pretrain(images, SMALL, out)


def test_what_is_there_is_not_made_again_and_never_overwritten(images, tmp_path):
    out = tmp_path / "b.safetensors"
    about = pretrain(images, SMALL, out)
    told: list[str] = []
    assert pretrain(images, SMALL, out, say=told.append) == about
    assert told == [f"{out} is there already"]
    before = out.read_bytes()
    with pytest.raises(InputError, match="made with another seed"):
        pretrain(images, Pretraining(parameters={"width": 8}, epochs=3, batch_size=16, seed=1), out)
    out.write_bytes(before[:50])
    with pytest.raises(InputError, match="no such file"):
        pretrain(images, SMALL, out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Pretraining("linear"), "cannot be constructed"),
        (Pretraining("no_such_net"), "there is no model"),
        (Pretraining(parameters={"widht": 8}), "width"),
        (Pretraining(parameters={"depth": 9}), "at least 512 px"),
    ],
)
def test_models_that_do_not_go_are_refused(images, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        pretrain(images, settings, tmp_path / "b.safetensors")
    assert not list(tmp_path.glob("b.*"))


def test_all_values_out_of_range_are_named():
    with pytest.raises(InputError) as caught:
        Pretraining(epochs=0, batch_size=1, learning_rate=float("nan"), temperature=0, koleo=-1)
    for name in ("epochs", "batch_size", "learning_rate", "temperature", "koleo"):
        assert name in str(caught.value)


# --- images --------------------------------------------------------------------------------------


def test_the_stand_in_is_of_other_patients_than_a_scenario(tmp_path):
    from fedsim.data.skin import HAM10000
    from fedsim.data.store import prepare

    found = public_images("stand-in", size=8, count=20, seed=0, cache=tmp_path)
    own = prepare(
        HAM10000(),
        name="ham10000",
        root=None,
        size=8,
        embedded={"images": 20},
        skip_bad=False,
        cache=tmp_path,
    )
    assert found.source == "stand-in"
    assert found.pixels.shape == own.images.shape
    assert not set(map(bytes, found.pixels)) & set(map(bytes, own.images))


def test_a_folder_of_images(tmp_path):
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (20, 12), (40 * i, 0, 0)).save(folder / f"{i}.png")
    found = public_images(tmp_path / "images", size=8, count=None, seed=0, cache=tmp_path)
    assert found.pixels.shape == (6, 8, 8, 3)
    some = [
        public_images(tmp_path / "images", size=8, count=3, seed=s, cache=tmp_path).pixels[:, 0, 0]
        for s in (0, 0, 1)
    ]
    assert len(some[0]) == 3
    assert np.array_equal(some[0], some[1])
    assert not np.array_equal(some[0], some[2])
    (folder / "7.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"1 of 7 public images cannot be read[\s\S]*--images"):
        public_images(tmp_path / "images", size=8, count=None, seed=0, cache=tmp_path)


# --- the verb ------------------------------------------------------------------------------------


def test_the_verb(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS]) == 0
    out = capsys.readouterr().out
    assert "NOTE generated stand-in" in out
    assert "epoch 2/2 | loss" in out
    assert "init: convnet-simclr-0.safetensors" in out
    assert main([*WORDS, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["path"] == "convnet-simclr-0.safetensors"
    assert about["images"] == "stand-in"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("isic_noniid_fedavg",), "expected model.key=value"),
        (("model.width=[1",), "not YAML"),
        (("--images=nowhere",), "no such folder"),
        (("--count=1",), "at least 2 images"),
        (("--size=4",), "at least 8 px"),
        (("--out=b.pt",), "ends with .safetensors"),
        (("--epochs=0",), "epochs is 0"),
    ],
)
def test_the_verb_refuses(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.safetensors*"))
