"""What a scenario refers to, checked before anything runs: folders, files and plugins."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict, get_args

from fedsim.errors import InputError, nearest
from fedsim.method.capabilities import class_of, ill_declared
from fedsim.method.flower_strategies import filled_in, refusal
from fedsim.pretrained.catalogue import CATALOGUE, ELSEWHERE, RANDOM, SHIPPED, package_of
from fedsim.raising import reraise_interruption
from fedsim.registry import Registry
from fedsim.scenario.parameters import (
    blamed,
    check_parameters,
    construct,
    describe,
    is_factory,
    parameter_names,
    shown,
)
from fedsim.scenario.schema import Scenario, joining
from fedsim.scenario.yaml_lines import Document, KeyPath, Place

SUPPLIED = {"models": ("num_classes", "in_channels", "image_size", "patch", "in_features")}
"""Group -> the parameters that fedsim passes to its plugins' constructors."""

_CLIENTS = ("federation", "clients")
LABELLED = ("federation", "labelled")
LABELLED_GROUPS = ("federation", "labelled_groups")
_PRECISION = ("resources", "precision")
_WIRE = ("wire",)
# The keys that name weights: a file, a file of a package, or a name of the catalogue.
_WEIGHTS: tuple[KeyPath, ...] = (("model", "init"), ("data", "features", "weights"))
_NETWORK: KeyPath = ("data", "features", "network")
MODEL_FILE = ".safetensors"
"""What the name of a model file ends with."""
# The keys that say what of a model travels -> what they are where nothing is said.
_SHARING = (
    (("federation", "local"), None),
    (("model", "trainable"), "all"),
    (("model", "adapter"), None),
)

Problems = list[tuple[Place, str]]
"""What is wrong, each with where it was written."""


def make_absolute(document: Document) -> Problems:
    """Make the paths of folders and files absolute: of plugins, data, labelled records, weights.

    Plugin folders are relative to the file that names them, all else to the current directory.
    What is not there is a problem.
    """
    problems: Problems = []
    plugins = document.get(("plugins",))
    for position, folder in enumerate(plugins if isinstance(plugins, list) else ()):
        path = ("plugins", position)
        if not isinstance(folder, str):
            continue
        place = document.place(path)
        base = Path(place.source).parent if place.line else Path.cwd()
        plugins[position] = absolute = _absolute(folder, base)
        if not os.path.isdir(absolute):
            problems.append((place, f"plugins: there is no folder {absolute}"))

    data = document.get(("data",))
    if isinstance(data, dict) and "root" not in data and isinstance(data.get("name"), str):
        problems += _root_from_environment(document, data)
    elif isinstance(root := document.get(("data", "root")), str):
        document.values["data"]["root"] = absolute = _absolute(root)
        if why := _not_a_filled_folder(absolute):
            problems.append((document.place(("data", "root")), f"data.root: {why}"))

    outside = ("evaluation", "external", "root")
    if isinstance(root := document.get(outside), str):
        document.values["evaluation"]["external"]["root"] = absolute = _absolute(root)
        if why := _not_a_filled_folder(absolute):
            problems.append((document.place(outside), f"evaluation.external.root: {why}"))

    public = ("data", "features", "public_root")
    if isinstance(root := document.get(public), str):
        document.values["data"]["features"]["public_root"] = absolute = _absolute(root)
        if why := _not_a_filled_folder(absolute):
            problems.append((document.place(public), f"data.features.public_root: {why}"))

    if isinstance(listed := document.get(LABELLED), str):
        absolute = _absolute(listed)
        document.put(LABELLED, absolute, {(): document.place(LABELLED)})
        if not os.path.isfile(absolute):
            message = f"{dotted(LABELLED)}: there is no file {absolute}"
            problems.append((document.place(LABELLED), message))

    trace = ("federation", "clock", "trace")
    if isinstance(named := document.get(trace), str):
        absolute = _absolute(named)
        document.put(trace, absolute, {(): document.place(trace)})
        if not os.path.isfile(absolute):
            problems.append(
                (document.place(trace), f"{dotted(trace)}: there is no file {absolute}")
            )

    for weights in _WEIGHTS:
        problems += _make_weights_absolute(document, weights)
    problems += _make_network_absolute(document)
    return problems


