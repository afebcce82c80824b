"""Rules of layers for per-sample gradients: backward passes that keep the records apart.

A rule is a differentiable function whose backward pass gives the gradient of its input as usual,
puts the gradients of its parameters per record into `Rows`, and tells autograd none for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedsim.privacy.rows import Rows


class LayerRules(TorchFunctionMode):
    """While active, the functions below compute per-sample gradients of the parameters in `rows`.

    Any other use of a parameter is left to autograd.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self._rows = rows

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        result = NotImplemented if rule is None else rule(self._rows, *args, **kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


def _convolution(transposed: bool) -> Callable[..., Any]:
    """The rule of torch's convolutions, or of its transposed ones, in 1 to 3 dimensions."""

    def rule(
        rows: Rows,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        *others: Any,
        **named: Any,
    ) -> Any:
        if not rows.take(weight, bias) or input.ndim != weight.ndim or len(input) != rows.n:
            return NotImplemented
        names = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
        options = dict(zip(names, others, strict=False)) | named
        axes = weight.ndim - 2
        dilation = _each(options.get("dilation", 1), axes)
        if padding == "same":
            # As torch does: one more behind the last where both sides cannot be equal.
            spare = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            sides = [(amount // 2, amount - amount // 2) for amount in spare]
            padding = [0] * axes
            input = F.pad(input, [side for pair in reversed(sides) for side in pair])
        shape = (
            _each(stride, axes),
            [0] * axes if padding == "valid" else _each(padding, axes),
            dilation,
            transposed,
            _each(options.get("output_padding", 0), axes),
            options.get("groups", 1),
        )
        result = _Convolution.apply(input, weight, bias, rows, shape)
        if shape[-1] == 1:
            rows.expect(weight, (input if transposed else result)[0, 0].numel())
        return result

    return rule


def _each(value: int | Iterable[int], axes: int) -> list[int]:
    """One value an axis, of one for all or one for each."""
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


class _Convolution(torch.autograd.Function):
    """Convolution, transposed or not."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        input, weight, bias, ctx.rows, ctx.shape = given
        ctx.save_for_backward(input)
        # Not saved as the input is: `Rows` knows parameters by identity.
        ctx.parameters = weight, bias
        return torch.convolution(input, weight, bias, *ctx.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        (input,), (weight, bias) = ctx.saved_tensors, ctx.parameters
        rows: Rows = ctx.rows
        stride, padding, dilation, transposed, _, groups = ctx.shape
        before = None
        if ctx.needs_input_grad[0]:
            only_input = [True, False, False]
            before, _, _ = torch.ops.aten.convolution_backward(
                gradient, input, weight, None, *ctx.shape, only_input
            )
        rows.add(bias, gradient.flatten(2).sum(2))
        if rows.hold(weight):
            # A transposed convolution is one from its output to its input.
            smaller, larger = (input, gradient) if transposed else (gradient, input)
            patches = _patches(rows, larger, weight, smaller, stride, padding, dilation)
            left = smaller.flatten(2)
            if groups == 1:
                rows.add_product(weight, left, patches.transpose(1, 2))
            else:
                left, patches = (t.unflatten(1, (groups, -1)) for t in (left, patches))
                rows.add(weight, left @ patches.transpose(2, 3))
        return before, None, None, None, None


def _patches(
    rows: Rows,
    larger: Tensor,
    weight: Tensor,
    smaller: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """What each value of the kernel meets: [n, channels * kernel, pixels of the smaller map]."""
    (n, channels), kernel, size = larger.shape[:2], weight.shape[2:], smaller.shape[2:]
    if any(padding):
        larger = F.pad(larger, [side for side in reversed(padding) for _ in range(2)])
    # One strided copy out of the padded map; `F.unfold` takes four times as long.
    steps = larger.stride()
    windows = larger.as_strided(
        (n, channels, *kernel, *size),
        (
            *steps[:2],
            *(step * apart for step, apart in zip(steps[2:], dilation, strict=True)),
            *(step * apart for step, apart in zip(steps[2:], stride, strict=True)),
        ),
    )
    patches = rows.memory.matrix(n, windows[0].numel(), larger)
    patches.view(windows.shape).copy_(windows)
    return patches.view(n, channels * kernel.numel(), size.numel())


def _linear(rows: Rows, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not rows.take(weight, bias) or input.ndim < 2 or len(input) != rows.n:
        return NotImplemented
    rows.expect(weight, input[0].numel() // input.shape[-1])
    return _Linear.apply(input, weight, bias, rows)


class _Linear(torch.autograd.Function):
    """Linear layer; dimensions between the first and the last are positions of one record."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        input, weight, bias, ctx.rows = given
        ctx.save_for_backward(input)
        ctx.parameters = weight, bias
        return F.linear(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        (input,), (weight, bias) = ctx.saved_tensors, ctx.parameters
        rows: Rows = ctx.rows
        left = gradient.reshape(rows.n, -1, gradient.shape[-1])
        right = input.reshape(rows.n, -1, input.shape[-1])
        rows.add_product(weight, left.transpose(1, 2), right)
        rows.add(bias, left.sum(1))
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None


def _group_norm(
    rows: Rows,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if weight is None or bias is None or not rows.take(weight, bias) or len(input) != rows.n:
        return NotImplemented
    return _GroupNorm.apply(input.contiguous(), weight, bias, rows, num_groups, eps)


def _instance_norm(
    rows: Rows,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if running_mean is not None or not use_input_stats or input.ndim < 3:
        return NotImplemented
    return _group_norm(rows, input, input.shape[1], weight, bias, eps)


class _GroupNorm(torch.autograd.Function):
    """Group normalisation with weight and bias."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        input, weight, bias, ctx.rows, ctx.groups, eps = given
        n, channels = input.shape[:2]
        pixels = input[0, 0].numel()
        result, mean, scale = torch.native_group_norm(
            input, weight, bias, n, channels, pixels, ctx.groups, eps
        )
        ctx.save_for_backward(input, mean, scale)
        ctx.parameters = weight, bias
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        (input, mean, scale), (weight, bias) = ctx.saved_tensors, ctx.parameters
        n, channels = input.shape[:2]
        # The records as groups of channels of one record: the sums over records are then theirs.
        before, weights, biases = torch.ops.aten.native_group_norm_backward(
            gradient.reshape(1, n * channels, -1),
            input.view(1, n * channels, -1),
            mean.view(1, -1),
            scale.view(1, -1),
            weight.repeat(n),
            1,
            n * channels,
            input[0, 0].numel(),
            n * ctx.groups,
            [ctx.needs_input_grad[0], True, True],
        )
        ctx.rows.add(weight, weights.view(n, channels))
        ctx.rows.add(bias, biases.view(n, channels))
        return before if before is None else before.view_as(input), None, None, None, None, None


def _layer_norm(
    rows: Rows,
    input: Tensor,
    normalized_shape: Iterable[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    shape = list(normalized_shape)
    if not rows.take(weight, bias) or input.ndim <= len(shape) or len(input) != rows.n:
        return NotImplemented
    return _LayerNorm.apply(input, weight, bias, rows, shape, eps)


class _LayerNorm(torch.autograd.Function):
    """Layer normalisation; dimensions between the first and those are positions of one record."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        input, weight, bias, ctx.rows, ctx.shape, eps = given
        result, mean, scale = torch.native_layer_norm(input, ctx.shape, weight, bias, eps)
        ctx.save_for_backward(input, mean, scale)
        ctx.parameters = weight, bias
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        (input, mean, scale), (weight, bias) = ctx.saved_tensors, ctx.parameters
        rows: Rows = ctx.rows
        positions = (rows.n, -1, *ctx.shape)
        rows.add(bias, gradient.reshape(positions).sum(1))
        if rows.hold(weight):
            normal = (input - mean) * scale
            rows.add(weight, (gradient * normal).reshape(positions).sum(1))
        before = None
        if ctx.needs_input_grad[0]:
            only_input = [True, False, False]
            before, _, _ = torch.ops.aten.native_layer_norm_backward(
                gradient, input, ctx.shape, mean, scale, weight, bias, only_input
            )
        return before, None, None, None, None, None


def _prelu(rows: Rows, input: Tensor, weight: Tensor) -> Any:
    if not rows.take(weight) or input.ndim < 2 or len(input) != rows.n:
        return NotImplemented
    return _PReLU.apply(input, weight, rows)


class _PReLU(torch.autograd.Function):
    """Linear on both sides of zero, with a trained slope below it."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        input, weight, ctx.rows = given
        ctx.save_for_backward(input)
        ctx.parameters = weight
        return torch.prelu(input, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        (input,), weight = ctx.saved_tensors, ctx.parameters
        slopes = (gradient * input.clamp_max(0)).reshape(*input.shape[:2], -1).sum(2)
        ctx.rows.add(weight, slopes.sum(1) if weight.numel() == 1 else slopes)
        each = weight.view(-1, *[1] * (input.ndim - 2))
        return torch.where(input > 0, gradient, gradient * each), None, None


_RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.layer_norm: _layer_norm,
    F.prelu: _prelu,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution(transposed=False)),
    **dict.fromkeys(
        (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _convolution(transposed=True)
    ),
}
