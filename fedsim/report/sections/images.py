"""Pictures that the page may hold: images that were sent, and generated cases; never patients'."""

from __future__ import annotations

from typing import Any

from fedsim.report.blocks import Block, Details, Section, Text
from fedsim.report.many import MANY, some
from fedsim.report.record import NUMBER, Record
from fedsim.report.rendering import Image, Table
from fedsim.report.sections.words import sends_real_images
from fedsim.report.sheets import sheet_names
from fedsim.tasks.words import spoken

_SHEET_MB = 8.0  # Larger sheets are named, not embedded.
_SHEETS = 10  # of many clients


def sections(record: Record) -> list[Section]:
    """Synthetic images of one-shot methods, and segmented cases; where there are any."""
    found = []
    if synthetic := _synthetic(record):
        found.append(Section("sent", "What the clients sent", synthetic))
    if (record.path / "segmentation" / "overlays.png").is_file():
        found.append(Section("segmentations", "Segmentations", _overlays(record)))
    if slices := _reconstructions(record):
        found.append(Section("reconstructions", "Reconstructions", slices))
    return found


def _synthetic(record: Record) -> list[Block]:
    """The sheets of what was sent, and the numbers of the check for copies of real images.

    Only sheets of synthetic images are embedded: other pictures of the folder may show patients'.
    """
    folder = record.path / "synthetic"
    real = sends_real_images(record)
    if real and not record.note and (folder / "sheet.png").is_file():
        told = (
            "The clients sent real images. synthetic/sheet.png shows them: they are patients', and "
            "this page does not hold them."
        )
        return [Text(told, "warning")]
    sheets = [folder / "sheet.png"]
    if not sheets[0].is_file():
        clients = some(record.clients, _SHEETS) if len(record.clients) >= MANY else record.clients
        names = sheet_names(record.clients)
        sheets = [folder / f"{names[client]}.png" for client in clients]
    blocks: list[Block] = []
    for sheet in sheets:
        if not sheet.is_file():
            continue
        if sheet.stat().st_size > _SHEET_MB * 1e6:
            blocks.append(Text(f"synthetic/{sheet.name} is too large to be shown here."))
            continue
        kind = "Images of the stand-in" if real else "Synthetic images"
        told = f"{kind} that the clients sent to the server, in rows by class."
        caption = f"{told} {record.note.capitalize()}." if record.note else told
        blocks.append(Image(sheet.read_bytes(), told, caption))
    if record.leakage is not None:
        blocks += _leakage(record.leakage)
    if (folder / "nearest_pairs.png").is_file():
        told = "synthetic/nearest_pairs.png shows them beside the nearest training images"
        why = "" if record.note else ", which are real: it is not part of this page, and private"
        blocks.append(Text(f"{told}{why}."))
    return blocks


def _leakage(found: dict[str, Any]) -> list[Block]:
    """The numbers of leakage.json over all clients, with what they mean."""
    explained = found.get("explained") or {}
    rows = [
        (spoken(name), value, explained.get(key, ""))
        for part, prefix in (("overall", ""), ("membership", "membership."))
        for name, value in (found.get(part) or {}).items()
        if isinstance(value, NUMBER) and (key := prefix + name)
    ]
    signs = ", ".join(spoken(str(sign)) for sign in found.get("signs") or [])
    caption = "Nearness to real images, all clients together (synthetic/leakage.json)"
    table = Table(caption, ("measure", "value", "what it is"), rows)
    return [
        Text(f"Signs of leakage: {signs}.", "warning")
        if signs
        else Text("No sign of leakage was measured."),
        Details("What was measured", [table]),
    ]


def _overlays(record: Record) -> list[Block]:
    """Generated cases are shown; real ones are patients' and stay in the run folder."""
    picture = record.path / "segmentation" / "overlays.png"
    if not record.note:
        told = (
            "segmentation/overlays.png shows test cases with truth and prediction. They may be "
            "patients' images, which this page does not hold."
        )
        return [Text(told)]
    alt = "Test cases of each site: image, truth and prediction side by side, in rows by site."
    caption = (
        "Of each site a typical test case: image, truth and prediction, and the Dice of the whole "
        f"volume. {record.note.capitalize()}. Numbers: segmentation/overlays.csv."
    )
    return [Image(picture.read_bytes(), alt, caption)]


def _reconstructions(record: Record) -> list[Block]:
    """Generated slices are shown, real ones stay in the run folder; an architecture, if any."""
    folder, found = record.path / "reconstruction", list[Block]()
    if (picture := folder / "slices.png").is_file():
        if record.note:
            alt = (
                "A test slice of each site: zero-filled, reconstruction, truth and error, in rows."
            )
            caption = (
                "Of each site the test slice whose PSNR is the site's median. The error is "
                f"multiplied by 5. {record.note.capitalize()}. Numbers: reconstruction/slices.csv."
            )
            found.append(Image(picture.read_bytes(), alt, caption))
        else:
            told = (
                "reconstruction/slices.png shows test slices with truth and error. They may be "
                "patients' images, which this page does not hold."
            )
            found.append(Text(told))
    if (picture := folder / "architecture.png").is_file():
        alt = "The searched cell as a graph: inputs, nodes, and the operation of each edge."
        caption = "The architecture of a cell. Numbers: reconstruction/architecture.csv."
        found.append(Image(picture.read_bytes(), alt, caption))
    return found
