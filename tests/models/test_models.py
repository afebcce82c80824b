from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedsim.models import ConvNet, ResNet18, SmallCNN, ViTS14
from fedsim.models.classifier import AveragePool2

MODELS = [
    (ConvNet, 16, {"width": 8}),
    (ConvNet, 8, {"width": 8, "norm": "group"}),
    (ConvNet, 16, {"width": 8, "depth": 2, "norm": "none"}),
    (ResNet18, 16, {"width": 16}),
    (ResNet18, 64, {"width": 4}),
    (ResNet18, 8, {"width": 16, "stem": "stride1"}),
    (ResNet18, 32, {"width": 4, "norm": "instance"}),
    (SmallCNN, 8, {}),
    (SmallCNN, 13, {"width": 4}),
    (ViTS14, 28, {"width": 12, "depth": 2, "heads": 2, "grid": 3}),
]


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_convnet_has_the_parameters_of_the_literature():
    model = ConvNet(2, 3, 224)
    assert parameters(model.features) == 299_520
    assert model.classifier.in_features == 128 * 28 * 28


def test_resnet18_has_the_parameters_of_the_literature():
    for norm in ("group", "instance"):
        assert parameters(ResNet18(2, 3, 224, norm=norm)) == 11_177_538


def test_small_cnn_has_the_documented_number_of_parameters():
    assert parameters(SmallCNN(2, 3, 32)) == parameters(SmallCNN(2, 3, 224)) == 93_954


@pytest.mark.parametrize(("model_class", "size", "options"), MODELS)
def test_logits_are_the_classifier_of_a_flat_embedding(model_class, size, options):
    model = model_class(5, 1, size, **options)
    images = torch.randn(3, 1, size, size)
    embedding = model.features(images)
    assert embedding.shape == (3, model.classifier.in_features)
    assert torch.equal(model(images), model.classifier(embedding))
    assert model(images).shape == (3, 5)


@pytest.mark.parametrize(("model_class", "size", "options"), MODELS)
def test_different_images_give_different_logits(model_class, size, options):
    # Normalising a single value by itself would give the same output for all images.
    torch.manual_seed(0)
    model = model_class(2, 3, size, **options)
    logits = model(torch.randn(2, 3, size, size))
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("model_class", "size", "options"), MODELS)
def test_an_image_does_not_depend_on_its_batch(model_class, size, options):
    # In double precision: rounding of 1e-16, which some twenty normalisations may enlarge a
    # million times, while another image of the batch would show in the first digits.
    model = model_class(2, 3, size, **options).double()
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("model_class", "size", "options"), MODELS)
def test_all_state_is_parameters(model_class, size, options):
    model = model_class(2, 3, size, **options)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


# Opacus' hooks remark that the images themselves need no gradient.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(("model_class", "size", "options"), MODELS)
def test_per_sample_gradients_sum_to_the_gradient(model_class, size, options):
    opacus = pytest.importorskip("opacus")
    torch.manual_seed(0)
    model = model_class(2, 3, size, **options)
    assert opacus.validators.ModuleValidator.validate(model, strict=False) == []
    images, labels = torch.randn(3, 3, size, size), torch.tensor([0, 1, 1])
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    expected = torch.autograd.grad(loss, list(model.parameters()))
    private = opacus.GradSampleModule(model, loss_reduction="sum")
    F.cross_entropy(private(images), labels, reduction="sum").backward()
    for parameter, gradient in zip(private.parameters(), expected, strict=True):
        assert parameter.grad_sample.shape == (3, *parameter.shape)
        torch.testing.assert_close(parameter.grad_sample.sum(0), gradient, atol=1e-3, rtol=1e-3)


def test_stem_of_resnet18_follows_the_image_size():
    def first(model):
        return model.features[0].kernel_size, model.features[0].stride

    assert first(ResNet18(2, 3, 63, width=4)) == ((3, 3), (2, 2))
    assert first(ResNet18(2, 3, 64, width=4)) == ((7, 7), (2, 2))
    assert first(ResNet18(2, 3, 64, width=4, stem="stride1")) == ((3, 3), (1, 1))


def test_normalisation_has_the_groups_it_names():
    def groups(model):
        return {m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)}

    assert groups(ConvNet(2, 3, 8, width=96)) == {96}
    assert groups(ConvNet(2, 3, 8, width=96, norm="group")) == {32}
    assert groups(ConvNet(2, 3, 8, width=24, norm="group")) == {8}
    assert groups(ConvNet(2, 3, 8, norm="none")) == set()
    assert groups(ResNet18(2, 3, 32)) == {32}
    assert groups(ResNet18(2, 3, 32, norm="instance")) == {64, 128, 256, 512}
    assert groups(SmallCNN(2, 3, 8)) == {8}


def test_instance_normalisation_hides_a_common_scale_of_the_image():
    # Inside the zero padding's reach of the edge it does not hold.
    torch.manual_seed(0)
    block = nn.Sequential(*ConvNet(2, 3, 32, width=64).features[:2])
    images = torch.randn(4, 3, 32, 32)

    def change(other):
        plain, changed = (block(x)[:, :, 1:-1, 1:-1].detach() for x in (images, other))
        return float((plain - changed).norm() / plain.norm())

    assert change(1.5 * images) < 1e-3
    assert change(images * torch.tensor([1.5, 1.0, 0.7]).view(1, 3, 1, 1)) > 0.1


@pytest.mark.parametrize("size", [2, 3, 8, 9])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_equals_torch_and_so_do_its_gradients(size, layout):
    images = torch.randn(2, 3, size, size + 1, dtype=torch.float64).to(memory_format=layout)
    weights = torch.randn(2, 3, size // 2, (size + 1) // 2, dtype=torch.float64)
    results = []
    for pool in (AveragePool2(), nn.AvgPool2d(2)):
        given = images.clone(memory_format=torch.preserve_format).requires_grad_()
        pooled = pool(given)
        (gradient,) = torch.autograd.grad((pooled * weights).sum(), given)
        results.append((pooled.detach(), gradient))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConvNet(2, 3, 7), "at least 8 px"),
        (lambda: ConvNet(2, 3, 16, depth=5), "at least 32 px"),
        (lambda: ConvNet(2, 0, 32, width=0), "in_channels is 0, width is 0"),
        (lambda: ResNet18(2, 3, 15), "at least 16 px"),
        (lambda: ResNet18(2, 3, 31, stem="imagenet"), "at least 32 px"),
        (lambda: ResNet18(2, 3, 16, norm="instance"), "at least 32 px"),
        (lambda: ResNet18(2, 3, 16, width=4), "at least 32 px"),
        (lambda: ResNet18(2, 3, 8, width=8, stem="stride1"), "at least 16 px"),
        (lambda: ResNet18(0, 3, 32), "num_classes is 0"),
        (lambda: SmallCNN(2, 3, 7), "at least 8 px"),
        (lambda: SmallCNN(2, 3, 8, width=0), "width is 0"),
    ],
)
def test_impossible_sizes_are_refused_with_the_number(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_smallest_sizes_are_accepted():
    for model, size in (
        (ConvNet(2, 3, 8, width=4), 8),
        (ResNet18(2, 3, 8, width=16, stem="stride1"), 8),
        (ResNet18(2, 3, 16, width=16), 16),
        (ResNet18(2, 3, 32, width=16, stem="imagenet"), 32),
    ):
        assert model(torch.randn(1, 3, size, size)).isfinite().all()
