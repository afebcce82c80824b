"""LoRA: low-rank changes of linear layers and convolutions.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021, arXiv:2106.09685), section
4.1: a frozen weight W becomes W + (alpha / r) B A. B is zero at first, so the first output is the
model's own; A is drawn as torch draws a layer's weights. Of a convolution k x k, A is a convolution
k x k with r channels and B one of 1 x 1.

Both factors are layers, so that their gradients have the rules of layers (per-sample gradients).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from torch import Tensor, nn

from fedsim.adapters.paths import UnfitError, listed, matching


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank change.

    `weight` and `bias` are those that the layer had. `lora_a.weight` is float [r, in], A;
    `lora_b.weight` is float [out, r], B.
    """

    lora_a: nn.Linear
    lora_b: nn.Linear
    scaling: float

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return super().forward(input) + self.scaling * self.lora_b(self.lora_a(input))


class LoRAConv2d(nn.Conv2d):
    """A convolution with a low-rank change.

    `weight` and `bias` are those that the layer had. `lora_a.weight` is float [r, in, k, k], A;
    `lora_b.weight` is float [out, r, 1, 1], B.
    """

    lora_a: nn.Conv2d
    lora_b: nn.Conv2d
    scaling: float

    def forward(self, input: Tensor) -> Tensor:
        """[n, in, H, W] -> [n, out, H', W']."""
        return super().forward(input) + self.scaling * self.lora_b(self.lora_a(input))


class LoRA:
    """Low-rank adapters for the layers of a model.

    Args:
        rank: r; at most the smaller side of a layer's weight, [out, in] or [out, in * k * k].
        alpha: the change is scaled by alpha / r.
        targets: patterns of the paths of layers; None: all linear layers and two-dimensional
            convolutions that can be adapted, but the model's last layers.
        freeze_a: A is not trained (FFA-LoRA: Sun et al., "Improving LoRA in Privacy-preserving
            Federated Learning", 2024, arXiv:2403.12313).
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        targets: Sequence[str] | None = None,
        freeze_a: bool = False,
    ) -> None:
        self.rank, self.alpha, self.targets, self.freeze_a = rank, alpha, targets, freeze_a

    def attach(
        self, model: nn.Module, input_shape: tuple[int, ...], head: Collection[str] = ()
    ) -> None:
        """Adapt layers of a model in place; A is drawn from torch's global state.

        Args:
            model: its weights stay as they are.
            input_shape: of a record; not needed.
            head: paths of the model's last layers.

        Raises:
            UnfitError: a pattern matches nothing, a layer cannot be adapted, or the rank is too
                large for one.
        """
        chosen = self._chosen(model, head)
        small = {path: most for path, one in chosen.items() if (most := _most(one)) < self.rank}
        if small:
            raise UnfitError(
                "rank",
                [
                    f"{self.rank} is too large for {path!r}, whose weight {_form(chosen[path])} "
                    f"takes at most {most}"
                    for path, most in small.items()
                ],
                f"type a rank of at most {min(small.values())}, or name other layers by targets",
            )
        for layer in chosen.values():
            self._adapt(layer)

    def _chosen(self, model: nn.Module, head: Collection[str]) -> dict[str, nn.Module]:
        """The layers to adapt, by path; a layer with two paths under its first."""
        held = _read_by_others(model)
        if self.targets is None:
            last = tuple(f"{path}." for path in head)
            found = {
                path: module
                for path, module in model.named_modules()
                if path and path not in head and not path.startswith(last)
                if not _refusal(module, held)
            }
            if not found:
                raise UnfitError(
                    "targets",
                    [
                        "the model has no linear layer and no two-dimensional convolution before "
                        "its last layers"
                    ],
                    "choose a model that has one, or name layers by targets",
                )
            return found
        matched = matching(model, "targets", self.targets)
        found = {path: module for path, module in matched.items() if not _refusal(module, held)}
        reasons = []
        for pattern in self.targets:
            hits = matching(model, "targets", (pattern,))
            if not hits.keys() & found.keys():
                path, module = next(iter(hits.items()))
                more = f" and {len(hits) - 1} more" if len(hits) > 1 else ""
                reasons.append(
                    f"{pattern!r} matches {path!r} ({type(module).__name__}){more}: "
                    f"{_refusal(module, held)}"
                )
        if reasons:
            able = [p for p, module in model.named_modules() if p and not _refusal(module, held)]
            raise UnfitError("targets", reasons, f"those that can be adapted: {listed(able)}")
        return found

    def _adapt(self, layer: nn.Module) -> None:
        """Turn a layer into one with factors; whoever refers to it refers to that."""
        a: nn.Linear | nn.Conv2d
        b: nn.Linear | nn.Conv2d
        kind: type[nn.Module]
        if isinstance(layer, nn.Linear):
            a = nn.Linear(layer.in_features, self.rank, bias=False)
            b = nn.Linear(self.rank, layer.out_features, bias=False)
            kind = LoRALinear
        else:
            layer = cast(nn.Conv2d, layer)
            a = nn.Conv2d(
                layer.in_channels,
                self.rank,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                bias=False,
                padding_mode=layer.padding_mode,
            )
            b = nn.Conv2d(self.rank, layer.out_channels, 1, bias=False)
            kind = LoRAConv2d
        nn.init.zeros_(b.weight)
        a.weight.requires_grad_(not self.freeze_a)
        # As torch's parametrisations do it.
        layer.__class__ = kind
        found: Any = layer
        found.scaling = self.alpha / self.rank
        found.lora_a, found.lora_b = a.to(found.weight), b.to(found.weight)


def _refusal(module: nn.Module, held: Collection[nn.Module]) -> str:
    """Why a layer cannot be adapted; "" where it can."""
    if isinstance(module, LoRALinear | LoRAConv2d):
        return "it is adapted already"
    for kind in (nn.Linear, nn.Conv2d):
        if isinstance(module, kind):
            if module in held:
                return "the layer above it reads its weight past it"
            if type(module).forward is not kind.forward:
                return "it computes something else than a layer of torch"
            if "weight" not in module._parameters:
                return "its weight is computed out of others"
            if isinstance(module, nn.Conv2d) and module.groups != 1:
                return "it is a convolution in groups"
            return ""
    return "only linear layers and two-dimensional convolutions can be adapted"


def _read_by_others(model: nn.Module) -> list[nn.Module]:
    """Layers that are never called: torch's attention reads their weights."""
    attentions = [one for one in model.modules() if isinstance(one, nn.MultiheadAttention)]
    return [inner for one in attentions for inner in one.modules()]


def _most(layer: nn.Module) -> int:
    """The largest rank that a layer's weight can have."""
    weight = cast(Tensor, layer.weight)
    return min(len(weight), weight[0].numel())


def _form(layer: nn.Module) -> str:
    return "x".join(map(str, cast(Tensor, layer.weight).shape))
