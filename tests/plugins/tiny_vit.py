"""A vision transformer of a few thousand weights, for tests of adapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention; `qkv` makes queries, keys and values, `proj` mixes the heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self._heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, N, c] -> [n, N, c]."""
        n, count, width = tokens.shape
        parts = self.qkv(tokens).view(n, count, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0))
        return self.proj(mixed.transpose(1, 2).reshape(n, count, width))


class Layer(nn.Module):
    """A block: attention and two linear layers, each after a normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, N, c] -> [n, N, c]."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class TinyViT(nn.Module):
    """Patches of 4 x 4 pixels, a class token, `depth` blocks, a linear classifier."""

    head = "classifier"

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        width: int = 16,
        depth: int = 2,
        heads: int = 2,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (image_size // 4) ** 2 + 1, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, num_classes]."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        return self.classifier(self.norm(tokens)[:, 0] + self.norm(tokens)[:, 1:].mean(1))
