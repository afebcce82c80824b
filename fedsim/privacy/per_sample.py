"""Per-sample gradients: the gradient of every record's loss in a batch, as the rows of one matrix.

Convolutions (transposed ones, too), linear layers, group, instance and layer normalisation and
PReLU have a rule of their own: their backward pass computes the gradients per record in place of
the sum over the batch, straight into the matrix. Rules are found while the model runs, by function
and parameter, so tied weights and layers that are used twice add up, and nothing is attached to the
model. Where a parameter is used in any other way (autograd notices: it has an ordinary gradient as
well), Opacus' hooks compute all.

The matrix of a network with millions of weights takes gigabytes, and to write it takes longer than
to train. `contributions` keeps the gradients of its widest layers as two factors each, which is all
that a clipped sum needs (`fedsim.privacy.factored`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedsim.privacy.factored import FactoredGradients, Product
from fedsim.privacy.layer_rules import LayerRules
from fedsim.privacy.memory import Memory
from fedsim.privacy.rows import Rows

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs [n, ...] and targets [n, ...] of n records -> float [n], each record's own loss."""

# On a CPU a batch is computed in parts of so many pixels, and at most 64 records. The memory of
# larger feature maps malloc takes from the system and gives back each time, page by page. Up to 32
# records may have four times as many: few records are slower than that.
_PIXELS = 32 * 32 * 32


