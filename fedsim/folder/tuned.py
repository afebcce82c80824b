"""What it costs in privacy that a run was chosen among the trials of a tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import InputError
from fedsim.folder.runfolder import RunFolder

ABOUT = "tuning.json"
"""The file of a tuning's folder, in which trials lie in `trials/<scenario>/<run>`."""


def price_of_choice(folder: Path) -> str:
    """What a run's own epsilon leaves out, as sentences; "": it is no trial of a private tuning."""
    places = folder.absolute().parents
    if len(places) < 3 or places[1].name != "trials" or not (places[2] / ABOUT).is_file():
        return ""
    begin = "This run is a trial of a tuning, which looked at the same records in every trial."
    try:
        told = RunFolder(places[2]).read_json(ABOUT).get("privacy")
    except InputError:
        return f"{begin} What that costs cannot be read in {ABOUT}."
    if not isinstance(told, Mapping):
        return ""
    return f"{begin} {_priced(told)}"


def _priced(told: Mapping[str, Any]) -> str:
    """The cost in words."""
    if not told.get("charged"):
        return f"Its epsilon does not count the other trials: {told.get('why_not')}."
    epsilon, by = told.get("epsilon"), str(told.get("by"))
    value = f"epsilon {epsilon:.3g}" if isinstance(epsilon, int | float) else "no finite epsilon"
    value += f" at delta {told.get('delta'):g}"
    if by.endswith("stopping"):
        return f"As the chosen one it has {value} (RDP, {by}), if no other trial is published."
    return f"All trials together, of which it was chosen, have {value} (RDP, {by})."
