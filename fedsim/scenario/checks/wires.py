"""Compression: whether what is sent can be compressed."""

from __future__ import annotations

from typing import Any

from fedsim.scenario.checks.keys import WIRE, Problems
from fedsim.yaml_lines import Document


def check_wire(document: Document, found: dict[str, tuple[str, Any]]) -> Problems:
    """Whether what these plugins send can be compressed around them, where `wire` asks for it."""
    from fedsim.scenario.fitting import without_compression

    if document.get(WIRE) is None:
        return []
    why = without_compression(found) or _compressed_already(document)
    return [(document.place(WIRE), f"wire: {why}; type wire=null")] if why else []


def _compressed_already(document: Document) -> str:
    """Why `wire` does not go with other keys that say how models travel; "" where it does."""
    codec = document.get(("strategy", "codec"))
    if isinstance(codec, str) and codec != "float32":
        return f"strategy.codec={codec} encodes the models already, leave that at float32"
    if document.get(("privacy", "trust")) == "secure_sum":
        return (
            "privacy.trust=secure_sum takes for granted that clients mask what they send, and a "
            "sum of masks that were rounded is not the sum of the models"
        )
    return ""
