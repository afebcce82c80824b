"""Small sound material that inputs are mutated from, made once in a folder of its own.

All of it is generated: scenarios, tables, images, volumes, finished and unfinished run folders,
and the prepared data in their cache.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
from PIL import Image

from fedsim import run
from fedsim.terminal.console import Console

SCENARIOS: dict[str, dict[str, Any]] = {
    "tiny": {
        "name": "tiny",
        "rounds": 2,
        "data": {"name": "ham10000", "size": 8, "embedded": {"images": 120, "sites": 3}},
        "federation": {"clients": 3, "partition": {"name": "dirichlet", "alpha": 1.0}},
        "model": {"name": "cnn", "width": 4},
        "strategy": {"name": "fedavg"},
        "client": {"name": "supervised", "batch_size": 16},
        "evaluation": {"every": 1},
        "faults": {"on_client_error": "stop"},
        "resources": {"backend": "inline"},
    },
    "private": {
        "name": "private",
        "rounds": 2,
        "data": {"name": "ham10000", "size": 8, "embedded": {"images": 120, "sites": 3}},
        "federation": {"clients": 2},
        "model": {"name": "cnn", "width": 4},
        "strategy": {"name": "fedavg"},
        "client": {"name": "supervised", "batch_size": 16, "class_balanced": False},
        "privacy": {"noise_multiplier": 2.0, "expected_batch": 16, "delta": 1e-4},
        "resources": {"backend": "inline"},
    },
    "sent": {
        "name": "sent",
        "rounds": 1,
        "data": {"name": "ham10000", "size": 8, "embedded": {"images": 120, "sites": 3}},
        "federation": {"partition": {"name": "natural"}},
        "model": {"name": "convnet", "width": 4},
        "strategy": {"name": "gdd", "epochs": 1},
        "client": {"name": "random_selection", "images_per_class": 1},
        "resources": {"backend": "inline"},
    },
}
"""Scenarios of seconds; their names are those of their files."""

FOLDER = {
    "name": "mine",
    "rounds": 1,
    "data": {"name": "folder", "root": "ROOT", "size": 8},
    "federation": {"clients": 2},
    "model": {"name": "cnn", "width": 4},
    "strategy": {"name": "fedavg"},
    "client": {"name": "supervised", "batch_size": 8},
    "resources": {"backend": "inline"},
}
"""A scenario of a folder of images; ROOT is to be replaced."""

VOLUMES = {
    "name": "outlined",
    "rounds": 1,
    "data": {"name": "volumes", "root": "ROOT", "size": 16, "patch": [16, 16],
             "structures": ["organ", "lesion"]},
    "federation": {"clients": 2},
    "model": {"name": "unet", "channels": [4, 8]},
    "strategy": {"name": "fedavg"},
    "client": {"name": "segmentation", "steps": 1, "batch_size": 2},
    "resources": {"backend": "inline"},
}  # fmt: skip
"""The same of volumes."""


def make_bank(folder: Path, runs: Sequence[str] = tuple(SCENARIOS)) -> Path:
    """Make everything below a folder.

    Args:
        folder: must not exist.
        runs: the scenarios to make run folders of; "tiny" must be among them.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    for name, scenario in SCENARIOS.items():
        (folder / f"{name}.yaml").write_text(json.dumps(scenario, indent=1))
    write_images(folder / "images")
    write_volumes(folder / "volumes")
    with _cache(folder / "cache"), _measured_alike():
        for name in runs:
            done = run(folder / f"{name}.yaml", runs=folder / "made").folder
            shutil.copytree(done, folder / "runs" / name)
        with patch.object(Console, "round", side_effect=KeyboardInterrupt):
            try:
                run(folder / "tiny.yaml", runs=folder / "made")
            except KeyboardInterrupt as interrupt:
                shutil.copytree(str(interrupt), folder / "runs" / "halted")
    shutil.rmtree(folder / "made")
    return folder


def write_images(root: Path, count: int = 24, seed: int = 0) -> None:
    """A folder in the layout of `data.name: folder`: images and a table with groups and sites."""
    rng = np.random.default_rng(seed)
    (root / "pictures").mkdir(parents=True)
    lines = ["path,label,group,site"]
    for k in range(count):
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        name = f"pictures/{k:02d}.{'png' if k % 2 else 'jpg'}"
        Image.fromarray(pixels).save(root / name)
        lines.append(f"{name},{'mel' if k % 3 == 0 else 'nv'},p{k // 2},{'ab'[k % 2]}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")


def write_volumes(root: Path, count: int = 8, seed: int = 0) -> None:
    """A folder in the layout of `data.name: volumes`: NIfTI images, masks and a table."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True)
    lines = ["image,mask,group,site"]
    for k in range(count):
        image = rng.normal(size=(16, 16, 8)).astype(np.float32)
        mask = np.zeros(image.shape, np.uint8)
        mask[4:10, 4:10, 2:6] = 1
        mask[6:8, 6:8, 3:5] = 2
        for name, array in (("image", image), ("mask", mask)):
            nib.save(
                nib.Nifti1Image(array, np.diag((1.0, 1.0, 3.0, 1.0))), root / f"{name}{k}.nii.gz"
            )
        lines.append(f"image{k}.nii.gz,mask{k}.nii.gz,p{k},{'ab'[k % 2]}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")  # fmt: skip


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Prepare data there meanwhile."""
    before = os.environ.get("FEDSIM_CACHE")
    os.environ["FEDSIM_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("FEDSIM_CACHE")
        if before is not None:
            os.environ["FEDSIM_CACHE"] = before


@contextmanager
def _measured_alike() -> Iterator[None]:
    """Times, memory and machine are the same in every making: a mutation finds the same bytes."""
    clock = SimpleNamespace(**{**vars(time), "perf_counter": lambda: 1.5})
    machine = {"versions": {"python": "3.11"}, "git_commit": None, "command": ["fedsim"]}
    with ExitStack() as stack:
        for target, value in (
            ("fedsim.engine.loop.time", clock),
            ("fedsim.engine.loop.Rounds.seconds", 3.5),
            ("fedsim.engine.loop.peak_rss_mb", lambda: 300.0),
            ("fedsim.grid.worker.peak_rss_mb", lambda: 300.0),
            ("fedsim.engine.running.now", lambda: "2026-01-01T00:00:00+00:00"),
            ("fedsim.engine.wording.now", lambda: "2026-01-01T00:00:00+00:00"),
            ("fedsim.engine.wording.environment", lambda: dict(machine)),
        ):
            stack.enter_context(patch(target, value))
        yield


if __name__ == "__main__":
    make_bank(Path(sys.argv[1]))
