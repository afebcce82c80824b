"""Volumes of magnitudes as complex slices: what is kept of them, and the phase that is added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.data.slices.magnitude import Magnitude, simulated_phase
from fedsim.data.volumes.reading import read_volume


def opened(dataset: Magnitude, root: Path, cache: Path, size: int) -> Any:
    return dataset.open(
        root=root, cache=cache, name="magnitude", size=size, embedded={}, skip_bad=False
    )


def test_a_phase_is_smooth_and_of_its_draws_alone() -> None:
    one, same, other = (simulated_phase((32, 24), np.random.default_rng(k)) for k in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)
    # A polynomial of second degree: its third difference is 0.
    assert np.allclose(np.diff(one, n=3, axis=0), 0, atol=1e-9)
    assert np.allclose(np.diff(one, n=3, axis=1), 0, atol=1e-9)


@pytest.mark.parametrize(
    ("volumes", "folder", "patients", "sites"),
    [
        ("promise12", "promise12", 31, ("bidmc", "hk", "runmc", "ucl")),
        ("msd", "msd_hippocampus", 195, ("hippocampus",)),
    ],
)
def test_real_volumes(
    volumes: Any,
    folder: str,
    patients: int,
    sites: tuple[str, ...],
    real_data: Path,
    tmp_path: Path,
) -> None:
    dataset = Magnitude(volumes, slices=2)
    store = opened(dataset, real_data / folder, tmp_path, 32)
    assert store.images.shape == (2 * patients, 2, 32, 32)
    assert len(set(store.groups.tolist())) == patients
    assert store.site_names == sites
    peak = np.hypot(store.images[:, 0], store.images[:, 1]).max(axis=(1, 2))
    assert peak == pytest.approx(np.ones(2 * patients), abs=1e-5)

    path = dataset.manifest(real_data / folder).paths[0]
    slices = dataset.read(path)
    truth = read_volume(path, channel=0).array.astype(np.float64)
    assert slices.shape == truth.shape
    low = min(float(truth.min()), 0.0)
    assert np.abs(slices) == pytest.approx(truth - low, rel=1e-4, abs=1e-3)
    # All slices of a volume have one phase.
    both = (np.abs(slices[0]) > 1) & (np.abs(slices[-1]) > 1)
    turned = slices[0][both] * slices[-1][both].conj()
    assert np.angle(turned) == pytest.approx(0, abs=1e-4)
