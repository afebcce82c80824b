"""Words by which people call classes, sites and files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fedsim.data.columns import as_number, plain


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIVE = _words(
    "benign normal healthy negative neg no none control controls absent nevus naevus nevi naevi nv "
    "clear unaffected false 0 health nofinding nofindings noncancer nontumor notumor nondemented"
)
"""What the class is called that is not looked for."""

_POSITIVE = _words(
    "malignant melanoma mel cancer tumor tumour carcinoma pneumonia covid abnormal positive pos "
    "disease diseased sick lesion effusion fracture tuberculosis tb glaucoma yes true 1"
)
_SITE = re.compile(
    r"(hospital|site|centre|center|clinic|klinik|institution|institut|klinikum|spital)", re.I
)


def is_class(name: str) -> bool:
    """Whether a name is one that classes have."""
    word = _joined(name)
    return word in NEGATIVE or word in _POSITIVE


def are_sites(names: Iterable[str]) -> bool:
    """Whether all names are such as sites have."""
    return all(_SITE.search(name) for name in names)


def positive_of(classes: Sequence[str]) -> tuple[str, str]:
    """Of two classes the one that is looked for, and why."""
    negative = [name for name in classes if _joined(name) in NEGATIVE]
    if len(negative) == 1:
        (other,) = set(classes) - set(negative)
        return other, f"{negative[0]!r} sounds like what is not looked for"
    return classes[-1], "the last by name"


def _joined(name: str) -> str:
    return re.sub(r"[\W_]+", "", as_number(plain(name)))
