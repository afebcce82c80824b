"""What is said of the price of a choice among trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedsim.folder.tuned import price_of_choice

ONE: dict[str, Any] = {"charged": True, "epsilon": 6.676, "delta": 1e-4, "by": "geometric stopping"}


def price(tmp_path: Path, content: str) -> str:
    """What is said of a trial, where tuning.json has this content."""
    trial = tmp_path / "mine" / "trials" / "tiny" / "run"
    trial.mkdir(parents=True)
    (tmp_path / "mine" / "tuning.json").write_text(content)
    return price_of_choice(trial)


@pytest.mark.parametrize(
    ("privacy", "told"),
    [
        (ONE, "it has epsilon 6.68 at delta 0.0001 (RDP, geometric stopping), if no other trial"),
        (ONE | {"by": "adaptive composition"}, "All trials together, of which it was chosen, have"),
        (ONE | {"epsilon": None}, "it has no finite epsilon at delta"),
        ({"charged": False, "why_not": "no proof"}, "does not count the other trials: no proof."),
    ],
)
def test_a_trial_says_what_it_costs_to_choose_it(
    tmp_path: Path, privacy: dict[str, Any], told: str
) -> None:
    found = price(tmp_path, json.dumps({"privacy": privacy}))
    assert found.startswith("This run is a trial of a tuning")
    assert told in found


def test_what_is_no_trial_of_a_private_tuning_says_nothing(tmp_path: Path) -> None:
    assert price(tmp_path, '{"privacy": null}') == ""
    assert price_of_choice(tmp_path / "mine" / "trials" / "run") == ""
    assert price_of_choice(Path("/")) == ""


def test_a_damaged_tuning_does_not_hide_that_there_was_one(tmp_path: Path) -> None:
    assert "cannot be read in tuning.json" in price(tmp_path, "{")
