"""How images and model weights become the bytes that travel, and come back.

The model sees images as float32 [N, 3, H, W], normalised with ImageNet's channel means and standard
deviations.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

Codec = Literal["uint8", "float16", "float32"]
BYTES_PER_VALUE: dict[str, int] = {"uint8": 1, "float16": 2, "float32": 4}

RANGE_SUFFIX = "#range"
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """Stored images -> what the model sees.

    Args:
        images: uint8 [N, H, W, 3]. Copied, so it may be a read-only memory map.

    Returns:
        float32 [N, 3, H, W], contiguous, in memory that torch owns.

    Raises:
        ValueError: images of another type or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            "Images to normalise must be uint8 [N, H, W, 3], but are "
            f"{images.dtype} {list(images.shape)}."
        )
    # Moving the axes only would leave the strides of [N, H, W, 3], which slows convolutions.
    return _standardise(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))


def encode_images(images: Tensor, codec: Codec) -> NDArray[Any]:
    """Normalised images -> an array [N, 3, H, W] of the codec's type, for the wire.

    "uint8" is the picture itself: round(255 * clip(x * deviation + mean, 0, 1)). "float16" and
    "float32" keep the normalised values; float16 clips what it cannot hold to +-65504.

    Args:
        images: float32 [N, 3, H, W].
        codec: type on the wire.

    Raises:
        ValueError: a value is not finite, or the images have another shape.
    """
    images = images.detach().cpu()
    _require_colour(images)
    wrong = int((~images.isfinite()).sum())
    if wrong:
        raise ValueError(f"{wrong} of {images.numel()} values of the images are not finite.")
    if codec == "uint8":
        return (intensities(images).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    if codec == "float16":
        return images.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(torch.float16).numpy()
    return images.to(torch.float32).contiguous().numpy().copy()


def decode_images(encoded: NDArray[Any]) -> Tensor:
    """The inverse of `encode_images`; the array's type tells the codec.

    Decoded uint8 images survive another encoding and decoding unchanged.

    Returns:
        float32 [N, 3, H, W], normalised, contiguous, in memory that torch owns.

    Raises:
        ValueError: an array of another type or shape.
    """
    if encoded.dtype.name not in BYTES_PER_VALUE:
        raise ValueError(f"No codec of images has the type {encoded.dtype}.")
    values = torch.from_numpy(encoded.copy())
    _require_colour(values)
    return _standardise(values) if values.dtype == torch.uint8 else values.float().contiguous()


def clipped_fraction(images: Tensor) -> float:
    """Fraction of the values that the uint8 codec moves to 0 or 255 by more than rounding.

    Args:
        images: float32 [N, 3, H, W], normalised.
    """
    grey = intensities(images.detach()) * 255
    return float(((grey < -0.5) | (grey > 255.5)).float().mean()) if grey.numel() else 0.0


def image_bytes(
    clients: int, classes: int, images_per_class: int, size: int, codec: Codec = "uint8"
) -> int:
    """Bytes of the colour images, `size` x `size` pixels, that all clients send together."""
    return clients * classes * images_per_class * 3 * size**2 * BYTES_PER_VALUE[codec]


def encode_tensors(tensors: dict[str, NDArray[Any]], codec: Codec) -> dict[str, NDArray[Any]]:
    """Model weights by name -> arrays of the codec's type, for the wire.

    "float16" clips what it cannot hold to +-65504. "uint8" divides the range of each output channel
    (first axis; the whole tensor where it has fewer than two) into 255 equal steps; a second array
    `<name>#range`, float32 [2, channels] or [2], holds the smallest values and the steps. The error
    is at most half a step, beside the rounding of float32; constant channels are exact. Tensors
    that are not of floating point, and empty ones, travel as they are.

    Raises:
        ValueError: a value is not finite, or a name ends with "#range".
    """
    problems = [
        f"{name!r} ({int((~np.isfinite(values)).sum())} of {values.size})"
        for name, values in tensors.items()
        if _is_float(values) and not np.isfinite(values).all()
    ]
    if problems:
        raise ValueError(f"Values are not finite in {', '.join(problems)}.")
    reserved = [name for name in tensors if name.endswith(RANGE_SUFFIX)]
    if reserved:
        raise ValueError(f"Names that end with {RANGE_SUFFIX!r} are reserved: {reserved}.")
    encoded: dict[str, NDArray[Any]] = {}
    for name, values in tensors.items():
        if not _is_float(values) or values.size == 0:
            encoded[name] = values
        elif codec == "float32":
            encoded[name] = values.astype(np.float32)
        elif codec == "float16":
            clipped = np.clip(values, -_FLOAT16_MAX, _FLOAT16_MAX)
            encoded[name] = np.asarray(clipped, dtype=np.float16)
        else:
            encoded[name], encoded[name + RANGE_SUFFIX] = _quantise(values)
    return encoded


def decode_tensors(encoded: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inverse of `encode_tensors`: floating-point tensors come back as float32."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, values in encoded.items():
        if name.endswith(RANGE_SUFFIX):
            continue
        bounds = encoded.get(name + RANGE_SUFFIX)
        if bounds is not None:
            low, step = _along_channels(bounds.astype(np.float64), values.ndim)
            # A step rounded up may lead past the largest number of float32.
            decoded = np.clip(low + step * values, -_FLOAT32_MAX, _FLOAT32_MAX)
            tensors[name] = np.asarray(decoded, dtype=np.float32)
        else:
            tensors[name] = values.astype(np.float32) if _is_float(values) else values
    return tensors


def _quantise(values: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """255 equal steps from the smallest to the largest value, for each output channel."""
    axes = tuple(range(1, values.ndim)) if values.ndim > 1 else None
    low = np.min(values, axis=axes).astype(np.float32)
    high = np.max(values, axis=axes).astype(np.float32)
    # In double precision: the difference of two float32 numbers may be too large for a third.
    step = ((high.astype(np.float64) - low) / 255).astype(np.float32)
    bounds = np.stack([low, step]).astype(np.float32)
    first, width = _along_channels(bounds.astype(np.float64), values.ndim)
    codes = np.rint((values - first) / np.where(width == 0, 1, width))
    return np.asarray(np.clip(codes, 0, 255), dtype=np.uint8), bounds


def _along_channels(bounds: NDArray[np.float64], ndim: int) -> NDArray[np.float64]:
    """Bounds [2] or [2, channels], shaped so that each broadcasts over a tensor's first axis."""
    return bounds.reshape(*bounds.shape, *[1] * (ndim - 1)) if ndim > 1 else bounds


def _is_float(values: NDArray[Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating))


def _standardise(grey: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float32, normalised."""
    mean, std = _statistics(grey.device)
    return grey.float().div_(255).sub_(mean).div_(std)


def intensities(images: Tensor) -> Tensor:
    """Normalised [N, 3, H, W] -> intensities; 0 to 1 is what a picture can hold."""
    _require_colour(images)
    mean, std = _statistics(images.device)
    return images * std + mean


def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Channel means and deviations [3, 1, 1]."""
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD)
    )
    return mean, std


def _require_colour(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"Images must be [N, 3, H, W], but are {list(images.shape)}.")
