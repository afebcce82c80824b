"""Who watches a run that a person starts: the observers of every run, and those that are named."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.engine.prepare import Prepared
from fedsim.engine.running import Starter
from fedsim.errors import InputError
from fedsim.observers.audit import Audit
from fedsim.observers.base import Observer
from fedsim.observers.folder import FolderWriter
from fedsim.observers.leakage import Leakage
from fedsim.observers.page import Page
from fedsim.observers.pictures import Pictures
from fedsim.observers.telling import Observers
from fedsim.registry import default_registry
from fedsim.scenario import Scenario
from fedsim.scenario.parameters import shown
from fedsim.terminal.console import Console


def starter(console: Console, observers: Sequence[Observer] = ()) -> Starter:
    """Have runs watched by the console, the run folder and its pictures, and by these observers.

    Those that a scenario names come last: at the end of a run they find its folder whole.

    Raises:
        InputError: one of these is no observer.
    """
    if wrong := [one for one in observers if not isinstance(one, Observer)]:
        raise InputError(
            f"observers: {shown(wrong[0])} is no observer", hint="one derives from fedsim.Observer"
        )

    def watching(prepared: Prepared) -> Observers:
        own: list[Observer] = [FolderWriter(prepared), console, Pictures(prepared, console.line)]
        if prepared.attack is not None:
            own.append(Audit(*prepared.attack, prepared.seed, console.line))
        own += [Leakage(prepared, console.line, console.verbose), Page(console.line)]
        named = named_observers(prepared.scenario)
        names = {id(one): name for name, one in named}
        return Observers([*own, *observers, *(one for _, one in named)], names)

    return Starter(watching, console.line, console.preparing, console.verbose)


def named_observers(scenario: Scenario) -> list[tuple[str, Observer]]:
    """The observers that a scenario names, each with its name.

    Raises:
        InputError: one cannot be made, or is no observer.
    """
    found = []
    for block in scenario.observers:
        made = default_registry().build("observers", block.name, block.parameters)
        if not isinstance(made, Observer):
            raise InputError(
                f"observers: {block.name!r} makes a {type(made).__name__}, not an observer",
                hint="an observer derives from fedsim.Observer",
            )
        found.append((block.name, made))
    return found