def _make_network_absolute(document: Document) -> Problems:
    """Make a model file that `data.features` names an absolute path; names stay."""
    path, network = _network(document)
    if not isinstance(network, str) or not network.endswith(MODEL_FILE):
        return []
    return _make_weights_absolute(document, path)


def _make_weights_absolute(document: Document, path: KeyPath) -> Problems:
    """Make a file of weights an absolute path; names of weights and of packages stay."""
    init = document.get(path)
    if not isinstance(init, str):
        return []
    place = document.place(path)
    if init == RANDOM:
        document.put(path, None, {(): place})
        return []
    if init in SHIPPED:
        return []
    if init in ELSEWHERE:
        told = f"no package has these weights: fetch {ELSEWHERE[init]}, and type"
        return [(place, f"{dotted(path)}: {told} {dotted(path)}=FILE")]
    try:
        if package_of(init) is not None:
            return []
    except InputError as error:
        return [(place, f"{dotted(path)}: {error.headline}; {error.hint}")]
    folder, name = os.path.split(_absolute(init))
    # A scenario's `latest` is another folder once the run has begun.
    absolute = os.path.join(os.path.realpath(folder), name)
    document.put(path, absolute, {(): place})
    if os.path.isfile(absolute):
        return []
    there = os.path.exists(absolute)
    message = f"{absolute} is no file" if there else f"there is no file {absolute}"
    if not there and init == name and not os.path.splitext(name)[1]:
        known = nearest(init, [RANDOM, *CATALOGUE, *SHIPPED, *ELSEWHERE])
        message += f", and there are no pretrained weights {init!r}{known}"
    return [(place, f"{dotted(path)}: {message}")]


def _root_from_environment(document: Document, data: dict[str, Any]) -> Problems:
    """Take the folder FEDSIM_DATA/<name>, if there is one, as `data.root`."""
    base = os.environ.get("FEDSIM_DATA")
    if not base:
        return []
    place = Place(f"environment variable FEDSIM_DATA ({base})")
    if not os.path.isdir(base):
        return [(place, "is not a folder; to use the embedded stand-in: unset FEDSIM_DATA")]
    absolute = _absolute(data["name"], Path(base))
    if os.path.isdir(absolute):
        document.put(("data", "root"), absolute, {(): place})
        if why := _not_a_filled_folder(absolute):
            return [(place, why)]
    return []


def _not_a_filled_folder(path: str) -> str:
    """Why `path` is not a folder with something in it, or ""."""
    if not os.path.isdir(path):
        return f"there is no folder {path}"
    try:
        return "" if os.listdir(path) else f"the folder {path} is empty"
    except OSError as error:
        return f"cannot read the folder {path}: {error.strerror}"


def _absolute(path: str, base: Path | None = None) -> str:
    return os.path.abspath(os.path.join(base or Path.cwd(), os.path.expanduser(path)))


