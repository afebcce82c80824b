"""The networks of segmentation, and what of them travels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from torch import nn

from fedsim.models.dynunet import DynUNet
from fedsim.models.unet import UNet, halvings
from fedsim.models.vit_decoder import ViTDecoder
from fedsim.scenario.parameters import construct
from fedsim.wire.flower import array_bytes, load_state, pack_state, payload_bytes, tensors

VIT = {"resolution": 42, "channels": (4, 8), "width": 12, "depth": 2, "heads": 2, "grid": 3}
MODELS = [
    (UNet, (16, 24), {"channels": (4, 8, 16)}),
    (UNet, (6, 16, 16), {"channels": (4, 8, 16), "residual_units": 1}),
    (DynUNet, (16, 24), {"channels": (4, 8, 16), "heads": 1}),
    (DynUNet, (16, 16), {"channels": (4, 8, 16), "heads": 0}),
    (DynUNet, (6, 16, 16), {"channels": (4, 8, 16), "heads": 1}),
    (ViTDecoder, (16, 24), VIT),
]
PAPER = {
    "channels": (32, 64, 128, 256, 320, 320),
    "strides": ((1, 2, 2), *[(2, 2, 2)] * 4),
    "kernels": ((1, 3, 3), *[(3, 3, 3)] * 5),
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_default_unet_has_the_documented_number_of_parameters() -> None:
    assert parameters(UNet(3, 1, (48, 64))) == 38_135


def test_dynunet_has_the_parameters_of_the_papers_code_and_each_travels_once() -> None:
    model = DynUNet(8, 1, (64, 224, 224), heads=3, **PAPER)
    state = model.state_dict()
    assert parameters(model) == 31_166_016
    assert sum(tensor.numel() for tensor in state.values()) > 2 * 31_000_000
    assert array_bytes(pack_state(state, copy=False)) == 4 * 31_166_016


@pytest.mark.parametrize(("model_class", "patch", "options"), MODELS)
def test_every_parameter_travels_once_and_arrives(model_class, patch, options) -> None:
    torch.manual_seed(0)
    sent, here = model_class(3, 1, patch, **options), model_class(3, 1, patch, **options)
    record = pack_state(sent.state_dict())
    assert payload_bytes(RecordDict({"arrays": record})) == 4 * parameters(sent)
    assert len(record) == len(list(sent.parameters()))
    load_state(here, record)
    images = torch.randn(2, 1, *patch)
    with torch.no_grad():
        assert torch.equal(here.eval()(images), sent.eval()(images))
    # Both names of a tensor that has two show the same values.
    for name, tensor in here.state_dict().items():
        assert torch.equal(tensor, sent.state_dict()[name])


@pytest.mark.parametrize(("model_class", "patch", "options"), MODELS)
def test_what_the_network_learnt_survives_a_trip(model_class, patch, options) -> None:
    torch.manual_seed(0)
    model = model_class(3, 1, patch, **options)
    before = {
        name: np.array(value) for name, value in tensors(pack_state(model.state_dict())).items()
    }
    out = model(torch.randn(2, 1, *patch))
    sum(o.square().mean() for o in (out if isinstance(out, tuple) else (out,))).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    after = tensors(pack_state(model.state_dict()))
    moved = [name for name in after if not np.array_equal(after[name], before[name])]
    assert len(moved) > 0.8 * len(before)


@pytest.mark.parametrize(("model_class", "patch", "options"), MODELS)
def test_logits_are_as_large_as_the_patch_and_heads_come_in_training_only(
    model_class, patch, options
) -> None:
    torch.manual_seed(0)
    model = model_class(3, 1, patch, **options)
    images = torch.randn(2, 1, *patch)
    whole = model.eval()(images)
    assert whole.shape == (2, 3, *patch)
    trained = model.train()(images)
    heads = options.get("heads", 0) if model_class is DynUNet else 0
    if heads:
        assert [tuple(head.shape) for head in trained] == [(2, 3, *patch)] * (heads + 1)
        trained = trained[0]
    assert torch.equal(trained, whole)


@pytest.mark.parametrize(("model_class", "patch", "options"), MODELS)
def test_records_of_a_batch_do_not_mix_and_nothing_but_parameters_is_kept(
    model_class, patch, options
) -> None:
    torch.manual_seed(0)
    model = model_class(3, 1, patch, **options).eval()
    assert not list(model.buffers())
    images = torch.randn(3, 1, *patch)
    with torch.no_grad():
        alone, together = model(images[:1]), model(images)
    assert torch.allclose(alone, together[:1], atol=1e-5)


def test_a_trained_dynunet_can_be_copied() -> None:
    # MONAI's keeps the graph of the last batch, which cannot be; a teacher is a copy.
    import copy

    model = DynUNet(3, 1, (16, 16), channels=(4, 8, 16), heads=1)
    model(torch.randn(1, 1, 16, 16))
    images = torch.randn(1, 1, 16, 16)
    assert torch.equal(copy.deepcopy(model).eval()(images), model.eval()(images))


def test_thick_slices_are_not_halved_away() -> None:
    assert halvings((16, 96, 64), 5) == [(2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)]


def test_a_scenario_writes_lists() -> None:
    made = construct(UNet, {"channels": [4, 8]}, num_classes=2, in_channels=1, patch=(16, 16))
    assert parameters(made) == parameters(UNet(2, 1, (16, 16), (4, 8)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNet(2, 1, (18, 16)), "choose multiples of 4"),
        (lambda: UNet(2, 1, (16, 16), channels=(4,)), "two levels"),
        (lambda: UNet(0, 1, (16, 16)), "num_classes is 0"),
        (lambda: DynUNet(2, 1, (16, 16), channels=(4, 8)), "three levels"),
        (lambda: DynUNet(2, 1, (16, 16), channels=(4, 8, 16), heads=2), "2 heads"),
        (
            lambda: DynUNet(2, 1, (16, 16), channels=(4, 8, 16), heads=1, strides=((2, 2),)),
            "needs 2",
        ),
        (
            lambda: DynUNet(2, 1, (18, 16), (4, 8, 16), 1, strides=((2, 2), (2, 2))),
            "divides a patch",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
