"""Per-sample gradients equal autograd's, record by record, for every kind of model."""

from __future__ import annotations

import copy
import gc
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedsim.models.classifier import AveragePool2
from fedsim.models.dynunet import DynUNet
from fedsim.models.unet import UNet
from fedsim.privacy import per_sample as per_sample_module
from fedsim.privacy.mechanisms import DPSGD, State
from fedsim.privacy.noise import Noise
from fedsim.privacy.per_sample import PerSampleGradients, sum_groups
from tests.shipped import CLASSIFIERS, images_of, small


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


def by_autograd(model, inputs, targets, loss=cross_entropy):
    """The gradient of each record's loss, one backward pass a record."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for i in range(len(inputs)):
        total = loss(model(inputs[i : i + 1]), targets[i : i + 1]).sum()
        found = torch.autograd.grad(total, parameters, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def relative(found, expected):
    """Largest difference of two rows over the norm of the row."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)).max())


def batch(n=3, size=16, channels=3, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, channels, size, size, generator=rng, dtype=dtype),
        torch.randint(0, 2, (n,), generator=rng),
    )


def records(name, n=3, dtype=torch.float32):
    return images_of(name, n, dtype=dtype), batch(n)[1]


# Scales and places of the transformer are parameters outside of layers, for which Opacus helps.
@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "vit_s14"])
def test_gradients_of_shipped_models_are_autograds_without_help_from_opacus(name, monkeypatch):
    monkeypatch.setattr(per_sample_module, "_hooks", None)
    model = small(name).double()
    images, labels = records(name, dtype=torch.float64)
    with PerSampleGradients(model) as per_sample:
        found = per_sample.gradients(images, labels, cross_entropy)
    assert relative(found, by_autograd(model, images, labels)) < 1e-12


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
# A projector is beside the logits, and Opacus gives what has no gradient none, not 0.
@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "projected"])
def test_gradients_are_those_of_opacus(name):
    opacus = pytest.importorskip("opacus")
    model = small(name)
    images, labels = records(name, 4)
    found = PerSampleGradients(model).gradients(images, labels, cross_entropy)
    private = opacus.GradSampleModule(model, loss_reduction="sum")
    cross_entropy(private(images), labels).sum().backward()
    expected = torch.cat([p.grad_sample.flatten(1) for p in private.parameters()], dim=1)
    assert relative(found, expected) < 5e-6


class Twice(nn.Module):
    """A layer used twice, and its weight once more without the layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, images):
        hidden = self.norm(self.again(self.norm(self.again(self.first(images)))))
        pooled = hidden.mean((2, 3))
        return F.linear(self.head(pooled), self.head.weight)[:, :2]


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight

    def forward(self, images):
        return self.two(self.one(images.flatten(1)[:, :6]).tanh())[:, :2]


class Standardised(nn.Conv2d):
    """Convolution whose weights are normalised: not a parameter, beside a bias that is one."""

    def forward(self, images):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(images, weight, self.bias)


class Scaled(nn.Module):
    """A parameter in no layer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, 1.0]))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        return self.head(self.body(images * self.scale[:, None, None]))


class Within(nn.Module):
    """Adds to a layer's output in place, as DenseNet and U-Net implementations do."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(2, 4), nn.Linear(4, 2)

    def forward(self, images):
        hidden = F.relu_(self.norm(self.one(images)))
        out = self.norm(self.two(hidden))
        out += hidden
        return self.head(F.relu(out, inplace=True).mean((2, 3)))


def head(channels, *layers):
    """A classifier that begins with `layers`, which leave so many channels."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 2))