def check_together(document: Document, wrong: dict[KeyPath, Any]) -> Problems:
    """Keys that are right, each for itself, and wrong together."""
    problems: Problems = []
    clients, share = _CLIENTS, ("federation", "participation")
    if not {clients, share, clients[:1]} & wrong.keys():
        number, part = document.get(clients), document.get(share, 1.0)
        # 1/49 of 49 clients is one client, although its product is a little less.
        if number is not None and number < (1 - 1e-9) / part:
            message = f"{dotted(share)}: {shown(part)} of {number} clients is less than one client"
            problems.append((document.place(share), message))
    val, select = ("data", "split", "val"), ("evaluation", "select")
    if document.get(select) == "pooled_val" and document.get(val) == 0:
        problems.append((document.place(select), "evaluation.select: needs data.split.val above 0"))
    scored = ("evaluation", "val_scores")
    if document.get(scored) and document.get(val) == 0:
        message = f"{dotted(scored)}: needs data.split.val above 0"
        problems.append((document.place(scored), message))
    timeout, backend = ("faults", "client_timeout"), ("resources", "backend")
    if document.get(timeout) is not None and document.get(backend) == "inline":
        message = f"{dotted(timeout)}: needs {dotted(backend)}=ray: one process cannot end itself"
        problems.append((document.place(timeout), message))
    deadline, delay = ("faults", "deadline"), ("faults", "delay")
    if document.get(deadline) is not None and not document.get(delay):
        message = f"{dotted(deadline)}: needs {dotted(delay)} above 0"
        problems.append((document.place(deadline), message))
    least = ("faults", "min_clients")
    if not {clients, least} & wrong.keys():
        number, asked = document.get(clients), document.get(least, 1)
        if number is not None and asked > number:
            message = f"{dotted(least)}: {asked} replies of {number} clients"
            problems.append((document.place(least), message))
    if not {_CLIENTS, _CLIENTS[:1]} & wrong.keys() and all(p[:1] != ("adversary",) for p in wrong):
        problems += _check_minority(document)
    of_records = document.get(("privacy",)) and document.get(("privacy", "unit")) != "client"
    hides = [path for path in (LABELLED, LABELLED_GROUPS) if document.get(path) is not None]
    for path in hides if of_records else ():
        message = (
            f"{dotted(path)}: private training takes labelled records alone: leave it out, and "
            "set data.split.fraction for less of them"
        )
        problems.append((document.place(path), message))
    if len(hides) > 1:
        message = f"{dotted(LABELLED_GROUPS)}: {dotted(LABELLED)} says it, too: set one to null"
        problems.append((document.place(LABELLED_GROUPS), message))
    return problems


def _all_labelled(document: Document) -> bool:
    """Whether the scenario hides no labels."""
    return document.get(LABELLED) is None and document.get(LABELLED_GROUPS) is None


def _check_minority(document: Document) -> Problems:
    """Colluders, where there are too many of them."""
    clients = document.get(_CLIENTS)
    many, path = _colluders(document)
    if clients is None or not many or not (why := no_minority(many, clients)):
        return []
    return [(document.place(path), f"{dotted(path)}: {why}")]


def _colluders(document: Document) -> tuple[int, KeyPath]:
    """How many clients collude, and the key that says it; 0 where nobody does."""
    named, counted = (document.get(("adversary", key)) for key in ("clients", "count"))
    if isinstance(counted, int):
        return counted, ("adversary", "count")
    return len(named) if isinstance(named, list) else 0, ("adversary", "clients")


def _strangers(document: Document) -> bool:
    """Whether `adversary.clients` names somebody who, as far as is known, does not exist."""
    named, count = document.get(("adversary", "clients")), document.get(_CLIENTS)
    if not isinstance(named, list) or not isinstance(count, int):
        return False
    return not {one for one in named if isinstance(one, str)} <= {
        f"client-{number}" for number in range(count)
    }


def no_minority(colluders: int, clients: int) -> str:
    """Why so many clients cannot collude against the others; "" where they can."""
    if 2 * colluders < clients:
        return ""
    most = (clients - 1) // 2
    if not most:
        return f"{colluders} of {clients} clients: an attack needs at least 3 clients"
    return (
        f"{colluders} of {clients} clients: a majority can be held by nothing; at most {most} can "
        "collude"
    )


def dotted(path: KeyPath) -> str:
    """A path of keys as one writes it."""
    return ".".join(str(key) for key in path)


def activate(folders: Iterable[str]) -> None:
    """Append folders to the path that modules are imported from.

    They come last: a plugin's file cannot take the place of an installed module.
    """
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()


