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
    "site": _words("site centre center hospital institution institute clinic krankenhaus ospedale"),
}
"""Optional column -> what people call it. Such a column is never passed over."""

PERHAPS: Mapping[str, frozenset[str]] = {
    "group": _words(
        "case study exam examination visit accession id uid series scan session biopsy sample "
        "record slide"
    ),
    "site": _words("klinik klinikum clinica spital standort zentrum centro"),
}
"""What may be another name of it: such a column counts where its values repeat."""

_ENDINGS = _words(
    "id ids no nr num number nummer name names code key identifier uid anon instance hash "
    "pseudonym pseudo anonymised anonymized uuid guid index idx orig original new old deid ref "
    "reference label numero codigo codice identifiant identificador kennung"
)
_IDS = _words(
    "id ids no nr num number nummer numero code codigo codice key identifier identifiant "
    "identificador kennung uid uuid guid"
)
_NUMBERED = _words(
    "fall akte akten nhs chi medicalrecord healthrecord socialsecurity dossier expediente "
    "prontuario"
)
"""What is a patient's, or a case's, with one of `_IDS` alone: Fallnummer, NHS number."""
_PATIENT = _words("patient subject participant proband volunteer sujet")
_PATIENT_BEHIND = _words("paciente paziente sujeto soggetto")
"""Of languages that say first what of the patient it is: codigo_paciente, edad_paciente."""
_PLURAL = _words(
    "patients subjects participants volunteers probanden patienten pacientes pazienti sujets"
)
_PATIENT_BY_ID = _words("pt pat person individual animal donor mrn pid ptid specimen lesion family")
"""Words of other meanings, too: `ajcc_pt` is a stage, `study_pt_id` a patient."""
_COUNTING = _words("n nb num number no nr numero nombre anzahl count counts total sum")
_BESIDE = _words("unique hashed encoded encrypted masked anonymous deidentified internal external")
_ABOUT = _COUNTING - _IDS | _words(
    "age sex gender weight height size bmi race status type kind group cohort is has was in out "
    "non same per mean first last alter geschlecht gewicht groesse edad sexo peso idade genero eta "
    "sesso altura talla taille poids sexe"
)
"""What columns say about patients: `age_patient` is no patient."""
_OF = _words("of de del do da di du des der della")
_NO_PATIENT = _words("inpatient outpatient daypatient nonpatient")
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d"))
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?")
_WHOLE = re.compile(r"([0-9]+)\.0+")
_LETTERS = re.compile(r"[^\W\d_]+")
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
    words = _split(name)
    core = _core(words)
    if not core or core in _NO_PATIENT or _counts_patients(words):
        return None
    # "is_patient" and "patient2" are no slips of "patient".
    whole = len(_kept(words)) == 1 and core.isalpha()
    for column in optional:
        names = SURE.get(column, frozenset({column}))
        slips = (_slip(core, name) for name in names if whole and len(name) >= _SHORT)
        if core in names or any(slips):
            return column, True
    for column in optional:
        if core in PERHAPS.get(column, ()):
            return column, False
    if "group" in optional and (_is_numbered(words, core) or _holds_patient(words)):
        return "group", False
    return None


def _slip(written: str, name: str) -> bool:
    """Whether letters are swapped, or one is wrong or missing."""
    near = difflib.SequenceMatcher(None, written, name).ratio() >= _TYPING_SLIP
    return near or sorted(written) == sorted(name)


def _split(name: str) -> list[str]:
    """The words of a name, without accents: "patient", "id2" of "PatientID2"."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    letters = unicodedata.normalize("NFD", plain(apart))
    return re.findall(r"[^\W_]+", "".join(c for c in letters if not unicodedata.combining(c)))


def _kept(words: Sequence[str]) -> Sequence[str]:
    return [word for word in words if word not in _ENDINGS] or words[-1:]


def _core(words: Sequence[str]) -> str:
    """What a name says without its endings: "patient" for "Patient-ID", "patientNo", "PATIENTS"."""
    core = "".join(_kept(words))
    known = frozenset().union(*SURE.values())
    if core in known:
        return core
    if core.removesuffix("s") in known:
        return core.removesuffix("s")
    known |= _NUMBERED.union(*PERHAPS.values())
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if core.endswith(ending) and core.removesuffix(ending) in known:
            return core.removesuffix(ending)
    return core


def _counts_patients(words: Sequence[str]) -> bool:
    """Whether a name says how many: `n_patients`, `number_of_patients`."""
    plural = next((at for at, word in enumerate(words) if word in _PLURAL), 0)
    return not _COUNTING.isdisjoint(words[:plural])


def _is_numbered(words: Sequence[str], core: str) -> bool:
    """Whether a name is of `_NUMBERED`, with its ID before or behind."""
    whole = "".join(words)
    ids = whole.removeprefix(core), whole.removesuffix(core)
    return core in _NUMBERED and not _IDS.isdisjoint({*words, *ids})


def _holds_patient(words: Sequence[str]) -> bool:
    """Whether a name of several words may be a patient's: they are what it is about, and not what
    something else is said of, as in `patient_age`, `age_of_patient` or `n_patients`.
    """
    words = [part for word in words for part in _LETTERS.findall(word)]
    known = _PATIENT | _PATIENT_BEHIND | _PATIENT_BY_ID | _PLURAL
    found = [at for at, word in enumerate(words) if _unjoined(word, known) in known]
    if not found:
        return False
    at = found[-1]
    head, before, behind = _unjoined(words[at], known), words[:at], words[at + 1 :]
    has_id = not _IDS.isdisjoint({*words, words[at].removeprefix(head)})
    if (head in _PATIENT_BY_ID and not has_id) or not _ABOUT.isdisjoint({*before, *behind}):
        return False
    if head in _PLURAL and not has_id:
        return False
    beside = _ENDINGS | _BESIDE
    owner = next((i for i, word in enumerate(before) if word in _OF), -1)
    if owner >= 0 or head in _PATIENT_BEHIND:
        # What it is of the patient stands in front: an ID, or something else.
        front = before[:owner] if owner >= 0 else before
        return beside.issuperset(front) and beside.issuperset(behind)
    return beside.issuperset(behind) or behind[-1] in ("id", "ids", "uid", "uuid", "identifier")


def _unjoined(word: str, known: frozenset[str]) -> str:
    """A word without an ending that is joined to it: "patient" for "patientid"."""
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if word not in known and word.removesuffix(ending) in known:
            return word.removesuffix(ending)
    return word
