"""Which columns of a table are known, and which look as if they were meant to be."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SURE: Mapping[str, frozenset[str]] = {
    "group": _words(
        "group grp patient pat pt subject subj participant person lesion mrn pid ptid donor "
        "specimen volunteer proband individual animal family patienten paciente paziente"
    ),
    "site": _words("site centre center hospital institution institute clinic"),
}
"""Optional column -> what people call it. Such a column is never passed over."""

PERHAPS: Mapping[str, frozenset[str]] = {
    "group": _words(
        "case study exam examination visit accession id uid series scan session biopsy sample "
        "record slide"
    )
}
"""What may be another name of it: such a column counts where its values repeat."""

_ENDINGS = _words(
    "id ids no nr num number nummer name names code key identifier uid anon instance hash "
    "pseudonym pseudo anonymised anonymized uuid guid index idx orig original new old deid ref "
    "reference label"
)
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d"))
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?")
_WHOLE = re.compile(r"([0-9]+)\.0+")
_PARTS = re.compile(r"\d+|[^\W\d_]+")
_TYPING_SLIP = 0.85  # difflib's ratio; "patien" is above it, "patientage" below
_SHORT = 5  # letters; "size", "side" and "cite" are no slips of "site"


def plain(name: str) -> str:
    """A name as it is compared: without case, blanks around it and invisible characters."""
    return unicodedata.normalize("NFKC", name).translate(_INVISIBLE).strip().casefold()


def as_number(name: str) -> str:
    """As `plain`, and one text for the spellings of a number: 1, 01 and 1.0."""
    text = plain(name)
    return text if not _NUMBER.fullmatch(text) else f"{float(text):.17g}"


def as_patient(name: str) -> str:
    """A patient's name without what programs and hands change: case, zeros in front of a number,
    signs and blanks between its parts ("P01", "p_1", "P-001"; 7, 7.0).
    """
    text = plain(name)
    whole = _WHOLE.fullmatch(text)
    parts = _PARTS.findall(whole[1] if whole else text)
    return " ".join(part.lstrip("0") or "0" if part.isdecimal() else part for part in parts) or text


def alike(names: Iterable[str], key: Callable[[str], str] = plain) -> list[list[str]]:
    """Different names that are the same to a reader, in lists of two or more."""
    by_key: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        by_key.setdefault(key(name), []).append(name)
    return [found for found in by_key.values() if len(found) > 1]


def meant(name: str, optional: Sequence[str]) -> tuple[str, bool] | None:
    """The optional column that a name looks like, and whether that is sure; None for no such."""
    core = _core(name)
    if not core:
        return None
    for column in optional:
        names = SURE.get(column, frozenset({column}))
        if core in names or any(_slip(core, name) for name in names if len(name) >= _SHORT):
            return column, True
    for column in optional:
        if core in PERHAPS.get(column, ()):
            return column, False
    return None


def _slip(written: str, name: str) -> bool:
    """Whether letters are swapped, or one is wrong or missing."""
    near = difflib.SequenceMatcher(None, written, name).ratio() >= _TYPING_SLIP
    return near or sorted(written) == sorted(name)


def _core(name: str) -> str:
    """What a name says without its endings: "patient" for "Patient-ID", "patientNo", "PATIENTS"."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    words = re.findall(r"[^\W_]+", plain(apart))
    kept = [word for word in words if word not in _ENDINGS] or words[-1:]
    core = "".join(kept)
    known = frozenset().union(*SURE.values())
    if core in known:
        return core
    for ending in ("s", *sorted(_ENDINGS, key=len, reverse=True)):
        if core.endswith(ending) and core.removesuffix(ending) in known:
            return core.removesuffix(ending)
    return core