RULED = {
    "strides": lambda: head(4, nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, (1, 3), (2, 1))),
    "one by one": lambda: head(6, nn.Conv2d(3, 5, 1, 2), nn.Conv2d(5, 6, 1, padding=1)),
    "large kernel": lambda: head(4, nn.Conv2d(3, 4, 7, 2, 3), nn.MaxPool2d(3, 2, 1)),
    "dilation": lambda: head(4, nn.Conv2d(3, 4, 3, padding=2, dilation=2)),
    "groups": lambda: head(6, nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 6, 3, groups=6)),
    "same": lambda: head(4, nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2))),
    "valid": lambda: head(4, nn.Conv2d(3, 4, 3, padding="valid", bias=False)),
    "reflection": lambda: head(4, nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
    "instance norm": lambda: head(4, nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True)),
    "no weights": lambda: head(4, nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), AveragePool2()),
    "in place": lambda: head(
        4, nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3),
        nn.SiLU(inplace=True), nn.GroupNorm(4, 4), nn.Dropout(0.0, inplace=True),
    ),
    "sums in place": Within,
    "positions": lambda: nn.Sequential(nn.Linear(16, 5), nn.Flatten(), nn.Linear(3 * 16 * 5, 2)),
    "transposed": lambda: head(
        6, nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.PReLU(),
        nn.ConvTranspose2d(4, 6, 2, 3, groups=2), nn.PReLU(6),
        nn.ConvTranspose2d(6, 6, 3, padding=2, dilation=2, bias=False),
    ),
    "lines": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(3, 4, 5, 2, 2), nn.ConvTranspose1d(4, 4, 3), nn.Flatten(),
        nn.LazyLinear(2),
    ),
    "volumes": lambda: nn.Sequential(
        nn.Unflatten(2, (4, 4)), nn.Conv3d(3, 4, (1, 3, 3), (1, 1, 2), 1),
        nn.InstanceNorm3d(4, affine=True), nn.ConvTranspose3d(4, 2, 2, 2), nn.PReLU(),
        nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(16, 2),
    ),
    "layer norm": lambda: head(
        3, nn.LayerNorm(16), nn.Conv2d(3, 3, 3), nn.LayerNorm((14, 14), bias=False), nn.PReLU(),
        nn.LayerNorm(14, elementwise_affine=False),
    ),
    "used twice": Twice,
    "tied": Tied,
}  # fmt: skip
NOT_RULED = {
    "standardised": lambda: head(4, Standardised(3, 4, 3), nn.ReLU(inplace=True)),
    "own parameter": Scaled,
    "mixed": lambda: head(3, nn.Sequential(nn.ReLU(inplace=True), nn.RMSNorm(16)), nn.PReLU()),
}


@pytest.mark.parametrize("name", [*RULED, *NOT_RULED])
def test_gradients_of_any_layer_are_autograds(name, monkeypatch):
    torch.manual_seed(0)
    model = {**RULED, **NOT_RULED}[name]().double()
    if name in RULED:
        monkeypatch.setattr(per_sample_module, "_hooks", None)
    images, labels = batch(dtype=torch.float64)
    model(images)
    before = copy.deepcopy(model.state_dict())
    found = PerSampleGradients(model).gradients(images, labels, cross_entropy)
    assert relative(found, by_autograd(model, images, labels)) < 1e-12
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["in place", "standardised", "own parameter"])
def test_nothing_is_left_on_the_model(name):
    model = {**RULED, **NOT_RULED}[name]()
    kept = {path: set(vars(module)) for path, module in model.named_modules()}
    settings = [getattr(module, "inplace", None) for module in model.modules()]
    with PerSampleGradients(model) as per_sample:
        per_sample.gradients(*batch(), cross_entropy)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(vars(parameter) for parameter in model.parameters())
        assert {path: set(vars(module)) for path, module in model.named_modules()} == kept
        assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert [getattr(module, "inplace", None) for module in model.modules()] == settings


