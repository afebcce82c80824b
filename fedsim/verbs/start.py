"""`fedsim start`: from a folder of data to a scenario that runs on them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from fedsim.errors import EXIT_DONE, InputError
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("start", _start, "Look at a folder of data and write a scenario for it.")
    one.add_argument("folder", type=Path, metavar="DIR", help="images, a table, volumes or DICOM")
    one.add_argument(
        "--out",
        type=Path,
        default=Path("experiment.yaml"),
        metavar="FILE",
        help="the scenario to write (experiment.yaml)",
    )
    one.add_argument("--label", metavar="COLUMN", help="the table's column of the class")
    one.add_argument("-v", "--verbose", action="store_true", help="tracebacks")


def _start(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    _refuse(out)
    from fedsim.folder.runfolder import write_whole
    from fedsim.starting.draft import draft
    from fedsim.starting.lines import found_lines, planned_line
    from fedsim.starting.looking import look
    from fedsim.starting.named import name_of
    from fedsim.terminal.console import Console

    root = arguments.folder.expanduser().absolute()
    found = look(root, arguments.label)
    made = draft(found, name_of(root), Console().preparing)
    say("\n".join(found_lines(found, made)))
    write_whole(out, made.text.encode())
    file = shlex.quote(str(out))
    say(f"\nwrote {out}: {planned_line(made)}\nnext, type:")
    for command, what in (
        (f"data show {file}", "who holds what, as a table and a picture"),
        (f"check {file}", "everything is right, and one tiny round runs"),
        (f"run {file}", "about a minute; a page with the result at the end"),
        ("predict RUN FILE", "then: what its model says of other files; RUN is the run's folder"),
    ):
        say(f"  {f'fedsim {command}':<38}  {what}")
    return EXIT_DONE


def _refuse(out: Path) -> None:
    """Raise InputError where the scenario cannot be written."""
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {out} is no .yaml file", hint="type: --out experiment.yaml")
    if out.exists() or out.is_symlink():
        raise InputError(
            f"{out} exists already, and is left as it is",
            hint="choose another name: --out FILE.yaml, or remove it",
        )
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
