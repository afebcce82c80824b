"""Plugins that are right, each for itself, and do not go together."""

from __future__ import annotations

from typing import TypedDict

from fedsim.registry import Registry
from fedsim.scenario.checks.adversaries import check_adversary, check_honesty
from fedsim.scenario.checks.keys import (
    PRECISION,
    Problems,
    all_labelled,
    dotted,
    learns_vectors,
)
from fedsim.scenario.checks.proximal import no_proximal_term
from fedsim.scenario.checks.wires import check_wire
from fedsim.scenario.schema import Scenario
from fedsim.yaml_lines import Document

# The keys that say what of a model travels -> what they are where nothing is said.
_SHARING = (
    (("federation", "local"), None),
    (("model", "trainable"), "all"),
    (("model", "adapter"), None),
)


def check_pairs(document: Document, registry: Registry) -> Problems:
    """Plugins that are right, each for itself, and do not go together."""
    from fedsim.scenario.fitting import (
        misfits,
        without_precision,
        without_private_form,
        without_travelling_model,
        without_unlabelled,
    )

    paths = {group: path for path, (group, _) in Scenario.blocks.items()}
    found = {
        group: (name, registry.resolve(group, name))
        for group, path in paths.items()
        if isinstance(name := document.get((*path, "name")), str)
    }
    misfit = misfits(registry, found, **on_data(document))
    problems = [
        (document.place((*paths[group], "name")), f"{dotted(paths[group])}: {why}")
        for group, why in misfit.items()
    ]
    problems += check_adversary(document, found) or check_honesty(document, found)
    if why := without_travelling_model(found):
        problems += [
            (document.place(path), f"{dotted(path)}: {why}")
            for path, unused in _SHARING
            if document.get(path, unused) != unused
        ]
    of_records = document.get(("privacy",)) and document.get(("privacy", "unit")) != "client"
    if of_records and (why := without_private_form(registry, found)):
        problems.append((document.place(("privacy",)), f"client: {why}"))
    if all_labelled(document) and (why := without_unlabelled(found)):
        problems.append((document.place(("client", "name")), f"client: {why}"))
    if "clients" not in misfit and (why := no_proximal_term(document, registry, found)):
        problems.append((document.place(("client", "name")), f"client: {why}"))
    problems += check_wire(document, found)
    precision = document.get(PRECISION, "float32")
    if precision != "float32" and document.get(("privacy",)):
        why = f"{precision} does not go with privacy, whose clipping and noise are in float32"
        problems.append((document.place(PRECISION), f"{dotted(PRECISION)}: {why}"))
    elif why := without_precision(found, precision):
        problems.append((document.place(PRECISION), f"{dotted(PRECISION)}: {why}"))
    return problems


class OnData(TypedDict):
    """What of the data decides which plugins go with them, as `fitting.misfits` has it."""

    features: bool
    labelled: bool


def on_data(document: Document) -> OnData:
    return {"features": learns_vectors(document), "labelled": all_labelled(document)}
