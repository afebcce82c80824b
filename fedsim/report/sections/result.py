"""What came out: the sentence, the one number, scores, classes, sites, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsim.randomness import Streams
from fedsim.report.blocks import Block, Figures, Heading, Headline, Matrix, Section, Text
from fedsim.report.drawing import Picture
from fedsim.report.many import MANY, TITLES, spread_rows
from fedsim.report.record import NUMBER, Record
from fedsim.report.rendering import Table
from fedsim.report.sections.words import (
    final_metrics,
    models,
    plugin_name,
    sends_real_images,
    unit_name,
)
from fedsim.report.statistics import LEVEL, REPLICATES, interval, mean_auc
from fedsim.tasks.facts import EXTERNAL, TaskFacts
from fedsim.tasks.segmentation.metrics import dice
from fedsim.tasks.words import counted, spoken

# Fewer test records, or records of the rarest class, make a number that says little.
_FEW, _FEW_OF_CLASS = 100, 20
_CLASSES = 20  # a matrix of more cannot be read
_CONFUSIONS = 20
_SAME_SCORE = 5e-4  # predictions.npz and summary.json may differ by rounding only
_WORK = 4e8  # Records, replicates, models and classes of an interval: some seconds.


def section(record: Record, drawn: Mapping[str, Picture]) -> Section:
    """The result."""
    metrics, told = final_metrics(record), "There is no result: no round has finished."
    if record.summary is not None:
        told = "The final model on the test split."
    elif record.rounds:
        number = record.rounds[-1]["round"]
        told = f"The run has not finished; this is the model after round {number}."
    if models(record) > 1:
        told += f" Each of {models(record)} clients has its own model: means over them."
    task = record.task
    blocks: list[Block] = [*_headline(record, metrics), *_few(record)]
    outside = {k: v for k, v in metrics.items() if k.startswith(EXTERNAL)}
    travels = {k: v for k, v in metrics.items() if k.endswith(("@own", "@others"))}
    plain = {k: v for k, v in metrics.items() if k not in outside and k not in travels}
    overall = [(_titled(task, k), _score(v)) for k, v in plain.items() if "@" not in k]
    blocks.append(Text(told))
    if overall:
        title = f"On the whole test split{record.positive}"
        blocks.append(Table(title, ("metric", "value"), overall))
    if outside:
        rows = [(_titled(task, k.removeprefix(EXTERNAL)), _score(v)) for k, v in outside.items()]
        title = "On external records, which no client has"
        blocks.append(Table(title, ("metric", "value"), rows))
    blocks += _classes(record)
    blocks += _sites({k: v for k, v in plain.items() if "@" in k}, travels, task)
    curves = [drawn[name] for name in ("roc", "precision_recall", "calibration") if name in drawn]
    if curves:
        blocks.append(Figures(curves))
    return Section("result", "Result", blocks)


def sentence(record: Record) -> str:
    """What was learned, on which data, by whom and how."""
    run, data = record.run, record.run["data"]
    things = record.task.records
    count = (data.get("sizes") or {}).get("train")
    origin = str(data["name"])
    if data["source"] == "embedded":
        origin = f"the embedded stand-in for {origin} (generated, not real data)"
    held = f"{counted(count, f'training {things}')} of {origin}" if count else origin
    clients = len(record.clients) or (record.scenario.get("federation") or {}).get("clients")
    who = counted(clients, "clients") if isinstance(clients, int) else "The clients"
    rounds = len(record.rounds)
    how = [
        f"{role} {name}"
        for role, name in (
            ("model", plugin_name(record, "model")),
            ("strategy", plugin_name(record, "strategy")),
            ("client method", plugin_name(record, "client")),
        )
        if name
    ]
    method = f"; {', '.join(how)}" if how else ""
    has = "that has" if clients == 1 else "that have"
    begin = f"{who} {has} {held}"
    if not record.rounds:
        return f"No round has finished yet of a run in which {_lower(who)} {has} {held} take part."
    if any(m["direction"] == "up" and "images" in m["fields"] for m in record.traffic):
        kind = "some of them" if sends_real_images(record) else "synthetic images"
        done = f"sent {kind}, on which the server trained one model"
    elif models(record) > 1:
        done = "trained a model each"
    elif clients == 1:
        done = "trained one model"
    else:
        done = "trained one model together"
    task = record.task.goal
    privacy = _private(run.get("privacy"), record)
    return f"{begin} {done} {task}, in {counted(rounds, 'rounds')}{privacy}{method}."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _private(plan: Any, record: Record) -> str:
    if not isinstance(plan, Mapping):
        return ""
    summary = record.summary or {}
    if isinstance(epsilon := summary.get("epsilon"), NUMBER):
        unit = unit_name(summary.get("unit") or plan.get("unit"))
        return f", with differential privacy (epsilon {epsilon:.3g} for every {unit})"
    if summary:
        return ", with noise that no proof of differential privacy stands behind"
    return ", with noise for differential privacy"


def _score(value: Any) -> Any:
    """A score to four digits behind the point, however small; summary.json has the others."""
    return round(value, 4) if isinstance(value, float) else value


def _titled(task: TaskFacts, name: str) -> str:
    """A metric as a reader calls it, with the unit of its values."""
    unit = task.metric(name).plain_unit
    return f"{task.title(name)} ({unit})" if unit else task.title(name)


def _headline(record: Record, metrics: Mapping[str, Any]) -> list[Block]:
    name = record.task.judged(metrics)
    if name is None:
        return []
    details = []
    metric = record.task.metric(name)
    found = score_interval(record, name, metrics[name])
    if not isinstance(found, str):
        low, high = found
        details.append(
            f"{LEVEL:.0%} interval {metric.number(low)} to {metric.text(high)}, over other test "
            f"{record.task.records} of the same kind (bootstrap); what other seeds would change is "
            "not in it"
        )
    else:
        details.append(f"no interval: {found}")
    if (count := _tested(record)) is not None:
        details.append(f"on {counted(count, f'test {record.task.records}')}{_rarest(record)}")
    if metric.better == "lower":
        details.append("lower is better")
    return [Headline(record.task.title(name), metric.text(metrics[name]), details)]


def _tested(record: Record) -> int | None:
    """How many test records there are."""
    if record.tested is not None:
        return len(record.tested.strata)
    count = (record.run["data"].get("sizes") or {}).get("test")
    return count if isinstance(count, int) else None


def _rarest(record: Record) -> str:
    """How many test records are positive; nothing in a private run, which tells no counts."""
    if record.labels is None or record.private or record.probabilities is None:
        return ""
    if record.probabilities.shape[2] != 2:
        return ""
    return f", {int((record.labels == 1).sum()):,} of them {record.class_name(1)}"


def _few(record: Record) -> list[Block]:
    """A warning where the test split is small."""
    count = _tested(record)
    if count is None or not final_metrics(record):
        return []
    if count < _FEW:
        told = f"Only {counted(count, f'test {record.task.records}')}"
    elif record.labels is not None and not record.private:
        present = np.bincount(record.labels)
        least = int(present[present > 0].min())
        if least >= _FEW_OF_CLASS:
            return []
        name = record.class_name(int(np.flatnonzero(present == least)[0]))
        told = f"Only {counted(least, f'test {record.task.records}')} of the class {name}"
    else:
        return []
    return [Text(f"{told}: every score below is rough, and most of all those by site.", "warning")]


def score_interval(record: Record, metric: str, told: float) -> tuple[float, float] | str:
    """The bootstrap interval of a metric, as `fedsim compare` gives it for one run; or why there
    is none: the folder does not hold what it takes, or it would take minutes."""
    tested: Any = record.tested
    if tested is None or tested.metric != metric:
        return "the run folder holds no predictions to make one from"
    score = tested.score([tested])
    if score is None or abs(score[0] - told) > _SAME_SCORE * max(1.0, abs(told)):
        return f"{tested.file} and the score do not agree"
    columns = 1
    if record.probabilities is not None and record.probabilities.shape[2] > 2:
        columns = record.probabilities.shape[2]
    if len(tested.strata) * REPLICATES * tested.models * columns > _WORK:
        return "it takes minutes here; fedsim compare makes it"
    found = interval(
        tested.strata,
        lambda weights: tested.score([tested], weights),
        Streams(0).numpy("bootstrap"),
    )
    return found or "the score is undefined for some resamples"


def _classes(record: Record) -> list[Block]:
    """Scores of each class, and what is taken for what; or those of each structure."""
    if record.overlaps is not None:
        return _structures(record)
    labels, probabilities = record.labels, record.probabilities
    if labels is None or probabilities is None or not len(labels):
        return []
    classes = probabilities.shape[2]
    names = [record.class_name(k) for k in range(classes)]
    told = probabilities.argmax(axis=2)
    confusion = np.zeros((classes, classes))
    for of_model in told:
        cells = np.bincount(labels * classes + of_model, minlength=classes**2)
        confusion += cells.reshape(classes, classes)
    confusion /= len(told)
    support, predicted, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    recall = [_share(a, b, record.private) for a, b in zip(right, support, strict=True)]
    precision = [_share(a, b, record.private) for a, b in zip(right, predicted, strict=True)]
    areas = [_area(labels, probabilities, k) for k in range(classes)]
    if record.private:
        areas = [None if area is None else round(area, 2) for area in areas]
    digits = 2 if record.private else 4
    title = "Scores of each class" + ("" if len(told) == 1 else f", means over {len(told)} models")
    note = " (a private run tells no counts of classes)" if record.private else ""
    blocks: list[Block] = [Heading("By class")]
    if classes >= MANY:
        columns = {"AUC": areas, "recall": recall, "precision": precision}
        rows = spread_rows(columns)
        blocks.append(
            Table(f"{title}{note}", ("score", "classes with a value", *TITLES), rows, digits)
        )
    else:
        counts = [] if record.private else [("test images", [int(n) for n in support])]
        shown: list[tuple[str, Any]] = [
            *counts,
            ("AUC against the rest", areas),
            ("recall: found of these", recall),
            ("precision: right if told", precision),
        ]
        header = ("class", *(name for name, _ in shown))
        rows = [(name, *(c[k] for _, c in shown)) for k, name in enumerate(names)]
        blocks.append(Table(f"{title}{note}", header, rows, digits))
    if classes <= _CLASSES:
        divided = [
            None if n == 0 else [float(x) for x in row / n]
            for row, n in zip(confusion, support, strict=True)
        ]
        what = "share of the row" + ("" if record.private else " (test images)")
        caption = (
            f"Confusion matrix: rows are what an image is, columns what it is taken for; {what}"
        )
        counts_ = None if record.private else confusion.tolist()
        blocks.append(Matrix(caption, names, divided, counts_))
    else:
        blocks.append(_confused(names, confusion, support, record.private))
    return blocks


def _share(part: float, whole: float, private: bool) -> float | None:
    if whole == 0:
        return None
    return round(part / whole, 2) if private else float(part / whole)


def _area(labels: np.ndarray, probabilities: np.ndarray, label: int) -> float | None:
    """AUC of one class against the rest, mean over models."""
    side = probabilities[:, :, label]
    found = mean_auc((labels == label).astype(int), [np.stack([1 - side, side], axis=2)])
    return None if found is None else float(found[0])


def _confused(names: list[str], confusion: np.ndarray, support: np.ndarray, private: bool) -> Table:
    """The most frequent confusions of many classes."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    divided = wrong / np.maximum(support, 1)[:, None]
    order = np.argsort(-divided, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [(int(cell // len(names)), int(cell % len(names))) for cell in order]
    rows = [
        (names[a], names[b], round(float(divided[a, b]), 2) if private else float(divided[a, b]))
        for a, b in pairs
        if divided[a, b] > 0
    ]
    header = ("is", "taken for", "share")
    return Table("The most frequent confusions", header, rows, 2 if private else 4)


def _structures(record: Record) -> list[Block]:
    """Dice of each structure over the test volumes."""
    assert record.overlaps is not None
    scores = dice(record.overlaps.overlaps)  # [models, volumes, structures]
    names = [n for n in record.run["data"].get("classes") or [] if n != "background"]
    if len(names) != scores.shape[2]:
        names = [f"structure {k + 1}" for k in range(scores.shape[2])]
    rows: list[tuple[Any, ...]] = []
    for k, name in enumerate(names):
        column = scores[:, :, k]
        held = ~np.isnan(column)
        if not held.any():
            rows.append((spoken(name), 0, None, None, None))
            continue
        of_volumes = column[held]
        low, high = np.quantile(of_volumes, (0.1, 0.9)).tolist()
        rows.append(
            (spoken(name), int(held[0].sum()), *map(_score, (float(of_volumes.mean()), low, high)))
        )
    title = "Dice of each structure; a volume without it counts for the others alone"
    if record.private:
        header = ("structure", "Dice")
        return [Heading("By structure"), Table(title, header, [(r[0], r[2]) for r in rows], 2)]
    header_ = (
        "structure",
        "test volumes",
        "Dice, mean",
        "a tenth is below",
        "a tenth is above",
    )
    return [Heading("By structure"), Table(title, header_, rows)]


def _sites(metrics: Mapping[str, Any], travels: Mapping[str, Any], task: TaskFacts) -> list[Block]:
    blocks: list[Block] = []
    if metrics:
        blocks += _by_site(metrics, task)
    if travels:
        places = {"own": "at home", "others": "elsewhere"}
        rows = [
            (f"{_titled(task, metric)} {places[place]}", _score(value))
            for (metric, _, place), value in ((k.partition("@"), v) for k, v in travels.items())
        ]
        title = "Each client's model at its own site, and at the others: means over clients"
        blocks.append(Table(title, ("metric", "value"), rows))
    return [Heading("By site"), *blocks] if blocks else []


def _by_site(metrics: Mapping[str, Any], task: TaskFacts) -> list[Block]:
    """Scores on each site's test records: a row for each, or how those of many are spread."""
    scores: dict[str, dict[str, Any]] = {}
    for key, value in metrics.items():
        name, _, site = key.partition("@")
        scores.setdefault(site, {})[name] = value
    names = list(dict.fromkeys(name for of_site in scores.values() for name in of_site))
    title = "On the test records of each site"
    if len(scores) >= MANY:
        columns = {_titled(task, k): [of_site.get(k) for of_site in scores.values()] for k in names}
        return [
            Table(title, ("metric", "sites with a value", *TITLES), spread_rows(columns)),
            Text(f"summary.json has the scores of each of {len(scores)} sites."),
        ]
    rows = [
        (site, *(_score(of_site.get(name)) for name in names)) for site, of_site in scores.items()
    ]
    return [Table(title, ("site", *(_titled(task, name) for name in names)), rows)]
