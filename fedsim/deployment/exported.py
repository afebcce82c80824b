"""What an exported app holds beside its code: the scenario, and what all nodes must agree in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim import __version__, yaml_lines
from fedsim.errors import InputError, problems_of
from fedsim.scenario import Scenario, load

if TYPE_CHECKING:
    from fedsim.federation.holdings import Federation
    from fedsim.tasks.task import Task

SCENARIO = "scenario.yaml"
FACTS = "deployment.yaml"


@dataclass(frozen=True)
class Facts:
    """What the app was exported with, and what each machine is compared with.

    Attributes:
        version: of fedsim.
        clients: the clients' names, in client order: as many nodes take part.
        classes: of the task, in label order; of volumes, background first.
        structures: of volumes, names of the label values 1, 2, ... as the data have them.
        input_shape: of one record as a model sees it, channels first.
        root: whether the data were read from a folder: then no machine takes the stand-in for them.
    """

    version: str
    clients: tuple[str, ...]
    classes: tuple[str, ...]
    structures: tuple[str, ...]
    input_shape: tuple[int, ...]
    root: bool

    @classmethod
    def of(cls, federation: Federation) -> Facts:
        """The facts of data that are shared out here."""
        task, store = federation.task, federation.store
        return cls(
            __version__,
            tuple(federation.train),
            tuple(task.classes),
            tuple(getattr(store, "structures", ())),
            tuple(int(size) for size in task.input_shape),
            store.source == "path",
        )

    def to_yaml(self) -> str:
        """The text of the file."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return yaml_lines.write(values)

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """The facts of an app.

        Raises:
            InputError: the file is missing or damaged, or another fedsim wrote it.
        """
        path = folder / FACTS
        again = "write the app again: fedsim export NAME DIR"
        try:
            values = yaml_lines.read_file(path)
        except InputError as error:
            raise InputError(
                f"{path} is not what `fedsim export` wrote", problems_of(error), again
            ) from error
        try:
            if set(values) != {one.name for one in fields(cls)}:
                raise ValueError("it has other keys")
            kept: dict[str, Any] = {
                key: tuple(one) if isinstance(one, list) else one for key, one in values.items()
            }
            found = cls(**kept)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path} is not what `fedsim export` wrote: {error}", hint=again
            ) from error
        if found.version != __version__:
            raise InputError(
                f"the app is of fedsim {found.version}, and here is fedsim {__version__}",
                hint="install the same version on the server and on all nodes",
            )
        return found

    def require_alike(self, task: Task) -> None:
        """Raise InputError where a machine's own data make another task of the scenario."""
        for what, mine, exported in (
            ("classes", task.classes, self.classes),
            ("records of shape", task.input_shape, self.input_shape),
        ):
            if tuple(mine) != exported:
                raise InputError(
                    f"the data here have the {what} {_listed(mine)}, and the app was exported with "
                    f"{_listed(exported)}",
                    hint="all nodes must have data of one kind; or export the app from such data",
                )


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values)) or "none"


def exported_scenario(folder: Path, root: str | None) -> Scenario:
    """The scenario of an app, with the data of this machine.

    Args:
        folder: of the app's package.
        root: the folder of the data; None: the generated stand-in.

    Raises:
        InputError: the scenario cannot be read, or its plugins or the data are not here.
    """
    return load(folder / SCENARIO, [f"data.root={json.dumps(root)}"])
