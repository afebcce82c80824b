"""Models and losses that mix records are refused by name; those that do not are left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedsim.errors import InputError
from fedsim.models import SmallCNN
from fedsim.privacy.coupling import require_uncoupled
from fedsim.registry import default_registry
from tests.shipped import CLASSIFIERS, MIXES_RECORDS, SEGMENTATION, images_of, small


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


def batch(n=4, size=16):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, size, size, generator=rng), torch.arange(n) % 2


def classifier(*layers):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip


class Normed(nn.Module):
    """A convolution and a normalisation."""

    def __init__(self, norm):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), norm

    def forward(self, images):
        return self.norm(self.conv(images))


class Centred(nn.Module):
    """Takes the mean of the batch off."""

    def forward(self, values):
        return values - values.mean(0)


class Chained(nn.Module):
    """Every record is told of the one before it; the first of none."""

    def forward(self, values):
        return values + torch.cat([torch.zeros_like(values[:1]), values[:-1]])


class Inside(nn.Module):
    """Mixes records in its own forward, between two layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, images):
        hidden = self.one(images)
        return self.two(hidden / hidden.std())


class Whitened(nn.Module):
    """Mixes gradients only: what it hands on is the input itself, to the last bits."""

    def forward(self, values):
        mean = values.mean(0, keepdim=True)
        return values + (mean - mean.detach())


def refused(model, loss=cross_entropy, data=None):
    with pytest.raises(InputError) as caught:
        require_uncoupled(model, loss, *(data or batch()))
    return caught.value


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.BatchNorm2d(4), "BatchNorm2d"),
        (nn.BatchNorm2d(4, affine=False), "BatchNorm2d"),
        (nn.BatchNorm2d(4).requires_grad_(False), "BatchNorm2d"),
        (nn.BatchNorm2d(4).eval(), "BatchNorm2d"),
        (nn.SyncBatchNorm(4), "SyncBatchNorm"),
        (nn.InstanceNorm2d(4, track_running_stats=True), "InstanceNorm2d"),
    ],
)
def test_layers_with_batch_statistics_are_named_with_path_and_fix(layer, name):
    error = refused(classifier(Normed(layer), nn.ReLU(), Normed(copy.deepcopy(layer))))
    assert [p.where for p in error.problems] == [f"{name} '1.norm'", f"{name} '3.norm'"]
    assert "model.norm=group" in error.hint
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("layer", "where"),
    [
        (Centred(), "Centred '1'"),
        (Chained(), "Chained '1'"),
        (Inside(), "Inside '1'"),
        (nn.Sequential(nn.ReLU(), Centred()), "Centred '1.1'"),
    ],
)
def test_layers_that_mix_records_are_named(layer, where):
    (problem,) = refused(classifier(layer)).problems
    assert problem.where == where
    assert "changes with the other records" in problem.message


def test_mixed_gradients_are_found_where_outputs_do_not_show_it():
    (problem,) = refused(classifier(Whitened(), nn.Tanh())).problems
    assert problem.where == "model"


def test_the_model_itself_is_named():
    class Whole(SmallCNN):
        def forward(self, images):
            return super().forward(images - images.mean(0))

    (problem,) = refused(Whole(2, 3, 16, width=4)).problems
    assert problem.where == "Whole, the model"


def test_a_model_without_per_sample_gradients_is_refused():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 2, 3)

        def forward(self, images):
            return self.body(images).mean((2, 3)) * self.body.weight.norm()

    (problem,) = refused(Hidden()).problems
    assert "'body.weight' are not complete" in problem.message


def dice(maps, masks, together):
    chances = maps.softmax(1)[:, 1].flatten(1)
    masks = masks.flatten(1).float()
    if together:
        chances, masks = chances.reshape(1, -1), masks.reshape(1, -1)
    overlap = (chances * masks).sum(1)
    losses = 1 - (2 * overlap + 1) / (chances.sum(1) + masks.sum(1) + 1)
    return losses.expand(len(maps))


