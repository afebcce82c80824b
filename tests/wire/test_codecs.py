from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedsim.wire.codecs import (
    IMAGE_MEAN,
    IMAGE_STD,
    clipped_fraction,
    decode_images,
    decode_tensors,
    encode_images,
    encode_tensors,
    image_bytes,
    normalise,
)

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TENSORS = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=0, max_dims=4, max_side=4), elements=FLOATS
)


def every_grey_level():
    return np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)


def test_normalising_follows_the_formula():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    result = normalise(images)
    expected = (images / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_normalised_images_are_contiguous_and_share_no_memory():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images.flags.writeable = False
    result = normalise(images)
    assert result.stride() == (48, 16, 4, 1)
    result += 1
    assert not images.any()


def test_all_grey_levels_survive_the_wire():
    normalised = normalise(every_grey_level())
    encoded = encode_images(normalised, "uint8")
    assert np.array_equal(encoded, every_grey_level().transpose(0, 3, 1, 2))
    assert torch.equal(decode_images(encoded), normalised)


def test_decoding_and_encoding_again_changes_nothing():
    first = decode_images(encode_images(torch.randn(2, 3, 8, 8), "uint8"))
    assert torch.equal(decode_images(encode_images(first, "uint8")), first)


def test_uint8_clips_and_says_how_much():
    images = torch.zeros(1, 3, 1, 4)
    images[:, :, 0, 1], images[:, :, 0, 2] = 10.0, -10.0
    encoded = encode_images(images, "uint8")
    assert encoded[0, :, 0, 1].tolist() == [255] * 3
    assert encoded[0, :, 0, 2].tolist() == [0] * 3
    assert encoded[0, :, 0, 0].tolist() == [round(255 * mean) for mean in IMAGE_MEAN]
    assert clipped_fraction(images) == 0.5


def test_black_and_white_do_not_count_as_clipped():
    assert clipped_fraction(normalise(every_grey_level())) == 0


@pytest.mark.parametrize(("codec", "error"), [("float32", 0.0), ("float16", 2e-3), ("uint8", 0.01)])
def test_images_come_back_within_the_codec_error(codec, error):
    images = torch.rand(2, 3, 8, 8) * 3 - 1.5
    encoded = encode_images(images.requires_grad_(), codec)
    assert encoded.dtype == codec
    assert encoded.shape == (2, 3, 8, 8)
    decoded = decode_images(encoded)
    assert decoded.dtype == torch.float32
    assert decoded.is_contiguous()
    assert (decoded - images.detach()).abs().max() <= error


def test_encoded_images_do_not_share_memory():
    images = torch.zeros(1, 3, 2, 2)
    encoded = encode_images(images, "float32")
    decoded = decode_images(encoded)
    images += 1
    decoded += 2
    assert not encoded.any()


def test_images_that_are_not_finite_are_refused():
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0, 0, 0] = torch.nan
    for codec in ("uint8", "float16", "float32"):
        with pytest.raises(ValueError, match="1 of 12 values"):
            encode_images(images, codec)