@pytest.mark.parametrize("patch", [(16, 16), (8, 16, 16)])
@pytest.mark.parametrize(
    ("network", "options"), [(UNet, {"residual_units": 1}), (DynUNet, {"channels": (4, 8, 8)})]
)
def test_gradients_of_networks_for_segmentation_are_autograds(network, options, patch, monkeypatch):
    pytest.importorskip("monai")
    monkeypatch.setattr(per_sample_module, "_hooks", None)
    torch.manual_seed(0)
    model = network(3, 1, patch, **({"heads": 1} if network is DynUNet else {}), **options)
    images = torch.randn(2, 1, *patch, dtype=torch.float64)
    masks = (images[:, 0] > 0.3).long()

    def loss(maps, masks):
        maps = maps if isinstance(maps, torch.Tensor) else maps[0]
        maps = maps[:, 0] if maps.ndim == images.ndim + 1 else maps
        return F.cross_entropy(maps, masks, reduction="none").flatten(1).mean(1)

    found = PerSampleGradients(model.double()).gradients(images, masks, loss)
    assert relative(found, by_autograd(model, images, masks, loss)) < 1e-12


def test_frozen_parameters_have_no_columns():
    model = head(4, nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)).double()
    model[0].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    images, labels = batch(dtype=torch.float64)
    found = PerSampleGradients(model).gradients(images, labels, cross_entropy)
    assert found.shape == (3, 4 + 4 + 32 + 2)
    assert relative(found, by_autograd(model, images, labels)) < 1e-12
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        PerSampleGradients(model).gradients(images, labels, cross_entropy)


def test_a_loss_over_maps_is_one_value_a_record():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    images, _ = batch(dtype=torch.float64)
    masks = (images[:, 0] > 0).long()

    def loss(maps, masks):
        return F.cross_entropy(maps, masks, reduction="none").mean((1, 2))

    found = PerSampleGradients(model).gradients(images, masks, loss)
    assert relative(found, by_autograd(model, images, masks, loss)) < 1e-12


def test_no_records_make_no_rows_and_no_forward_pass():
    model = small("cnn")
    model.forward = None
    images, labels = batch(0)
    with PerSampleGradients(model) as per_sample:
        found = per_sample.gradients(images, labels, cross_entropy)
    assert found.shape == (0, sum(p.numel() for p in model.parameters()))
    assert found.dtype == torch.float32
    mechanism = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, expected_batch=4.0)
    released, _ = mechanism.aggregate(found, State(), Noise.seeded(b"0"))
    assert released.update.norm() > 0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_splitting_a_batch_changes_no_gradient(name, monkeypatch):
    # In double precision: a convolution rounds differently at other batch sizes, and ResNet-18 on
    # maps of one pixel makes much of it.
    model = small(name).double()
    images, labels = records(name, 7, torch.float64)
    per_sample = PerSampleGradients(model)
    whole = per_sample.gradients(images, labels, cross_entropy)
    assert torch.equal(whole, per_sample.gradients(images, labels, cross_entropy))
    assert relative(torch.cat(in_parts(per_sample, images, labels)), whole) < 1e-12
    monkeypatch.setattr(per_sample_module, "_PIXELS", 1)  # record by record inside
    assert relative(per_sample.gradients(images, labels, cross_entropy), whole) < 1e-12


@pytest.mark.parametrize(("name", "tolerance"), [("cnn", 1e-6), ("resnet9", 1e-5)])
def test_splitting_a_batch_changes_no_release(name, tolerance):
    model = small(name)
    images, labels = batch(7)
    per_sample = PerSampleGradients(model)
    whole = per_sample.gradients(images, labels, cross_entropy)
    parts = in_parts(per_sample, images, labels)
    mechanism = DPSGD(noise_multiplier=0.0, max_grad_norm=1.0, expected_batch=4.0)
    sums = [mechanism.aggregate(g, State(), Noise.seeded(b"0"))[0].update for g in (whole, parts)]
    assert (sums[0] - sums[1]).norm() <= tolerance * sums[0].norm()


@pytest.mark.parametrize("name", ["used twice", "transposed", "positions"])
def test_gradients_are_the_same_with_two_threads(name):
    torch.manual_seed(0)
    model = RULED[name]().double()
    images, labels = batch(dtype=torch.float64)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(PerSampleGradients(model).gradients(images, labels, cross_entropy))
    finally:
        torch.set_num_threads(before)
    assert relative(*found) < 1e-12


