"""Keys that several checks ask for, and what is a problem."""

from __future__ import annotations

from typing import Any

from fedsim.yaml_lines import Document, KeyPath, Place

CLIENTS: KeyPath = ("federation", "clients")
LABELLED: KeyPath = ("federation", "labelled")
LABELLED_GROUPS: KeyPath = ("federation", "labelled_groups")
PRECISION: KeyPath = ("resources", "precision")
WIRE: KeyPath = ("wire",)
_NETWORK: KeyPath = ("data", "features", "network")
MODEL_FILE = ".safetensors"
"""What the name of a model file ends with."""

Problems = list[tuple[Place, str]]
"""What is wrong, each with where it was written."""


def all_labelled(document: Document) -> bool:
    """Whether the scenario hides no labels."""
    return document.get(LABELLED) is None and document.get(LABELLED_GROUPS) is None


def learns_vectors(document: Document) -> bool:
    """Whether vectors stand in the place of the images."""
    features = document.get(("data", "features"))
    return features is not None and document.get(("data", "features", "beside")) is not True


def network_of(document: Document) -> tuple[KeyPath, Any]:
    """Where the network of `data.features` is written, and what it is."""
    features = document.get(_NETWORK[:-1])
    # A text stands for the block.
    return (
        (_NETWORK[:-1], features)
        if isinstance(features, str)
        else (_NETWORK, document.get(_NETWORK))
    )


def dotted(path: KeyPath) -> str:
    """A path of keys as one writes it."""
    return ".".join(str(key) for key in path)
