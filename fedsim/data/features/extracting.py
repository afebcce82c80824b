"""Compute what a network makes of all images of a store, on all cores, once.

Ten thousand images by a small vision transformer take ten minutes, so the work survives whatever
ends it: parts that are done are marked in the folder, and the next process goes on from there.
Parts have a fixed size and one thread each, so the number of processes changes no bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.data.images import reserve
from fedsim.data.kept import found_whole, read_about, read_array, unusable, write_about
from fedsim.data.processes import end_with_parent
from fedsim.errors import InputError, Problem, RunError
from fedsim.files import sync
from fedsim.locks import waited
from fedsim.raising import one_line
from fedsim.wire.codecs import normalise

FORMAT = 1
"""Version of what is computed; part of every key."""
UNFINISHED = ".unfinished"
"""What the name of a folder ends with whose features are not all there."""

_PART = 64  # images a task, whose features are marked as done together
_BATCH = 16  # images that the network sees at a time: fixed, for it may change last bits

Network = torch.nn.Module
Progress = Callable[..., None]
"""Called with images done, images in all, and what is done to them, in words."""


def features_of(
    images: NDArray[np.uint8],
    network: Callable[[], Network],
    folder: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    what: str = "computing features",
) -> NDArray[np.float32]:
    """The features of all images, from the folder where they are kept, or computed and kept there.

    Args:
        images: uint8 [n, H, W, C].
        network: makes the network, where features are to be computed. Its `features` maps
            normalised images [b, C, H, W] to [b, d]; it is put into evaluation mode.
        folder: its name must say all that the features depend on.
        workers: processes that compute.
        progress: called with images done, images in all, and `what`.
        what: what is done, for the progress.

    Returns:
        float32 [n, d], memory-mapped, read-only.

    Raises:
        InputError: the network cannot take the images, or makes of them what is no number.
        RunError: the folder cannot be written, or a process died.
    """
    count = len(images)
    if (found := found_whole(lambda at: _opened(at, count), folder)) is not None:
        return found
    part = folder.with_name(folder.name + UNFINISHED)
    try:
        while True:
            part.mkdir(parents=True, exist_ok=True)
            mine = _inode(part)
            with waited(part):
                # Whoever held the lock may have finished meanwhile, or given up.
                found = found_whole(lambda at: _opened(at, count), folder)
                if found is not None:
                    shutil.rmtree(part, ignore_errors=True)
                    return found
                if mine is not None and _inode(part) == mine:
                    _compute(images, network().eval(), part, workers, progress, what)
                    _finish(part, folder)
                    return _opened(folder, count)
    except OSError as error:
        raise RunError(f"features cannot be kept in {folder}: {one_line(error)}") from error


def _inode(folder: Path) -> int | None:
    """Which folder has this name now; None: none."""
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


def _opened(folder: Path, count: int) -> NDArray[np.float32]:
    """Finished features."""
    try:
        about = read_about(folder, ())
        features: NDArray[np.float32] = read_array(
            folder / "features.npy", "f4", (count, None), mapped=True
        )
        if checksum(features) != about["sha256"]:
            raise ValueError("features.npy is not as it was written: its checksum does not hold")
        return features
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(folder, error) from error


def checksum(array: np.ndarray) -> str:
    """SHA-256 of an array's shape and bytes."""
    found = hashlib.sha256(str(array.shape).encode())
    for start in range(0, len(array), 4096):
        found.update(np.ascontiguousarray(array[start : start + 4096]).data)
    return found.hexdigest()


