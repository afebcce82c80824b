"""Gradients kept as factors have the norms, the sums and the angles of those written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedsim.models import ResNet18, SmallCNN
from fedsim.models.unet import UNet
from fedsim.privacy import per_sample as per_sample_module
from fedsim.privacy import rows as rows_module
from fedsim.privacy.factored import FactoredGradients, Product
from fedsim.privacy.gradients import clip
from fedsim.privacy.mechanisms import (
    DPSGD,
    AlternatingReference,
    Dimensions,
    Mechanism,
    PrivateReference,
    State,
)
from fedsim.privacy.memory import Memory
from fedsim.privacy.noise import Noise
from fedsim.privacy.paper import PaperUnsound
from fedsim.privacy.per_sample import PerSampleGradients
from tests.privacy.test_per_sample import (
    NOT_RULED,
    RULED,
    batch,
    by_autograd,
    cross_entropy,
    head,
    relative,
)

C = 0.5
# Transposed convolutions of small maps: the matrices of positions grow with their square.
MODELS = RULED | {
    "transposed": lambda: head(
        6, nn.AvgPool2d(4), nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.PReLU(),
        nn.ConvTranspose2d(4, 6, 2, 1, groups=2),
        nn.ConvTranspose2d(6, 6, 3, padding=2, dilation=2, bias=False),
    ),
}  # fmt: skip


@pytest.fixture
def all_factored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has a product is kept as one."""
    monkeypatch.setattr(rows_module, "_WIDE", 0)
    monkeypatch.setattr(rows_module, "_DEARER", 0)


def factored(model, images, labels, loss=cross_entropy) -> FactoredGradients:
    found = PerSampleGradients(model).contributions(images, labels, loss)
    assert isinstance(found, FactoredGradients)
    return found


def clipped_sum(gradients, norm=C, **keys):
    silent = DPSGD(noise_multiplier=0.0, max_grad_norm=norm, expected_batch=1.0, **keys)
    return silent.aggregate(gradients, State(), Noise.seeded(b"0"))[0].update


