"""The files that a module's code lies in."""

from __future__ import annotations

import abc
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fedsim.privacy.sources import sources


def written(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import os, near", {"near"}),
        ("from near import RATE", {"near"}),
        ("def late():\n    import pack.inner", {"pack/init", "pack/inner", "pack/other"}),
        ("from pack import inner", {"pack/init", "pack/inner", "pack/other"}),
        ("import nowhere, numpy", set()),
    ],
)
def test_what_lies_beside_a_module_counts(text: str, found: set[str], tmp_path: Path) -> None:
    root = written(tmp_path, own=text, near="import own", far="", pack__inner="from . import other")
    written(root, pack__other="from .inner import x")
    (root / "pack" / "__init__.py").touch()
    names = {str(p.relative_to(root)).removesuffix(".py") for p in sources("own", root / "own.py")}
    assert names == {name.replace("init", "__init__") for name in found} | {"own"}


@pytest.mark.parametrize("module", [abc, torch.nn.modules.module])
def test_of_what_is_installed_the_file_counts_alone(module: ModuleType) -> None:
    file = Path(str(module.__file__))
    assert sources(module.__name__, file) == [file]


def test_a_file_that_is_no_python_is_taken_as_it_is(tmp_path: Path) -> None:
    root = written(tmp_path, own="import near", near="this is none")
    assert len(sources("own", root / "own.py")) == 2
