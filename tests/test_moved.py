"""Old dotted paths lead to the modules that are there now, not to copies of them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from fedsim.moved import MOVED, new_path


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_is_the_module_itself(old: str) -> None:
    now = importlib.import_module(MOVED[old])
    assert importlib.import_module(old) is now
    assert now.__name__ == MOVED[old]
    assert now.__spec__ is not None
    assert now.__spec__.name == MOVED[old]


def test_what_lies_in_a_moved_package_moved_with_it() -> None:
    old = importlib.import_module("fedsim.segmentation.training")
    assert old is importlib.import_module("fedsim.tasks.segmentation.training")
    assert new_path("fedsim.segmentation.training") == "fedsim.tasks.segmentation.training"


@pytest.mark.parametrize("name", ["fedsim", "fedsim.data", "fedsim.clients.local", "flwr.client"])
def test_other_names_are_left_alone(name: str) -> None:
    assert new_path(name) is None


def test_a_process_may_begin_with_an_old_path() -> None:
    code = (
        "import fedsim.segmentation.task as old\n"
        "from fedsim.strategy import Server\n"
        "import fedsim.tasks.segmentation.task as new, fedsim\n"
        "assert old is new and Server is fedsim.Server\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        importlib.import_module("fedsim.segmentation.nowhere")
