"""What is done to a volume before it is stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.volumes.preparing import Preparation, fit, normalise, prepare_volume

UNIT = (1.0, 1.0, 1.0)


def ball(shape: tuple[int, int, int], radius: float) -> np.ndarray:
    """1 in a ball in the middle."""
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    return (sum(axis**2 for axis in axes) < radius**2).astype(np.uint8)


def test_intensities_have_mean_0_and_deviation_1_after_clipping():
    rng = np.random.default_rng(0)
    image = (1000 * rng.random((6, 20, 20))).astype(np.float32)
    image[0, 0, 0] = 1e9  # an outlier that would flatten all else
    scored = normalise(image, clip=True)
    assert scored.dtype == np.float32
    assert scored.mean() == pytest.approx(0, abs=1e-5)
    assert scored.std() == pytest.approx(1, abs=1e-5)
    assert scored.max() < 2
    assert normalise(image, clip=False).max() > 40


def test_the_scale_of_intensities_does_not_matter_and_a_constant_volume_becomes_0():
    image = np.random.default_rng(0).random((3, 9, 9)).astype(np.float32)
    np.testing.assert_allclose(
        normalise(image, True), normalise(137000 * image + 5, True), atol=1e-4
    )
    assert not normalise(np.full((2, 3, 3), 7, np.float32), True).any()


def test_without_scaling_it_is_the_crop_pad_and_z_score_of_monai():
    from monai.transforms import CenterSpatialCrop, NormalizeIntensity, SpatialPad

    rng = np.random.default_rng(1)
    for shape in ((5, 12, 9), (8, 31, 20), (10, 15, 16)):
        image = rng.random(shape).astype(np.float32)
        label = rng.integers(0, 3, shape, dtype=np.uint8)
        how = Preparation(size=15, slices=7, clip=False)
        made, outlines, spacing = prepare_volume(image, label, UNIT, how)
        crop, pad = CenterSpatialCrop((7, 15, 15)), SpatialPad((7, 15, 15))
        expected = pad(crop(NormalizeIntensity()(image[None])))[0]
        np.testing.assert_allclose(made, expected, atol=1e-5)
        np.testing.assert_array_equal(outlines, pad(crop(label[None]))[0])
        assert (made.dtype, outlines.dtype, spacing) == (np.float32, np.uint8, UNIT)


@given(st.integers(1, 12), st.integers(1, 12))
def test_cutting_and_adding_keep_the_middle(have, want):
    fitted = fit(np.arange(1, have + 1), (want,))
    assert len(fitted) == want
    assert (fitted > 0).sum() == min(have, want)
    kept = fitted[fitted > 0]
    assert (np.diff(kept) == 1).all()
    if have >= want:
        assert abs(kept.mean() - (have + 1) / 2) <= 0.5
    else:
        assert abs(np.flatnonzero(fitted).mean() - (want - 1) / 2) <= 0.5


def test_a_field_of_view_is_cut_out_and_scaled_with_its_outlines():
    label = ball((6, 40, 40), 8)
    image = label.astype(np.float32)
    made, outlines, spacing = prepare_volume(
        image, label, (3.0, 1.0, 1.0), Preparation(size=40, field_of_view=0.5, clip=False)
    )
    assert made.shape == outlines.shape == (6, 40, 40)
    assert spacing == (3.0, 0.5, 0.5)
    assert outlines.sum() == pytest.approx(4 * label.sum(), rel=0.02)
    # The image's ball is where the outlines are.
    both = ((made > 0.5 * made.max()) & (outlines > 0)).sum()
    assert both / outlines.sum() > 0.9


def test_an_oblong_slice_keeps_its_aspect_ratio():
    label = ball((3, 60, 30), 10)
    _, outlines, spacing = prepare_volume(
        label.astype(np.float32), label, UNIT, Preparation(size=30, field_of_view=1.0)
    )
    rows, columns = (np.ptp(np.nonzero(outlines)[axis]) for axis in (1, 2))
    assert rows == columns
    assert spacing == (1.0, 2.0, 2.0)


def test_resampling_keeps_positions_and_physical_size():
    label = ball((20, 40, 40), 9)
    image = 100 * label.astype(np.float32)
    how = Preparation(size=20, spacing=(2.0, 2.0, 2.0), clip=False)
    made, outlines, spacing = prepare_volume(image, label, UNIT, how)
    assert made.shape == (10, 20, 20)
    assert spacing == (2.0, 2.0, 2.0)
    assert 8 * outlines.sum() == pytest.approx(label.sum(), rel=0.1)
    for found in (np.mean(np.nonzero(outlines), axis=1), np.mean(np.nonzero(made > 1), axis=1)):
        np.testing.assert_allclose(found, [4.5, 9.5, 9.5], atol=0.5)


def test_making_an_image_smaller_averages_instead_of_skipping():
    image = np.zeros((1, 33, 33), np.float32)
    image[:, ::2] = 1.0  # stripes that skipping would see as all or nothing
    made, _, _ = prepare_volume(
        image, np.zeros(image.shape, np.uint8), UNIT, Preparation(11, field_of_view=1.0, clip=False)
    )
    assert np.abs(made[:, 1:-1]).max() < 0.3


def test_outlines_take_the_voxel_in_the_middle():
    label = np.arange(81, dtype=np.uint8).reshape(1, 9, 9)
    how = Preparation(3, field_of_view=1.0)
    _, outlines, _ = prepare_volume(label.astype(np.float32), label, UNIT, how)
    assert outlines[0].tolist() == label[0, 1::3, 1::3].tolist()


def test_padding_is_the_mean_of_the_volume_and_background():
    image = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32) + 50
    made, outlines, _ = prepare_volume(
        image, np.ones(image.shape, np.uint8), UNIT, Preparation(size=8, slices=4)
    )
    assert made[0].tolist() == np.zeros((8, 8)).tolist()
    assert outlines.sum() == image.size
    assert made[1:3, 2:6, 2:6].mean() == pytest.approx(0, abs=1e-5)