def check_plugins(document: Document, registry: Registry) -> Problems:
    """Resolve the plugin of every block and check its parameters against its constructor.

    A plugin that fedsim passes nothing to is also constructed: it may refuse a combination of
    values that are valid one by one.
    """
    listed = document.get(("plugins",))
    folders = [at for at in listed if isinstance(at, str)] if isinstance(listed, list) else []
    activate(folder for folder in folders if os.path.isdir(folder))
    problems = [
        problem
        for path in Scenario.blocks
        for problem in _check_block(document, registry, path, folders)
    ]
    problems += _check_observers(document, registry, folders)
    problems += _check_features(document, registry)
    problems += _check_external(document, registry, folders)
    return problems or _check_pairs(document, registry) or check_overrides(document, registry)


def _check_pairs(document: Document, registry: Registry) -> Problems:
    """Plugins that are right, each for itself, and do not go together."""
    from fedsim.scenario.fitting import (
        misfits,
        without_compression,
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
    on = _on(document)
    problems = [
        (document.place((*paths[group], "name")), f"{dotted(paths[group])}: {why}")
        for group, why in misfits(registry, found, **on).items()
    ]
    problems += _check_adversary(document, found) or _check_honesty(document, found)
    if why := without_travelling_model(found):
        problems += [
            (document.place(path), f"{dotted(path)}: {why}")
            for path, unused in _SHARING
            if document.get(path, unused) != unused
        ]
    of_records = document.get(("privacy",)) and document.get(("privacy", "unit")) != "client"
    if of_records and (why := without_private_form(registry, found)):
        problems.append((document.place(("privacy",)), f"client: {why}"))
    if _all_labelled(document) and (why := without_unlabelled(found)):
        problems.append((document.place(("client", "name")), f"client: {why}"))
    if document.get(_WIRE) is not None:
        why = without_compression(found) or _compressed_already(document)
        problems += [(document.place(_WIRE), f"wire: {why}; type wire=null")] if why else []
    precision = document.get(_PRECISION, "float32")
    if precision != "float32" and document.get(("privacy",)):
        why = f"{precision} does not go with privacy, whose clipping and noise are in float32"
        problems.append((document.place(_PRECISION), f"{dotted(_PRECISION)}: {why}"))
    elif why := without_precision(found, precision):
        problems.append((document.place(_PRECISION), f"{dotted(_PRECISION)}: {why}"))
    return problems


def _compressed_already(document: Document) -> str:
    """Why `wire` does not go with other keys that say how models travel; "" where it does."""
    codec = document.get(("strategy", "codec"))
    if isinstance(codec, str) and codec != "float32":
        return f"strategy.codec={codec} encodes the models already, leave that at float32"
    if document.get(("privacy", "trust")) == "secure_sum":
        return (
            "privacy.trust=secure_sum takes for granted that clients mask what they send, and a "
            "sum of masks that were rounded is not the sum of the models"
        )
    return ""


class _On(TypedDict):
    """What of the data decides which plugins go with them, as `fitting.misfits` has it."""

    features: bool
    labelled: bool


def _on(document: Document) -> _On:
    return {"features": _learns_vectors(document), "labelled": _all_labelled(document)}


def _check_adversary(document: Document, found: dict[str, tuple[str, Any]]) -> Problems:
    """What an adversary needs: models that travel, a rule to try, updates enough to know."""
    from fedsim.adversaries import DataPoisoning, Knows, ModelPoisoning
    from fedsim.scenario.fitting import without_travelling_model

    name, factory = found.get("adversaries", ("", None))
    kind = class_of(factory)
    if kind is None:
        return []
    path, knows = ("adversary",), document.get(("adversary", "knows"))
    if not issubclass(kind, DataPoisoning | ModelPoisoning):
        why = "derive it from fedsim.adversaries.DataPoisoning or ModelPoisoning"
        return [(document.place((*path, "name")), f"adversary.name: {name!r} is none: {why}")]
    if issubclass(kind, DataPoisoning):
        if knows is None:
            return []
        message = f"adversary.knows: has no effect with {name!r}, which changes data: leave it out"
        return [(document.place((*path, "knows")), message)]
    problems: Problems = []
    if knows in get_args(Knows) and knows not in kind.can_know:
        message = f"adversary.knows: {name!r} has a use for {' or '.join(kind.can_know)} only"
        problems.append((document.place((*path, "knows")), message))
    if why := without_travelling_model(found):
        why = why.partition("; ")[0]
        message = f"adversary.name: {name!r} changes what clients send of a model, and {why}"
        hint = "label_flip and backdoor change data, and go with any strategy"
        problems.append((document.place((*path, "name")), f"{message}; {hint}"))
    knows = knows or kind.can_know[0]
    many, said_by = _colluders(document)
    if knows == "own" and 0 < many < kind.least and not _strangers(document):
        more = ", or adversary.knows=updates" if "updates" in kind.can_know else ""
        message = (
            f"{dotted(said_by)}: {name!r} needs what {kind.least} colluders trained, and there is "
            f"{many}: give more of them{more}"
        )
        problems.append((document.place(said_by), message))
    if knows == "aggregator" and not problems:
        strategy, rule = found.get("strategies", ("", None))
        if not callable(getattr(class_of(rule), "combine", None)):
            message = (
                f"adversary.knows: {name!r} tries the rule of the server, and strategy "
                f"{strategy!r} has none that can be tried (a method combine), as fedavg, "
                "server_momentum and robust have"
            )
            problems.append((document.place((*path, "name")), message))
    return problems


def _learns_vectors(document: Document) -> bool:
    """Whether vectors stand in the place of the images."""
    features = document.get(("data", "features"))
    return features is not None and document.get(("data", "features", "beside")) is not True


def _check_honesty(document: Document, found: dict[str, tuple[str, Any]]) -> Problems:
    """Colluders with whom epsilon, as it is computed, would not hold for the honest clients."""
    from fedsim.adversaries import ModelPoisoning

    name, factory = found.get("adversaries", ("", None))
    kind = class_of(factory)
    if kind is None or not document.get(("privacy",)):
        return []
    path: KeyPath = ("privacy", "trust")
    if document.get(path) == "secure_sum":
        why = (
            "secure_sum takes for granted that all clients are honest, and with an adversary "
            "some are not: who knows its own share of the noise can take it off the sum; type "
            "privacy.trust=own_noise"
        )
        return [(document.place(path), f"{dotted(path)}: {why}")]
    if document.get(("privacy", "unit")) != "client" or not issubclass(kind, ModelPoisoning):
        return []
    path = ("adversary", "knows")
    if (document.get(path) or kind.can_know[0]) != "updates":
        return []
    instead = "type adversary.knows=own" if "own" in kind.can_know else "choose another adversary"
    why = (
        f"with privacy.unit=client {name!r} cannot know what all clients trained: an honest "
        "client's update would be in its own and in those of all colluders, and the noise covers "
        f"one; {instead}"
    )
    return [(document.place(path), f"{dotted(path)}: {why}")]


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
    on = _on(document)
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
                if not why and _all_labelled(document):
                    why = without_unlabelled(here)
                why = why or without_precision(here, document.get(_PRECISION, "float32"))
                if not why and document.get(_WIRE) is not None:
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


def _check_block(
    document: Document, registry: Registry, path: KeyPath, folders: list[str]
) -> Problems:
    group, model = Scenario.blocks[path]
    default = {"name": "iid"} if group == "partitions" else None
    block = document.get(path, default)
    if not isinstance(block, dict) or not isinstance(name := block.get("name"), str):
        return []  # the schema says so
    name_place = document.place((*path, "name"))
    factory, why = _resolved(registry, group, name, folders)
    if why:
        return [(name_place, f"{dotted(path)}.name: {why}")]
    why = refusal(factory) if group == "strategies" else ""
    if why := why or ill_declared(factory):
        return [(name_place, f"{dotted(path)}.name: {why}")]

    own = model.own_keys()
    given = {key: value for key, value in block.items() if isinstance(key, str) and key not in own}
    if group == "strategies":
        given = _filled_in(document, registry, factory) | given
    supplied = SUPPLIED.get(group, ())
    found = check_parameters(factory, given, supplied=supplied, known=own)
    made = None
    if not found and not supplied and is_factory(factory):
        try:
            made = construct(factory, given)
        except InputError as error:
            found = [(problem.where, problem.message) for problem in error.problems]
    if group == "strategies" and isinstance(count := document.get(_CLIENTS), int):
        share = document.get(("federation", "participation"), 1.0)
        share = share if isinstance(share, int | float) and 0 < share <= 1 else 1.0
        found += refused_for_clients(made, count, share, given)
    problems = []
    for key, message in found:
        place = document.place((*path, key) if key else path)
        if message.startswith("unknown key") and not name_place.line and place.line:
            message += f"; to drop the file's other keys: {dotted(path)}={{name: {name}}}"
        problems.append((place, f"{dotted((*path, key) if key else path)}: {message}"))
    if group == "datasets":
        options = {*parameter_names(factory), *getattr(made, "__dict__", {})}
        problems += _check_stand_in(document, factory if made is None else made, options)
    return problems


def _check_features(document: Document, registry: Registry) -> Problems:
    """The network of `data.features`: of the catalogue, a model file, or a model plugin."""

    written, network = _network(document)
    if not isinstance(network, str) or network in CATALOGUE or network.endswith(MODEL_FILE):
        return []
    try:
        registry.resolve("models", network)
    except InputError as error:
        known = (*CATALOGUE, *registry.names("models"))
        why = f"{network!r} is none{nearest(network, known)}: {error.headline}; pretrained are "
        why += ", ".join(CATALOGUE)
        return [(document.place(written), f"{dotted(written)}: {why}")]
    return []


def _check_external(document: Document, registry: Registry, folders: list[str]) -> Problems:
    """The data set plugin of `evaluation.external`."""
    path: KeyPath = ("evaluation", "external", "dataset")
    block = document.get(path)
    block = {"name": block} if isinstance(block, str) else block
    if not isinstance(block, dict) or not isinstance(name := block.get("name"), str):
        return []  # the schema says so
    factory, why = _resolved(registry, "datasets", name, folders)
    if why:
        return [(document.place(path), f"{dotted(path)}: {why}")]
    given = {key: value for key, value in block.items() if key != "name"}
    return [
        (document.place((*path, key) if key else path), f"{dotted((*path, key))}: {message}")
        for key, message in check_parameters(factory, given, known={"name"})
    ]


def _network(document: Document) -> tuple[KeyPath, Any]:
    """Where the network of `data.features` is written, and what it is."""
    features = document.get(_NETWORK[:-1])
    # A text stands for the block.
    return (
        (_NETWORK[:-1], features)
        if isinstance(features, str)
        else (_NETWORK, document.get(_NETWORK))
    )


def _resolved(registry: Registry, group: str, name: str, folders: list[str]) -> tuple[Any, str]:
    """What a plugin's name stands for, and why it cannot be used; "" where it can."""
    try:
        factory, why = registry.resolve(group, name), ""
    except InputError as error:
        factory, why = None, f"{error.headline}; {error.hint}" if error.hint else error.headline
    if why := _shadowed(name, folders) or why:
        return factory, why
    return factory, "" if callable(factory) else f"{name!r} is a value, not a class or function"


def _check_observers(document: Document, registry: Registry, folders: list[str]) -> Problems:
    """Make each observer of the list: its parameters may be wrong, or what it needs be missing."""
    from fedsim.observers.base import Observer

    listed = document.get(("observers",))
    problems: Problems = []
    for position, item in enumerate(listed if isinstance(listed, list) else ()):
        block = {"name": item} if isinstance(item, str) else item
        if not isinstance(block, dict) or not isinstance(name := block.get("name"), str):
            continue  # the schema says so
        place = document.place(("observers", position))
        factory, why = _resolved(registry, "observers", name, folders)
        found = [("", why)] if why else []
        given = {key: value for key, value in block.items() if key != "name"}
        if not why:
            found = check_parameters(factory, given, known={"name"})
        if not found:
            try:
                made = construct(factory, given)
                if not isinstance(made, Observer):
                    what = f"{name!r} makes a {type(made).__name__}, not an observer"
                    found = [("", f"{what}: one derives from fedsim.Observer")]
            except InputError as error:
                found = [(problem.where, problem.message) for problem in error.problems]
        for key, message in found:
            at = document.place(("observers", position, key)) if key else place
            path: KeyPath = ("observers", name, key) if key else ("observers",)
            problems.append((at, f"{dotted(path)}: {message}"))
    return problems


def refused_for_clients(
    strategy: object, clients: int, participation: float, parameters: Iterable[str]
) -> list[tuple[str, str]]:
    """What a strategy says of this number of clients, and of those that join a round.

    Returns:
        The parameter, or "", and why; or nothing.
    """
    if clients < 1:
        return []
    for name, count in (
        ("check_clients", clients),
        ("check_replies", joining(clients, participation)),
    ):
        check = getattr(strategy, name, None)
        if check is None:
            continue
        try:
            check(count)
        except BaseException as error:
            reraise_interruption(error)
            return [blamed(error, parameters)]
    return []


def _filled_in(document: Document, registry: Registry, strategy: Any) -> dict[str, Any]:
    """What the engine will tell the strategy of the scenario's clients."""
    client = document.get(("client",))
    if not isinstance(client, dict) or not isinstance(name := client.get("name"), str):
        return {}
    try:
        return filled_in(strategy, registry.resolve("clients", name), client)
    except InputError:  # Said of the client's own block.
        return {}


def _check_stand_in(document: Document, dataset: Any, options: set[str]) -> Problems:
    """Check `data.embedded` against the data set's generator, unless the data come from disk.

    The generator also gets `size` and those of the data set's own `options` that it takes.
    `dataset` is the class where no object could be made of it.
    """
    given = document.get(("data", "embedded"), {})
    if document.get(("data", "root")) is not None or not isinstance(given, dict):
        return []
    if getattr(dataset, "rootless", False) is True:
        return []
    try:
        generator = getattr(dataset, "embedded", None)
    except BaseException as error:  # a property of the plugin
        reraise_interruption(error)
        return [(document.place(("data",)), f"data: no stand-in: {describe(error)}")]
    if generator is None:
        message = "data.root: missing: this data set has no embedded stand-in; give its folder"
        return [(document.place(("data", "root")), message)]
    keys = {key: value for key, value in given.items() if isinstance(key, str)}
    return [
        (document.place(("data", "embedded", key)), f"data.embedded.{key}: {message}")
        for key, message in check_parameters(generator, keys, supplied={"size", *options})
    ]


def _shadowed(name: str, folders: list[str]) -> str:
    """Why the dotted path does not reach the file in a plugin folder, or ""."""
    top = name.partition(":")[0].partition(".")[0]
    module = sys.modules.get(top)
    here = [
        Path(folder)
        for folder in folders
        if os.path.isfile(os.path.join(folder, f"{top}.py"))
        or os.path.isdir(os.path.join(folder, top))
    ]
    if module is None or not here or ("." not in name and ":" not in name):
        return ""
    origin = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
    if any(Path(origin).resolve().is_relative_to(folder.resolve()) for folder in here):
        return ""
    return f"module {top!r} is {origin}, not the one in {here[0]}; rename yours"
