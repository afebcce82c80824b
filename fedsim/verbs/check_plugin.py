"""`fedsim check-plugin`: does a plugin keep what fedsim asks of its kind?"""

from __future__ import annotations

import argparse
import json
from typing import Any

from fedsim.errors import EXIT_DONE, EXIT_RUN_FAILED, InputError
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs
from fedsim.verbs.new import KINDS


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("check-plugin", _check, "Check a plugin in tiny runs, a line for each check.")
    one.add_argument("name", metavar="NAME", help="registered, or package.module:Class")
    one.add_argument(
        "overrides", nargs="*", metavar="key=value", help="parameters of its constructor"
    )
    one.add_argument(
        "--plugins", action="append", default=[], metavar="DIR", help="a folder with its module"
    )
    one.add_argument("--kind", choices=KINDS, help="where its class does not say")
    one.add_argument(
        "--with",
        action="append",
        default=[],
        dest="beside",
        metavar="key.sub=value",
        help="what goes with it, such as client=package.module:Class",
    )
    one.add_argument("--ray", action="store_true", help="also compare with a run on Ray")
    one.add_argument("--json", action="store_true", help="as JSON")
    one.add_argument("-v", "--verbose", action="store_true", help="tracebacks")


def _check(arguments: argparse.Namespace) -> int:
    import os

    from fedsim.registry import GROUPS
    from fedsim.registry import KINDS as GROUP_OF
    from fedsim.scenario.checks import activate, dotted
    from fedsim.scenario.schema import Scenario
    from fedsim.testing import CheckFailed, NotApplicable, checks, kind_of

    for folder in arguments.plugins:
        if not os.path.isdir(folder):
            raise InputError(f"--plugins: there is no folder {folder}")
    if wrong := [word for word in arguments.overrides if "=" not in word]:
        raise InputError(f"not understood: {wrong[0]!r}", hint="a parameter is key=value")
    folders = [os.path.abspath(folder) for folder in arguments.plugins]
    activate(folders)
    group = GROUP_OF[arguments.kind] if arguments.kind else kind_of(arguments.name)
    block = next(dotted(path) for path, (one, _) in Scenario.blocks.items() if one == group)
    overrides = [f"{block}.{word}" for word in arguments.overrides]
    found = checks(
        group, arguments.name, [*overrides, *arguments.beside], plugins=folders, ray=arguments.ray
    )
    rows: list[dict[str, Any]] = []
    width = max(len(check.name) for check in found)
    for check in found:
        try:
            state, text = "ok", check()
        except CheckFailed as error:
            state, text = "failed", str(error)
        except NotApplicable as error:
            state, text = "does not apply", str(error)
        if not rows and not arguments.json:
            say(f"{GROUPS[group]} {arguments.name}")
        rows.append({"check": check.name, "state": state, "detail": text})
        if not arguments.json:
            mark = {"ok": "ok", "failed": "FAILED", "does not apply": "--"}[state]
            first, *others = text.splitlines() or [""]
            say(f"  {mark:<6}  {check.name:<{width}}  {first}")
            for line in others:
                say(f"          {line}")
    failed = sum(row["state"] == "failed" for row in rows)
    if arguments.json:
        about = {"plugin": arguments.name, "group": group, "failed": failed, "checks": rows}
        say(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        done = sum(row["state"] == "ok" for row in rows)
        skipped = len(rows) - done - failed
        beside = f", {skipped} do not apply" if skipped else ""
        say(f"{done} ok, {failed} failed{beside}")
    return EXIT_RUN_FAILED if failed else EXIT_DONE
