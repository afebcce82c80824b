"""The tutorial on own images: what it says is typed in an empty folder, in its order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_docs import blocks, commands_of, pattern, typed

PAGE = "tutorials/own-images.md"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder."""
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEDSIM_CACHE", str(folder / "cache"))
        patch.delenv("FEDSIM_DATA", raising=False)
        yield folder


def test_the_page_from_its_first_line_to_its_last(desk: Path) -> None:
    commands = iter(commands_of(PAGE))
    tried = 0
    for language, text in blocks(PAGE):
        if language == "python":
            exec(compile(text, PAGE, "exec"), {})
        if language != "console":
            continue
        command = next(commands)
        code, output = typed(command.words)
        assert code == command.code, output
        expected = "\n".join(command.expected).replace("folder from ...", "...").splitlines()
        assert re.fullmatch(pattern(expected), output), output
        tried += 1
    assert tried == 6
    assert next(commands, None) is None
    page = Path("runs/my-images/latest/report/index.html")
    assert page.stat().st_size > 10_000
    kinds = {file.suffix for file in Path("my-images").rglob("*") if file.is_file()}
    assert kinds == {".jpg", ".csv"}
