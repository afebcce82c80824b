"""Features are computed once, survive what ends a process, and do not depend on their number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.data.features import extracting
from fedsim.data.features.extracting import UNFINISHED, features_of
from fedsim.errors import InputError


class _Counting(nn.Module):
    """Channel means, and how many images it was asked about."""

    def __init__(self, most: int | None = None, wrong: bool = False) -> None:
        super().__init__()
        self.asked, self.most, self.wrong = 0, most, wrong

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += len(images)
        if self.most is not None and self.asked > self.most:
            raise KeyboardInterrupt
        found = images.mean(dim=(2, 3))
        return found / 0 if self.wrong else found


def always(network):
    return lambda: network


def _images(count: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def test_they_are_kept(tmp_path: Path) -> None:
    first = features_of(_images(), always(network := _Counting()), tmp_path / "kept")
    asked = network.asked
    again = features_of(_images(), always(network), tmp_path / "kept")
    assert asked == 200 + 1  # one to learn their length
    assert network.asked == asked
    assert (first == again).all()
    assert first.shape == (200, 3)
    assert first.dtype == np.float32


def test_any_number_of_processes_gives_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Module()
    network.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    alone = features_of(_images(), always(network), tmp_path / "one", workers=1)
    both = features_of(_images(), always(network), tmp_path / "two", workers=2)
    assert alone.tobytes() == both.tobytes()


def test_what_was_done_before_an_interruption_is_not_done_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        features_of(_images(), always(_Counting(most=140)), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    told: list[tuple[int, int, str]] = []
    network = _Counting()
    found = features_of(
        _images(), always(network), tmp_path / "kept", progress=lambda *a: told.append(a)
    )
    # Two parts of 64 were there; the third was begun.
    assert network.asked == 1 + 200 - 128
    assert told[0][:2] == (128, 200)
    assert told[-1][:2] == (200, 200)
    assert (found == features_of(_images(), always(_Counting()), tmp_path / "fresh")).all()
    assert not list(tmp_path.glob(f"*{UNFINISHED}"))


def test_damaged_ones_are_computed_again(tmp_path: Path) -> None:
    first = np.array(features_of(_images(), always(_Counting()), tmp_path / "kept"))
    file = tmp_path / "kept" / "features.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    network = _Counting()
    assert (features_of(_images(), always(network), tmp_path / "kept") == first).all()
    assert network.asked > 0


def test_marks_of_another_number_of_images_are_not_trusted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        features_of(_images(), always(_Counting(most=140)), tmp_path / "kept")
    found = features_of(_images(100), always(network := _Counting()), tmp_path / "kept")
    assert network.asked == 101
    assert np.isfinite(found).all()


def test_what_is_no_number_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="what is no number"):
        features_of(_images(), always(_Counting(wrong=True)), tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_a_network_for_other_images_is_refused_in_one_line(tmp_path: Path) -> None:
    network = nn.Module()
    network.features = nn.Conv2d(7, 1, 3)
    with pytest.raises(InputError, match="cannot take images of 8 x 8 px"):
        features_of(_images(), always(network), tmp_path / "kept")


def test_a_process_that_dies_loses_nothing_that_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from fedsim.errors import RunError

    real = extracting._part

    def dying(images: np.ndarray, network: object, number: int) -> np.ndarray:
        if number == 3:
            os._exit(9)
        return real(images, network, number)

    monkeypatch.setattr(extracting, "_part", dying)
    with pytest.raises(RunError, match="type the same again"):
        features_of(_images(400), always(_Counting()), tmp_path / "kept", workers=2)
    monkeypatch.setattr(extracting, "_part", real)
    found = features_of(_images(400), always(_Counting()), tmp_path / "kept")
    assert (found == features_of(_images(400), always(_Counting()), tmp_path / "fresh")).all()
