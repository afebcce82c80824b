"""The vision transformer of DINOv2."""

from __future__ import annotations

from collections import OrderedDict

from pydantic import PositiveInt
from torch import Tensor, cat, nn, zeros
from torch.nn import functional as F

from fedsim.models.classifier import Classifier, require_positive


class ViTS14(Classifier):
    """ViT-S/14 as in DINOv2: patches of 14x14 px, 12 layers; the class token is the embedding.

    Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), with the layer scale of Touvron et
    al. (2021), as Oquab et al., "DINOv2" (2024) use it, without register tokens. The positions are
    learned on a grid of 37x37 patches (518 px) and brought to the image's grid by bicubic
    interpolation. 22,056,962 parameters with the defaults, three input channels and two classes,
    whatever the image size. The embedding has `width` values.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        image_size: height and width of the images, a multiple of `patch_size`.
        width: of every token, a multiple of `heads`.
        depth: number of layers.
        heads: of the attention in each layer.
        patch_size: height and width of a patch, px.
        grid: side of the grid on which positions are learned, in patches.

    Raises:
        ValueError: a size below one, images that are no whole number of patches, or a width that
            the heads do not divide.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        width: PositiveInt = 384,
        depth: PositiveInt = 12,
        heads: PositiveInt = 6,
        patch_size: PositiveInt = 14,
        grid: PositiveInt = 37,
    ) -> None:
        super().__init__()
        require_positive(
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            depth=depth,
            heads=heads,
            patch_size=patch_size,
            grid=grid,
        )
        if image_size < patch_size or image_size % patch_size:
            below = image_size // patch_size * patch_size
            near = [str(size) for size in (below, below + patch_size) if size > 0]
            raise ValueError(
                f"A ViTS14 cuts images into patches of {patch_size} px, but image_size is "
                f"{image_size}: the nearest that fits is {' or '.join(near)}."
            )
        if width % heads:
            raise ValueError(
                f"A ViTS14 shares its width among its heads, but {width} is no multiple of {heads}."
            )
        self.features = nn.Sequential(
            OrderedDict(
                patches=nn.Conv2d(in_channels, width, patch_size, patch_size),
                positions=_Positions(width, grid),
                blocks=nn.Sequential(*(_Block(width, heads) for _ in range(depth))),
                norm=nn.LayerNorm(width, eps=1e-6),
                pool=_ClassToken(),
            )
        )
        self.classifier = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def tokens(self, images: Tensor) -> Tensor:
        """The normalised tokens of the last layer.

        Args:
            images: float32 [N, in_channels, H, W], H and W multiples of the patch.

        Returns:
            [N, 1 + P, width]: the class token, then those of the P patches, row by row.
        """
        found: Tensor = self.features[:-1](images)
        return found


class _Positions(nn.Module):
    """Maps of patches [N, D, h, w] -> tokens [N, 1 + h * w, D] that know where they are."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(zeros(1, 1, width))
        self.pos_embed = nn.Parameter(zeros(1, 1 + grid**2, width))
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        first, places = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        height, width = patches.shape[2:]
        if (height, width) != (self.grid, self.grid):
            maps = places.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
            maps = F.interpolate(maps, (height, width), mode="bicubic", align_corners=False)
            places = maps.flatten(2).transpose(1, 2)
        tokens = patches.flatten(2).transpose(1, 2) + places
        return cat([(self.cls_token + first).expand(tokens.shape[0], -1, -1), tokens], 1)


class _Block(nn.Module):
    """Attention, then two linear layers, each behind LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.ls1 = _LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, 4 * width), act=nn.GELU(), fc2=nn.Linear(4 * width, width)
            )
        )
        self.ls2 = _LayerScale(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        scaled: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return scaled


class _Attention(nn.Module):
    """Self-attention of several heads; queries, keys and values come from one linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        # [N, T, 3D] -> [3, N, heads, T, D / heads]
        queries, keys, values = (
            self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class _LayerScale(nn.Module):
    """One factor a channel. It starts at one: DINOv2's 0.00001 needs a training as long as its."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(zeros(width) + 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class _ClassToken(nn.Module):
    """Tokens [N, T, D] -> the first of each record [N, D]."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]
