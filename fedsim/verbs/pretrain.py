"""`fedsim pretrain`: a network learns before there is a federation; `model.init` takes it."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import EXIT_DONE, InputError, Problem
from fedsim.verbs import Verbs, json_argument, print_json, quiet_argument

if TYPE_CHECKING:
    from fedsim.terminal.console import Console

METHODS = ("simclr", "in_context")
_STAND_IN = "stand-in"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "pretrain",
        _pretrain,
        "Pretrain a network on public images without labels, or an in-context one on generated "
        "volumes, and write its weights: a file for `model.init`. Interrupted, it goes on where "
        "it was.",
    )
    one.add_argument(
        "overrides", nargs="*", metavar="model.key=value", help="parameters, such as model.width=64"
    )
    one.add_argument(
        "--model", metavar="NAME", help="default: convnet, or in_context of that method"
    )
    one.add_argument("--method", choices=METHODS, default="simclr", help="default: simclr")
    one.add_argument(
        "--images",
        default=_STAND_IN,
        metavar="DIR",
        help="a folder of images; default: stand-in, generated images of skin",
    )
    one.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="images (all of the folder, or 4000) or volumes (60)",
    )
    one.add_argument("--size", type=int, metavar="PX", help="default: 32, or 48 of in_context")
    one.add_argument(
        "--epochs", type=int, metavar="N", help="default: 10, or 15 of 100 steps of in_context"
    )
    one.add_argument("--batch-size", type=int, metavar="N", help="default: 256, or 4 of in_context")
    one.add_argument("--learning-rate", type=float, default=1e-3, metavar="X", help="default: 1e-3")
    one.add_argument(
        "--temperature", type=float, default=0.5, metavar="X", help="of the loss; default: 0.5"
    )
    one.add_argument(
        "--koleo", type=float, default=0.0, metavar="X", help="weight of KoLeo; default: 0, none"
    )
    one.add_argument("--seed", type=int, default=0, metavar="K", help="default: 0")
    one.add_argument(
        "--out", type=Path, metavar="FILE", help="default: <model>-<method>-<seed>.safetensors"
    )
    json_argument(one)
    quiet_argument(one)
    one.add_argument("-v", "--verbose", action="store_true", help="tracebacks")


_DEFAULTS = {
    "simclr": {"model": "convnet", "size": 32, "epochs": 10, "batch_size": 256},
    "in_context": {"model": "in_context", "size": 48, "epochs": 15, "batch_size": 4},
}
"""Method -> what an option is that was left out."""


def _pretrain(arguments: argparse.Namespace) -> int:
    for key, value in _DEFAULTS[arguments.method].items():
        if getattr(arguments, key) is None:
            setattr(arguments, key, value)
    parameters = _parameters(arguments.overrides)
    out = _target(arguments)
    if arguments.method == "in_context":
        return _in_context(arguments, parameters, out)
    if arguments.count is not None and arguments.count < 2:
        raise InputError(f"--count {arguments.count}: expected at least 2 images to compare")
    if arguments.size < 8:
        raise InputError(f"--size {arguments.size}: expected at least 8 px")
    if arguments.images != _STAND_IN and not Path(arguments.images).is_dir():
        raise InputError(
            f"--images {arguments.images}: there is no such folder",
            hint=f"name a folder with images, or {_STAND_IN}",
        )
    from fedsim.files import cache_folder
    from fedsim.pretraining import Pretraining, pretrain, public_images
    from fedsim.terminal.console import Console

    console = Console(quiet=arguments.quiet, stderr=arguments.json)
    settings = Pretraining(
        model=arguments.model,
        parameters=parameters,
        method=arguments.method,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        temperature=arguments.temperature,
        koleo=arguments.koleo,
        seed=arguments.seed,
    )
    images = public_images(
        arguments.images,
        size=arguments.size,
        count=arguments.count,
        seed=arguments.seed,
        cache=cache_folder(),
        workers=os.cpu_count() or 1,
        progress=console.preparing,
    )
    if images.source == _STAND_IN:
        console.line("NOTE generated stand-in images: what is learned of them is not of patients")
    console.line(f"{arguments.model}, {arguments.method}: {len(images.pixels)} images")
    try:
        about = pretrain(images, settings, out, progress=console.preparing, say=console.line)
    except KeyboardInterrupt:
        console.line("what is finished is kept: to go on, type the same again")
        raise
    return _tell(arguments, console, parameters, out, about)


def _in_context(arguments: argparse.Namespace, parameters: dict[str, Any], out: Path) -> int:
    """Train an in-context network on generated volumes."""
    unused = {"images": _STAND_IN, "temperature": 0.5, "koleo": 0.0, "model": "in_context"}
    problems = [
        Problem(f"--{key}", f"--method in_context has no use for {getattr(arguments, key)!r}")
        for key, default in unused.items()
        if getattr(arguments, key) != default
    ]
    problems += [
        Problem(f"model.{key}", "--method in_context trains channels alone")
        for key in parameters
        if key != "channels"
    ]
    channels = parameters.get("channels", [16, 16, 16, 16])
    if not isinstance(channels, list) or not all(type(one) is int for one in channels):
        problems.append(Problem("model.channels", f"expected whole numbers, not {channels!r}"))
    if problems:
        raise InputError("the words do not fit", problems, "leave them out")
    from fedsim.pretraining.in_context import InContextPretraining, pretrain_in_context
    from fedsim.terminal.console import Console

    console = Console(quiet=arguments.quiet, stderr=arguments.json)
    settings = InContextPretraining(
        channels=tuple(channels),
        size=arguments.size,
        cases=60 if arguments.count is None else arguments.count,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    console.line("NOTE generated volumes: what is learned of them is not of patients")
    try:
        about = pretrain_in_context(settings, out, progress=console.preparing, say=console.line)
    except KeyboardInterrupt:
        console.line("what is finished is kept: to go on, type the same again")
        raise
    return _tell(arguments, console, {"channels": channels}, out, about)


def _tell(
    arguments: argparse.Namespace,
    console: Console,
    parameters: dict[str, Any],
    out: Path,
    about: dict[str, str],
) -> int:
    """Say what was written, and how a run begins with it."""
    if arguments.json:
        print_json({"path": out, **about})
    else:
        block = {"name": arguments.model, **parameters, "init": str(out)}
        word = "model={" + ", ".join(f"{k}: {_written(v)}" for k, v in block.items()) + "}"
        console.line(f"written: {out}; loss {about['loss']}")
        console.line(f"to begin with it, type: fedsim run NAME {shlex.quote(word)}")
    return EXIT_DONE


def _target(arguments: argparse.Namespace) -> Path:
    """The file to write; InputError where none can be."""
    if arguments.out is None:
        return Path(f"{arguments.model}-{arguments.method}-{arguments.seed}.safetensors")
    out: Path = arguments.out
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: expected a name that ends with .safetensors")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file")
    return out


def _parameters(words: list[str]) -> dict[str, Any]:
    """The model's parameters; InputError for other keys, and for what is not YAML."""
    from fedsim.yaml_lines import Place, read_value

    found: dict[str, Any] = {}
    problems = []
    for word in words:
        key, equals, text = word.partition("=")
        name = key.removeprefix("model.")
        if not equals or name == key or not name:
            problems.append(Problem(word, "expected model.key=value"))
            continue
        found[name], wrong = read_value(text, Place(f"command line ({word})"))
        problems += [Problem(str(place), message) for place, message in wrong]
    if problems:
        hint = "a scenario is not wanted here; such as: fedsim pretrain model.width=64"
        raise InputError("the words do not fit", problems, hint)
    return found


def _written(value: Any) -> str:
    from fedsim.yaml_lines import write_value

    return write_value(value)
