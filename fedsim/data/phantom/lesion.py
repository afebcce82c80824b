"""A lesion on skin: how its signs become shape, pigment, blood and scars, and these colour.

The signs are those of the ABCD rule of dermatoscopy (Nachbar et al. 1994,
doi 10.1016/S0190-9622(94)70061-3): asymmetry, border, colours and structures; and the diameter.
Each follows the lesion's severity with noise of its own, and the severities of benign and
malignant lesions overlap, so that no sign decides alone. All numbers were chosen by eye.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedsim.data.phantom.canvas import Band, Floats, at, random_fields, ridges, step

SIGNS = ("asymmetry", "border", "colours", "structures", "diameter")
LOADING = 0.72
"""Correlation of a sign with the severity among lesions of one diagnosis."""
MALIGNANT = 2.8
"""How much more severe malignant lesions are on average, in standard deviations."""


@dataclass(frozen=True)
class Diagnosis:
    """What lesions of one diagnosis tend to look like.

    share: of the malignant or of the benign lesions. severity: the mean; the standard deviation
    is 1. pigment, softness, size: logarithms of factors. blood, veil (blue-grey pigment), scar (in
    the middle) and flecks (white dots): amounts.
    """

    malignant: bool
    share: float
    severity: float
    pigment: float = 0.0
    softness: float = 0.0
    size: float = 0.0
    blood: float = 0.0
    veil: float = 0.0
    scar: float = 0.0
    flecks: float = 0.0


DIAGNOSES = {
    "akiec": Diagnosis(True, 0.18, MALIGNANT, -0.7, softness=0.3, blood=0.35, flecks=0.5),
    "bcc": Diagnosis(True, 0.27, MALIGNANT, -0.6, blood=0.28, veil=0.35, flecks=0.15),
    "bkl": Diagnosis(False, 0.18, 0.2, -0.2, softness=-0.4, size=0.08, flecks=0.35),
    "df": Diagnosis(False, 0.04, 0.0, -0.5, softness=0.3, size=-0.15, blood=0.1, scar=0.6),
    "mel": Diagnosis(True, 0.55, MALIGNANT),
    "nv": Diagnosis(False, 0.74, 0.0),
    "vasc": Diagnosis(False, 0.04, 0.0, -1.6, size=-0.2, blood=1.3, veil=0.25),
}

LESION = (
    *("severity", *SIGNS, "size", "oval", "axis", "softness", "pigment", "hue", "blood", "halo"),
    *("network", "dots", "regression", "tone", "flush", "freckles"),
)
"""What varies from lesion to lesion, the patient's skin included: one standard normal each."""
VIEW = ("x", "y", "zoom", "flush", "grain")
"""What varies from image to image of a lesion: one standard normal each."""

# Optical densities in red, green and blue. Pigment deep in the skin scatters short waves back and
# so looks blue-grey.
MELANIN = np.array([0.50, 0.98, 1.52])
HUE = np.array([0.03, 0.0, -0.13])
BLOOD = np.array([0.08, 0.78, 0.62])
DEEP_PIGMENT = np.array([1.05, 0.90, 0.64])
PALE = np.array([0.98, 0.93, 0.90])
SCAR = np.array([0.95, 0.88, 0.88])

# A lesion's frequencies are in units of its radius, the skin's in those of the frame, of which a
# grid of 64 holds 100.
LESION_FIELDS = {
    "shape": Band(8, 0.9, 2.4),
    "border": Band(36, 3.0, 24.0, decay=0.5),
    "patches": Band(28, 1.6, 16.0, decay=0.3),
    "hue": Band(12, 1.8, 6.0),
    "clouds": Band(16, 2.2, 7.0),
    "dots": Band(24, 9.0, 20.0),
    "network": Band(24, 26.0, 38.0),
}
SKIN_FIELDS = {
    "mottle": Band(48, 2.5, 40.0, decay=0.2),
    "flush": Band(12, 1.0, 6.0, decay=0.3),
    "grain": Band(36, 30.0, 85.0),
}
LESION_WAVES = sum(band.waves for band in LESION_FIELDS.values())
SKIN_WAVES = sum(band.waves for band in SKIN_FIELDS.values())


