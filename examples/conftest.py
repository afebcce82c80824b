"""The packages here are tested as if they were installed: their names and versions are found."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsim.registry import default_registry

PACKAGES = sorted(path.parent for path in Path(__file__).parent.glob("*/pyproject.toml"))

sys.path[:0] = [str(package) for package in PACKAGES]


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write what installations would, to a folder on the path."""
    folder = tmp_path_factory.mktemp("installed")
    for package in PACKAGES:
        about: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        metadata = folder / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
        metadata.mkdir()
        head = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
        (metadata / "METADATA").write_text(head)
        lines = []
        for group, entries in about["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        default_registry.cache_clear()
        yield
    default_registry.cache_clear()
