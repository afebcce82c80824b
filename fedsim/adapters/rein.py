"""Rein: tokens that refine the features of each block of a frozen network.

Wei et al., "Stronger, Fewer, & Superior: Harnessing Vision Foundation Models for Domain Generalized
Semantic Segmentation" (CVPR 2024, arXiv:2312.04265), section 3.2, with the low-rank tokens of Eq. 7
and the maps shared over layers. Of the features f of block l, float [N, c]:

    T = A_l B_l                                         tokens, [m, c]
    S = softmax(f T' / sqrt(c))                         [N, m]
    D = S[:, 1:] (T[1:] W_T + b_T)                      the first token is a null token
    f <- f + s ((D + f) W_f + b_f)

A_l is [m, r] and B_l [r, c]. W_T, b_T, W_f, b_f and s are the same for all blocks. The paper's link
from tokens to the queries of its segmentation head is left out: no model here has such queries.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.adapters.paths import UnfitError, matching
from fedsim.adapters.probing import outputs_of

_PATCH = 16  # pixels of a patch, by which the authors' code draws the first tokens


class Tokens(nn.Module):
    """The tokens of one block, T = A B.

    `a` is float [m, r, 1] and `b` float [r, c, 1]. As kernels of convolutions of one position their
    products with features have rules for per-sample gradients, which a product of matrices lacks.
    """

    def __init__(self, tokens: int, rank: int, width: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(tokens, rank, 1))
        self.b = nn.Parameter(torch.empty(rank, width, 1))
        bound = math.sqrt(6.0 / (3 * _PATCH**2 + math.sqrt(width * rank)))
        nn.init.uniform_(self.a, -bound, bound)
        nn.init.uniform_(self.b, -bound, bound)

    def likeness(self, features: Tensor) -> Tensor:
        """f T': [n, N, c] -> [n, N, m]."""
        return F.conv1d(F.conv1d(features.transpose(1, 2), self.b), self.a).transpose(1, 2)

    def mixture(self, weights: Tensor) -> Tensor:
        """w T: [n, N, m] -> [n, N, c]."""
        low = F.conv_transpose1d(weights.transpose(1, 2), self.a)
        return F.conv_transpose1d(low, self.b).transpose(1, 2)


class ReinTokens(nn.Module):
    """The tokens of all blocks, and what they share.

    With L blocks it has L (m r + r c) + 2 (c^2 + c) + 1 parameters.

    Args:
        blocks: L.
        width: c.
        tokens: m.
        rank: r.
        scale: s at first.
        class_tokens: first tokens of the features that pass as they are.
    """

    def __init__(
        self, blocks: int, width: int, tokens: int, rank: int, scale: float, class_tokens: int
    ) -> None:
        super().__init__()
        self.tokens = nn.ModuleList(Tokens(tokens, rank, width) for _ in range(blocks))
        self.token_map = nn.Linear(width, width, bias=False)
        self.token_bias = nn.Linear(1, width, bias=False)
        self.feature_map = nn.Linear(width, width)
        self.scale = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.scale.weight, scale)
        self._class_tokens = class_tokens

    def refined(self, block: int, features: Tensor) -> Tensor:
        """Refined features of a block: [n, N, c], or maps [n, c, H, W] with pixels as tokens."""
        if features.ndim == 4:
            flat = features.flatten(2).transpose(1, 2)
            return (flat + self._change(block, flat)).transpose(1, 2).view_as(features)
        first, rest = features.tensor_split([self._class_tokens], dim=1)
        return torch.cat([first, rest + self._change(block, rest)], dim=1)

    def _change(self, block: int, features: Tensor) -> Tensor:
        tokens: Any = self.tokens[block]
        scores = tokens.likeness(features) / math.sqrt(features.shape[-1])
        # Without the null token, whose share of the attention goes to nothing.
        shares = F.pad(scores.softmax(-1)[..., 1:], (1, 0))
        moved = self.token_map(tokens.mixture(shares)) + self.token_bias(
            shares.sum(-1, keepdim=True)
        )
        change = self.feature_map(moved + features)
        return self.scale(change.unsqueeze(-1)).squeeze(-1)

    def _after(self, block: int, module: nn.Module, given: Any, features: Tensor) -> Tensor:
        """The hook on a block."""
        return self.refined(block, features)


