"""From the names of a source to those of the model: each layout is known by a name that it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def renamed(tensors: Tensors, wanted: Collection[str]) -> Tensors:
    """The tensors under the names that fedsim's models have, where the layout is known.

    Known are DINOv2's own names and those of Hugging Face's transformers (also out of an ONNX
    file), and those of EfficientNet-Lite's usual port to PyTorch. Heads for other classes are left
    out. Names of any other layout stay as they are, and so do all where one is the model's.

    Args:
        tensors: of a file.
        wanted: the model's names.
    """
    for known, change in _LAYOUTS if tensors.keys().isdisjoint(wanted) else ():
        if any(re.search(known, name) for name in tensors):
            return change(tensors, wanted)
    return tensors


def placed(tensors: Tensors, wanted: Collection[str]) -> Tensors:
    """The tensors under the names that they have where a model holds their network as a part.

    That is a path below which the model has all of them: `features.norm.bias` then fills
    `encoder.features.norm.bias`. Names stay as they are where one is the model's, and where there
    is no such path or several.

    Args:
        tensors: under fedsim's names, of `renamed`.
        wanted: the model's names.
    """
    if not tensors or not tensors.keys().isdisjoint(wanted):
        return tensors
    first, names = next(iter(tensors)), set(wanted)
    paths = [name.removesuffix(first) for name in names if name.endswith(f".{first}")]
    fitting = [path for path in paths if all(path + name in names for name in tensors)]
    return {fitting[0] + n: t for n, t in tensors.items()} if len(fitting) == 1 else tensors


def _of_dinov2(tensors: Tensors, wanted: Collection[str]) -> Tensors:
    """DINOv2's own names, which timm has, too."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if name.startswith(("mask_token", "head.")):
            continue
        name = re.sub(r"^patch_embed\.proj\.", "patches.", name)
        name = re.sub(r"^(cls_token|pos_embed)$", r"positions.\1", name)
        found[f"features.{name}"] = tensor
    return found


_TRANSFORMERS = {
    r"^embeddings\.patch_embeddings\.projection\.": "patches.",
    r"^embeddings\.cls_token$": "positions.cls_token",
    r"^embeddings\.position_embeddings$": "positions.pos_embed",
    r"^encoder\.layer\.": "blocks.",
    r"\.attention\.output\.dense\.": ".attn.proj.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
    r"^layernorm\.": "norm.",
}
_QUERY = re.compile(r"(.*)\.attention\.attention\.(query|key|value)\.(weight|bias)")


def _of_transformers(tensors: Tensors, wanted: Collection[str]) -> Tensors:
    """The names of transformers' Dinov2Model, also below `backbone.` and out of a traced graph."""
    tops = {name.partition("embeddings.cls_token")[0] for name in tensors if _is_class_token(name)}
    top = min(tops)
    # Tracing splits the positions in two, which nobody names: the class token's, and the patches'.
    parts = [
        tensor
        for start in ("onnx::Concat_", "onnx::Reshape_")
        for name, tensor in tensors.items()
        if name.startswith(start) and tensor.ndim == 3
    ]
    tensors = {n.removeprefix(top): t for n, t in tensors.items() if n.startswith(top)}
    if top and len(parts) == 2 and parts[0].shape[2] == parts[1].shape[2]:
        tensors["embeddings.position_embeddings"] = torch.cat(parts, 1)
    found: Tensors = {}
    joined: dict[tuple[str, str], Tensors] = {}
    for name, tensor in tensors.items():
        if name == "embeddings.mask_token" or name.startswith("classifier."):
            continue
        for pattern, new in _TRANSFORMERS.items():
            name = re.sub(pattern, new, name)
        if part := _QUERY.fullmatch(name):
            block, which, end = part.groups()
            joined.setdefault((block, end), {})[which] = tensor
        else:
            found[f"features.{name}"] = tensor
    for (block, end), three in joined.items():
        if len(three) == 3:
            order = [three[which] for which in ("query", "key", "value")]
            found[f"features.{block}.attn.qkv.{end}"] = torch.cat(order)
    return found


def _is_class_token(name: str) -> bool:
    return re.search(r"(^|\.)embeddings\.cls_token$", name) is not None


_LITE = {
    r"^_conv_stem\.": "stem.conv.",
    r"^_bn0\.": "stem.norm.",
    r"^_conv_head\.": "head.conv.",
    r"^_bn1\.": "head.norm.",
    r"^_blocks\.": "blocks.",
    r"\._expand_conv\.": ".expand.conv.",
    r"\._bn0\.": ".expand.norm.",
    r"\._depthwise_conv\.": ".depthwise.conv.",
    r"\._bn1\.": ".depthwise.norm.",
    r"\._project_conv\.": ".project.conv.",
    r"\._bn2\.": ".project.norm.",
}


def _of_lite(tensors: Tensors, wanted: Collection[str]) -> Tensors:
    """The names of EfficientNet's usual port; the last convolution only where the model has it."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if name.startswith("_fc."):
            continue
        for pattern, new in _LITE.items():
            name = re.sub(pattern, new, name)
        name = f"features.{name}"
        if name in wanted or not name.startswith("features.head."):
            found[name] = tensor
    return found


_LAYOUTS: tuple[tuple[str, Callable[[Tensors, Collection[str]], Tensors]], ...] = (
    (r"(^|\.)embeddings\.cls_token$", _of_transformers),
    (r"^patch_embed\.proj\.weight$", _of_dinov2),
    (r"^_conv_stem\.weight$", _of_lite),
)
