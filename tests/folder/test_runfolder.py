"""Files of a run folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.folder.runfolder import plain, spread, write_whole


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_can_be_read_by_whom_the_umask_lets(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "summary.json", b"{}")
    finally:
        os.umask(before)
    assert (tmp_path / "summary.json").stat().st_mode & 0o777 == mode


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_json_over_lines_is_the_same_json(value: dict[str, Any]) -> None:
    assert json.loads(spread(plain(value))) == plain(value)


def test_a_client_takes_one_line_of_a_file() -> None:
    sizes = {f"client-{k}": {"train": k, "val": 0} for k in range(1000)}
    lines = spread({"data": {"sizes": sizes, "all": list(range(1000))}, "none": {}}).splitlines()
    assert '      "client-7": {"train": 7, "val": 0},' in lines
    assert len(lines) == 1000 + 1000 + 9
    assert lines[-3:] == ["  },", '  "none": {}', "}"]
