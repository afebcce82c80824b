"""A picture of the pairs of synthetic and real images that lie closest, for a person to judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fedsim.folder.runfolder import write_whole

# Small images are enlarged to about this many pixels a side, without smoothing.
_SHOWN = 112
_GAP = 10
_LINE = 15
_HEADS = ("synthetic", "nearest training image", "nearest of as many unseen images")
_TITLE = "Synthetic images closest to a training image of their client, by pixel RMSE"
_SMALL = "RMSE on the scale 0 to 1; r: Pearson correlation of pixels"


@dataclass(frozen=True)
class Shown:
    """One image [C, H, W], uint8, with the lines below it."""

    pixels: np.ndarray
    caption: tuple[str, ...]


def draw_pairs(path: Path, rows: Sequence[Sequence[Shown | None]], note: str) -> None:
    """Save rows of (synthetic, nearest training, nearest unseen image) as PNG.

    Args:
        path: where to write; the file is there whole or not at all.
        rows: three images each; None leaves a place empty.
        note: what must not be missed: that the images are of patients, or a stand-in.
    """
    font = ImageFont.load_default()
    images = [shown for row in rows for shown in row if shown is not None]
    side = images[0].pixels.shape[-1] if images else _SHOWN
    side *= max(1, round(_SHOWN / side))
    words = [line for shown in images for line in shown.caption]
    column = max(side, *(round(font.getlength(line)) for line in (*words, *_HEADS))) + _GAP
    lines = max([len(shown.caption) for shown in images] or [0])
    step = side + lines * _LINE + _GAP
    top = 4 * _LINE + 2 * _GAP
    longest = max(round(font.getlength(line)) for line in (_TITLE, note, _SMALL))
    width = _GAP + max(len(_HEADS) * column, longest + 2 * _GAP)
    sheet = Image.new("RGB", (width, top + len(rows) * step), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 4), _TITLE, fill="black", font=font)
    pen.text((_GAP, 4 + _LINE), _SMALL, fill="black", font=font)
    box = (_GAP, 8 + 2 * _LINE, 2 * _GAP + font.getlength(note), 8 + 3 * _LINE)
    pen.rectangle(box, fill="#FFF3C4", outline="#B08900")
    pen.text((1.5 * _GAP, 9 + 2 * _LINE), note, fill="black", font=font)
    for k, head in enumerate(_HEADS):
        pen.text((_GAP + k * column, top - _LINE - 4), head, fill="black", font=font)
    for number, row in enumerate(rows):
        for k, shown in enumerate(row):
            if shown is None:
                continue
            left, y = _GAP + k * column, top + number * step
            picture = Image.fromarray(np.ascontiguousarray(shown.pixels.transpose(1, 2, 0)))
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, y))
            for j, line in enumerate(shown.caption):
                pen.text((left, y + side + 1 + j * _LINE), line, fill="black", font=font)
    buffer = BytesIO()
    sheet.save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())