BLOCKS = ("layers.*", "blocks.*", "features.blocks.*", "*.layers.*", "*.blocks.*")
"""What the paths of a transformer's blocks usually are."""


class Rein:
    """Rein for the blocks of a model.

    Args:
        tokens: m, the null token included; at least 2.
        rank: r; at most m and c.
        layers: patterns of the paths of blocks; of nested layers that match, the outermost count.
            None: the first of `BLOCKS` that the model has.
        scale: s at first.
        class_tokens: first tokens of the features that pass as they are; of maps none do.
    """

    def __init__(
        self,
        tokens: int = 100,
        rank: int = 16,
        layers: Sequence[str] | None = None,
        scale: float = 0.001,
        class_tokens: int = 1,
    ) -> None:
        self.tokens, self.rank, self.layers = tokens, rank, layers
        self.scale, self.class_tokens = scale, class_tokens

    def attach(
        self, model: nn.Module, input_shape: tuple[int, ...], head: Collection[str] = ()
    ) -> None:
        """Add tokens to a model as its module `rein`; they are drawn from torch's global state.

        Args:
            model: its weights stay as they are. It is called once, with a record of zeros.
            input_shape: of a record.
            head: paths of the model's last layers; not needed.

        Raises:
            UnfitError: a pattern matches nothing, a layer has no features of a common width, or
                the rank is too large.
        """
        if hasattr(model, "rein"):
            raise UnfitError(
                "name", ["the model has a part 'rein' already"], "choose another model"
            )
        layers = usual_blocks(model) if self.layers is None else self.layers
        blocks = _outermost(matching(model, "layers", layers))
        width = self._width(model, blocks, input_shape)
        most = min(self.tokens, width)
        if self.rank > most:
            raise UnfitError(
                "rank",
                [f"{self.rank} is too large for {self.tokens} tokens of {width} values"],
                f"type a rank of at most {most}",
            )
        rein = ReinTokens(len(blocks), width, self.tokens, self.rank, self.scale, self.class_tokens)
        model.add_module("rein", rein.to(next(model.parameters())))
        for number, block in enumerate(blocks.values()):
            # A method and not a closure: a copy of the model has hooks of its own.
            block.register_forward_hook(partial(rein._after, number))

    def _width(
        self, model: nn.Module, blocks: dict[str, nn.Module], input_shape: tuple[int, ...]
    ) -> int:
        """The width that the features of all blocks have."""
        found = outputs_of(model, blocks, input_shape, "layers")
        reasons = [f"{path!r} is not called by the model" for path in blocks if path not in found]
        widths = {}
        for path, output in found.items():
            kind = type(blocks[path]).__name__
            if not isinstance(output, Tensor) or output.ndim not in (3, 4):
                given = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
                reasons.append(
                    f"{path!r} ({kind}) gives {given}, and not features [n, tokens, width] or maps "
                    "[n, width, height, columns]"
                )
            elif output.ndim == 3 and output.shape[1] <= self.class_tokens:
                reasons.append(f"{path!r} ({kind}) has no token beside {self.class_tokens}")
            else:
                widths[path] = output.shape[2 if output.ndim == 3 else 1]
        if not reasons and len(set(widths.values())) > 1:
            told = ", ".join(f"{path!r} {width}" for path, width in list(widths.items())[:5])
            reasons.append(f"the features of the blocks must have one width, and have {told}")
        if reasons:
            raise UnfitError(
                "layers", reasons, "name the blocks of a transformer, or one convolution's layer"
            )
        return next(iter(widths.values()))


def usual_blocks(model: nn.Module) -> tuple[str, ...]:
    """The pattern by which a transformer's blocks are found where nothing names them."""
    paths = [path for path, _ in model.named_modules()]
    fit = (one for one in BLOCKS if any(fnmatchcase(path, one) for path in paths))
    return (next(fit, BLOCKS[0]),)


def _outermost(found: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Those that lie in none of the others."""
    return {
        path: module
        for path, module in found.items()
        if not any(path.startswith(f"{other}.") for other in found)
    }
