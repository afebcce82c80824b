"""`fedsim data`: what data there are, and what a scenario makes of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE
from fedsim.printing import say
from fedsim.verbs import Verbs, load_scenario, scenario_arguments

if TYPE_CHECKING:
    from fedsim.console import Console
    from fedsim.scenario import Scenario


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


def _data(arguments: argparse.Namespace) -> int:
    from fedsim.report import data as report

    if arguments.what == "status":
        say("\n".join(_status(arguments)))
        return EXIT_DONE
    from fedsim.console import Console
    from fedsim.data.volumes.store import VolumeStore
    from fedsim.federation import build_federation, open_store
    from fedsim.report import volumes
    from fedsim.scenario import activate_plugins

    console = Console()
    scenario = _scenario(arguments, console)
    activate_plugins(scenario)
    if arguments.what == "prepare":
        store = open_store(scenario, console.preparing)
        lines = volumes.store_lines if isinstance(store, VolumeStore) else report.store_lines
        say("\n".join(lines(scenario.data.name, store)))
        return EXIT_DONE
    seed = scenario.seeds[0]
    federation = build_federation(scenario, seed, console.preparing)
    if isinstance(held := federation.store, VolumeStore):
        say("\n".join(volumes.store_lines(scenario.data.name, held)))
        say("\n".join(volumes.site_lines(held)))
        say("\n".join(volumes.client_lines(held, federation.train, federation.split)))
        out = arguments.out or Path(f"{scenario.name}-volumes.png")
        volumes.save_sites(held, scenario.data.name, out)
        say(f"picture: {out}")
        return EXIT_DONE
    say("\n".join(report.store_lines(scenario.data.name, federation.store)))
    say("\n".join(report.class_lines(federation)))
    out = arguments.out or Path(f"{scenario.name}-partition.png")
    report.save_partition(federation, scenario, seed, out)
    say(f"picture: {out}")
    return EXIT_DONE


def _scenario(arguments: argparse.Namespace, console: Console) -> Scenario:
    """The scenario that is named, or one about the folder or data set that is."""
    name = arguments.name
    if name is None or "=" in name:
        return load_scenario(arguments)
    from fedsim.starting.named import scenario_of

    return scenario_of(name, arguments.overrides, arguments.seed, console.preparing)


def _status(arguments: argparse.Namespace) -> list[str]:
    """Of all data sets, or of one; or what a folder holds."""
    from fedsim.report.data import status_lines

    name = arguments.name
    if name is None:
        return status_lines()
    from fedsim.registry import default_registry
    from fedsim.starting.named import is_file

    if is_file(name) or not Path(name).expanduser().is_dir():
        if name in default_registry().names("datasets"):
            return status_lines(name)
        return status_lines(load_scenario(arguments).data.name)
    from fedsim.starting.looking import look

    found = look(Path(name).expanduser().absolute())
    settings = "; ".join(f"data.{one.key}: {one.value}" for one in found.settings)
    return [
        f"{name}: {found.layout}",
        *found.notes,
        f"read by the data set {found.dataset}"
        + (f", with {'; '.join(settings)}" if settings else ""),
        f"what is in it: fedsim data show {name}; a scenario for it: fedsim start {name}",
    ]
