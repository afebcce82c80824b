"""Brings files from beside `docs/` into the site, so that links to them work there as on GitHub."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BROUGHT = {
    "README.md": "overview.md",  # in a site, README.md would be another index.md
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "CITATION.cff",
}
LINK = re.compile(r"(\]\(|<img src=\")([^)\"#:]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files, with the links of pages as seen from `docs/`."""
    for name, there in BROUGHT.items():
        if there.endswith(".md"):
            text = (ROOT / name).read_text(encoding="utf-8")
            content = LINK.sub(lambda link: link[1] + _inside(link[2], ""), text)
            files.append(File.generated(config, there, content=content))
        else:
            files.append(File.generated(config, there, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to a file that was brought in, such as ../../README.md."""
    folder = posixpath.dirname(page.file.src_uri)
    if page.file.src_uri in BROUGHT.values():
        return markdown
    return LINK.sub(lambda link: link[1] + _inside(link[2], f"docs/{folder}"), markdown)


def _inside(target: str, folder: str) -> str:
    """A link of a file in `folder` of the project, as the site has it; others as they are."""
    path = posixpath.normpath(posixpath.join(folder, target))
    if path in BROUGHT:
        depth = len([part for part in folder.split("/")[1:] if part])
        return "../" * depth + BROUGHT[path]
    if not folder and path.startswith("docs/"):
        # A folder of pages is shown by the page that lists them.
        return path.removeprefix("docs/") if posixpath.splitext(path)[1] else "index.md"
    return target
