"""Scenarios: their keys, how a file is read and checked, and which plugins go together."""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.scenario.extending import standalone
    from fedsim.scenario.files import header, headline, names, source
    from fedsim.scenario.reading import activate_plugins, load
    from fedsim.scenario.schema import Data, PluginBlock, Resources, Scenario

__all__ = [
    "Data",
    "PluginBlock",
    "Resources",
    "Scenario",
    "activate_plugins",
    "header",
    "headline",
    "load",
    "names",
    "source",
    "standalone",
]

__getattr__ = lazily(
    __name__,
    {
        "Data": "fedsim.scenario.schema",
        "PluginBlock": "fedsim.scenario.schema",
        "Resources": "fedsim.scenario.schema",
        "Scenario": "fedsim.scenario.schema",
        "activate_plugins": "fedsim.scenario.reading",
        "header": "fedsim.scenario.files",
        "headline": "fedsim.scenario.files",
        "load": "fedsim.scenario.reading",
        "names": "fedsim.scenario.files",
        "source": "fedsim.scenario.files",
        "standalone": "fedsim.scenario.extending",
    },
)
