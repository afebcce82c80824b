"""What is learned: the task, its metrics, and what the rest of fedsim must be told of it.

`Task` is what the engine, the data verbs and the reports ask; nobody asks which task it is.
A data set names its own (`Dataset.task`). Classification is in `fedsim.tasks.classification`,
segmentation in `fedsim.tasks.segmentation`; another package may bring its own (docs/authoring.md).
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily
from fedsim.tasks.facts import TaskFacts
from fedsim.tasks.images import ImageTask
from fedsim.tasks.metric import Metric, fraction
from fedsim.tasks.task import Task

if TYPE_CHECKING:
    from fedsim.tasks.evaluation import require_finite

__all__ = ["ImageTask", "Metric", "Task", "TaskFacts", "fraction", "require_finite"]

__getattr__ = lazily(__name__, {"require_finite": "fedsim.tasks.evaluation"})
