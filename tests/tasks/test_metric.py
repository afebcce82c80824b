"""Metrics, and what run folders say of a task."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedsim.method.client import Task
from fedsim.tasks import Metric, TaskFacts, fraction
from fedsim.tasks.classification import Classification
from fedsim.tasks.segmentation.task import SegmentationTask

PSNR = Metric("psnr", "PSNR", "dB")
ERROR = Metric("error", "error", "mm", better="lower", digits=1)


def test_a_value_is_told_with_its_unit_and_a_fraction_without() -> None:
    assert PSNR.text(24.3149) == "24.31 dB"
    assert PSNR.column == "PSNR (dB)"
    auc = fraction("auc", "AUC")
    assert (auc.text(0.7741), auc.column, auc.spoken_unit) == ("0.774", "AUC", "per cent")


def test_merit_is_larger_for_what_is_better() -> None:
    assert PSNR.merit(2.0) == 2.0
    assert ERROR.merit(2.0) == -2.0
    assert ERROR.merit(None) is None
    assert (PSNR.best, ERROR.best) == ("highest", "lowest")


@pytest.mark.parametrize("wrong", [{"better": "more"}, {"scale": 0.0}, {"digits": 9}])
def test_a_metric_that_cannot_be_told_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Metric("m", "m", **wrong)


def test_facts_come_back_from_json() -> None:
    facts = Classification(("a", "b"), 3, 8).facts
    back = TaskFacts.read({"task": json.loads(json.dumps(facts.record()))})
    assert back == facts
    assert back.goal == "to tell b from a"


@pytest.mark.parametrize(
    ("name", "title", "base"),
    [
        ("dice", "Dice", "dice"),
        ("dice/left_lobe", "Dice, left lobe", "dice"),
        ("dice/left@north", "Dice, left@north", "dice"),
        ("external_dice", "external_dice", "dice"),
        ("val_dice", "val_dice", "dice"),
        ("loss", "loss", "loss"),
    ],
)
def test_forms_of_a_metric_are_told_as_it_is(name: str, title: str, base: str) -> None:
    facts = SegmentationTask.facts_of(("background", "left"))
    assert facts.metric(name).name == (base if base == "dice" else name)
    assert facts.title(name) == title


@pytest.mark.parametrize(
    ("names", "classes", "task"),
    [
        (("auc", "f1"), ("a", "b"), "image-classification"),
        (("dice", "dice/left"), ("background", "left"), "image-segmentation"),
        ((), ("background", "left"), "image-segmentation"),
        ((), ("a", "b"), "image-classification"),
        (("auc", "dice"), (), "image-classification"),
    ],
)
def test_the_task_of_an_older_run_is_told_by_its_metrics(
    names: tuple[str, ...], classes: tuple[str, ...], task: str
) -> None:
    assert TaskFacts.read({"data": {"classes": list(classes)}}, names).name == task


@pytest.mark.parametrize(
    "spoilt",
    [
        [],
        {"headline": 3},
        {"metrics": None},
        {"metrics": [{"name": 3}]},
        {"metrics": [{"name": "a", "scale": "x"}]},
        {"metrics": [{"name": "a", "better": "more"}]},
        {"in_rounds": [3]},
    ],
)
def test_a_damaged_entry_is_named(spoilt: Any) -> None:
    whole = Classification.facts_of(("a", "b")).record()
    found = whole | spoilt if isinstance(spoilt, dict) else spoilt
    with pytest.raises(ValueError, match=r"task|metric|better"):
        TaskFacts.read({"task": found})


def test_the_first_defined_metric_stands_in_for_the_headline() -> None:
    facts = Classification.facts_of(("a", "b"))
    assert facts.judged({"auc": None, "balanced_accuracy": 0.5, "accuracy": 1.0}) == (
        "balanced_accuracy"
    )
    assert facts.judged({"auc": None}) is None


def test_a_task_of_classes_channels_and_size_is_still_classification() -> None:
    assert Task(("a", "b"), 3, 8) == Classification(("a", "b"), 3, 8)  # type: ignore[call-arg, abstract]
