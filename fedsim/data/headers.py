"""What the headers of DICOM files say of records: their patients, and where they were made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedsim.data import dicom
from fedsim.data.table import ONE_SITE


class Told(NamedTuple):
    """Groups and sites of the records, and notes on where they are from."""

    groups: list[str]
    sites: list[str]
    notes: tuple[str, ...]


def by_headers(paths: Sequence[Path], groups: Sequence[str], sites: Sequence[str]) -> Told:
    """Groups and sites of records, from DICOM headers where nothing else says them.

    What a table or a folder says wins. A patient's name that all files share is that of nobody.

    Args:
        paths: a file, or a folder of a series, for each record.
        groups, sites: what is known of them.
    """
    told = Told(list(groups), list(sites), ())
    patients_known, sites_known = any(groups), set(sites) != {ONE_SITE}
    if patients_known and sites_known:
        return told
    headers = {i: dicom.read_header(file) for i, path in enumerate(paths) if (file := _file(path))}
    notes = []
    patients = {i: header.patient for i, header in headers.items() if header.patient}
    if patients and not patients_known:
        names = set(patients.values())
        if len(names) > 1:
            told = told._replace(groups=[patients.get(i, "") for i in range(len(paths))])
            notes.append(f"patients are those that the DICOM files name: {len(names)}")
        elif len(headers) > 1:
            notes.append(
                f"all DICOM files name the patient {names.pop()!r}, which is taken for none"
            )
    places = {i: header.institution for i, header in headers.items() if header.institution}
    if places and not sites_known:
        told = told._replace(sites=[places.get(i, ONE_SITE) for i in range(len(paths))])
        notes.append(
            f"sites are the institutions that the DICOM files name: {len(set(places.values()))}"
        )
    return told._replace(notes=tuple(notes))


def _file(path: Path) -> Path | None:
    """The DICOM file that stands for a record; None where it is none."""
    if os.path.isdir(path):
        return next(iter(dicom.series_in(path)), None)
    return path if os.path.isfile(path) and dicom.is_dicom(path) else None
