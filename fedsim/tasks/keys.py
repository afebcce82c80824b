"""Keys of a scenario that only some tasks know, and what is said to the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fedsim.errors import InputError
from fedsim.scenario.overrides import own_appearances

if TYPE_CHECKING:
    from fedsim.scenario.schema import Scenario
    from fedsim.tasks.task import Task

POSITIVE, WINDOW = "data.positive", "data.window"
GROUPS = "evaluation.groups"
FOLDS = "data.split.folds"
LABELS, APPEARANCE = "federation.labels", "federation.appearance"

# Key -> how to see whether a scenario sets it, what to say, and what to type.
_KEYS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    POSITIVE: (
        lambda one: one.data.positive is not None,
        "is for images{classify}",
        "leave it out",
    ),
    WINDOW: (
        lambda one: one.data.window is not None,
        "is for images",
        "leave it out",
    ),
    GROUPS: (
        lambda one: one.evaluation.groups is not None,
        "scores frequent and rare classes",
        "remove the block",
    ),
    FOLDS: (
        lambda one: one.data.split.folds is not None,
        "is for data of volumes",
        "type data.split.folds=null",
    ),
    LABELS: (
        lambda one: one.federation.labels is not None,
        "says who outlines which structure",
        "remove the block",
    ),
    APPEARANCE: (
        lambda one: bool(one.federation.appearance or own_appearances(one)),
        "changes how volumes look",
        "remove the block",
    ),
}


def refuse(scenario: Scenario, task: type[Task]) -> None:
    """Raise InputError where the scenario sets a key that the task does not know."""
    for key, (is_set, what, hint) in _KEYS.items():
        if key not in task.keys and is_set(scenario):
            # Of images that are not classified, too.
            what = what.format(classify=" to classify" if task.records == "images" else "")
            raise InputError(
                f"{key} {what}, but {scenario.data.name!r} has {task.learns_from}", hint=hint
            )
