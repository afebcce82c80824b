"""Pictures as volumes of one slice: grey, colours, palettes, pairs, and a run of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim import run
from fedsim.data.volumes.pairing import pairs_below
from fedsim.data.volumes.reading import Unreadable, read_volume

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path)
    return path


@pytest.mark.parametrize("canonical", [True, False])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_a_picture_is_one_slice_as_it_is_seen(suffix: str, canonical: bool, tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / f"a.{suffix}", GREY), canonical=canonical)
    assert np.array_equal(volume.array, GREY[None])
    assert volume.spacing == (1, 1, 1)


def test_deep_grey_stays_deep_and_one_bit_is_a_mask(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 200
    assert np.array_equal(read_volume(save(tmp_path / "deep.png", deep)).array, deep[None])
    bits = save(tmp_path / "bits.png", GREY > 100)
    assert np.array_equal(read_volume(bits).array, (GREY > 100)[None])
    assert read_volume(bits).array.dtype == np.uint8


def test_colours_are_channels_unless_they_are_alike(tmp_path: Path) -> None:
    colours = np.stack([GREY, GREY + 1, GREY + 2, np.full_like(GREY, 9)], axis=-1)
    for name, array in (("rgb", colours[..., :3]), ("rgba", colours)):
        file = save(tmp_path / f"{name}.png", array)
        with pytest.raises(Unreadable, match="has 3 channels"):
            read_volume(file)
        assert np.array_equal(read_volume(file, channel=1).array, GREY[None] + 1)
    alike = np.stack([GREY] * 3, axis=-1)
    assert np.array_equal(read_volume(save(tmp_path / "alike.png", alike)).array, GREY[None])


def test_a_palette_means_its_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY // 60, "L").convert("P")
    picture.putdata((GREY // 60).ravel().tolist())
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    picture.save(tmp_path / "mask.png")
    assert np.array_equal(read_volume(tmp_path / "mask.png").array, GREY[None] // 60)


def test_what_is_no_single_picture_is_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(Unreadable, match="holds 2 pictures"):
        read_volume(tmp_path / "pages.tif")
    whole = save(tmp_path / "whole.png", GREY).read_bytes()
    for name, content in (("cut.png", whole[:50]), ("text.png", b"no picture")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Unreadable, match="damaged or no picture"):
            read_volume(tmp_path / name)


def test_pictures_are_paired_where_there_are_no_volumes(tmp_path: Path) -> None:
    for case in ("a", "b"):
        save(tmp_path / f"images/{case}.jpg", GREY)
        save(tmp_path / f"masks/{case}.png", GREY)
    pairs, notes = pairs_below(tmp_path)
    found = [(pair.image.name, pair.mask.name) for pair in pairs]
    assert found == [("a.jpg", "a.png"), ("b.jpg", "b.png")]
    assert not notes
    (tmp_path / "images/c.nii.gz").touch()
    (tmp_path / "masks/c.nii.gz").touch()
    (pair,) = pairs_below(tmp_path)[0]
    assert pair.image.name == "c.nii.gz"


def test_clinics_train_a_split_model_on_a_folder_of_pictures(tmp_path: Path) -> None:
    """As blastocysts are: five classes, clients named by a table, sizes that differ."""
    draws, rows = np.random.default_rng(0), ["image,mask,site"]
    for number in range(8):
        mask = np.zeros((30, 40), np.uint8)
        for value in range(1, 5):
            mask[5 * value : 5 * value + 5, 4 * value : 4 * value + 16] = value
        image = (mask * 40 + draws.integers(0, 20, mask.shape)).astype(np.uint8)
        save(tmp_path / f"data/images/{number}.png", image)
        save(tmp_path / f"data/masks/{number}.png", mask)
        rows.append(f"images/{number}.png,masks/{number}.png,clinic-{number % 2}")
    (tmp_path / "data/cases.csv").write_text("\n".join(rows))
    words = ["data.name=volumes", f"data.root={tmp_path / 'data'}", "data.field_of_view=1.0"]
    words += ["data.structures=[zp, te, icm, bl]", "data.size=16", "data.split.test=0.25"]
    words += ["rounds=1", "client.steps=1", "client.batch_size=2", "model.channels=[4, 8]"]
    result = run("lesion_split_deep", *words, backend="inline", runs=tmp_path / "runs")
    assert {"jaccard", "dice/zp", "dice/te", "dice/icm", "dice/bl"} <= set(result.metrics)
    assert result.rounds[0]["clients"] == [0, 1]
