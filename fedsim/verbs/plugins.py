"""`fedsim plugins`: what scenarios can name, and what it declares of itself."""

from __future__ import annotations

import argparse
from typing import Any

from fedsim.errors import EXIT_DONE, InputError, nearest
from fedsim.registry import PluginInfo
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, json_argument, print_json

_DECLARING = ("strategies", "clients", "models")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("plugins", _plugins, "List the plugins that scenarios can name.")
    one.add_argument(
        "names", nargs="*", metavar="NAME", help="only these plugins, and what they declare"
    )
    one.add_argument(
        "--long", action="store_true", help="also what strategies, clients and models declare"
    )
    json_argument(one)


def _plugins(arguments: argparse.Namespace) -> int:
    from fedsim.registry import default_registry

    plugins = default_registry().plugins()
    known = sorted({plugin.name for plugin in plugins})
    for name in arguments.names:
        if name not in known:
            raise InputError(
                f"there is no plugin {name!r}{nearest(name, known)}",
                hint="type 'fedsim plugins' for all names",
            )
    plugins = [one for one in plugins if not arguments.names or one.name in arguments.names]
    long = arguments.long or bool(arguments.names)
    declared = [_declared(one) if long else {} for one in plugins]
    if arguments.json:
        print_json(
            [
                {
                    "group": plugin.group,
                    "name": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                    "value": plugin.value,
                    "summary": plugin.summary,
                }
                | ({"declares": words} if long else {})
                for plugin, words in zip(plugins, declared, strict=True)
            ]
        )
        return EXIT_DONE
    width = max((len(plugin.name) for plugin in plugins), default=0)
    group = None
    for plugin, words in zip(plugins, declared, strict=True):
        if plugin.group != group:
            group = plugin.group
            say(f"{group}:")
        owner = f" [{plugin.distribution} {plugin.version}]"
        mine = plugin.distribution == "fedsim-medical"
        say(f"  {plugin.name:<{width}}  {plugin.summary}{'' if mine else owner}")
        if words:
            said = ", ".join(f"{what}: {answer}" for what, answer in words.items())
            say(f"  {'':<{width}}  {said}")
    return EXIT_DONE


def _declared(plugin: PluginInfo) -> dict[str, Any]:
    """What a plugin declares, in words; {} where its kind declares nothing."""
    from fedsim.method.capabilities import capabilities
    from fedsim.registry import default_registry

    if plugin.group not in _DECLARING:
        return {}
    try:
        factory = default_registry().resolve(plugin.group, plugin.name)
    except InputError as error:  # The list goes on: one broken plugin hides no others.
        return {"cannot be imported": error.headline}
    return dict(capabilities(factory).words(plugin.group))
