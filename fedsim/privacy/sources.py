"""Which files a module's code lies in: its own, and those beside it that it imports."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Folders of modules that have a version of their own: Python's and those of packages.
_INSTALLED = ("site-packages", "dist-packages")
_PYTHON = Path(sysconfig.get_path("stdlib")).resolve()


def sources(module: str, file: Path) -> list[Path]:
    """A module's file and all that it imports, directly or not, from the same folder of modules.

    Found by reading, so that it does not matter what has been imported so far. Of what is installed
    the file counts alone.

    Args:
        module: its full name.
        file: its file.
    """
    depth = module.count(".") + (file.name == "__init__.py")
    root = file.parents[depth]
    if root.name in _INSTALLED or root.resolve() == _PYTHON:
        return [file]
    found, todo = set[Path](), [file]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        for parts in _imports(path, root):
            near = root.joinpath(*parts)
            wanted = (near.with_name(f"{near.name}.py"), near / "__init__.py")
            todo += [one for one in wanted if one.is_file()]
    return sorted(found)


def _imports(path: Path, root: Path) -> Iterator[tuple[str, ...]]:
    """The names, in parts, of what a file imports and of the packages that lie around it."""
    here = path.relative_to(root).parts[:-1]
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # It was not imported, then, or is no Python.
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else ()
            start = (*above, *(node.module.split(".") if node.module else ()))
            names = [start, *((*start, alias.name) for alias in node.names)]
        else:
            continue
        for name in names:
            yield from (name[:length] for length in range(1, len(name) + 1))
