"""`fedsim new`: write a plugin's package that works, to change it into one's own."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from fedsim.errors import EXIT_DONE
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs

KINDS = ("strategy", "client", "dataset", "model", "partition")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    text = "Write a package with a plugin of your own that already runs and passes its tests."
    one = verbs.add("new", _new, text)
    one.add_argument("kind", choices=KINDS, help="what it is")
    one.add_argument("name", metavar="NAME", help="lower case, such as shy_mean")
    one.add_argument(
        "--into", type=Path, default=Path(), metavar="DIR", help="where (default: here)"
    )


def _new(arguments: argparse.Namespace) -> int:
    from fedsim.authoring.names import checked
    from fedsim.authoring.new import rendered, write

    names = checked(arguments.kind, arguments.name)
    folder = write(names, arguments.into)
    say(f"{folder}: a {names.kind} that runs and passes its tests; change it into yours")
    width = max(len(path) for path in rendered(names))
    for path, what in _described(names.name, names.kind).items():
        say(f"  {path:<{width}}  {what}")
    place = shlex.quote(str(folder))
    say("next, type:")
    say(f"  cd {place}")
    say("  fedsim run scenario.yaml   # as it is: `plugins: [.]` in the file says where it is")
    say("  pytest                     # what fedsim asks of it, and what it promises")
    say(f"  pip install -e .           # then {names.name} is a name in every scenario")
    return EXIT_DONE


def _described(name: str, kind: str) -> dict[str, str]:
    """The files that an author opens, and what each is."""
    return {
        f"{name}/{kind}.py": f"the {kind}: one class",
        "scenario.yaml": "a run of seconds with it",
        f"tests/test_{name}.py": "its tests",
        "pyproject.toml": "the package, and the name that scenarios write",
        "README.md": "what to type",
    }
