"""What is different at single clients: their plugins, and what these send."""

from __future__ import annotations

from typing import Any

from fedsim.errors import InputError
from fedsim.registry import Registry
from fedsim.scenario.checks.keys import PRECISION, WIRE, Problems, all_labelled, dotted
from fedsim.scenario.checks.pairs import on_data
from fedsim.scenario.checks.proximal import no_proximal_term
from fedsim.scenario.parameters import check_parameters, construct, is_factory
from fedsim.scenario.schema import Scenario
from fedsim.yaml_lines import Document, KeyPath


def check_overrides(document: Document, registry: Registry) -> Problems:
    """What `federation.overrides` names: plugins, their parameters, and what they send."""
    from fedsim.scenario.fitting import (
        misfits,
        without_compression,
        without_precision,
        without_private_form,
        without_unlabelled,
    )
    from fedsim.scenario.overrides import merged

    overrides, general = document.get(("federation", "overrides"), {}), document.get(("client",))
    if not overrides or not isinstance(overrides, dict) or not isinstance(general, dict):
        return []  # What is no block, the schema says.
    others = {
        group: (document.get((*to, "name")), registry.resolve(group, there))
        for to, (group, _) in Scenario.blocks.items()
        if group != "clients" and isinstance(there := document.get((*to, "name")), str)
    }
    of_records = document.get(("privacy",)) and document.get(("privacy", "unit")) != "client"
    on = on_data(document)
    problems: Problems = []
    for name, override in overrides.items():
        if not isinstance(override, dict):
            continue
        path = ("federation", "overrides", name)
        own = override.get("client")
        if isinstance(own, dict):
            block, at = merged(general, own), (*path, "client")
            wrong, found = _check_own(document, registry, "clients", at, block)
            problems += wrong
            if not wrong:
                here = {"clients": (block["name"], found)}
                why = misfits(registry, others | here, client_key=dotted(at), **on).get("clients")
                if not why and of_records:
                    why = without_private_form(registry, here)
                if not why and all_labelled(document):
                    why = without_unlabelled(here)
                why = why or no_proximal_term(document, registry, others | here, at)
                why = why or without_precision(here, document.get(PRECISION, "float32"))
                if not why and document.get(WIRE) is not None:
                    why = without_compression(here)
                if why:
                    problems.append((document.place(at), f"{dotted(at)}: {why}"))
        wrapper = override.get("wrapper")
        if isinstance(wrapper, dict):
            at = (*path, "wrapper")
            wrong, found = _check_own(document, registry, "wrappers", at, wrapper)
            problems += wrong
            if not wrong:
                own_wrapper = {"wrappers": (wrapper["name"], found)}
                fits = misfits(registry, others | own_wrapper, **on)
                if why := fits.get("wrappers"):
                    problems.append((document.place(at), f"{dotted(at)}: {why}"))
    return problems


def _check_own(
    document: Document, registry: Registry, group: str, path: KeyPath, block: dict[str, Any]
) -> tuple[Problems, Any]:
    """What is wrong with one client's plugin and its parameters; and the plugin."""
    name = block.get("name")
    if not isinstance(name, str):
        return [], None
    try:
        factory = registry.resolve(group, name)
    except InputError as error:
        why = f"{error.headline}; {error.hint}" if error.hint else error.headline
        return [(document.place((*path, "name")), f"{dotted(path)}.name: {why}")], None
    given = {key: value for key, value in block.items() if key != "name"}
    supplied = {"inner"} if group == "wrappers" else set()
    found = check_parameters(factory, given, supplied=supplied, known={"name"})
    if not found and not supplied and is_factory(factory):
        try:
            construct(factory, given)
        except InputError as error:
            found = [(problem.where, problem.message) for problem in error.problems]
    problems = []
    for key, message in found:
        at = (*path, key) if key else path
        problems.append((document.place(at), f"{dotted(at)}: {message}"))
    return problems, factory
