"""What an adversary is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.method.received import Arrays

if TYPE_CHECKING:
    import torch

    from fedsim.tasks.task import Task

Knows = Literal["own", "updates", "aggregator"]
"""What colluders know: what they trained themselves, what all clients trained, or that and the rule
by which the server aggregates."""

Trial = Callable[[Sequence[Arrays]], tuple[Arrays, NDArray[np.float64] | None]]
"""What each colluder would send -> the change of the aggregate, and what each client counts in it,
[clients], in client order; None where the rule does not say."""


class Adversary:
    """Base of both kinds: derive from `DataPoisoning` or `ModelPoisoning`.

    The constructor takes the parameters of the scenario's block `adversary:`.
    """

    made_for: ClassVar[str | tuple[str, ...]] = ""
    """The task that it is for, or several, as `fedsim.Client.made_for`; "": any."""


class DataPoisoning(Adversary, ABC):
    """An adversary whose clients train as the others do, on records that are changed."""

    @abstractmethod
    def poisoned(self, view: Any, task: Task, generator: torch.Generator) -> Any:
        """The records that a colluder trains on.

        Args:
            view: those that it has; not to be changed.
            task: what is learned.
            generator: of the client, the same in all rounds.
        """

    def require(self, task: Task) -> None:
        """Raise ValueError where a parameter does not go with the task."""

    def scores(
        self, predict: Callable[[Any], NDArray[Any]], view: Any, task: Task
    ) -> dict[str, float | None]:
        """How well the attack does, as metrics beside those of the task; {}: nothing is measured.

        Args:
            predict: what the global model says of a view, see `Task.predict`.
            view: the test split.
            task: what is learned.
        """
        return {}


@dataclass(frozen=True)
class Lab:
    """What colluders train with, for attacks that train a model of their own.

    Attributes:
        views: the training records of each colluder.
        task: what is learned.
        new_model: returns the scenario's model; its contents are undefined until loaded.
        device: where to compute.
        steps: `for step in lab.steps(total, label)` reports progress.
    """

    views: Sequence[Any]
    task: Task
    new_model: Callable[[], torch.nn.Module]
    device: torch.device
    steps: Callable[[int, str], Iterator[int]]


@dataclass(frozen=True)
class Scene:
    """What colluders have in one exchange. All changes are float64, by the names of the parameters.

    Attributes:
        clients: clients that answered, colluders included.
        own: what each colluder changed in the model by training honestly, in client order.
        known: what each client changed of whom the colluders know it; `own` where they know no
            more, else of all clients, in client order.
        sent: the model that the server sent.
        lab: what a model of their own is trained with.
        generator: purpose -> a CPU generator of torch, of this exchange.
        numpy_generator: the same for NumPy.
        trial: tries the rule of the server; None unless the colluders know the aggregator.
        colluders: positions of the colluders among the clients that answered.
    """

    clients: int
    own: Sequence[Arrays]
    known: Sequence[Arrays]
    sent: Arrays
    lab: Lab
    generator: Callable[[str], torch.Generator]
    numpy_generator: Callable[[str], np.random.Generator]
    trial: Trial | None = None
    colluders: Sequence[int] = ()


@dataclass(frozen=True)
class Forgery:
    """What colluders send.

    Attributes:
        changes: of each colluder, in client order: what its model differs by from the one sent.
        feasible: whether the attack could be made as it is meant; where not, what is sent in its
            place is in the attack's docstring.
        told: numbers for rounds.jsonl, such as the scale that was found.
    """

    changes: Sequence[Arrays]
    feasible: bool = True
    told: dict[str, float] = field(default_factory=dict)


class ModelPoisoning(Adversary, ABC):
    """An adversary whose clients train honestly, pool what they have, and send something else."""

    can_know: ClassVar[tuple[Knows, ...]] = ("own",)
    """What it has a use for; the first is what it knows unless the scenario says otherwise."""
    least: ClassVar[int] = 1
    """Changes that it must know: its own, or all clients', by what it knows."""

    @abstractmethod
    def forge(self, scene: Scene) -> Forgery:
        """What the colluders send in the place of what they trained.

        Args:
            scene: what they have; `known` has at least `least` items. Arrays are shared: copy,
                never write into them.
        """
