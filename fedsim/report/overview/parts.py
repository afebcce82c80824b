"""Scores by site and by class: where methods differ that are alike on the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedsim.report.columns import Column, score_column
from fedsim.report.comparison import Comparison
from fedsim.report.many import MANY
from fedsim.report.rows import Row, Run
from fedsim.report.statistics import Measure, measure
from fedsim.report.tested import Predictions
from fedsim.tasks.metric import fraction


@dataclass(frozen=True)
class Part:
    """A score on parts of the test records.

    Attributes:
        title: above the table.
        score: what is scored, as a reader calls it.
        names: of the parts.
        measures: [rows][parts], unscaled.
        column: how they are printed.
        note: what a reader must know.
    """

    title: str
    score: str
    names: list[str]
    measures: list[list[Measure]]
    column: Column
    note: str = ""


def sites(comparison: Comparison, score: str) -> Part | None:
    """The main score on each site's test records, of many sites how it is spread over them."""
    columns = [one for one in comparison.columns if "@" in one.key and one.printed]
    if not columns:
        return None
    none = measure([])
    measures = [[line.measures.get(c.key, none) for c in columns] for line in comparison.lines]
    every = [one for one in comparison.columns if "@" in one.key and not one.printed]
    note = f"How the score is spread over {len(every)} sites." if len(every) >= MANY else ""
    names = [one.title.lstrip("@") for one in columns]
    return Part("By site", score, names, measures, columns[0], note)


def structures(comparison: Comparison) -> Part | None:
    """The main score of each structure, where there are several."""
    task = comparison.lines[0].row.task
    parts = task.parts(one.key for one in comparison.columns)
    columns = [one for one in comparison.columns if one.key in parts]
    if len(columns) < 2:
        return None
    none = measure([])
    measures = [[line.measures.get(c.key, none) for c in columns] for line in comparison.lines]
    names = [one.title for one in columns]
    return Part("By structure", task.main.title, names, measures, columns[0])


def classes(rows: Sequence[Row]) -> Part | None:
    """Recall of each class: the share of its test records that the model takes for it.

    It is averaged over the models of a run, and then over seeds.
    """
    found = [[_recalls(run) for run in row.runs] for row in rows]
    names = list(dict.fromkeys(name for runs in found for one in runs for name in one))
    if not names:
        return None
    measures = [[measure([one.get(name) for one in runs]) for name in names] for runs in found]
    return Part(
        "By class",
        "Recall",
        names,
        measures,
        score_column(fraction("recall", "Recall"), "recall"),
        "Recall: the share of a class's test records that the model takes for it.",
    )


def _recalls(run: Run) -> dict[str, float]:
    tested = run.predictions
    if not isinstance(tested, Predictions):
        return {}
    told = run.data.get("classes")
    titles = list(map(str, told)) if isinstance(told, list) else []
    titles += [f"class {k}" for k in range(len(titles), tested.probabilities.shape[2])]
    taken = tested.probabilities.argmax(2)
    return {
        titles[label]: float(np.mean(taken[:, tested.labels == label] == label))
        for label in np.unique(tested.labels).tolist()
    }