def _compute(
    images: NDArray[np.uint8],
    network: Network,
    part: Path,
    workers: int,
    progress: Progress | None,
    what: str,
) -> None:
    """Fill `features.npy` of a folder, and mark in `done.npy` which parts are there."""
    length = _length(network, images)
    count = len(images)
    file, marks = part / "features.npy", part / "done.npy"
    starts = range(0, count, _PART)
    done = _done(part, (count, length), len(starts))
    if done is None:
        marks.unlink(missing_ok=True)
        np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(count, length))
        reserve(file)
        done = np.lib.format.open_memmap(marks, mode="w+", dtype=np.uint8, shape=(len(starts),))
    features = np.lib.format.open_memmap(file, mode="r+")
    left = [number for number in range(len(starts)) if not done[number]]

    def tell() -> None:
        if progress is not None and count:
            progress(min(count, int(done.sum()) * _PART), count, what)

    tell()
    for number, found in _made(images, network, left, workers):
        features[starts[number] : starts[number] + len(found)] = found
        features.flush()
        done[number] = 1
        done.flush()
        tell()
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(wrong):
        shutil.rmtree(part, ignore_errors=True)
        raise InputError(
            f"the network of data.features makes of {len(wrong)} of {count} images what is no "
            "number",
            [Problem("data.features", f"the first is image {wrong[0]}")],
            "its weights are wrong, or want another preprocessing: fedsim weights ls",
        )


def _done(part: Path, shape: tuple[int, int], parts: int) -> Any | None:
    """The marks of an earlier process that was ended; None where nothing of it can be used."""
    try:
        read_array(part / "features.npy", "f4", shape, mapped=True)
        read_array(part / "done.npy", "u1", (parts,), mapped=True)
        return np.lib.format.open_memmap(part / "done.npy", mode="r+")
    except (OSError, ValueError):
        return None


def _length(network: Network, images: NDArray[np.uint8]) -> int:
    """How many numbers the network makes of an image; InputError where it cannot take them."""
    try:
        found = _features(network, images[:1])
    except Exception as error:  # a network raises what it likes
        size = " x ".join(map(str, images.shape[1:3]))
        raise InputError(
            f"the network of data.features cannot take images of {size} px: {one_line(error)}",
            hint="choose another data.size: fedsim weights ls says what a network wants",
        ) from error
    return int(found.shape[1])


def _made(
    images: NDArray[np.uint8], network: Network, left: list[int], workers: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The parts that are left, in any order, each with its number."""
    workers = min(workers, len(left))
    if workers <= 1:
        for number in left:
            yield number, _part(images, network, number)
        return
    _Shared.images, _Shared.network = images, network
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    # A process that was forked has both already; one that was not is sent them.
    sent = () if context.get_start_method() == "fork" else (images, network)
    try:
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start, initargs=sent
        ) as pool:
            futures = [pool.submit(_shared_part, number) for number in left]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise RunError(
                    "a process that computes features died: out of memory, or killed; what is "
                    "done is kept: type the same again"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        _Shared.images = _Shared.network = None


class _Shared:
    """What the processes of a pool work on."""

    images: Any = None
    network: Any = None


def _start(images: Any = None, network: Any = None) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    if network is not None:
        _Shared.images, _Shared.network = images, network


def _shared_part(number: int) -> tuple[int, NDArray[np.float32]]:
    return number, _part(_Shared.images, _Shared.network, number)


def _part(images: NDArray[np.uint8], network: Network, number: int) -> NDArray[np.float32]:
    return _features(network, images[number * _PART : (number + 1) * _PART])


def _features(network: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features float32 [n, d] of images uint8 [n, H, W, C], by one thread."""
    found = []
    with one_thread(), torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            batch = normalise(np.array(images[start : start + _BATCH]))
            found.append(network.features(batch).flatten(1).float().numpy())
    return np.concatenate(found)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread meanwhile: with more, last bits may differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _finish(part: Path, folder: Path) -> None:
    """Make of an unfinished folder a finished one."""
    features = np.load(part / "features.npy", mmap_mode="r", allow_pickle=False)
    write_about(part, {"sha256": checksum(features), "shape": list(features.shape)})
    for file in part.iterdir():
        sync(file)
    sync(part)
    part.rename(folder)
    (folder / "done.npy").unlink(missing_ok=True)
    sync(folder.parent)