@dataclass(frozen=True)
class Subjects:
    """What is in front of the camera, one row an image.

    look: the fields of `Diagnosis`. lesion: LESION. view: VIEW. site: the site's traits, each [n].
    turn: how far the lesion is turned, in turns, [n]. lesion_waves, skin_waves: uniforms
    [n, LESION_WAVES, 3] and [n, SKIN_WAVES, 3].
    """

    look: Mapping[str, Floats]
    lesion: Mapping[str, Floats]
    view: Mapping[str, Floats]
    site: Mapping[str, Floats]
    turn: Floats
    lesion_waves: Floats
    skin_waves: Floats


def reflectance(subjects: Subjects, axis: Floats) -> Floats:
    """Skin with a lesion on it, as it looks in even white light: [n, 3, len(axis), len(axis)]."""
    look, lesion, view, site = subjects.look, subjects.lesion, subjects.view, subjects.site
    sign = _signs(subjects)
    place = _place(subjects, sign, axis)
    shape, side, fields = place.shape, place.side, place.fields
    sharp = np.exp(0.2 * np.clip(side, -2, 2) * at(sign["border"]))
    softness = 0.09 * np.exp(0.45 * lesion["softness"] + look["softness"])
    inside = step(shape / (at(softness) * sharp))
    deep_inside = step((shape - 0.25) / 0.15)
    dots = step((fields["dots"] - 1.45) / 0.15)
    structures = sign["structures"]

    # Pigment: patches, denser on one side when asymmetric, drawn as a net that fades inwards.
    patches = fields["patches"] + 0.5 * np.tanh(at(sign["asymmetry"])) * side
    melanin = np.exp(np.clip(at(0.16 + 0.19 * sign["colours"]) * patches, -2, 1))
    melanin *= inside * (0.6 + 0.4 * deep_inside)
    network = at(np.clip(0.4 + 0.25 * lesion["network"], 0, 1))
    melanin *= 1 + network * (1.2 - 0.6 * deep_inside) * ridges(fields["network"], 0.45)
    dotted = np.clip(0.2 + 0.3 * lesion["dots"] + 0.12 * structures, 0, 1.2)
    melanin *= 1 + at(dotted * (look["flecks"] == 0)) * dots
    melanin *= at(np.exp(0.34 * lesion["pigment"] + look["pigment"] - 0.05))

    # Blood: in the lesion, and around it.
    blood = np.exp(at(0.10 + 0.22 * sign["colours"]) * fields["hue"]) * inside
    blood *= at(look["blood"] + 0.12 * np.maximum(lesion["blood"], 0))
    halo = 0.07 * np.abs(lesion["halo"]) + 0.25 * np.clip(look["blood"] - 0.2, 0, 0.4)
    blood += at(halo) * step((shape + 0.25) / 0.15)

    # Blue-grey veil, and what is white: scar, regression, flecks.
    veil = np.clip(0.40 * (structures - 1.3) + look["veil"], 0, 1.1)
    veil = at(veil) * step((fields["clouds"] - 0.6) / 0.28) * step((shape - 0.05) / 0.1)
    melanin *= 1 - 0.35 * np.minimum(veil, 1)
    scar = at(0.8 * look["scar"]) * np.exp(-(place.x**2 + place.y**2) / (2 * 0.3**2))
    regression = np.clip(0.2 * (structures + lesion["regression"] - 1.2), 0, 0.7)
    regression = at(regression) * step((-fields["clouds"] - 1.0) / 0.3) * inside
    flecks = at(0.6 * look["flecks"]) * dots * inside
    white = 1 - (1 - scar) * (1 - regression) * (1 - flecks) * (1 - 0.12 * np.minimum(veil, 1))

    # The skin, under it too.
    skin = random_fields(SKIN_FIELDS, subjects.skin_waves, axis)
    freckles = at(np.clip(0.3 * lesion["freckles"] - 0.1, 0, 0.6))
    melanin += freckles * step((skin["mottle"] - 1.3) / 0.3)
    tone = 0.17 * np.exp(0.35 * lesion["tone"] + 0.3 * site["tone"])
    melanin += at(tone) * np.exp(0.16 * skin["mottle"])
    flush = 0.24 * np.exp(0.25 * lesion["flush"] + 0.45 * site["flush"] + 0.15 * view["flush"])
    blood += at(flush) * np.exp(0.20 * skin["flush"] + 0.15 * skin["mottle"])
    grain = 0.045 * np.exp(0.4 * view["grain"])
    lines = 1 - at(grain) * ridges(skin["grain"], 0.5) * (1 - 0.5 * inside)

    brown = MELANIN + 0.6 * HUE * lesion["hue"][:, None]
    scarred = SCAR * np.exp(-0.25 * BLOOD * flush[:, None])
    picture = np.empty((len(shape), 3, *shape.shape[1:]))
    for channel in range(3):
        density = at(brown[:, channel]) * melanin + BLOOD[channel] * blood
        below = PALE[channel] * np.exp(-density - DEEP_PIGMENT[channel] * veil)
        picture[:, channel] = (below + white * (at(scarred[:, channel]) - below)) * lines
    return picture


