"""The documentation as a site: it builds without a warning, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import fedsim
from fedsim.scenario.outline import outline

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}

pytestmark = pytest.mark.xdist_group("site")


class Page(HTMLParser):
    """Of a page: what is loaded with it, what it links to, and the anchors it has."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if address := found.get(LOADED.get(tag, "")):
            self.loaded.append(address)
        if tag == "a" and "href" in found:
            self.linked.append(found["href"])
        self.anchors.add(found.get("id", ""))


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table of a page whose first line begins with `heading`."""
    _, found, text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n| {heading} |")
    assert found
    lines = text.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def elsewhere(address: str) -> bool:
    return re.match(r"(?:[a-z]+:)?//", address, re.IGNORECASE) is not None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needed = ("mkdocs", "material", "mkdocstrings")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} missing: install the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: what is not printed does not count as a warning either.
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """By the path in the site."""
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_page_is_in_the_site(pages: dict[str, Page]) -> None:
    sources = (path.relative_to(DOCS) for path in DOCS.rglob("*.md"))
    written = {path.with_suffix(".html").as_posix() for path in sources}
    assert set(pages) == written | {
        "overview.html",
        "changes.html",
        "contributing.html",
        "404.html",
    }


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    assert all(page.loaded for page in pages.values())
    assert not {a for page in pages.values() for a in page.loaded if elsewhere(a)}
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", text), sheet


@pytest.mark.slow
def test_links_and_pictures_of_the_site_lead_somewhere(site: Path, pages: dict[str, Page]) -> None:
    """Those of README too, which lies elsewhere on GitHub, and pictures in raw HTML."""
    assert any("pictures/synthetic.png" in a for a in pages["overview.html"].loaded)
    assert any("pictures/curve.png" in a for a in pages["results.html"].loaded)
    for name, page in pages.items():
        if name == "404.html":  # its links are absolute: it is shown at any depth
            continue
        for address in page.loaded + page.linked:
            path, _, anchor = address.partition("#")
            if elsewhere(address) or address.startswith(("mailto:", "data:")):
                continue
            there = (site / name).parent / path if path else site / name
            assert there.resolve().is_file(), (name, address)
            target = there.resolve().relative_to(site.resolve()).as_posix()
            if anchor and target in pages:
                assert anchor in pages[target].anchors, (name, address)


@pytest.mark.slow
def test_the_reference_shows_every_public_name(pages: dict[str, Page]) -> None:
    reference = pages["reference.html"].anchors
    assert not {f"fedsim.{name}" for name in fedsim.__all__} - reference
    assert {"fedsim.Strategy.setup", "fedsim.Client.train", "fedsim.Site.generator"} <= reference


def test_the_reference_names_what_is_exported() -> None:
    named = re.findall(r"^::: fedsim\.(\w+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    found = {name for name in named if importlib.util.find_spec(f"fedsim.{name}") is not None}
    modules = found - set(fedsim.__all__)
    assert sorted(set(named) - modules) == sorted(fedsim.__all__)
    assert len(named) == len(set(named))


def test_the_navigation_names_pages_that_exist() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"]))
    assert len(named) == len(set(named)) > 20
    brought = {"overview.md", "changes.md", "contributing.md"}
    assert {name for name in named if not (DOCS / name).is_file()} == brought


def test_the_minutes_of_which_method_are_those_of_ls() -> None:
    asked = [row for row in rows("which-method.md", "you ask") if not row[0].startswith("**")]
    assert len(asked) > 15
    published = "".join(
        (DOCS / name).read_text()
        for name in ("results.md", "methods/condist.md", "methods/features.md")
    )
    for question, scenario, _, _, minutes, megabytes in asked:
        name, *overrides = re.findall(r"`([^`]+)`", scenario)[0].split(" ", 1)
        found = outline(name).minutes
        if minutes != "-":
            assert float(minutes) == found, question
        else:
            assert overrides or found is None, question
        assert megabytes == "-" or f"| {megabytes} |" in published, question


def test_the_guesses_that_epsilon_allows_are_computed() -> None:
    listed = rows("data-officer.md", "epsilon")
    assert len(listed) == 6
    for epsilon, share, name in listed:
        odds = math.exp(float(epsilon))
        assert float(share.rstrip(" %")) == pytest.approx(100 * odds / (1 + odds), abs=0.05)
        assert name.split(":")[0] == (
            "perfect" if odds == 1 else "strong" if float(epsilon) <= 1 else "reasonable"
        )
