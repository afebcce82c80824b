"""`fedsim compare --classes`: recalls over how frequent a class is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedsim.cli import main
from fedsim.errors import InputError
from fedsim.report.classes import classes, picture
from fedsim.report.tested import Predictions

NAMES = ["common", "rare", "absent", "middle"]
LABELS = np.array([0, 0, 0, 0, 1, 1, 3, 3])


def predicted(said: list[int]) -> Predictions:
    probabilities = np.eye(4, dtype=np.float32)[said][None]
    return Predictions(LABELS, np.arange(8), probabilities)


def row(name: str, *seeds: list[int], **data: Any) -> Any:
    told = {
        "classes": NAMES,
        "classes_by_client": {"a": [500, 2, 0, 40], "b": [500, 8, 0, 60]},
        **data,
    }
    runs = [SimpleNamespace(predictions=predicted(said), data=told) for said in seeds]
    return SimpleNamespace(name=name, runs=runs, data="path", seeds=list(range(len(runs))))


def compared(*rows: Any) -> Any:
    return SimpleNamespace(lines=[SimpleNamespace(row=one) for one in rows])


ALL_RIGHT, ALL_COMMON = LABELS.tolist(), [0] * 8
HALF = [0, 0, 0, 1, 1, 0, 3, 0]


def test_recalls_are_by_class_rarest_first_with_their_spread() -> None:
    found = classes(compared(row("ours", ALL_RIGHT, HALF), row("theirs", ALL_COMMON)))
    assert found.names == ["rare", "middle", "common"]  # Nobody trains on the other one.
    assert found.counts == [10, 100, 1000]
    assert [one.mean for one in found.lines["ours"]] == [0.75, 0.75, 0.875]
    assert found.lines["ours"][0].sd == pytest.approx(0.5 / 2**0.5)
    assert [one.mean for one in found.lines["theirs"]] == [0.0, 0.0, 1.0]


def test_the_picture_has_the_numbers_of_all_lines() -> None:
    drawn = picture(classes(compared(row("ours", ALL_RIGHT, HALF), row("theirs", ALL_COMMON))))
    assert drawn.png.startswith(b"\x89PNG")
    assert ("theirs", "common", 1000.0, 1.0, None, 1) in drawn.rows
    assert len(drawn.rows) == 6
    assert "theirs: rare 0 %, middle 0 %, common 100 %" in drawn.alt


def test_a_class_that_is_not_tested_has_no_point() -> None:
    one = row("ours", ALL_RIGHT)
    few = dataclasses.replace(
        one.runs[0].predictions,
        labels=LABELS[:6],
        probabilities=one.runs[0].predictions.probabilities[:, :6],
    )
    one.runs[0].predictions = few
    found = classes(compared(one))
    assert [measure.mean for measure in found.lines["ours"]] == [1.0, None, 1.0]
    assert "middle" not in picture(found).alt


def test_rows_without_classes_are_one_error() -> None:
    volumes, private = row("volumes", HALF), row("private", HALF, classes_by_client=None)
    volumes.runs[0].predictions = None
    with pytest.raises(InputError) as caught:
        classes(compared(row("ours", HALF), volumes, private))
    assert "volumes" in str(caught.value)
    assert "private" in str(caught.value)
    assert "training images of each class" in str(caught.value)
    with pytest.raises(InputError, match="other classes than ours"):
        classes(compared(row("ours", HALF), row("theirs", HALF, classes=["a", "b", "c", "d"])))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--classes"], "goes with --figure"),
        (["--classes", "--over", "rounds", "--figure", "x.png"], "does not go with --over"),
        (["--classes", "--figure", "x.pdf"], "a figure is a PNG; name it x.png"),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(tmp_path), *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("counts", "alike"), [([5, 5, 5], True), ([5, 50, 500], False)])
def test_classes_of_like_size_stand_beside_each_other(
    counts: list[int], alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("fedsim.report.classes.png", lambda figure: drawn.append(figure) or b"")
    found = classes(compared(row("ours", ALL_RIGHT), row("theirs", ALL_COMMON)))
    picture(dataclasses.replace(found, counts=[float(count) for count in counts]))
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == ("linear" if alike else "log")
    assert ("each has 5 training images" in axes.get_xlabel()) == alike
    line = sorted(axes.containers[0].lines[0].get_xdata())
    steps = np.diff(line) if alike else np.diff(np.log10(line))
    assert steps == pytest.approx(1)
