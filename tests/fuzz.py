"""Feed fedsim with mutated inputs, and look for what must not happen.

    python -m tests.fuzz --minutes 10 --seed 0
    python -m tests.fuzz --seed 0 --number 17 --keep /tmp/box      # one input again

A script and not a test: it takes minutes. It mutates scenarios, overrides, command lines, tables,
images, volumes, run folders and caches, all made by itself, and runs fedsim's verbs on them: most
in forks of a warm process, every twentieth as a person starts it. It exits with 1 if one of them
ends in a traceback, "a fault in fedsim", more than 40 lines of error, an exit code outside of 0, 1,
2, 3 and 130, or not at all; with a process left behind, a file outside of the folders that it was
given, or a changed input. Input k of a seed is always the same.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.fuzzing.kinds import KINDS, Box, draw
from tests.fuzzing.watch import changes, findings, run_forked, run_process, snapshot

_AS_TYPED = 20  # Every so many inputs are run in a new process.

Found = dict[str, Any]


def try_input(number: int, seed: int, kind: str, bank: Path, root: Path, limit: float) -> Found:
    """Make an input below `root`, run it, and say what was found."""
    box = Box.make(root)
    one = draw(number, seed, kind, bank, box)
    before = snapshot(root)
    begun = time.monotonic()
    run = run_process if number % _AS_TYPED == 7 else run_forked
    outcome = run(one.words, box, limit)
    seconds = time.monotonic() - begun
    changed = changes(before, snapshot(root), box, one)
    return {
        "number": number,
        "kind": kind,
        "words": one.words,
        "code": outcome.code,
        "seconds": round(seconds, 2),
        "findings": findings(one, outcome, changed),
        "said": outcome.out[-2000:] + outcome.err[-4000:],
    }


def kind_of(number: int) -> str:
    """The kinds take turns."""
    return list(KINDS)[number % len(KINDS)]


def warm() -> None:
    """Import what the verbs import, so that a fork of this process need not."""
    for name in (
        *("fedsim.api.running", "fedsim.engine.auditing", "fedsim.folder.cleaning"),
        *("fedsim.report.page", "fedsim.report.compare", "fedsim.report.export"),
        *("opacus", "monai.networks.nets", "SimpleITK", "nibabel"),
        *("matplotlib.figure", "matplotlib.font_manager"),
    ):
        importlib.import_module(name)


def work(numbers: Iterable[int], options: argparse.Namespace, folder: Path, pipe: int) -> None:
    """Try inputs until the time is over, and write a line of JSON for each into the pipe."""
    warm()
    with os.fdopen(pipe, "w") as out:
        for number in numbers:
            kind = kind_of(number)
            if options.kind and kind not in options.kind:
                continue
            if time.monotonic() > options.until:
                break
            root = folder / "boxes" / str(number) / "root"
            root.mkdir(parents=True)
            found = try_input(number, options.seed, kind, folder / "bank", root, options.limit)
            if not options.keep:
                shutil.rmtree(root.parent)
            out.write(json.dumps(found) + "\n")
            out.flush()


def numbers_of(worker: int, jobs: int) -> Iterator[int]:
    """The inputs of a worker: of each kind one in turn, for ever."""
    for block in itertools.count(worker, jobs):
        yield from range(block * len(KINDS), (block + 1) * len(KINDS))


def start(options: argparse.Namespace, folder: Path) -> dict[int, IO[str]]:
    """Start the workers; their process ids, and what each of them writes."""
    pipes = {}
    jobs = options.jobs if options.number is None else 1
    for worker in range(jobs):
        numbers = numbers_of(worker, jobs) if options.number is None else [options.number]
        source, target = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(source)
            try:
                work(numbers, options, folder, target)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(target)
        pipes[child] = os.fdopen(source)
    return pipes


def read(pipes: dict[int, IO[str]]) -> Iterator[Found]:
    """What the workers write, as it comes.

    Raises:
        RuntimeError: a worker failed.
    """
    with selectors.DefaultSelector() as selector:
        for pipe in pipes.values():
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if line:
                    yield json.loads(line)
                else:
                    selector.unregister(key.fileobj)
    if any(os.waitpid(child, 0)[1] for child in pipes):
        raise RuntimeError("a worker failed")


def again(found: Found, options: argparse.Namespace) -> str:
    """The command that tries an input once more."""
    return f"python -m tests.fuzz --seed {options.seed} --number {found['number']} --keep DIR"


def main() -> int:
    """Try inputs, print what was found and how many there were of each kind."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=10.0, help="in all; default: 10")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs; default: 0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="inputs at a time")
    parser.add_argument(
        "--limit", type=float, default=60.0, help="seconds of computing for one; default: 60"
    )
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only these")
    parser.add_argument("--number", type=int, help="only this input")
    parser.add_argument("--keep", type=Path, help="leave the inputs below this folder")
    options = parser.parse_args()
    options.until = time.monotonic() + 60 * options.minutes
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    if not (folder / "bank").is_dir():
        # In a process of its own, whose threads no fork of this one inherits.
        command = [sys.executable, "-m", "tests.fuzzing.bank", str(folder / "bank")]
        subprocess.run(command, check=True)
    tried: Counter[str] = Counter()
    codes: Counter[int | None] = Counter()
    bad: Counter[str] = Counter()
    for found in read(start(options, folder)):
        tried[found["kind"]] += 1
        codes[found["code"]] += 1
        if not found["findings"]:
            continue
        bad.update({told.partition(":")[0] for told in found["findings"]})
        print(f"input {found['number']} ({found['kind']}): fedsim {shlex.join(found['words'])}")
        for told in found["findings"]:
            print(f"  {told}")
        print(f"  again: {again(found, options)}", flush=True)
    if options.number is not None and tried:
        print(found["said"])
        print(f"exit code {found['code']} after {found['seconds']} s")
    if options.keep is None:
        shutil.rmtree(folder)
    told_of = ", ".join(f"{count} {kind}" for kind, count in sorted(tried.items()))
    print(f"{sum(tried.values())} inputs of seed {options.seed}: {told_of or 'none'}")
    print("exit codes: " + ", ".join(f"{n} times {code}" for code, n in codes.most_common()))
    print("found: " + (", ".join(f"{n} {kind}" for kind, n in sorted(bad.items())) or "nothing"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
