"""The page on architecture names what is there: a move cannot leave it stale."""

from __future__ import annotations

import importlib
import inspect
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from fedsim.registry import GROUPS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"
SVG = "{http://www.w3.org/2000/svg}"
PLACES = re.findall(r"`([\w.]+/[\w./]*|\w+\.toml)`", PAGE)


def rows(title: str) -> list[list[str]]:
    """The cells of the rows of all tables whose first column has this title."""
    tables = re.findall(rf"^\| {title} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for text in tables
        for line in text.splitlines()
    ]


def drawn() -> list[str]:
    """The paths in the picture."""
    texts = ElementTree.parse(PICTURE).iter(f"{SVG}text")
    return [text.text or "" for text in texts if text.get("class") == "path"]


def test_every_path_of_the_page_and_of_the_picture_exists() -> None:
    assert len(PLACES) > 50
    assert len(drawn()) == 18
    for place in PLACES + drawn():
        there = ROOT / place
        assert there.is_dir() if place.endswith("/") else there.is_file(), place


def test_every_name_is_defined_in_the_file_beside_it() -> None:
    stops = rows("stop")
    assert len(stops) == 19
    for stop, name, where, _ in stops:
        text = (ROOT / where.strip("`")).read_text(encoding="utf-8")
        assert re.search(rf"^(?:def|class) {name.strip('`')}\b", text, re.MULTILINE), stop


def test_the_picture_names_no_place_that_the_page_leaves_out() -> None:
    assert set(drawn()) <= set(PLACES)


def test_every_room_has_its_row_and_few_things_lie_at_the_root() -> None:
    named = {place for row in rows("room") for place in re.findall(r"fedsim/(\w+)/", row[0])}
    package = ROOT / "fedsim"
    assert named == {file.parent.name for file in package.glob("*/__init__.py")}
    assert len(list(package.glob("*.py"))) <= 12


def test_no_name_of_a_room_is_a_module_of_it_too() -> None:
    # `from room import name` would give the one or the other, by what was imported before.
    for file in (ROOT / "fedsim").rglob("__init__.py"):
        room = importlib.import_module(".".join(file.parent.relative_to(ROOT).parts))
        modules = {path.stem for path in file.parent.iterdir()} - {"__init__"}
        both = modules & set(getattr(room, "__all__", ()))
        assert not [n for n in both if not inspect.ismodule(getattr(room, n))], file


def test_every_group_of_plugins_has_its_row() -> None:
    named = {name for row in rows("I want to add") for name in re.findall(r"fedsim\.(\w+)", row[2])}
    assert named == set(GROUPS)


def test_the_picture_asks_nothing_of_a_network_and_is_described() -> None:
    text = PICTURE.read_text(encoding="utf-8")
    assert not re.search(r"href=|url\((?!#)|@import|<script", text)
    root = ElementTree.fromstring(text)
    assert root.find(f"{SVG}title") is not None
    assert root.find(f"{SVG}desc") is not None
    assert "prefers-color-scheme: dark" in text
