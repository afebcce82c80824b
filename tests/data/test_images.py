"""Decoding of image files."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import pytest
from PIL import Image

import fedsim.data.images
import fedsim.data.processes
from fedsim.data.images import decode_files, doubts_note, read_image
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


def test_grey_values_of_more_than_8_bits_are_brought_into_a_window(tmp_path):
    values = np.linspace(1000, 3000, 400).reshape(20, 20)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "x.png")
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "x.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "y.tif")
    low, high = np.percentile(values.astype(np.uint16), (1, 99))
    expected = np.rint(255 * np.clip((values - low) / (high - low), 0, 1))
    for name in ("x.png", "x.tif", "y.tif"):
        image = read_image(tmp_path / name, 20)
        assert image.shape == (20, 20, 3)
        assert (image[..., 0] == image[..., 2]).all()
        assert np.abs(image[..., 0] - expected).max() <= 1
    image = read_image(tmp_path / "x.png", 20, window=(0, 4000))[..., 1]
    assert np.abs(image - 255 * values / 4000).max() <= 1
    assert read_image(tmp_path / "x.png", 20, window=(2000, 2500))[..., 1].max() == 255


def test_a_deep_picture_of_nearly_one_value_still_shows_what_is_there(tmp_path):
    values = np.full((20, 20), 500, dtype=np.uint16)
    values[3, 3] = 900
    Image.fromarray(values).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png", 20)[..., 0]
    assert (image[3, 3], int((image == 0).sum())) == (255, 399)
    Image.fromarray(np.full((20, 20), 500, dtype=np.uint16)).save(tmp_path / "x.png")
    assert not read_image(tmp_path / "x.png", 20).any()


def test_what_no_rule_covers_is_refused_by_name(tmp_path):
    Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    frames = [Image.new("RGB", (9, 9), (i, i, i)) for i in (1, 90, 200)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    Image.new("RGB", (99, 99), (5, 9, 200)).save(tmp_path / "cut.jpg")
    cut = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "deep.png").write_bytes(_png_of_16_bit_colours())
    expected = {
        "nan.tif": "no finite numbers",
        "pages.tif": "holds 3 pictures",
        "moving.png": "holds 3 pictures",
        "cut.jpg": "[Tt]runcated",
        "deep.png": "more than 8 bits a channel",
    }
    for name, words in expected.items():
        with pytest.raises((OSError, ValueError), match=words):
            read_image(tmp_path / name, 8)


def _png_of_16_bit_colours() -> bytes:
    """A picture of 2 x 2 pixels with three channels of 16 bits, which Pillow cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = (b"\0" + bytes(range(12))) * 2
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_a_bomb_is_refused_and_large_pictures_are_read_without_a_warning(tmp_path, monkeypatch):
    Image.new("RGB", (30, 30)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "x.png", 8).shape == (8, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    failures = decode_files([tmp_path / "x.png"], 8, tmp_path / "images.npy")
    assert "decompression bomb" in failures[0]


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
(/tmp/executed) (w) file closefile
"""


def test_no_reader_of_other_things_than_images_is_tried(tmp_path, monkeypatch):
    Image.preinit()
    Image.init()
    (tmp_path / "0.png").write_bytes(POSTSCRIPT)
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png", "ICO")
    Image.new("RGB", (9, 9)).save(tmp_path / "2.png", "PDF")
    Image.new("RGB", (9, 9)).save(tmp_path / "3.png", "JPEG")  # it is one, whatever its name says
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    failures = decode_files(paths, 8, tmp_path / "images.npy")
    assert failures == dict.fromkeys(range(3), "not a picture in a known format")


def test_what_a_decoder_warns_of_is_counted_and_not_printed(tmp_path, capfd):
    clear = Image.new("P", (9, 9))
    clear.putpalette(bytes(range(256)) * 3)
    clear.save(tmp_path / "0.png", transparency=bytes(9))
    Image.new("L", (9, 9)).save(tmp_path / "1.tif")
    doubtful = bytearray((tmp_path / "1.tif").read_bytes())
    at = int.from_bytes(doubtful[4:8], "little") + 2
    tags = [at + 12 * k for k in range(int.from_bytes(doubtful[at - 2 : at], "little"))]
    rows = next(tag for tag in tags if doubtful[tag : tag + 2] == b"\x16\x01")  # RowsPerStrip
    doubtful[rows + 4 : rows + 8] = (2).to_bytes(4, "little")
    (tmp_path / "1.tif").write_bytes(doubtful)
    told = {}
    paths = [tmp_path / "0.png", tmp_path / "1.tif"]
    with warnings.catch_warnings(record=True) as shown:
        failures = decode_files(paths, 8, tmp_path / "images.npy", warned=told.__setitem__)
    assert (failures, shown, capfd.readouterr().err) == ({}, [], "")
    assert list(told) == [1]
    note = doubts_note(told, ["0.png", "1.tif"])
    assert note.startswith("1 image was read with a warning, such as 1.tif: ")
    assert doubts_note({}, []) == ""


def test_who_has_more_than_8_bits_is_told(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "0.png")
    Image.fromarray(np.arange(81, dtype=np.uint16).reshape(9, 9)).save(tmp_path / "1.png")
    deep: list[int] = []
    paths = [tmp_path / f"{i}.png" for i in (0, 1, 0, 1)]
    assert decode_files(paths, 8, tmp_path / "images.npy", deep=deep.append) == {}
    assert deep == [1, 3]
    decode_files(paths, 8, tmp_path / "images.npy", window=(0, 80))
    assert np.load(tmp_path / "images.npy")[1].max() > 200


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
        fedsim.data.processes,
        "ProcessPoolExecutor",
        partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("fork")),
    )
    with pytest.raises(RunError, match="a process that decodes images died"):
        decode_files(paths, 4, tmp_path / "all.npy", workers=2)