class PerSampleGradients:
    """Computes per-sample gradients of a model, which stays as it is.

    Dimension 0 of every layer's input must count the records, and records must not mix
    (`fedsim.privacy.coupling`). The numbers do not depend on how a batch is split, up to rounding.
    Memory is kept between calls and used again once nothing refers to what was returned; `close`,
    or leaving the context, gives it back.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._memory = Memory()
        self._by_hooks = False

    def gradients(self, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """The gradient of each record's loss.

        Args:
            inputs: [n, ...], n >= 0; with n = 0 the model does not run.
            targets: [n, ...].
            loss: called on parts of the batch.

        Returns:
            [n, d], d counting the trainable parameters, flattened, in the order of
            `model.parameters()`; what is not finite stays so.

        Raises:
            ValueError: the loss is not one value a record, or a parameter is used in a way that
                per-sample gradients do not exist for.
        """
        return self._compute(inputs, targets, loss, frozenset()).written

    def contributions(
        self, inputs: Tensor, targets: Tensor, loss: Loss
    ) -> Tensor | FactoredGradients:
        """The same gradients, those of wide layers with few positions as factors.

        Which layers these are hangs on their shapes alone, see `Rows.suited`; with none of them the
        result is that of `gradients`, to the bit.
        """
        found = self._compute(inputs, targets, loss, None)
        return found if found.products else found.written

    def _compute(
        self, inputs: Tensor, targets: Tensor, loss: Loss, factored: frozenset[int] | None
    ) -> FactoredGradients:
        """Keep the factors of these parameters, by place; None: of those that suit it."""
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("The model has no trainable parameters.")
        n, sizes = len(inputs), [p.numel() for p in parameters]
        result = self._memory.matrix(n, sum(sizes), parameters[0]) if not n else None
        step = n
        if parameters[0].device.type == "cpu" and n:
            pixels = inputs[0].numel() // (inputs.shape[1] if inputs.ndim > 2 else 1)
            few = min(32, 4 * _PIXELS // max(pixels, 1))
            step = min(64, max(1, few, _PIXELS // max(pixels, 1)))
        products: dict[int, list[Product]] = {}
        start = 0
        while start < n:
            part = slice(start, n if self._by_hooks else start + step)
            if self._by_hooks:
                if result is None:
                    result = self._memory.matrix(n, sum(sizes), parameters[0])
                _hooks(self._model, parameters, inputs[part], targets[part], loss, result[part])
                break
            rows = Rows(parameters, len(inputs[part]), self._memory)
            total = self._forward(rows, inputs[part], targets[part], loss)
            suited = rows.suited()
            factored = suited if factored is None else factored
            if result is None:
                result = self._memory.matrix(n, rows.width(factored), parameters[0])
            rows.begin(result[part], factored)
            complete = _backward(total, parameters)
            if factored and (suited != factored or not complete):
                # Another part of the model ran for these records: all that remains is to write.
                return self._compute(inputs, targets, loss, frozenset())
            self._by_hooks = not complete
            if complete:
                for place, product in rows.finish().items():
                    products.setdefault(place, []).append(product)
                start += rows.n
        assert result is not None
        return FactoredGradients(result, sizes, products, self._memory)

    def _forward(self, rows: Rows, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """The sum of the losses; its backward pass fills `rows`."""
        with torch.enable_grad():
            with LayerRules(rows):
                outputs = self._model(inputs)
            return _per_record(loss(outputs, targets), rows.n).sum()

    def close(self) -> None:
        """Give the memory back."""
        self._memory = Memory()

    def __enter__(self) -> PerSampleGradients:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _backward(total: Tensor, parameters: list[nn.Parameter]) -> bool:
    """Run the backward pass; False where a parameter is used outside the rules."""
    if not total.requires_grad:
        return True
    others = torch.autograd.grad(total, parameters, allow_unused=True)
    return all(gradient is None for gradient in others)


def sum_groups(gradients: Tensor, group_codes: Tensor, groups: int) -> Tensor:
    """Add up the gradients of each group, such as the records of one patient.

    Args:
        gradients: float [n, d].
        group_codes: integer [n], the group of each record, 0 <= code < groups.
        groups: how many groups there are, with records or without.

    Returns:
        [groups, d]. In the order of the records, so the same on every call.
    """
    if group_codes.shape != gradients.shape[:1]:
        raise ValueError(f"{len(gradients)} gradients have {list(group_codes.shape)} group codes.")
    codes = group_codes.tolist()
    if not all(0 <= code < groups for code in codes):
        raise ValueError(f"Group codes must lie between 0 and {groups - 1}: {sorted(set(codes))}.")
    summed = gradients.new_zeros(groups, gradients.shape[1])
    for row, code in zip(gradients, codes, strict=True):
        summed[code] += row
    return summed


def _per_record(losses: Tensor, n: int) -> Tensor:
    if losses.shape != (n,):
        raise ValueError(
            f"The loss must return one value a record, [{n}], not {list(losses.shape)}."
        )
    return losses


def _hooks(
    model: nn.Module,
    parameters: list[nn.Parameter],
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    out: Tensor,
) -> None:
    """Write the gradients [n, d] to `out` with Opacus: hooks where it has a rule, else functorch.

    Raises:
        ValueError: Opacus refuses the model, or misses a use of a parameter.
    """
    from opacus.grad_sample.grad_sample_module import GradSampleHooks
    from opacus.grad_sample.gsm_base import OPACUS_PARAM_MONKEYPATCH_ATTRS

    inplace = [m for m in model.modules() if getattr(m, "inplace", False) is True]
    for module in inplace:
        module.inplace = False  # type: ignore[assignment]
    hooks = None
    try:
        hooks = GradSampleHooks(model, loss_reduction="sum")
        with torch.enable_grad(), warnings.catch_warnings():
            # The inputs need no gradient: that is no fault.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            losses = _per_record(loss(model(inputs), targets), len(out))
            sums = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        sizes = [p.numel() for p in parameters]
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        columns = out.split(sizes, dim=1)
        for name, parameter, part, total in zip(names, parameters, columns, sums, strict=True):
            found = parameter.grad_sample  # type: ignore[attr-defined]
            part.copy_(found.reshape(part.shape)) if found is not None else part.zero_()
            if total is not None and not _adds_up(part, total.flatten()):
                raise ValueError(
                    f"Per-sample gradients of {name!r} are not complete: it is used outside the "
                    "layer that owns it, or that layer is not in training mode."
                )
    except NotImplementedError as error:
        raise ValueError(
            f"Opacus computes no per-sample gradients of this model: {error}"
        ) from None
    finally:
        for module in inplace:
            module.inplace = True  # type: ignore[assignment]
        if hooks is not None:
            hooks.cleanup()
        # What Opacus leaves behind where it breaks off.
        for module in model.modules():
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)
        for parameter in parameters:
            for name in OPACUS_PARAM_MONKEYPATCH_ATTRS:
                parameter.__dict__.pop(name, None)


def _adds_up(rows: Tensor, total: Tensor) -> bool:
    """Whether per-sample gradients [n, k] add up to their sum [k], as far as they are finite."""
    difference, scale = (rows.sum(0) - total).norm(), rows.norm(dim=1).sum() + total.norm()
    return not bool(difference.isfinite()) or bool(difference <= 1e-3 * scale)
