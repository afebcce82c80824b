"""Decode image files into one uint8 array on disk, in parallel processes."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fedsim.data import dicom
from fedsim.data.processes import in_processes
from fedsim.files import require_regular

CHANNELS = 3
Window = tuple[float, float]
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
"""What Pillow may take a file for, whatever it is called; it has readers of programs, too."""
PERCENTILES = (1.0, 99.0)
"""Of a picture's grey values of more than 8 bits: what becomes 0 and what 255."""

_DEEP = (";16", ";32")  # in Pillow's names of raw modes
_SPAN = 32  # files a task: small enough for a smooth progress bar, large enough to hide its cost


BY_WINDOW, BY_FILE = "window", "file"
"""Who says which grey values become black and white: `data.window` or percentiles, or the file."""


def read_image(path: str | Path, size: int, window: Window | None = None) -> np.ndarray:
    """Read a picture as uint8 RGB [size, size, 3].

    The shorter side is scaled to `size` with the aspect ratio kept, then the centre is cropped: a
    lesion lies in the middle of its picture and is not stretched. Bilinear with antialiasing.
    EXIF orientation is ignored, an alpha channel dropped; palettes, grey, 1-bit and CMYK pictures
    become RGB as Pillow converts them. Grey values of more than 8 bits: see `window`. DICOM files
    are turned so that the smallest value is black.

    Args:
        window: of a picture with grey values of more than 8 bits, what becomes 0 and what 255; None
            takes the window that a DICOM file names, or the picture's `PERCENTILES`.

    Raises:
        OSError: the file is missing, unreadable, truncated, or no picture.
        ValueError: it holds several pictures, colours of more than 8 bits a channel, or values that
            are no finite numbers.
    """
    if os.path.isdir(path):
        raise OSError(errno.EISDIR, "it is a folder, not a file")
    is_dicom = dicom.is_dicom(Path(path))
    picture = _dicom(path, window) if is_dicom else _picture(path, size, window)
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = picture.resize(
        (size, size),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
        reducing_gap=3.0,
    )
    return np.asarray(square)


def _dicom(path: str | Path, window: Window | None) -> Image.Image:
    """The picture of a DICOM file as RGB."""
    found = dicom.read_picture(path)
    if found.values.ndim == 3:
        return Image.fromarray(found.values)
    grey = found.values
    if (how := _who(found.deep, found.window, window)) is not None:
        grey = _scaled(grey, found.window if how == BY_FILE else window)
    return Image.fromarray(255 - grey if found.inverted else grey).convert("RGB")


def _who(deep: bool, by_file: Window | None, window: Window | None) -> str | None:
    """Who says which grey values of a DICOM picture become black and white; None for nobody."""
    if deep and (window is not None or by_file is None):
        return BY_WINDOW
    return BY_FILE if by_file is not None else None


@contextlib.contextmanager
def opened_picture(path: str | Path) -> Iterator[Image.Image]:
    """A file that Pillow reads, open, as one of `FORMATS`.

    Raises:
        OSError: it is missing, unreadable or no picture.
    """
    require_regular(path)
    with warnings.catch_warnings():
        # Pillow refuses pictures of more than 179 million pixels; it warns of half as many.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Alpha is dropped, that of a palette, too.
        warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
        with Image.open(path, formats=FORMATS) as opened:
            yield opened


def _picture(path: str | Path, size: int, window: Window | None) -> Image.Image:
    """The picture of a file that Pillow reads, as RGB; a large JPEG may be scaled down."""
    with opened_picture(path) as opened:
        # The second picture of a camera's MPO file is a preview.
        frames = getattr(opened, "n_frames", 1) if opened.format != "MPO" else 1
        if frames > 1:
            raise ValueError(f"holds {frames} pictures (pages or frames), not one")
        deep = _is_deep(opened)
        if not deep and any(
            bits in str(tile) for tile in getattr(opened, "tile", ()) for bits in _DEEP
        ):
            raise ValueError(
                f"colours of more than 8 bits a channel (mode {opened.mode}); save it with 8"
            )
        # libjpeg scales large JPEGs down while decoding; twice the target is left to filter.
        opened.draft("RGB", (2 * size, 2 * size))
        if deep:
            grey = Image.fromarray(_scaled(np.asarray(opened), window))
            return grey.convert("RGB")
        return opened.convert("RGB")


def _windowed(path: Path, window: Window | None) -> str | None:
    """Who says which grey values of a file become black and white; None for nobody."""
    if dicom.is_dicom(path):
        return _who(*dicom.read_depth(path), window)
    with opened_picture(path) as opened:
        return BY_WINDOW if _is_deep(opened) else None


