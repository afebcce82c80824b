"""`fedsim data`: what data there are, and what a scenario makes of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE
from fedsim.terminal.printing import say
from fedsim.verbs import (
    Verbs,
    json_argument,
    load_scenario,
    print_json,
    scenario_arguments,
)

if TYPE_CHECKING:
    from fedsim.scenario import Scenario
    from fedsim.terminal.console import Console


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "data",
        _data,
        "Show or prepare data: status [NAME] | prepare NAME | show NAME. NAME is a scenario, a "
        "data set, or a folder with your own data.",
    )
    one.add_argument("what", choices=("status", "prepare", "show"))
    scenario_arguments(one, required=False)
    one.add_argument("--out", type=Path, metavar="FILE", help="picture of `show`")
    json_argument(one)


def _data(arguments: argparse.Namespace) -> int:
    from fedsim.report import data_facts

    if arguments.what == "status":
        _status(arguments)
        return EXIT_DONE
    from fedsim.federation.building import build_federation
    from fedsim.federation.opening import dataset_of, open_store, task_of
    from fedsim.scenario import activate_plugins
    from fedsim.terminal.console import Console

    console = Console(stderr=arguments.json)
    scenario = _scenario(arguments, console)
    activate_plugins(scenario)
    if arguments.json:
        # `prepare` and `show` differ in the picture.
        federation = build_federation(scenario, scenario.seeds[0], console.preparing)
        picture = None
        if arguments.what == "show":
            picture = federation.task.data_picture(scenario, federation, arguments.out)
        print_json(data_facts.holdings(scenario, federation, picture))
        return EXIT_DONE
    if arguments.what == "prepare":
        store = open_store(scenario, console.preparing)
        say(
            "\n".join(
                task_of(dataset_of(scenario), scenario).store_lines(scenario.data.name, store)
            )
        )
        return EXIT_DONE
    federation = build_federation(scenario, scenario.seeds[0], console.preparing)
    say("\n".join(federation.task.store_lines(scenario.data.name, federation.store)))
    say("\n".join(federation.task.data_lines(federation)))
    picture = federation.task.data_picture(scenario, federation, arguments.out)
    say(f"picture: {picture}")
    return EXIT_DONE


def _scenario(arguments: argparse.Namespace, console: Console) -> Scenario:
    """The scenario that is named, or one about the folder or data set that is."""
    name = arguments.name
    if name is None or "=" in name:
        return load_scenario(arguments)
    from fedsim.starting.named import scenario_of

    return scenario_of(name, arguments.overrides, arguments.seed, console.preparing)


def _status(arguments: argparse.Namespace) -> None:
    """Tell of all data sets, or of one; or what a folder holds."""
    from fedsim.registry import default_registry
    from fedsim.report.data import status_lines
    from fedsim.report.data_facts import status
    from fedsim.starting.named import is_file

    name, only = arguments.name, None
    if name is not None and not is_file(name) and Path(name).expanduser().is_dir():
        _folder(name, arguments.json)
        return
    if name is not None:
        known = name in default_registry().names("datasets")
        only = name if known else load_scenario(arguments).data.name
    if arguments.json:
        print_json(status(only))
    else:
        say("\n".join(status_lines(only)))


def _folder(name: str, as_json: bool) -> None:
    """Tell what a folder holds, and how it is read."""
    from fedsim.starting.looking import look

    found = look(Path(name).expanduser().absolute())
    settings = {f"data.{one.key}": one.value for one in found.settings}
    if as_json:
        about = {"folder": name, "layout": found.layout, "notes": list(found.notes)}
        print_json({**about, "dataset": found.dataset, "settings": settings})
        return
    words = "; ".join(f"{key}: {value}" for key, value in settings.items())
    say("\n".join([f"{name}: {found.layout}", *found.notes]))
    say(f"read by the data set {found.dataset}" + (f", with {words}" if words else ""))
    say(f"what is in it: fedsim data show {name}; a scenario for it: fedsim start {name}")
