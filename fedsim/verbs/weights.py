"""`fedsim weights`: pretrained weights by name, what is known of them, fetching them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedsim.errors import EXIT_DONE, InputError
from fedsim.terminal.completion import by_weights
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, json_argument, print_json

if TYPE_CHECKING:
    from fedsim.pretrained import Weights
    from fedsim.pretrained.catalogue import Unpackaged


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "weights",
        _weights,
        "Pretrained weights that `model.init` can name: ls | show NAME | get NAME. `get` takes "
        "package:NAME==VERSION/PATH, too.",
    )
    one.add_argument("what", choices=("ls", "show", "get"))
    by_weights(one.add_argument("name", nargs="?", metavar="NAME", help="see `fedsim weights ls`"))
    json_argument(one)


def _weights(arguments: argparse.Namespace) -> int:
    if arguments.what == "ls":
        if arguments.name is not None:
            raise InputError(
                "`fedsim weights ls` lists all weights",
                hint=f"to see these, type: fedsim weights show {arguments.name}",
            )
        _ls(arguments.json)
    elif arguments.name is None:
        raise InputError("which weights?", hint="type: fedsim weights ls")
    elif arguments.what == "show":
        _show(arguments.name, arguments.json)
    else:
        _get(arguments.name, arguments.json)
    return EXIT_DONE


def _ls(as_json: bool) -> None:
    from fedsim.pretrained import CATALOGUE
    from fedsim.pretrained.catalogue import UNPACKAGED

    found = [_about(one) for one in CATALOGUE.values()]
    found += [_unpackaged(one) for one in UNPACKAGED.values()]
    if as_json:
        print_json(found)
        return
    rows = [("name", "model", "MB", "here", "licence")]
    for one in found:
        here = "no" if one["path"] is None else "yes"
        model = one["model"].partition(",")[0]
        rows.append((one["name"], model, f"{one['megabytes']:g}", here, one["licence"]))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        say("  ".join([*cells, row[4]]))


def _show(name: str, as_json: bool) -> None:
    from fedsim.pretrained.catalogue import UNPACKAGED, weights_of

    if name in UNPACKAGED:
        _show_unpackaged(UNPACKAGED[name], as_json)
        return
    about = _about(weights_of(name))
    if as_json:
        print_json(about)
        return
    package = about["package"]
    means, deviations = (
        ", ".join(f"{value:.4g}" for value in about[key]) for key in ("mean", "std")
    )
    facts = {
        "for": f"data.features={name}, or model.name={about['model']} model.init={name}",
        "package": f"{package['name']}=={package['version']}, {about['megabytes']:g} MB",
        "file": package["path"],
        "SHA-256": f"{package['sha256']} (of the wheel)",
        "licence": about["licence"],
        "from": about["origin"],
        "images": f"{about['image_size']} px; mean {means}; deviation {deviations}",
        "features": f"{about['features']} values; whitening: {about['whiten']:g}",
        "seen": f"public images of skin: {about['seen']}",
        "caveats": " ".join(about["caveats"]),
        "here": str(about["path"] or f"no; to fetch it, type: fedsim weights get {name}"),
    }
    _say_facts(f"{name}: {about['about']}", facts)


def _show_unpackaged(one: Unpackaged, as_json: bool) -> None:
    if as_json:
        print_json(_unpackaged(one))
        return
    init = one.name if one.file else "FILE"
    facts = {
        "for": f"model={{name: {one.model}, init: {init}}}",
        "size": f"{one.megabytes:g} MB",
        "licence": one.licence,
        "from": one.origin,
        "here": str(one.file or f"no; fetch {one.address}, and type model.init=FILE"),
    }
    _say_facts(f"{one.name}: {one.about}", facts)


def _say_facts(head: str, facts: Mapping[str, str]) -> None:
    say(head)
    for word, text in facts.items():
        lines = textwrap.wrap(text, 85, break_long_words=False, break_on_hyphens=False)
        say("\n".join(f"  {word if not i else '':<9}{line}" for i, line in enumerate(lines)))


def _get(name: str, as_json: bool) -> None:
    from fedsim.pretrained import fetch
    from fedsim.pretrained.catalogue import UNPACKAGED
    from fedsim.pretrained.fetching import sha256_of

    one = UNPACKAGED.get(name)
    if one is not None and one.file is None:
        raise InputError(
            f"no package has {name!r}", hint=f"fetch {one.address}, and type model.init=FILE"
        )
    path = one.file if one is not None and one.file else fetch(name, None if as_json else say)
    if as_json:
        print_json({"source": name, "path": path, "sha256": sha256_of(path)})
    else:
        say(f"{path}\nSHA-256 {sha256_of(path)}")


def _unpackaged(one: Unpackaged) -> dict[str, Any]:
    """All that is known of weights that are in no package; `path` as in `_about`."""
    found = asdict(one)
    return found | {"path": found.pop("file")}


def _about(weights: Weights) -> dict[str, Any]:
    """All that is known of weights, and where they are."""
    from fedsim.pretrained.fetching import held

    return asdict(weights) | {"path": held(weights.package)}