def test_a_loss_over_the_batch_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    images, _ = batch()
    data = images, (images[:, 0] > 0).long()
    error = refused(model, lambda maps, masks: dice(maps, masks, True), data)
    assert error.problems[0].where == "loss"
    assert "batch=False" in error.hint
    require_uncoupled(model, lambda maps, masks: dice(maps, masks, False), *data)


def test_a_loss_that_weighs_classes_by_their_frequency_in_the_batch_is_named():
    def balanced(logits, labels):
        counts = torch.bincount(labels, minlength=2).clamp_min(1)
        return cross_entropy(logits, labels) / counts[labels]

    assert refused(classifier(), balanced).problems[0].where == "loss"


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (F.cross_entropy, "[]"),
        (lambda logits, labels: cross_entropy(logits, labels)[None], "[1, 4]"),
        (lambda logits, labels: 0.0, "float"),
    ],
)
def test_a_loss_without_a_value_a_record_is_named(loss, shape):
    (problem,) = refused(classifier(), loss).problems
    assert problem.where == "loss"
    assert f"gives {shape} for 4 records" in problem.message


@pytest.mark.parametrize(
    "layer",
    [
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.Dropout(0.5),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(4, 4, 2),
    ],
)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_models_that_keep_records_apart_pass_and_stay_as_they_are(layer, n):
    model = classifier(layer).eval()
    kept = copy.deepcopy(model.state_dict())
    draws = torch.get_rng_state()
    require_uncoupled(model, cross_entropy, *batch(n))
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert torch.equal(draws, torch.get_rng_state())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shipped_classifiers_keep_records_apart(name):
    images, labels = images_of(name, 4, size=32), torch.arange(4) % 2
    require_uncoupled(small(name, width=8, size=32), cross_entropy, images, labels)


@pytest.mark.parametrize("name", [name for name in SEGMENTATION if name != "in_context"])
def test_shipped_models_of_segmentation_keep_records_apart(name):
    images, _ = batch(size=32)
    make = default_registry().resolve("models", name)
    words = {
        "vit_decoder": {"width": 24, "resolution": 56},
        "split_unet": {"norm": "instance"},
    }.get(name, {})
    masks = (images[:, 0] > 0).long()
    require_uncoupled(make(2, 3, (32, 32), **words), by_pixel, images, masks)


@pytest.mark.parametrize(
    ("name", "channels", "says"),
    [("split_unet", 3, "statistics of the batch"), ("in_context", 1, "per-sample gradients")],
)
def test_shipped_models_of_segmentation_without_a_private_form_are_refused(name, channels, says):
    images = batch(size=32)[0][:, :channels]
    masks = (images[:, 0] > 0).long()
    model = default_registry().resolve("models", name)(2, channels, (32, 32))
    if name == "in_context":
        model.remember([(images[:, 0][None], masks)], seed=0, empty=True)
    with pytest.raises(InputError) as caught:
        require_uncoupled(model, by_pixel, images, masks)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", MIXES_RECORDS)
def test_shipped_models_that_mix_records_are_refused(name):
    images, labels = images_of(name, 4), torch.arange(4) % 2
    with pytest.raises(InputError) as caught:
        require_uncoupled(small(name), cross_entropy, images, labels)
    assert "statistics of the batch" in str(caught.value)


def by_pixel(maps, masks):
    """Of the first head, where there are several."""
    maps = maps[0] if isinstance(maps, (list, tuple)) else maps
    maps = maps[:, 0] if maps.ndim == 5 else maps
    return cross_entropy(maps, masks).mean((1, 2))


def test_a_buffer_that_remembers_records_is_named() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, inputs):
            self.seen.mul_(0.9).add_(0.1 * inputs.detach().mean(0))
            return self.linear(inputs)

    with pytest.raises(InputError, match="seen"):
        require_uncoupled(Remembers(), cross_entropy, torch.randn(4, 3), torch.arange(4) % 2)
