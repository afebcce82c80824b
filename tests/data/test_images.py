"""Decoding of image files."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import pytest
from PIL import Image

import fedsim.data.images
from fedsim.data.images import decode_files, read_image
from fedsim.errors import RunError


def test_the_shorter_side_is_scaled_and_the_centre_kept(tmp_path):
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, :20], wide[:, 20:60], wide[:, 60:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    tall = wide.transpose(1, 0, 2)
    Image.fromarray(tall).save(tmp_path / "tall.png")
    for name in ("wide", "tall"):
        image = read_image(tmp_path / f"{name}.png", 10)
        assert image.shape == (10, 10, 3)
        assert image.dtype == np.uint8
        assert (image[1:-1, 1:-1] == (0, 255, 0)).all()


def test_scaling_down_averages_instead_of_picking_pixels(tmp_path):
    checkers = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    Image.fromarray(checkers.astype(np.uint8)).save(tmp_path / "checkers.png")
    image = read_image(tmp_path / "checkers.png", 8)
    assert np.abs(image.astype(int) - 127).max() <= 3


def test_a_large_jpeg_gives_the_same_picture_as_a_png(tmp_path):
    tiles = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    large = tiles.repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(large).save(tmp_path / "a.png")
    Image.fromarray(large).save(tmp_path / "a.jpg", quality=98, subsampling=0)
    left, right = (read_image(tmp_path / f"a.{kind}", 48) for kind in ("png", "jpg"))
    assert np.abs(left.astype(int) - right).mean() < 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_8_bit_mode_becomes_three_channels(tmp_path, mode):
    name = "x.tif" if mode == "CMYK" else "x.png"
    Image.new("RGB", (20, 20), (200, 200, 200)).convert(mode).save(tmp_path / name)
    assert read_image(tmp_path / name, 8).shape == (8, 8, 3)


def test_more_than_8_bits_are_refused_rather_than_clipped_to_white(tmp_path):
    Image.fromarray(np.full((20, 20), 3000, dtype=np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="8 bits"):
        read_image(tmp_path / "x.png", 8)


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    half = Image.new("RGB", (32, 32))
    half.paste((255, 255, 255), (0, 0, 32, 16))
    half.save(tmp_path / "x.jpg", exif=exif)
    image = read_image(tmp_path / "x.jpg", 8)
    assert image[0].mean() > 200
    assert image[-1].mean() < 50


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_files_are_told_by_position_and_the_rest_is_decoded(tmp_path, workers):
    paths = []
    for i in range(70):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (12, 12), (i, 2 * i, 255 - i)).save(paths[-1])
    paths[3].write_bytes(b"no picture")
    paths[40] = tmp_path / "absent.png"
    seen = []
    failures = decode_files(
        paths, 4, tmp_path / "all.npy", workers=workers, progress=lambda *at: seen.append(at)
    )
    assert failures == {3: "not a picture in a known format", 40: "the file does not exist"}
    images = np.load(tmp_path / "all.npy")
    assert images.shape == (70, 4, 4, 3)
    good = [i for i in range(70) if i not in failures]
    assert (images[good] == np.array([[i, 2 * i, 255 - i] for i in good])[:, None, None]).all()
    assert (images[[3, 40]] == 0).all()
    assert seen[-1] == (70, 70)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_truncated_jpeg_is_refused_at_every_scale(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "x.jpg").write_bytes(whole[: int(share * len(whole))])
        for size in (16, 64, 300):
            with pytest.raises(OSError, match="truncated"):
                read_image(tmp_path / "x.jpg", size)


def die(path, size):
    os._exit(9)


def test_a_process_that_dies_is_a_failed_run(tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.png" for i in range(70)]
    monkeypatch.setattr(fedsim.data.images, "read_image", die)
    monkeypatch.setattr(
        fedsim.data.images,
        "ProcessPoolExecutor",
        partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("fork")),
    )
    with pytest.raises(RunError, match="a process that decodes images died"):
        decode_files(paths, 4, tmp_path / "all.npy", workers=2)
