"""What the headers of DICOM files say of a manifest's records: patients and sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedsim.data import dicom
from fedsim.data.dataset import Manifest
from fedsim.data.table import ONE_SITE


def with_headers(records: Manifest) -> Manifest:
    """Records whose DICOM files say of which patients they are, and where they were made.

    What a table or a folder says wins. A patient's name that all files share is that of nobody.
    """
    patients_known, sites_known = any(records.groups), set(records.sites) != {ONE_SITE}
    if patients_known and sites_known:
        return records
    headers = {
        i: dicom.read_header(path)
        for i, path in enumerate(records.paths)
        if dicom.is_dicom(path) and path.is_file()
    }
    notes = list(records.notes)
    patients = {i: header.patient for i, header in headers.items() if header.patient}
    if patients and not patients_known:
        names = set(patients.values())
        if len(names) > 1:
            records = replace(records, groups=_put(records.groups, patients))
            notes.append(f"patients are those that the DICOM files name: {len(names)}")
        elif len(headers) > 1:
            notes.append(
                f"all DICOM files name the patient {names.pop()!r}, which is taken for none"
            )
    places = {i: header.institution for i, header in headers.items() if header.institution}
    if places and not sites_known:
        records = replace(records, sites=_put(records.sites, places))
        notes.append(
            f"sites are the institutions that the DICOM files name: {len(set(places.values()))}"
        )
    return replace(records, notes=tuple(notes))


def _put(values: Sequence[str], new: Mapping[int, str]) -> list[str]:
    return [new.get(i, value) for i, value in enumerate(values)]
