"""What the shipped scenarios need to be loaded."""

from __future__ import annotations

from pathlib import Path

OWN_DATA = ("my_images", "my_volumes")
"""Those about a person's own data: nothing stands in for them, so they need a folder."""

SOME_FOLDER = str(Path(__file__).parent)


def needed(name: str) -> list[str]:
    """The overrides without which a shipped scenario is not valid: any folder as its data."""
    return [f"data.root={SOME_FOLDER}"] if name in OWN_DATA else []
