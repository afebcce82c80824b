"""`fedsim export`: a run's model in other forms, or a scenario as a Flower app."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedsim.errors import EXIT_DONE, InputError
from fedsim.terminal.completion import by_name
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs

_BOTH = (
    "a run's model: fedsim export RUN --onnx (or --card); a scenario as a Flower app: fedsim "
    "export NAME DIR"
)


def add(verbs: Verbs) -> None:
    """Add the verb."""
    text = "Write a run's model as ONNX, or its model card; or a scenario as a Flower app."
    one = verbs.add("export", _export, text)
    help = "a run folder or its model file; or a scenario, with DIR"
    by_name(one.add_argument("what", metavar="RUN|NAME|FILE", help=help))
    one.add_argument("into", nargs="?", type=Path, metavar="DIR", help="a new folder for the app")
    help = "of the scenario, such as rounds=3"
    one.add_argument("overrides", nargs="*", metavar="key.sub=value", help=help)
    one.add_argument("--client", metavar="NAME", help="whose model, where each client has its own")
    one.add_argument(
        *("--onnx",), nargs="?", const="", metavar="FILE", help="ONNX (default: beside the model)"
    )
    one.add_argument(
        *("--card",), nargs="?", const="", metavar="FILE", help="model card (default: RUN's own)"
    )
    one.add_argument("-v", "--verbose", action="store_true", help="tracebacks")


def _export(arguments: argparse.Namespace) -> int:
    arguments.run = Path(arguments.what)
    of_model = arguments.onnx is not None or arguments.card is not None
    if of_model and arguments.into is not None:
        raise InputError(
            f"--onnx and --card are for the model of a run, and {arguments.into} is a second name",
            hint=_BOTH,
        )
    if of_model and not arguments.run.exists():
        raise InputError(f"there is no run folder and no model file {arguments.what}", hint=_BOTH)
    if of_model:
        if arguments.onnx is not None:
            _onnx(arguments)
        if arguments.card is not None:
            _card(arguments)
    elif arguments.into is None or "=" in str(arguments.into):
        raise InputError("what is to be written, and where?", hint=_BOTH)
    else:
        _app(arguments)
    return EXIT_DONE


def _app(arguments: argparse.Namespace) -> None:
    from fedsim.scenario import load
    from fedsim.scenario.files import find

    if arguments.run.is_dir():
        inside = arguments.run / "scenario.yaml"
        told = f"; the scenario of a run is {inside}" if inside.is_file() else ""
        raise InputError(f"{arguments.what} is a folder, and no scenario{told}", hint=_BOTH)
    if arguments.client is not None:
        raise InputError("--client is for the model of a run", hint=_BOTH)
    try:
        find(arguments.what)
    except InputError as error:
        raise InputError(error.headline, hint=_BOTH) from error
    scenario = load(arguments.what, arguments.overrides)
    from fedsim.deployment.export import export_app
    from fedsim.terminal.console import Console

    console = Console()
    facts = export_app(scenario, arguments.into, console.line, console.preparing)
    say(f"{arguments.into}: a Flower app of {scenario.name}, for {len(facts.clients)} node(s)")
    if scenario.privacy is not None and scenario.privacy.noise != "secret":
        say("its noise is secret, whatever the scenario says: a seed is known to everybody")
    say(f"how to start it: {arguments.into / 'README.md'}")


def _onnx(arguments: argparse.Namespace) -> None:
    from fedsim.folder.runfolder import write_named
    from fedsim.trained.load import load_model
    from fedsim.trained.onnx_file import INPUT, OUTPUTS, export_onnx

    trained = load_model(arguments.run, arguments.client)
    target = _target(arguments.onnx, trained.file.with_suffix(".onnx"))
    exported = export_onnx(trained)
    write_named(target, exported.content)
    shape = ", ".join(map(str, exported.shape))
    say(f"{target}: {len(exported.content) / 1e6:.2f} MB")
    say(f"input {INPUT}, float32 [n, {shape}]; outputs {' and '.join(OUTPUTS)}")
    say(f"onnxruntime and the model differ by at most {exported.difference:.1g}")


def _card(arguments: argparse.Namespace) -> None:
    from fedsim.folder.runfolder import CARD, RunFolder, write_named
    from fedsim.trained.card import build_card

    RunFolder.open(arguments.run)
    text = build_card(arguments.run)
    target = _target(arguments.card, arguments.run / CARD)
    if target.is_file() and target.read_bytes() != text.encode():
        raise InputError(
            f"{target} is there, and somebody may have written into it",
            hint="name another file: --card FILE",
        )
    write_named(target, text.encode())
    say(str(target))


def _target(named: str, default: Path) -> Path:
    """Where to write; InputError where a folder is, or a link that leads out of a run folder."""
    target = Path(named) if named else default
    if target.is_dir() or (not named and target.is_symlink()):
        kind = "a folder" if target.is_dir() else "a link"
        raise InputError(f"{target} is {kind}", hint="name a file")
    return target