def in_parts(per_sample, images, labels):
    cuts = [0, 1, 1, 5, 7]
    return [
        per_sample.gradients(images[start:stop], labels[start:stop], cross_entropy)
        for start, stop in itertools.pairwise(cuts)
    ]


def test_what_was_returned_stays_while_anything_refers_to_it():
    model = small("cnn")
    images, labels = batch(6)
    per_sample = PerSampleGradients(model)
    first = per_sample.gradients(images[:3], labels[:3], cross_entropy)
    kept, copied = first[1:].t(), first.clone()
    place = first.data_ptr()
    del first
    second = per_sample.gradients(images[3:], labels[3:], cross_entropy)
    assert torch.equal(kept.t(), copied[1:])
    assert second.data_ptr() != place
    del kept, second
    gc.collect()
    third = per_sample.gradients(images[:3], labels[:3], cross_entropy)
    per_sample.close()
    fourth = per_sample.gradients(images[3:], labels[3:], cross_entropy)
    assert torch.equal(third, copied)
    assert not torch.equal(fourth, copied)


def test_memory_is_used_again_and_nothing_of_it_shows():
    model = Twice()
    images, labels = batch(6)
    per_sample = PerSampleGradients(model)
    places = set()
    for n in (6, 5, 6, 6):
        found = per_sample.gradients(images[:n], labels[:n], cross_entropy)
        assert relative(found, by_autograd(model, images[:n], labels[:n])) < 5e-6
        places.add(found.data_ptr())
        found.fill_(float("nan"))
        del found
    assert len(places) == 1


def test_a_gradient_that_is_not_finite_stays_its_records_own():
    model = small("cnn")
    images, labels = batch(4)
    per_sample = PerSampleGradients(model)
    expected = per_sample.gradients(images, labels, cross_entropy)
    broken = images.clone()
    broken[2] = float("inf")
    found = per_sample.gradients(broken, labels, cross_entropy)
    assert not found[2].isfinite().all()
    assert relative(found[[0, 1, 3]], expected[[0, 1, 3]]) < 5e-6


def test_a_loss_without_a_value_a_record_is_refused():
    images, labels = batch()
    per_sample = PerSampleGradients(small("cnn"))
    with pytest.raises(ValueError, match=r"one value a record, \[3\], not \[\]"):
        per_sample.gradients(images, labels, F.cross_entropy)


def test_a_use_that_nobody_sees_is_refused():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 2, 3)

        def forward(self, images):
            return self.body(images).mean((2, 3)) * self.body.weight.norm()

    images, labels = batch()
    with pytest.raises(ValueError, match=r"'body.weight' are not complete"):
        PerSampleGradients(Hidden()).gradients(images, labels, cross_entropy)
    with pytest.raises(ValueError, match="Opacus computes no per-sample gradients"):
        PerSampleGradients(head(4, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).gradients(
            images, labels, cross_entropy
        )


def test_gradients_of_a_group_add_up():
    gradients = torch.arange(12.0).view(4, 3)
    summed = sum_groups(gradients, torch.tensor([2, 0, 2, 0]), 4)
    assert summed.tolist() == [[12, 14, 16], [0, 0, 0], [6, 8, 10], [0, 0, 0]]
    assert (
        sum_groups(gradients[:0], torch.tensor([], dtype=torch.int64), 2).tolist() == [[0] * 3] * 2
    )
    gradients[0] = float("inf")
    assert sum_groups(gradients, torch.tensor([1, 0, 1, 0]), 2)[0].tolist() == [12, 14, 16]
    with pytest.raises(ValueError, match="between 0 and 1"):
        sum_groups(gradients, torch.tensor([0, 1, 2, 0]), 2)
    with pytest.raises(ValueError, match="4 gradients"):
        sum_groups(gradients, torch.tensor([0, 1]), 2)
