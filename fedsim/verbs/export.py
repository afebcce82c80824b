"""`fedsim export`: a run's model in other forms."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedsim.errors import EXIT_DONE, InputError
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs
from fedsim.verbs.predict import model_arguments


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("export", _export, "Write a run's model as ONNX, or its model card.")
    model_arguments(one)
    one.add_argument(
        *("--onnx",), nargs="?", const="", metavar="FILE", help="ONNX (default: beside the model)"
    )
    one.add_argument(
        *("--card",), nargs="?", const="", metavar="FILE", help="model card (default: RUN's own)"
    )


def _export(arguments: argparse.Namespace) -> int:
    if arguments.onnx is None and arguments.card is None:
        raise InputError(
            "what is to be written?", hint=f"type: fedsim export {arguments.run} --onnx"
        )
    if arguments.onnx is not None:
        _onnx(arguments)
    if arguments.card is not None:
        _card(arguments)
    return EXIT_DONE


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
