"""Cubes that are cut out of one patch and pasted into another, at the same place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cube_masks(
    count: int,
    size: Sequence[int],
    cubes: int,
    sides: tuple[int, int],
    generator: torch.Generator,
) -> Tensor:
    """Draw where cubes lie in patches: LesionCutMix of Fed-CoT; squares in two dimensions.

    The side of each cube is uniform between two whole numbers, and so is its place among those
    where it lies within the patch. Cubes may overlap. One that is longer than an axis takes all of
    it.

    Args:
        count: how many patches.
        size: of a patch, two or three axes.
        cubes: in each patch.
        sides: the smallest and the largest side, in voxels.
        generator: on the CPU; nothing else decides.

    Returns:
        bool [count, 1, *size], True in the cubes.

    Raises:
        ValueError: sides that are not 1 <= smallest <= largest.
    """
    low, high = sides
    if not 1 <= low <= high:
        raise ValueError(f"Sides are [smallest, largest], at least 1, not {list(sides)}.")
    masks = torch.zeros((count, 1, *size), dtype=torch.bool)
    for number in range(count):
        for _ in range(cubes):
            side = int(torch.randint(low, high + 1, (), generator=generator))
            inside: list[int | slice] = [number, 0]
            for length in size:
                room = max(length - side, 0)
                start = int(torch.randint(room + 1, (), generator=generator))
                inside.append(slice(start, start + side))
            masks[tuple(inside)] = True
    return masks


def pasted(values: Tensor, masks: Tensor) -> Tensor:
    """Values with those of the patch before it in the batch where a mask is True.

    The same masks mix images and what teachers say of the unmixed ones, as in CutMix-MT (French et
    al., "Semi-supervised semantic segmentation needs strong, varied perturbations", 2020).

    Args:
        values: [n, c, *size]: images, or probabilities of classes.
        masks: bool [n, 1, *size].
    """
    return torch.where(masks, values.roll(1, 0), values)
