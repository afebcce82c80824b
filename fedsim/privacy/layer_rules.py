"""Rules of layers for per-sample gradients: backward passes that keep the records apart.

A rule is a differentiable function whose backward pass gives the gradient of its input as usual,
puts the gradients of its parameters per record into `Rows`, and tells autograd none for them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Memory:
    """Blocks of memory that are used again once no tensor refers to them.

    A large tensor's memory comes from the system, page by page, at every allocation: on a CPU that
    costs about as much as filling it with gradients.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def matrix(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """A matrix with dtype and device of `like`; its content is whatever was there."""
        if like.device.type != "cpu":
            return torch.empty(rows, columns, dtype=like.dtype, device=like.device)
        size = rows * columns * like.element_size()
        free = [i for i, (_, user) in enumerate(self._blocks) if user() is None]
        fitting = [i for i in free if len(self._blocks[i][0]) >= size]
        if fitting:
            block, _ = self._blocks.pop(min(fitting, key=lambda i: len(self._blocks[i][0])))
        else:
            if free:
                self._blocks.pop(max(free, key=lambda i: len(self._blocks[i][0])))
            block = _aligned(size + size // 4)
        # A tensor's memory keeps this window alive; so does every view of the tensor.
        window = block[:size]
        self._blocks.append((block, weakref.ref(window)))
        return torch.from_numpy(window).view(like.dtype).view(rows, columns)


def _aligned(size: int) -> np.ndarray:
    """Bytes at a multiple of 64, as torch aligns its own: sums do not change with the place."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


class Rows:
    """Where the per-sample gradients of one part of a batch go."""

    def __init__(self, parameters: list[nn.Parameter], out: Tensor, memory: Memory) -> None:
        self.n = len(out)
        self.memory = memory
        self._parts: dict[int, Tensor] = {}
        self._empty = {id(p) for p in parameters}
        sizes = [p.numel() for p in parameters]
        for parameter, part in zip(parameters, out.split(sizes, dim=1), strict=True):
            self._parts[id(parameter)] = part

    def hold(self, tensor: Tensor | None) -> bool:
        """Whether this is a trainable parameter of the model."""
        return id(tensor) in self._parts

    def take(self, *tensors: Tensor | None) -> bool:
        """Whether a rule must see to these: to a parameter, and to nothing that autograd must.

        A weight that is computed out of parameters is not one.
        """
        trained = [t for t in tensors if t is not None and t.requires_grad]
        return bool(trained) and all(map(self.hold, trained))

    def add(self, parameter: Tensor | None, values: Tensor) -> None:
        """Add [n, ...], one gradient a record."""
        if self.hold(parameter):
            part, values = self._parts[id(parameter)], values.reshape(self.n, -1)
            part.copy_(values) if self._first(parameter) else part.add_(values)

    def add_product(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add the matrix products [n, a, b] @ [n, b, c]; a * c values make the gradient."""
        if self.hold(parameter):
            part = self._parts[id(parameter)].unflatten(1, (left.shape[1], right.shape[2]))
            part.baddbmm_(left, right, beta=0 if self._first(parameter) else 1)

    def finish(self) -> None:
        """Parameters without a gradient have gradient zero."""
        for key in self._empty:
            self._parts[key].zero_()

    def _first(self, parameter: Tensor | None) -> bool:
        first = id(parameter) in self._empty
        self._empty.discard(id(parameter))
        return first


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


def _pair(value: int | Iterable[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else [*value] * (2 // len([*value]))


def _conv2d(
    rows: Rows,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if not rows.take(weight, bias) or input.ndim != 4 or len(input) != rows.n:
        return NotImplemented
    stride, dilation = _pair(stride), _pair(dilation)
    if padding == "same":
        # As torch does: one more at the right and the bottom where both sides cannot be equal.
        spare = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        sides = [(s // 2, s - s // 2) for s in spare]
        if any(left != right for left, right in sides):
            input, padding = F.pad(input, [*sides[1], *sides[0]]), 0
        else:
            padding = [left for left, _ in sides]
    padding = [0, 0] if padding == "valid" else _pair(padding)
    return _Convolution.apply(input, weight, bias, rows, stride, padding, dilation, groups)


class _Convolution(torch.autograd.Function):
    """2-D convolution."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        input, weight, bias, ctx.rows, *ctx.shape = given
        ctx.save_for_backward(input)
        # Not saved as the input is: `Rows` knows parameters by identity.
        ctx.parameters = weight, bias
        stride, padding, dilation, groups = ctx.shape
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        (input,), (weight, bias) = ctx.saved_tensors, ctx.parameters
        stride, padding, dilation, groups = ctx.shape
        rows: Rows = ctx.rows
        before = None
        if ctx.needs_input_grad[0]:
            before, _, _ = torch.ops.aten.convolution_backward(
                gradient, input, weight, None, stride, padding, dilation, False, [0, 0], groups,
                [True, False, False],
            )  # fmt: skip
        rows.add(bias, gradient.sum((2, 3)))
        if rows.hold(weight):
            patches = _patches(rows, input, weight.shape, gradient.shape, stride, padding, dilation)
            left = gradient.flatten(2)
            if groups == 1:
                rows.add_product(weight, left, patches.transpose(1, 2))
            else:
                left, patches = (t.unflatten(1, (groups, -1)) for t in (left, patches))
                rows.add(weight, left @ patches.transpose(2, 3))
        return before, None, None, None, None, None, None, None


def _patches(
    rows: Rows,
    input: Tensor,
    kernel: torch.Size,
    output: torch.Size,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """What each value of the kernel meets: [n, channels * kernel, output pixels]."""
    n, channels = input.shape[:2]
    height, width = output[2:]
    if any(padding):
        input = F.pad(input, [padding[1], padding[1], padding[0], padding[0]])
    steps = input.stride()
    if kernel[2:] == (1, 1):
        return input[:, :, :: stride[0], :: stride[1]][:, :, :height, :width].flatten(2)
    # One strided copy out of the padded input; `F.unfold` takes four times as long.
    windows = input.as_strided(
        (n, channels, *kernel[2:], height, width),
        (
            *steps[:2],
            steps[2] * dilation[0],
            steps[3] * dilation[1],
            steps[2] * stride[0],
            steps[3] * stride[1],
        ),
    )
    area, pixels = kernel[2] * kernel[3], height * width
    patches = rows.memory.matrix(n, channels * area * pixels, input)
    patches.view(windows.shape).copy_(windows)
    return patches.view(n, channels * area, pixels)


def _linear(rows: Rows, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not rows.take(weight, bias) or input.ndim < 2 or len(input) != rows.n:
        return NotImplemented
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


_RULES: dict[Any, Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
}
