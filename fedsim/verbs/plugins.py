"""`fedsim plugins`: what scenarios can name."""

from __future__ import annotations

import argparse

from fedsim.errors import EXIT_DONE
from fedsim.printing import say
from fedsim.verbs import Verbs, json_argument, print_json


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("plugins", _plugins, "List the plugins that scenarios can name.")
    json_argument(one)


def _plugins(arguments: argparse.Namespace) -> int:
    from fedsim.registry import default_registry

    found = [
        {
            "group": plugin.group,
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "value": plugin.value,
            "summary": plugin.summary,
        }
        for plugin in default_registry().plugins()
    ]
    if arguments.json:
        print_json(found)
        return EXIT_DONE
    width = max((len(plugin["name"]) for plugin in found), default=0)
    group = None
    for plugin in found:
        if plugin["group"] != group:
            group = plugin["group"]
            say(f"{group}:")
        owner = f" [{plugin['distribution']} {plugin['version']}]"
        mine = plugin["distribution"] == "fedsim-medical"
        say(f"  {plugin['name']:<{width}}  {plugin['summary']}{'' if mine else owner}")
    return EXIT_DONE
