"""Sheets of images: what one-shot methods sent, for a person to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fedsim.files import file_names
from fedsim.folder.runfolder import write_whole
from fedsim.report.many import MANY, some

_GAP = 2
_TITLE = 14
# Small images are enlarged to about this many pixels a side, without smoothing.
_SHOWN = 64
_PER_ROW = 20
_SHEETS = 10  # clients in the sheet of all, where these are many


def save_synthetic(
    folder: Path,
    sent: Mapping[str, tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str],
    note: str = "",
    clients: Sequence[str] = (),
) -> None:
    """Write what each client sent: `<client>.npz` (images, labels) and `<client>.png`, and one
    `sheet.png` of all clients; of many, `sheet.png` shows some.

    A client's name may be anything; `sheet_names` says what its files are called.

    Args:
        folder: where to write; made if missing.
        sent: client name -> (uint8 images [n, C, H, W], int64 labels [n]).
        classes: class names in label order.
        note: what every picture must say, such as that the data are a stand-in.
        clients: all clients of the run, where others than these may have sent nothing.
    """
    sheets = []
    names = sheet_names(clients or list(sent))
    shown = set(some(sent, _SHEETS) if len(sent) >= MANY else sent)
    for name, (images, labels) in sent.items():
        buffer = BytesIO()
        np.savez(buffer, images=images, labels=labels)
        write_whole(folder / f"{names[name]}.npz", buffer.getvalue())
        title = f"{name} ({note})" if note else name
        sheet = draw_sheet(title, images, labels, classes)
        write_whole(folder / f"{names[name]}.png", _png(sheet))
        if name in shown:
            sheets.append(sheet)
    if sheets:
        write_whole(folder / "sheet.png", _png(_below_each_other(sheets)))


def sheet_names(clients: Sequence[str]) -> dict[str, str]:
    """What the files of each client in `synthetic/` are called, without their suffix."""
    return file_names(clients, reserved=("sheet", "nearest_pairs", "leakage"))


def draw_sheet(
    title: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Image.Image:
    """Draw images [n, C, H, W] in rows by class, each row named, under a title."""
    side = images.shape[-1] if images.size else _SHOWN
    zoom = max(1, round(_SHOWN / side))
    cell = side * zoom + _GAP
    rows: list[tuple[str, np.ndarray]] = []
    for label, name in enumerate(classes):
        of_class = images[labels == label]
        for start in range(0, len(of_class), _PER_ROW):
            rows.append((name if start == 0 else "", of_class[start : start + _PER_ROW]))
    font = ImageFont.load_default()
    margin = max([round(font.getlength(name)) for name, _ in rows] or [0]) + 8
    columns = max([len(row) for _, row in rows] or [1])
    width = max(margin + columns * cell, round(font.getlength(title)) + 4)
    sheet = Image.new("RGB", (width, _TITLE + len(rows) * cell), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((2, 1), title, fill="black", font=font)
    for row, (name, chosen) in enumerate(rows):
        top = _TITLE + row * cell
        pen.text((2, top + cell // 2 - 6), name, fill="black", font=font)
        for column, image in enumerate(chosen):
            picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
            picture = picture.resize((side * zoom, side * zoom), Image.Resampling.NEAREST)
            sheet.paste(picture, (margin + column * cell, top))
    return sheet


def _below_each_other(sheets: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new(
        "RGB", (max(s.width for s in sheets), sum(s.height + 4 for s in sheets)), "white"
    )
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height + 4
    return whole


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
