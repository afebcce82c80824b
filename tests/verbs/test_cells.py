"""What sweep, curve, tune and league share on the command line."""

from __future__ import annotations

import argparse

import pytest

from fedsim import InputError
from fedsim.verbs import Verbs, curve, league, sweep, tune
from fedsim.verbs.cells import require_name, sources_and_words

SHARED = {"--runs", "--jobs", "--dry-run", "--backend", "--workers", "--observe", "--quiet"}
SHARED |= {"--verbose"}


def test_all_verbs_that_run_cells_take_the_same_options() -> None:
    verbs = Verbs(argparse.ArgumentParser())
    for one in (sweep, curve, tune, league):
        one.add(verbs)
    assert verbs.names == ["curve", "league", "sweep", "tune"]
    for name in verbs.names:
        assert set(verbs.options(name)) >= SHARED, name
    assert [name for name in verbs.names if "--name" in verbs.options(name)] == ["curve", "tune"]


def test_scenarios_and_words_come_in_any_order() -> None:
    typed = ["rounds=3", "isic_iid_fedavg", "own/file.yaml", "client.epochs =1,2"]
    found = sources_and_words(typed)
    assert found == (["isic_iid_fedavg", "own/file.yaml"], ["rounds=3", "client.epochs =1,2"])


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-a"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected letters, digits"):
        require_name(argparse.Namespace(name=name))
    require_name(argparse.Namespace(name="a-1.b+c_d"))
    require_name(argparse.Namespace(name=None))