def naive_sum(rows, norm=C):
    return ((norm / (rows.norm(dim=1) + 1e-6)).clamp(max=1.0)[:, None] * rows).sum(0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_factors_say_what_rows_say(name, dtype, tolerance, all_factored, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(per_sample_module, "_hooks", None)
    model = MODELS[name]().to(dtype)
    images, labels = batch(5, dtype=dtype)
    model(images)
    monkeypatch.setattr(per_sample_module, "_PIXELS", 128)  # two records at a time
    found, expected = factored(model, images, labels), by_autograd(model, images, labels)
    assert (found.shape, len(found), found.dtype) == (expected.shape, 5, dtype)
    assert relative(found.rows(), expected) < tolerance
    norms = expected.norm(dim=1).double()
    assert ((found.norms() - norms).abs() <= tolerance * norms).all()
    sums = clipped_sum(found), naive_sum(expected)
    assert (sums[0] - sums[1]).norm() <= tolerance * sums[1].norm()
    direction = torch.randn(expected.shape[1], dtype=dtype)
    off = (found @ direction - expected @ direction).abs()
    assert (off <= tolerance * norms * direction.norm()).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_sums_of_a_u_net_are_those_of_autograd(dtype, tolerance, all_factored):
    pytest.importorskip("monai")
    torch.manual_seed(0)
    model = UNet(2, 1, (16, 16), residual_units=1).to(dtype)
    images, masks = torch.randn(3, 1, 16, 16, dtype=dtype), torch.randint(0, 2, (3, 16, 16))

    def loss(maps, masks):
        return cross_entropy(maps, masks).mean((1, 2))

    found, expected = (
        clipped_sum(factored(model, images, masks, loss)),
        naive_sum(by_autograd(model, images, masks, loss)),
    )
    assert (found - expected).norm() <= tolerance * expected.norm()


def test_wide_layers_with_few_positions_are_factored():
    model = ResNet18(num_classes=2, in_channels=3, image_size=32)
    images, labels = batch(3, 32)
    found = factored(model, images, labels)
    names = [name for name, _ in model.named_parameters()]
    kept = {names[place] for place in found.products}
    assert kept == {
        name
        for name, p in model.named_parameters()
        if p.ndim == 4 and name.split(".")[1] in ("7", "8", "9", "10") and p.numel() >= 2**17
    }
    assert len(kept) == 9
    assert found.written.shape[1] < 0.07 * found.shape[1]
    expected = PerSampleGradients(model).gradients(images, labels, cross_entropy)
    sums = clipped_sum(found), clipped_sum(expected)
    assert (sums[0] - sums[1]).norm() <= 1e-5 * sums[1].norm()


def test_small_models_have_the_bits_of_rows():
    model = SmallCNN(2, 3, 32)
    images, labels = batch(3, 32)
    found = PerSampleGradients(model).contributions(images, labels, cross_entropy)
    assert torch.equal(found, PerSampleGradients(model).gradients(images, labels, cross_entropy))
    none = PerSampleGradients(model).contributions(images[:0], labels[:0], cross_entropy)
    assert none.shape == (0, found.shape[1])


def test_a_norm_is_not_lost_where_its_terms_cancel():
    """Positions that almost cancel: in float32 nothing of the norm would be left."""
    right = torch.randn(1, 1, 40, dtype=torch.float64).expand(1, 2, 40)
    left = torch.randn(1, 1, 30, dtype=torch.float64)
    product = Product(torch.cat([left, -left * (1 + 1e-5)], dim=1), right)
    exact = 1e-5 * left.norm() * right[0, 0].norm()
    torch.testing.assert_close(product.squares().sqrt()[0], exact, rtol=1e-5, atol=0)
    single = Product(*(factor.float() for factor in product))
    assert abs(single.squares().sqrt()[0] / exact - 1) > 0.1


def test_a_record_moves_a_sum_by_no_more_than_the_norm(all_factored):
    torch.manual_seed(0)
    model = SmallCNN(2, 3, 16, width=8)
    images, labels = batch(6)
    images[3] *= 100
    everybody = clipped_sum(factored(model, images, labels), 1e-3)
    for record in range(6):
        others = [i for i in range(6) if i != record]
        without = clipped_sum(factored(model, images[others], labels[others]), 1e-3)
        moved = (everybody - without).norm()
        assert 0.99e-3 < moved <= 1e-3 * (1 + 1e-5)


def test_a_gradient_that_is_not_finite_counts_as_zero(all_factored):
    torch.manual_seed(0)
    model = SmallCNN(2, 3, 16, width=8)
    images, labels = batch(4)
    images[2] = float("inf")
    ready = clip(factored(model, images, labels), C)
    assert ready.finite.tolist() == [True, True, False, True]
    assert ready.norms[2] == 0
    assert not ready.gradients.rows()[2].any()
    kept = [0, 1, 3]
    some = (images, labels), (images[kept], labels[kept])
    sums = [clipped_sum(factored(model, *records)) for records in some]
    assert sums[0].isfinite().all()
    torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dimensions", [None, Dimensions("magnitude", 0.3)])
@pytest.mark.parametrize("kind", ["private", "alternating", "paper"])
def test_filters_decide_as_over_rows(kind, dimensions, all_factored):
    torch.manual_seed(0)
    model = head(4, nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
    images, labels = batch(12)
    both = factored(model, images, labels), by_autograd(model, images, labels)
    keys = {"noise_multiplier": 0.1, "max_grad_norm": C, "expected_batch": 12.0}
    mechanism: Mechanism = {
        "private": PrivateReference(**keys, dimensions=dimensions, reference_noise_multiplier=0.2),
        "alternating": AlternatingReference(**keys, dimensions=dimensions),
        "paper": PaperUnsound(
            **keys, dimensions=dimensions, cosine_noise_multiplier=0.1, psi=0.0, half_width=0.5
        ),
    }[kind]
    found = []
    for gradients in both:
        state, seen = State(), []
        for step in range(4):
            noise = Noise.seeded(b"1").for_release(step)
            released, info = mechanism.aggregate(gradients, state, noise)
            state = mechanism.remember(state, released)
            seen.append((released.update, info.kept))
        found.append(seen)
    assert any(0 < int(kept.sum()) < 12 for _, kept in found[0])
    for (one, kept), (other, as_rows) in zip(*found, strict=True):
        assert torch.equal(kept, as_rows)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class Moody(nn.Module):
    """Other layers every time it runs, and one that has no gradient."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(48, 2), nn.Linear(48, 2)])
        self.idle = nn.Linear(48, 2)
        self.runs = 0

    def forward(self, images):
        hidden = images[:, :, ::4, ::4].flatten(1)
        self.runs += 1
        return self.layers[self.runs % 2](hidden) + self.idle(hidden).detach()


def test_a_layer_without_gradient_and_layers_that_come_and_go(all_factored, monkeypatch):
    model = Moody().double()
    images, labels = batch(4, dtype=torch.float64)
    found = factored(model, images, labels)
    assert sorted(found.products) == [2, 4]
    assert not found.rows()[:, -98:].any()
    expected = [by_autograd(model, images[:1], labels[:1]) for _ in range(2)]
    monkeypatch.setattr(per_sample_module, "_PIXELS", 1)
    model.runs = 0
    rows = PerSampleGradients(model).contributions(images, labels, cross_entropy)
    assert isinstance(rows, torch.Tensor)
    assert rows[0].norm() > 0
    assert any(relative(rows[:1], one) < 1e-12 for one in expected)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_a_parameter_outside_the_rules_makes_rows_of_all(all_factored):
    model = NOT_RULED["own parameter"]().double()
    images, labels = batch(dtype=torch.float64)
    found = PerSampleGradients(model).contributions(images, labels, cross_entropy)
    assert isinstance(found, torch.Tensor)
    assert relative(found, by_autograd(model, images, labels)) < 1e-12


def test_memory_goes_to_tensors_of_like_size():
    memory, like = Memory(), torch.zeros(1)
    large = memory.matrix(1, 10_000, like)
    place = large.data_ptr()
    del large
    small = memory.matrix(1, 100, like)
    again = memory.matrix(1, 9_000, like, torch.float32)
    assert again.data_ptr() == place != small.data_ptr()
    assert memory.matrix(2, 3, like, torch.float64).dtype == torch.float64
