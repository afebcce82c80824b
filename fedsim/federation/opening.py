"""The data of a scenario, opened: prepared if need be, as images, volumes or vectors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedsim.data.dataset import method_of
from fedsim.errors import InputError
from fedsim.files import cache_folder
from fedsim.raising import one_line, plugin_code
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario
from fedsim.scenario.parameters import shown
from fedsim.tasks.classification import Classification
from fedsim.tasks.task import Task


def dataset_of(scenario: Scenario) -> Any:
    """The scenario's data set."""
    data = scenario.data
    return construct(default_registry().resolve("datasets", data.name), data.parameters)


def open_store(scenario: Scenario, progress: Callable[[int, int], None] | None = None) -> Any:
    """The scenario's data, prepared if need be; see `Dataset.open`.

    Raises:
        InputError: the data, or keys of the scenario that do not go with them.
    """
    dataset = dataset_of(scenario)
    return _opened(scenario, scenario.data.name, dataset, scenario.data_root(), progress)


def open_external(
    scenario: Scenario, progress: Callable[[int, int], None] | None = None
) -> Any | None:
    """The data of `evaluation.external.root`, prepared if need be; None where there is none.

    Raises:
        InputError: the data, or keys of the scenario that do not go with them.
    """
    wanted = scenario.evaluation.external
    if wanted is None or wanted.root is None:
        return None
    name, dataset = scenario.data.name, dataset_of(scenario)
    if wanted.dataset is not None:
        name = wanted.dataset.name
        dataset = construct(default_registry().resolve("datasets", name), wanted.dataset.parameters)
    return _opened(scenario, name, dataset, Path(wanted.root), progress)


def _opened(
    scenario: Scenario,
    name: str,
    dataset: Any,
    root: Path | None,
    progress: Callable[[int, int], None] | None,
) -> Any:
    """A data set, prepared as the scenario says, as frozen features where it asks for them."""
    data = scenario.data
    task_of(dataset, scenario).refuse(scenario)
    with _preparing(name):
        store = method_of(dataset, "open")(
            name=name,
            root=root,
            size=data.size,
            embedded=dict(data.embedded),
            skip_bad=data.skip_bad,
            cache=cache_folder(),
            workers=os.cpu_count() or 1,
            progress=progress,
            positive=data.positive,
            window=data.window,
        )
    if data.features is None:
        return store
    from fedsim.data.features.preparing import prepare_features

    with _preparing(name):
        return prepare_features(
            store,
            data,
            dataset_of(scenario),  # Its stand-in teaches the public map.
            cache=cache_folder(),
            workers=os.cpu_count() or 1,
            progress=progress,
        )


def task_of(dataset: Any, scenario: Scenario | None = None) -> type[Task]:
    """The task of a data set, or of its class: that which it names, or else classification.

    Of a scenario with `data.features` it is the task on vectors.

    Raises:
        InputError: the data set names what is no task, or its task has no form on vectors.
    """
    found = getattr(dataset, "learns", Classification)
    if not (isinstance(found, type) and issubclass(found, Task)):
        name = getattr(dataset, "__name__", type(dataset).__name__)
        raise InputError(
            f"{name}.learns is {shown(found)}, which is no task",
            hint="a task is a class that derives from fedsim.tasks.Task",
        )
    if scenario is None or scenario.data.features is None:
        return found
    beside = scenario.data.features.beside
    on_features = found.beside_features() if beside else found.on_features()
    if on_features is None:
        raise InputError(
            f"data.features is for images to classify, but {scenario.data.name!r} has "
            f"{found.learns_from}",
            hint="leave data.features out",
        )
    return on_features


@contextlib.contextmanager
def _preparing(name: str) -> Iterator[None]:
    """Run a data set's code; InputError where it asks for more memory than there is."""
    with plugin_code(f"data set {name!r} could not be prepared"):
        try:
            yield
        except MemoryError as error:
            raise InputError(
                f"data set {name!r} does not fit into memory: {one_line(error)}",
                hint="choose a smaller data.size, or fewer records in data.embedded",
            ) from error
