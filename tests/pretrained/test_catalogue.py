"""What the catalogue says is so, as far as it can be told without the weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedsim.errors import InputError
from fedsim.pretrained import CATALOGUE, Package, Weights
from fedsim.pretrained.catalogue import RANDOM, package_of, weights_of
from fedsim.registry import default_registry
from tests.docs.test_docs import tables

EACH = pytest.mark.parametrize("weights", CATALOGUE.values(), ids=list(CATALOGUE))


@EACH
def test_the_model_that_weights_are_for_has_features_of_that_length(weights: Weights) -> None:
    factory = default_registry().resolve("models", weights.model)
    with torch.device("meta"):
        model = factory(2, 3, weights.image_size)
    assert model.classifier.in_features == weights.features


@EACH
def test_an_entry_is_whole(weights: Weights) -> None:
    assert CATALOGUE[weights.name] is weights
    assert re.fullmatch("[0-9a-f]{64}", weights.package.sha256 or "")
    assert Package.parse(str(weights.package)) == replace(weights.package, sha256=None)
    assert weights.whiten in (0.0, 1.0)
    assert all(sentence.endswith(".") for sentence in weights.caveats)


def test_the_page_lists_the_catalogue() -> None:
    assert next(t for t in tables("pretrained.md") if "whiten" in t.header).rows == [
        [
            f"`{one.name}`",
            f"`{one.model}`",
            one.package.requirement.replace("==", " "),
            f"{one.megabytes:g}",
            one.licence,
            str(one.image_size),
            str(one.features),
            f"{one.whiten:g}",
        ]
        for one in CATALOGUE.values()
    ]


def test_every_source_is_told_apart() -> None:
    assert package_of("dinov2_vits14") is CATALOGUE["dinov2_vits14"].package
    assert package_of("package:a-b==1.0+cpu/in/it.pt") == Package("a-b", "1.0+cpu", "in/it.pt")
    assert package_of("/some/file.pt") is None
    assert RANDOM not in CATALOGUE


@pytest.mark.parametrize(
    "text",
    [
        "package:",
        "package:name",
        "package:name==1.0",
        "package:name==1.0/",
        "package:name/file.pt",
        "package:==1.0/file.pt",
        "package:--index-url==1.0/file.pt",
        "package:na me==1.0/file.pt",
        "package:name==-r/file.pt",
        "package:name==1.0;x/file.pt",
        "name==1.0/file.pt",
    ],
)
def test_another_form_is_refused_with_the_right_one(text: str) -> None:
    with pytest.raises(InputError, match="names no file of a package") as caught:
        Package.parse(text)
    assert "package:NAME==VERSION/PATH" in caught.value.hint


def test_a_name_that_is_none_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'dinov2_vits14'"):
        weights_of("dinov2_vits16")


def test_the_page_says_what_is_not_known() -> None:
    text = (Path(__file__).parents[2] / "docs" / "pretrained.md").read_text(encoding="utf-8")
    said = " ".join(text.replace("**", "").split())
    assert "Whether its author trained the backbone further is not known." in said
    assert "does not credit DINOv2" in said