def window_note(count: int, window: Window | None, by_file: int = 0) -> str:
    """What was done to so many pictures of more than 8 bits, and to so many whose DICOM file names
    a window; "" for none.
    """
    notes = []
    if count:
        ends = "the percentiles 1 and 99 of each"
        if window is not None:
            ends = "{:g} and {:g}".format(*window)
        notes.append(
            f"{count} images have more than 8 bits: {ends} become black and white (data.window)"
        )
    if by_file:
        notes.append(
            f"{by_file} DICOM images are shown in the window that each file names (data.window "
            "sets one for all)"
        )
    return "; ".join(notes)


def doubts_note(doubts: Mapping[int, str], names: Sequence[str]) -> str:
    """Which pictures were read although their decoder warned, and what it said; "" for none.

    Args:
        doubts: what was said, by position.
        names: of all pictures.
    """
    if not doubts:
        return ""
    first = min(doubts)
    many = f"{len(doubts)} images were" if len(doubts) > 1 else "1 image was"
    return f"{many} read with a warning, such as {names[first]}: {doubts[first]}"


def _is_deep(opened: Image.Image) -> bool:
    """Whether a picture has grey values of more than 8 bits."""
    return opened.mode[0] in "IF"


def _scaled(grey: np.ndarray, window: Window | None) -> np.ndarray:
    """Grey values as uint8: those of the window, or of the percentiles, become 0 to 255."""
    values = grey.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("grey values that are no finite numbers")
    low, high = window if window is not None else np.percentile(values, PERCENTILES)
    if high <= low:  # nearly all of the picture has one value
        low, high = values.min(), values.max()
    scaled = (values - low) / ((high - low) or 1.0)
    return np.asarray(np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8))


def decode_files(
    paths: Sequence[Path],
    size: int,
    target: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    window: Window | None = None,
    deep: Callable[[int], None] | None = None,
    by_file: Callable[[int], None] | None = None,
    warned: Callable[[int, str], None] | None = None,
) -> dict[int, str]:
    """Decode every file into `target`, a new .npy file holding uint8 [n, size, size, 3].

    Args:
        workers: processes that decode; 1 decodes here.
        progress: called with (files done, files in all).
        window: see `read_image`.
        deep: called with the position of each picture of more than 8 bits, brought into 8 by
            `window` or its percentiles.
        by_file: called with the position of each picture whose file names the window.
        warned: called with the position of each picture that was read although its decoder warned,
            and what that said.

    Returns:
        Why a file could not be decoded, by its position; the array is zero there.

    Raises:
        OSError: `target` cannot be written.
        RunError: a decoding process died.
    """
    shape = (len(paths), size, size, CHANNELS)
    array = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
    reserve(target)
    spans = [
        (target, start, [str(path) for path in paths[start : start + _SPAN]], size, window)
        for start in range(0, len(paths), _SPAN)
    ]
    failures: dict[int, str] = {}
    done = 0
    for start, count, failed, found, doubts in in_processes(
        _decode_span, spans, workers, "decodes images"
    ):
        failures |= {start + offset: reason for offset, reason in failed}
        if warned is not None:
            for offset, doubt in doubts:
                warned(start + offset, doubt)
        told = {BY_WINDOW: deep, BY_FILE: by_file}
        for offset, how in found:
            if (tell := told[how]) is not None:
                tell(start + offset)
        done += count
        if progress is not None:
            progress(done, len(paths))
    array.flush()
    return dict(sorted(failures.items()))


def reserve(file: Path) -> None:
    """Claim the disk space of a sparse file, or raise OSError.

    Without it a full disk kills the process at the first write into the map.
    """
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)


_Span = tuple[Path, int, list[str], int, Window | None]
_Decoded = tuple[int, int, list[tuple[int, str]], list[tuple[int, str]], list[tuple[int, str]]]


def _decode_span(span: _Span) -> _Decoded:
    """Decode some files into their rows; a module function, so that any process can run it."""
    target, start, paths, size, window = span
    rows = np.lib.format.open_memmap(target, mode="r+")
    failed: list[tuple[int, str]] = []
    found: list[tuple[int, str]] = []
    doubts: list[tuple[int, str]] = []
    options = {} if window is None else {"window": window}
    for offset, path in enumerate(paths):
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                image = read_image(path, size, **options)
                how = _windowed(Path(path), window)
        except Exception as error:  # a broken file makes a decoder raise almost anything
            failed.append((offset, reason(error)))
        else:
            rows[start + offset] = image
            if how is not None:
                found.append((offset, how))
            if said:
                doubts.append((offset, " ".join(str(said[0].message).split())))
    return start, len(paths), failed, found, doubts


def reason(error: Exception) -> str:
    """Why a picture could not be read, without naming it."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture in a known format"
    return str(error) or type(error).__name__