def test_images_of_another_shape_or_type_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\]"):
        normalise(np.zeros((2, 3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        normalise(np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"\[2, 1, 4, 4\]"):
        encode_images(torch.zeros(2, 1, 4, 4), "uint8")
    with pytest.raises(ValueError, match=r"\[2, 1, 4, 4\]"):
        decode_images(np.zeros((2, 1, 4, 4), np.float16))
    with pytest.raises(ValueError, match="int64"):
        decode_images(np.zeros((2, 3, 4, 4), np.int64))


def test_bytes_of_the_paper_images():
    # 2.871 and 28.711 MiB for ten clients and two classes of 224 px; the float32 is four times it.
    assert image_bytes(10, 2, 1, 224) == 3_010_560
    assert image_bytes(10, 2, 10, 224) == 30_105_600
    assert image_bytes(10, 2, 10, 224, "float32") == 4 * 30_105_600
    assert image_bytes(10, 2, 10, 32) == 614_400


@pytest.mark.parametrize("codec", ["uint8", "float16", "float32"])
def test_predicted_bytes_are_the_bytes_of_the_arrays(codec):
    encoded = encode_images(torch.zeros(2 * 3, 3, 8, 8), codec)
    assert encoded.nbytes == image_bytes(1, 2, 3, 8, codec)


@given(TENSORS)
@settings(deadline=None)
def test_quantised_weights_are_within_half_a_step(values):
    encoded = encode_tensors({"weight": values}, "uint8")
    decoded = decode_tensors(encoded)["weight"]
    assert encoded["weight"].dtype == np.uint8
    assert decoded.dtype == np.float32
    assert decoded.shape == values.shape
    channels = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
    restored = decoded.reshape(channels.shape)
    for before, after in zip(channels.astype(np.float64), restored.astype(np.float64), strict=True):
        step = (before.max() - before.min()) / 255
        # Beside half a step, the result and the step are float32 numbers.
        rounding = max(np.abs(before).max() * 2.0**-23, 2.0**-126)
        assert np.abs(before - after).max() <= 0.5 * step * (1 + 1e-4) + rounding


def test_the_widest_range_of_float32_stays_finite():
    largest = float(np.finfo(np.float32).max)
    for part in np.linspace(0.999999, 1, 200):
        values = np.array([-part * largest, largest], np.float32)
        decoded = decode_tensors(encode_tensors({"weight": values}, "uint8"))
        assert np.isfinite(decoded["weight"]).all()


@given(TENSORS)
@settings(deadline=None)
def test_float16_saturates_and_is_otherwise_a_cast(values):
    decoded = decode_tensors(encode_tensors({"weight": values}, "float16"))["weight"]
    assert np.isfinite(decoded).all()
    inside = np.abs(values) < 65504
    np.testing.assert_array_equal(decoded[inside], values[inside].astype(np.float16))
    assert (np.abs(decoded[~inside]) == 65504).all()


@given(TENSORS)
@settings(deadline=None, max_examples=30)
def test_float32_loses_nothing(values):
    decoded = decode_tensors(encode_tensors({"weight": values}, "float32"))["weight"]
    np.testing.assert_array_equal(decoded, values)


@given(FLOATS)
@settings(deadline=None, max_examples=50)
def test_constant_tensors_are_exact(value):
    tensors = {
        "kernel": np.full((2, 3, 1, 1), value, np.float32),
        "bias": np.full(3, value, np.float32),
        "scalar": np.array(value, np.float32),
    }
    decoded = decode_tensors(encode_tensors(tensors, "uint8"))
    for name, values in tensors.items():
        np.testing.assert_array_equal(decoded[name], values)


def test_each_output_channel_has_a_range_of_its_own():
    kernel = np.stack([np.linspace(-1, 1, 12), np.linspace(0, 1000, 12)]).astype(np.float32)
    encoded = encode_tensors({"kernel": kernel.reshape(2, 3, 2, 2), "bias": kernel[0]}, "uint8")
    ranges = encoded["kernel#range"]
    assert ranges.dtype == np.float32
    np.testing.assert_allclose(ranges, [[-1, 0], [2 / 255, 1000 / 255]], rtol=1e-6)
    assert encoded["bias#range"].shape == (2,)
    decoded = decode_tensors(encoded)["kernel"].reshape(2, 12)
    assert np.abs(decoded[0] - kernel[0]).max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("codec", ["uint8", "float16", "float32"])
def test_names_order_and_what_is_no_float_stay(codec):
    tensors = {
        "steps": np.array(2**40, np.int64),
        "weight": np.ones((2, 2), np.float32),
        "mask": np.array([0, 255], np.uint8),
        "empty": np.zeros((0, 3), np.float32),
    }
    decoded = decode_tensors(encode_tensors(tensors, codec))
    assert list(decoded) == list(tensors)
    for name, values in tensors.items():
        assert decoded[name].dtype == values.dtype
        np.testing.assert_array_equal(decoded[name], values)


def test_weights_that_are_not_finite_are_refused_by_name():
    tensors = {
        "good": np.ones(2, np.float32),
        "first": np.array([np.nan, 1], np.float32),
        "second": np.array([np.inf, -np.inf], np.float32),
    }
    for codec in ("uint8", "float16", "float32"):
        with pytest.raises(ValueError, match=r"'first' \(1 of 2\), 'second' \(2 of 2\)"):
            encode_tensors(tensors, codec)


def test_reserved_names_are_refused():
    with pytest.raises(ValueError, match="reserved"):
        encode_tensors({"weight#range": np.ones(2, np.float32)}, "uint8")
