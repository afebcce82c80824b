"""Pair images and masks by what their files and folders are called."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from fedsim.data import dicom
from fedsim.data.volumes.reading import PICTURES, SUFFIXES
from fedsim.errors import InputError, Problem


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MASK_WORDS = _words(
    "mask masks seg segs segmentation segmentations label labels labelstr labelsts gt groundtruth "
    "annotation annotations roi rois outline outlines contour contours truth"
)
"""Words in the name of a mask, or of a folder that it lies in."""

_IMAGE_WORDS = _words(
    "image images imagestr imagests img imgs volume volumes vol scan scans data orig original raw "
    "ct cta mr mri t1 t2 t1w t2w t1c flair adc dwi pet cbct us dicom series nifti nii"
)
_WORD = re.compile(r"[^\W_]+")
_CHANNEL = "0000"  # nnU-Net's first channel: case_0000.nii.gz and case.nii.gz
_SHOWN = 5


@dataclass(frozen=True)
class Pair:
    """An image and its mask: files, or folders of a DICOM series."""

    image: Path
    mask: Path


def pairs_below(root: Path) -> tuple[list[Pair], tuple[str, ...]]:
    """The pairs below a folder, by the image's path, and notes on what was passed over.

    Pictures are paired where there are no volumes: beside those they show what is in them.

    Raises:
        InputError: several images or masks have one name.
    """
    images: dict[tuple[str, ...], list[Path]] = {}
    masks: dict[tuple[str, ...], list[Path]] = {}
    for path in volumes_below(root) or volumes_below(root, PICTURES):
        words = _words_of(path.relative_to(root))
        side = masks if MASK_WORDS & set(words) else images
        side.setdefault(_key(words), []).append(path)
    found = sorted(images.keys() & masks.keys())
    problems = []
    for key in found:
        for kind, paths in (("image", images[key]), ("mask", masks[key])):
            if len(paths) > 1:
                shown = ", ".join(str(path.relative_to(root)) for path in paths[:_SHOWN])
                problems.append(Problem(str(root), f"several may be one {kind}: {shown}"))
    if problems:
        raise InputError(
            "images and masks cannot be paired by their names",
            problems,
            "list them in a .csv file with the columns image and mask",
        )
    notes = []
    for kind, side in (("images without a mask", images), ("masks without an image", masks)):
        rest = side.keys() - set(found)
        alone = [str(path.relative_to(root)) for key in rest for path in side[key]]
        if alone and found:
            more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
            notes.append(f"not read, {kind}: {', '.join(sorted(alone)[:_SHOWN])}{more}")
    pairs = [Pair(images[key][0], masks[key][0]) for key in found]
    return sorted(pairs, key=lambda pair: pair.image), tuple(notes)


def volumes_below(root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Files with these suffixes, and folders with several DICOM files, at any depth; none that is
    hidden."""
    found = []
    for here, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [name for name in names if not name.startswith(".")]
        found += [Path(here, name) for name in sorted(shown) if name.lower().endswith(suffixes)]
        slices = [name for name in shown if dicom.is_dicom(Path(here, name))]
        if len(slices) > 1 and Path(here) != root:
            found.append(Path(here))
        elif len(slices) == 1 and MASK_WORDS & set(_words_of(Path(slices[0]))):
            found.append(Path(here, slices[0]))
    return found


def _words_of(path: Path) -> list[str]:
    """The words of a path's folders and name, in lower case, without the suffix."""
    name = path.name
    for suffix in (*SUFFIXES, *PICTURES, *dicom.SUFFIXES):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return [word.lower() for part in (*path.parts[:-1], name) for word in _WORD.findall(part)]


def _key(words: list[str]) -> tuple[str, ...]:
    """What an image and its mask have in common."""
    if len(words) > 1 and words[-1] == _CHANNEL:
        words = words[:-1]
    kept = [word for word in words if word not in MASK_WORDS and word not in _IMAGE_WORDS]
    # patient1/patient1_seg.nii.gz beside patient1/ct: the folder's words may come twice.
    return tuple(dict.fromkeys(kept))
