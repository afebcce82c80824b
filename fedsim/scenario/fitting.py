"""Which plugins go together, by what their classes declare (`fedsim.method.capabilities`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedsim.errors import InputError
from fedsim.method.capabilities import NO_PRIVATE_FORM, PAYLOADS, capabilities, class_of
from fedsim.registry import Registry

VECTORS = "features"
"""What `data.features` makes of a task on images, by its `made_for`."""


def payload_of(factory: Any) -> str:
    """What a client method sends, or a strategy expects, one of `PAYLOADS`; or ""."""
    return capabilities(factory).payload


def data_of(factory: Any) -> str:
    """The task that a plugin is made for (the first of several), or that a data set names, by its
    `made_for`: "images", "volumes", another package's, or "" (not said).
    """
    return next(iter(capabilities(factory).made_for), "")


def made_for(factory: Any, kind: str) -> bool:
    """Whether a plugin is made for a task, or does not say for which."""
    said = capabilities(factory).made_for
    return not said or kind in said


def _words(kind: str, dataset: Any) -> str:
    """What a task learns from, in words."""
    learns = getattr(class_of(dataset), "learns", None)
    if learns is not None and learns.made_for == kind:
        return str(learns.learns_from)
    # Late: whoever reads a scenario that fits needs no torch.
    from fedsim.tasks.classification import Classification
    from fedsim.tasks.classification.vectors import VectorClassification
    from fedsim.tasks.reconstruction.task import Reconstruction
    from fedsim.tasks.segmentation.task import Segmentation

    tasks = (Classification, VectorClassification, Segmentation, Reconstruction)
    known = {one.made_for: one.learns_from for one in tasks}
    return str(known.get(kind, repr(kind)))


def misfits(
    registry: Registry,
    found: dict[str, tuple[str, Any]],
    *,
    features: bool = False,
    labelled: bool = True,
    client_key: str = "client",
) -> dict[str, str]:
    """Group -> why its plugin does not go with the others, and which would.

    Args:
        registry: where those that would are looked up.
        found: group -> the name and the class of the plugin that a scenario names.
        features: whether a frozen network turns the data into vectors.
        labelled: whether all labels are known: what learns without labels is no advice then.
        client_key: where the client method is written, as one types it.
    """

    def advised(one: Any) -> bool:
        return not (labelled and capabilities(one).learns_unlabelled)

    wrong: dict[str, str] = {}
    data_name, dataset = found.get("datasets", ("", None))
    # A data set that names no task has images to classify, whoever wrote it.
    kind = "" if class_of(dataset) is None else data_of(dataset) or "images"
    if features and kind == "images":
        kind, data_name = VECTORS, f"{data_name} with data.features"
    for group in ("strategies", "clients", "models", "wrappers", "adversaries"):
        name, factory = found.get(group, ("", None))
        if kind and not made_for(factory, kind):
            fit = _names(registry, group, lambda one: made_for(one, kind) and advised(one))
            said = " or ".join(_words(one, dataset) for one in capabilities(factory).made_for)
            wrong[group] = (
                f"{name!r} is made for {said}, but {data_name!r} has "
                f"{_words(kind, dataset)}; with these go: {fit}"
            )
    (strategy, expecting), (client, sending) = (
        found.get(group, ("", None)) for group in ("strategies", "clients")
    )
    expected, sent = payload_of(expecting), payload_of(sending)
    given = capabilities(sending).payload_kind
    if not _understands(expecting, sending) and not {"strategies", "clients"} & wrong.keys():
        task = kind or "images"
        clients = those_that(
            registry,
            "clients",
            lambda one: _understands(expecting, one) and made_for(one, task) and advised(one),
        )
        strategies = those_that(
            registry,
            "strategies",
            lambda one: _understands(one, sending) and made_for(one, task),
        )
        wrong["clients"] = (
            f"{client!r} sends {_sent(sending, expected)}, but strategy {strategy!r} expects "
            f"{_sent(expecting, sent)}; with {strategy!r} {_to_type(client_key, clients)}; with "
            f"{client!r} {_to_type('strategy', strategies)}"
        )
    model, network = found.get("models", ("", None))
    asked = capabilities(network).payload_kind
    if asked and sent and given != asked and not {"clients", "models"} & wrong.keys():
        fit = _names(registry, "clients", lambda one: capabilities(one).payload_kind == asked)
        wrong["models"] = (
            f"{model!r} is not trained, but client method {client!r} trains; with it go: {fit}"
        )
    needs_state = capabilities(expecting).local and capabilities(sending).keeps_state is False
    if needs_state and "clients" not in wrong:
        fit = _names(
            registry,
            "clients",
            lambda one: (
                capabilities(one).keeps_state is True
                and payload_of(one) == expected
                and made_for(one, kind or "images")
            ),
        )
        wrong["clients"] = (
            f"{client!r} keeps nothing from round to round, but with strategy {strategy!r} each "
            f"client keeps its own model; with it go: {fit}"
        )
    return wrong


def _sent(half: Any, other: str) -> str:
    """What a half of a method sends or expects, in words.

    Args:
        half: the class of a strategy or of a client method.
        other: the payload of the other half; where it is the same, the kind is named, too.
    """
    declared = capabilities(half)
    told, kind = PAYLOADS[declared.payload], declared.payload_kind.replace("_", " ")
    if declared.payload != other:
        return told
    return f"{told} of the kind {kind!r}" if kind else f"{told} alone"


def _to_type(key: str, names: list[str]) -> str:
    """Which plugins go with another, and what to type for one of them."""
    if not names:
        return "goes none that is installed"
    if len(names) == 1:
        return f"type {key}={names[0]}"
    return f"type {key}=NAME, one of: {', '.join(names)}"


def _understands(strategy: Any, client: Any) -> bool:
    """Whether a strategy can read what a client method sends, or one of them does not say.

    A kind of models is a matter between the two halves of one method: where one half names it, the
    other must. Of other payloads a half that names no kind is let through.
    """
    expects, sends = capabilities(strategy), capabilities(client)
    if not expects.payload or not sends.payload:
        return True
    if expects.payload != sends.payload:
        return False
    if expects.payload_kind == sends.payload_kind:
        return True
    one_sided = not expects.payload_kind or not sends.payload_kind
    return one_sided and expects.payload != "arrays"


def without_unlabelled(found: dict[str, tuple[str, Any]]) -> str:
    """Why the client method needs records without labels; "" where it does not say so.

    Args:
        found: group -> the name and the class of the plugin that a scenario names.
    """
    name, factory = found.get("clients", ("", None))
    if not capabilities(factory).learns_unlabelled:
        return ""
    return (
        f"{name!r} learns from records without labels, but all labels are known: set "
        "federation.labelled, such as 0.25 (1.0 hides none)"
    )


def without_private_form(registry: Registry, found: dict[str, tuple[str, Any]]) -> str:
    """Why the client method that a scenario names cannot protect records; "" where it may.

    Args:
        registry: where those that can are looked up.
        found: group -> the name and the class of the plugin that a scenario names.
    """
    name, factory = found.get("clients", ("", None))
    own = capabilities(factory)
    if own.private != NO_PRIVATE_FORM:
        return ""
    fit = _names(
        registry,
        "clients",
        lambda one: (
            capabilities(one).private not in ("", NO_PRIVATE_FORM)
            and payload_of(one) == own.payload
            and set(own.made_for) <= set(capabilities(one).made_for)
        ),
    )
    return f"{name!r} has no private form; with privacy go: {fit}"


def without_proximal_term(
    registry: Registry, found: dict[str, tuple[str, Any]], client_key: str = "client"
) -> str:
    """Why a client method that is asked for a proximal term adds none; "" where it does.

    Args:
        registry: where those that do are looked up.
        found: group -> the name and the class of the plugin that a scenario names.
        client_key: where the client method is written, as one types it.
    """
    (_, strategy), (name, factory) = (
        found.get(group, ("", None)) for group in ("strategies", "clients")
    )
    own = capabilities(factory)
    if own.proximal:
        return ""
    fit = those_that(
        registry,
        "clients",
        lambda one: (
            capabilities(one).proximal
            and not capabilities(one).learns_unlabelled
            and _understands(strategy, one)
            and set(own.made_for) <= set(capabilities(one).made_for)
        ),
    )
    return f"{name!r} does not declare that it adds a proximal term; {_to_type(client_key, fit)}"


def without_precision(found: dict[str, tuple[str, Any]], precision: str) -> str:
    """Why the client method that a scenario names cannot train so precisely; "" where it can.

    Args:
        found: group -> the name and the class of the plugin that a scenario names.
        precision: as `resources.precision` has it.
    """
    name, factory = found.get("clients", ("", None))
    if precision == "float32" or precision in getattr(factory, "precisions", ()):
        return ""
    return f"client method {name!r} trains in float32 alone"


def without_travelling_model(found: dict[str, tuple[str, Any]]) -> str:
    """Why no rule on what travels of a model makes sense with these plugins; "" where one does.

    Args:
        found: group -> the name and the class of the plugin that a scenario names.
    """
    return "; ".join(_no_model(found))


def _no_model(found: dict[str, tuple[str, Any]]) -> tuple[str, ...]:
    """Why no model travels, and what to type; () where one does."""
    for group, role in (("strategies", "strategy"), ("clients", "client method")):
        name, factory = found.get(group, ("", None))
        declared = capabilities(factory)
        sent, why = declared.payload, f"with {role} {name!r} no model travels: "
        if sent == "nothing":
            return (
                f"{why}each client keeps its own",
                "leave the key out, or type strategy.name=fedavg and a client method that sends "
                "its model",
            )
        if declared.one_shot or sent in ("images", "statistics"):
            told = PAYLOADS[sent if sent == "statistics" else "images"]
            return (
                f"{why}clients send {told}",
                "for one that does type strategy.name=fedavg and a client method that trains it",
            )
    return ()


def without_compression(found: dict[str, tuple[str, Any]]) -> str:
    """Why what these plugins send cannot be compressed around them; "" where it can.

    Args:
        found: group -> the name and the class of the plugin that a scenario names.
    """
    for group, role in (("strategies", "strategy"), ("clients", "client method")):
        name, factory = found.get(group, ("", None))
        if why := capabilities(factory).exact:
            return f"with {role} {name!r} {why}"
    if told := _no_model(found):
        return f"{told[0]}, and compression is for models"
    return ""


def _names(registry: Registry, group: str, fits: Callable[[Any], bool]) -> str:
    """The registered plugins of a group that fit, as words."""
    return ", ".join(those_that(registry, group, fits)) or "none that is installed"


def those_that(registry: Registry, group: str, fits: Callable[[Any], bool]) -> list[str]:
    """The names of a group's registered plugins that fit."""
    names = []
    for name in registry.names(group):
        try:
            if fits(registry.resolve(group, name)):
                names.append(name)
        except InputError:  # It cannot be imported: no advice.
            continue
    return names
