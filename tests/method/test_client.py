"""What a client method is derived from."""

from __future__ import annotations

import pytest

from fedsim import Client


def test_the_old_name_of_discloses_is_refused_since_it_would_be_passed_over() -> None:
    with pytest.raises(TypeError, match=r"Mine\.releases is named `discloses` now"):
        type("Mine", (Client,), {"releases": ("real pixels",), "train": lambda *_: None})
