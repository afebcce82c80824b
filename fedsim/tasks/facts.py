"""What a run says of its task: the entry `task` of run.json, and what reports make of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedsim.tasks.metric import Metric

if TYPE_CHECKING:
    from fedsim.tasks.task import Task

EXTERNAL = "external_"
"""Begins the names of scores on external records."""

_PREFIXES = (EXTERNAL, "val_", "test_", "train_")


@dataclass(frozen=True)
class TaskFacts:
    """A task as those see it who read run folders.

    A metric's name may carry more: `dice/left` is Dice of one structure, `auc@hospital` the AUC on
    one site's test records, `auc@own` and `auc@others` that of clients' own models at home and
    elsewhere, `external_auc` that on external records, `val_auc` that on the validation split. All
    of these are told as the metric itself is.

    Attributes:
        name: of the task, such as "image-classification".
        records: what the records are, in the plural.
        goal: what a model learns, after "trained one model": "to tell a from b".
        headline: name of the metric that models are chosen and compared by.
        metrics: all, in the order in which they are told.
        in_rounds: names of those of a round's line and of the curves over rounds.
        in_tables: names of those of the last line of a run and of tables of several runs.
    """

    name: str
    records: str
    goal: str
    headline: str
    metrics: tuple[Metric, ...]
    in_rounds: tuple[str, ...]
    in_tables: tuple[str, ...]

    @cached_property
    def _by_name(self) -> dict[str, Metric]:
        return {one.name: one for one in self.metrics}

    @property
    def main(self) -> Metric:
        """The headline."""
        return self.metric(self.headline)

    def metric(self, name: str) -> Metric:
        """The metric that a name is a form of; of an unknown name one that is told as it is."""
        if name in self._by_name:
            return self._by_name[name]
        base = name.partition("@")[0]
        for prefix in _PREFIXES:
            base = base.removeprefix(prefix)
        found = self._by_name.get(base) or self._by_name.get(base.partition("/")[0])
        return found or Metric(name, name, digits=3)

    def title(self, name: str) -> str:
        """A metric as a reader calls it: "AUC"; "dice/left_lobe" is "Dice, left lobe"."""
        if name in self._by_name:
            return self._by_name[name].title
        base, _, part = name.partition("/")
        known = self._by_name[base].title if base in self._by_name else base
        return f"{known}, {part.replace('_', ' ')}" if part else known

    def text(self, name: str, value: float) -> str:
        """A value with its unit, unscaled."""
        return self.metric(name).text(value)

    def parts(self, names: Iterable[str]) -> list[str]:
        """Of these names those of the headline on one structure, or other part, of the records."""
        return [one for one in names if one.startswith(f"{self.headline}/") and "@" not in one]

    def judged(self, metrics: Mapping[str, Any]) -> str | None:
        """The metric that a model is judged by: the headline or, where it is undefined, the first
        that is not; None where none is."""
        names = [self.headline, *self.in_rounds, *self._by_name]
        names += [name for name in metrics if "@" not in name]
        return next((name for name in names if metrics.get(name) is not None), None)

    def record(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return {
            "name": self.name,
            "records": self.records,
            "goal": self.goal,
            "headline": self.headline,
            "in_rounds": list(self.in_rounds),
            "in_tables": list(self.in_tables),
            "metrics": [one.record() for one in self.metrics],
        }

    @classmethod
    def of(cls, task: Task) -> TaskFacts:
        """What there is to say of a task."""
        return cls(
            task.name,
            task.records,
            task.goal,
            task.headline,
            tuple(task.metrics),
            tuple(task.in_rounds or (task.headline,)),
            tuple(task.in_tables or (one.name for one in task.metrics)),
        )

    @classmethod
    def read(cls, run: Mapping[str, Any], metrics: Iterable[str] = ()) -> TaskFacts:
        """What run.json says of the task.

        Args:
            run: run.json.
            metrics: names of the metrics that the run has, for one of an older fedsim, whose
                run.json does not name its task.

        Raises:
            ValueError: the entry is damaged; says how.
        """
        found = run.get("task")
        if found is None:
            return _older(run.get("data"), set(metrics))
        if not isinstance(found, Mapping):
            raise ValueError("key 'task' is no object with keys")
        texts = {key: found.get(key) for key in ("name", "records", "goal", "headline")}
        if wrong := [key for key, value in texts.items() if not isinstance(value, str)]:
            raise ValueError(f"key 'task' has no text {wrong[0]!r}")
        lists = {key: found.get(key) for key in ("in_rounds", "in_tables", "metrics")}
        if wrong := [key for key, value in lists.items() if not isinstance(value, list)]:
            raise ValueError(f"key 'task' has no list {wrong[0]!r}")
        for key in ("in_rounds", "in_tables"):
            if not all(isinstance(one, str) for one in lists[key]):  # type: ignore[union-attr]
                raise ValueError(f"key 'task' has a list {key!r} that holds no names")
        known = tuple(map(Metric.read, lists["metrics"]))  # type: ignore[arg-type]
        return cls(
            **texts,  # type: ignore[arg-type]
            metrics=known,
            in_rounds=tuple(lists["in_rounds"]),  # type: ignore[arg-type]
            in_tables=tuple(lists["in_tables"]),  # type: ignore[arg-type]
        )


def _older(data: object, names: set[str]) -> TaskFacts:
    """The task of a run whose run.json does not name it: one of two, told by its headline."""
    from fedsim.tasks.classification import Classification
    from fedsim.tasks.segmentation.task import Segmentation

    listed = data.get("classes") if isinstance(data, Mapping) else None
    classes: Sequence[str] = tuple(map(str, listed)) if isinstance(listed, list) else ()
    known: list[type[Task]] = [Classification, Segmentation]
    has = [one for one in known if one.headline in names]
    # Before the first score: only of voxels is there a background.
    voxels = not has and classes[:1] == ("background",)
    return (has[0] if has else Segmentation if voxels else Classification).facts_of(classes)
