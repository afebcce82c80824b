"""What a client method is derived from."""

from __future__ import annotations

import pytest

from fedsim import Client


def test_the_old_name_of_discloses_is_refused_since_it_would_be_passed_over() -> None:
    mixin = type("Mixin", (), {"releases": ("real pixels",)})
    for bases, own in (((Client,), vars(mixin)), ((mixin, Client), {})):
        with pytest.raises(TypeError, match=r"Mine\.releases is named `discloses` now"):
            type("Mine", bases, {"train": lambda *_: None} | ({"releases": ()} if own else {}))