def _signs(subjects: Subjects) -> dict[str, Floats]:
    """The signs of each lesion, [n], from its severity and noise.

    Structures and diameter are standardised over benign lesions. Asymmetry, border and colours
    are amounts from 0 to 3.2, small in most benign lesions.
    """
    severity = subjects.look["severity"] + subjects.lesion["severity"]
    own = np.sqrt(1 - LOADING**2)
    sign = {name: LOADING * severity + own * subjects.lesion[name] for name in SIGNS}
    for name in ("asymmetry", "border", "colours"):
        # Beyond the upper bound lesions would fall to pieces.
        sign[name] = np.minimum(np.logaddexp(0, 1.2 * (sign[name] - 0.3)), 3.2)
    return sign


@dataclass(frozen=True)
class _Place:
    """Where each sample of the grid is, seen from the lesion; all [n, len, len].

    x, y: coordinates in radii, the axes turned with the lesion. side: the coordinate along its
    axis of asymmetry. shape: 1 in its middle, 0 on its border, negative outside. fields: those of
    LESION_FIELDS.
    """

    x: Floats
    y: Floats
    side: Floats
    shape: Floats
    fields: dict[str, Floats]


def _place(subjects: Subjects, sign: Mapping[str, Floats], axis: Floats) -> _Place:
    look, lesion, view = subjects.look, subjects.lesion, subjects.view
    size = 0.08 * sign["diameter"] + 0.24 * lesion["size"] + look["size"]
    size += 0.08 * view["zoom"] - 0.16 * subjects.site["zoom"]
    radius = np.clip(0.41 * np.exp(size), 0.12, 0.85)
    centre = 0.11 * np.stack([view["x"], view["y"]], axis=1)
    angle = 2 * np.pi * subjects.turn
    fields = random_fields(LESION_FIELDS, subjects.lesion_waves, axis, (centre, radius, angle))
    cosine, sine = at(np.cos(angle) / radius), at(np.sin(angle) / radius)
    right, down = axis[None, None, :] - at(centre[:, 0]), axis[None, :, None] - at(centre[:, 1])
    x, y = cosine * right + sine * down, cosine * down - sine * right
    oval = at(np.exp(0.05 + 0.12 * np.abs(lesion["oval"])))
    far = np.hypot(x / oval, y * oval)
    bumps = at(0.05 + 0.11 * sign["asymmetry"]) * fields["shape"]
    bumps += at(0.03 + 0.07 * sign["border"]) * fields["border"]
    shape = 1 - far + np.minimum(far, 1) * bumps + 0.02 * fields["dots"]
    side = at(np.cos(3 * lesion["axis"])) * x + at(np.sin(3 * lesion["axis"])) * y
    return _Place(x, y, side, shape, fields)
