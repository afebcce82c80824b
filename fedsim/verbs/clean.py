"""`fedsim clean`: free disk."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import EXIT_DONE, EXIT_RUN_FAILED, Problem
from fedsim.files import seen_from
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, json_argument, print_json, require_whole

if TYPE_CHECKING:
    from fedsim.folder.cleaning import Item

_RUNS = Path("runs")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "clean",
        _clean,
        "Free disk: remove checkpoints and histories of finished runs, never results.",
    )
    one.add_argument(
        "places",
        nargs="*",
        type=Path,
        metavar="RUN|DIR",
        help="runs, or folders of runs; default: runs",
    )
    one.add_argument(
        "--checkpoints",
        action="store_true",
        help="checkpoints and histories; the default without --stores",
    )
    one.add_argument("--stores", action="store_true", help="prepared data in the cache")
    one.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    one.add_argument(
        "--yes",
        action="store_true",
        help="also prepared data, and what unfinished runs that are named need to go on",
    )
    json_argument(one)


def _clean(arguments: argparse.Namespace) -> int:
    from fedsim.files import cache_folder
    from fedsim.folder.cleaning import checkpoints, holds_runs, leftovers, remove, stores

    items: list[Item] = []
    damaged: list[Problem] = []
    if arguments.checkpoints or arguments.places or not arguments.stores:
        default = [_RUNS] if holds_runs(_RUNS) else []
        items += checkpoints(arguments.places or default, arguments.yes, damaged)
    cache = cache_folder()
    items += leftovers(cache)
    prepared = stores(cache, arguments.yes)
    items += prepared if arguments.stores else []

    freed, count, code = 0, 0, EXIT_DONE
    told: list[dict[str, Any]] = []
    for item in items:
        size, verdict = item.bytes, f"kept: {item.kept}"
        if not item.kept:
            verdict = "would be removed" if arguments.dry_run else "removed"
            try:
                size = item.bytes if arguments.dry_run else remove(item)
            except OSError as error:
                say(f"error: cannot remove {item.path}: {error.strerror}", file=sys.stderr)
                code = EXIT_RUN_FAILED
                continue
            freed, count = freed + size, count + 1
        about = {"path": item.path, "what": item.what, "bytes": size, "kept": item.kept or None}
        told.append(about | {"removed": not item.kept and not arguments.dry_run})
        if not arguments.json:
            seen = seen_from(Path.cwd(), item.path)
            say(f"{_megabytes(size):>12}  {seen} ({item.what}): {verdict}")
    if arguments.json:
        print_json({"items": told, "bytes": freed, "count": count, "dry_run": arguments.dry_run})
        require_whole(damaged)
        return code
    say(
        f"{count} {'to remove' if arguments.dry_run else 'removed'}, {_megabytes(freed)} "
        + ("would be freed" if arguments.dry_run else "freed")
    )
    if prepared and not arguments.stores:
        size = sum(item.bytes for item in prepared)
        say(f"{_megabytes(size)} of prepared data in {cache}; to list: fedsim clean --stores")
    require_whole(damaged)
    return code


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3f} MB"
