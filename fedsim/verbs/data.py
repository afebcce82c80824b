"""`fedsim data`: what data there are, and what a scenario makes of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedsim.errors import EXIT_DONE
from fedsim.printing import say
from fedsim.verbs import Verbs, load_scenario, scenario_arguments


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("data", _data, "Show or prepare data: status | prepare NAME | show NAME.")
    one.add_argument("what", choices=("status", "prepare", "show"))
    scenario_arguments(one, required=False)
    one.add_argument("--out", type=Path, metavar="FILE", help="picture of `show`")


def _data(arguments: argparse.Namespace) -> int:
    from fedsim.report import data as report

    if arguments.what == "status":
        say("\n".join(report.status_lines()))
        return EXIT_DONE
    scenario = load_scenario(arguments)
    from fedsim.console import Console
    from fedsim.data.volumes.store import VolumeStore
    from fedsim.federation import build_federation, open_store
    from fedsim.report import volumes
    from fedsim.scenario import activate_plugins

    activate_plugins(scenario)
    console = Console()
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
