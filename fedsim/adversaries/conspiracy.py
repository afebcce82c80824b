"""Who colludes in a run, by what the scenario's block `adversary:` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedsim.adversaries.base import Adversary, DataPoisoning, Knows, ModelPoisoning
from fedsim.errors import InputError, Problem, nearest
from fedsim.randomness import Streams
from fedsim.registry import construct, default_registry
from fedsim.scenario.checks import no_minority
from fedsim.scenario.parameters import blamed

if TYPE_CHECKING:
    from fedsim.scenario.schema import Scenario
    from fedsim.tasks.task import Task

_LISTED = 12  # names in a line


@dataclass(frozen=True)
class Conspiracy:
    """An adversary, and the clients that it has.

    Attributes:
        name: of the plugin.
        adversary: made by it.
        clients: names of the colluders, in client order.
        knows: what they know; None where they change their data alone.
        picked_by: who chose them, "scenario" or "seed".
        parameters: of the plugin, as the scenario writes them.
    """

    name: str
    adversary: Adversary
    clients: tuple[str, ...]
    knows: Knows | None
    picked_by: str
    parameters: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """The `adversary` entry of run.json."""
        kind = "data" if isinstance(self.adversary, DataPoisoning) else "model"
        return {
            "name": self.name,
            "poisons": kind,
            "clients": list(self.clients),
            "picked_by": self.picked_by,
            "knows": self.knows,
            "parameters": dict(self.parameters),
        }

    def line(self, clients: int) -> str:
        """Who colludes, and what they know, for a person."""
        listed = ", ".join(self.clients[:_LISTED])
        if len(self.clients) > _LISTED:
            listed += f" and {len(self.clients) - _LISTED} more"
        picked = "" if self.picked_by == "scenario" else ", picked by the run's seed"
        known = {
            "own": "they know what they trained themselves",
            "updates": "they know what all clients trained",
            "aggregator": "they know what all clients trained, and the rule of the server",
            None: "their data are poisoned",
        }[self.knows]
        many = len(self.clients)
        return f"ADVERSARY {self.name}: {many} of {clients} clients ({listed}){picked}; {known}"


def conspiracy(
    scenario: Scenario, names: Sequence[str], seed: int, task: Task
) -> Conspiracy | None:
    """Make the scenario's adversary, and pick its clients; None where it has none.

    Args:
        scenario: a loaded one.
        names: of all clients, in client order.
        seed: of the run, which picks where the scenario says how many.
        task: what is learned.

    Raises:
        InputError: clients that there are not, half of all or more, or a parameter that does not go
            with the task.
    """
    block = scenario.adversary
    if block is None:
        return None
    made = construct(default_registry().resolve("adversaries", block.name), block.parameters)
    if block.clients is not None:
        if strangers := [name for name in block.clients if name not in names]:
            place = scenario.place("adversary", "clients")
            raise InputError(
                "an adversary of clients that do not exist",
                [
                    Problem(
                        place,
                        f"adversary.clients: there is no client {one!r}{nearest(one, names)}",
                    )
                    for one in strangers
                ],
            )
        chosen = {names.index(name) for name in block.clients}
    else:
        assert block.count is not None
        chosen = set()
        if not no_minority(block.count, len(names)):
            draws = Streams(seed).numpy("adversary")
            chosen = set(draws.choice(len(names), block.count, replace=False).tolist())
    many = block.count if block.count is not None else len(chosen)
    if why := no_minority(many, len(names)):
        key = "clients" if block.count is None else "count"
        place = scenario.place("adversary", key)
        raise InputError("too many colluders", [Problem(place, f"adversary.{key}: {why}")])
    if isinstance(made, DataPoisoning):
        try:
            made.require(task)
        except ValueError as error:
            key, why = blamed(error, block.parameters)
            place = scenario.place("adversary", key) if key else scenario.place("adversary")
            message = f"{'.'.join(filter(None, ['adversary', key]))}: {why}"
            raise InputError(
                "the adversary does not go with the data", [Problem(place, message)]
            ) from error
    knows = (block.knows or made.can_know[0]) if isinstance(made, ModelPoisoning) else None
    return Conspiracy(
        block.name,
        made,
        tuple(names[client] for client in sorted(chosen)),
        knows,
        "scenario" if block.count is None else "seed",
        block.parameters,
    )
