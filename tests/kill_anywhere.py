"""Kill runs at random moments, resume them, and compare every bit with an uninterrupted run.

    python -m tests.kill_anywhere --moments 10 --seed 0

A script and not a test: it takes minutes. Each run is killed with its whole process group
(SIGKILL), at a moment drawn uniformly over its length (drawn again if it ended before, or had no
run folder yet), resumed, killed again half of the time, and resumed to its end. It exits with 1 if
a single bit of the model, the metrics, or a line of rounds.jsonl or traffic.jsonl differs (times
and memory aside).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedsim import Result
from fedsim.folder.runfolder import RunFolder
from tests.engine.conftest import GDD, TINY
from tests.engine.test_bits import assert_same

METHODS = {
    "fedavg": ("rounds=6", "client.epochs=3"),
    "gdd": (*GDD, "client.iterations=40", "strategy.epochs=40"),
    "colluders": (
        *("rounds=6", "client.epochs=3", "federation.clients=5"),
        "strategy={name: robust, rule: centred_clipping, radius: 0.01, momentum: 0.5}",
        "adversary={name: disbelieve, count: 2}",
    ),
    "unlearning": (
        *("rounds=9", "client.epochs=3"),
        "strategy={name: unlearn_federaser, train_rounds: 4, client: client-1, every: 1}",
    ),
}


def start(command: list[str], runs: Path) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    words = [sys.executable, "-m", "fedsim", "run", *command]
    with (runs / "output.log").open("wb") as log:
        return subprocess.Popen(words, start_new_session=True, stdout=log, stderr=log, cwd=runs)


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill the group after so many seconds; False if it had ended by then."""
    try:
        process.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def folders(runs: Path) -> list[Path]:
    """Run folders below `runs`."""
    return [path for path in (runs / "tiny").glob("*seed*") if not path.is_symlink()]


def result(folder: Path) -> Result:
    """A finished run, as the API would return it."""
    run = RunFolder(folder)
    summary = run.read_json("summary.json")
    return Result(folder, 0, summary["metrics"], summary, run.read_lines("rounds.jsonl"))


def main() -> int:
    """Kill, resume, compare; print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--backend", default="ray", choices=("inline", "ray"))
    arguments = parser.parse_args()
    draws, bad = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory(prefix="fedsim-kill-") as temporary:
        base = Path(temporary)
        (base / "tiny.yaml").write_text(TINY)
        for method in arguments.methods:
            words = [str(base / "tiny.yaml"), *METHODS[method]]
            words += ["--backend", arguments.backend, "--runs"]
            began = time.monotonic()
            if code := start([*words, str(base / f"{method}-whole")], base).wait():
                told = (base / "output.log").read_text()
                sys.exit(f"{method}: the uninterrupted run failed with exit code {code}:\n{told}")
            length = time.monotonic() - began
            whole = result(folders(base / f"{method}-whole")[0])
            done, tries = 0, 0
            while done < arguments.moments and tries < 5 * arguments.moments:
                runs, tries = base / f"{method}-{tries}", tries + 1
                moment, began = draws.uniform(0, length), time.monotonic()
                killed = kill_after(start([*words, str(runs)], base), moment)
                if not killed:  # the machine is less busy now: draw from a shorter length
                    length = time.monotonic() - began
                    continue
                if not (found := folders(runs)):
                    continue
                done += 1
                said = f"{method} {done}/{arguments.moments}: killed after {moment:.2f} s"
                kills, failed = 1, 0
                while not (found[0] / "summary.json").exists():
                    process = start(["--resume", str(found[0])], base)
                    if draws.random() < 0.5 and kills < 3:
                        kills += kill_after(process, draws.uniform(0, length))
                    elif process.wait():  # Ray may not start on a busy machine
                        told = (base / "output.log").read_text()
                        print(told, flush=True)
                        failed += 1
                        if failed == 3 or "Ray did not start" not in told:
                            break
                try:
                    assert_same(whole, result(found[0]))
                    print(f"{said}; the same bits after {kills} kill(s)", flush=True)
                except (AssertionError, OSError) as error:
                    bad += 1
                    print(f"{said}; DIFFERS: {error}", flush=True)
            if done < arguments.moments:
                bad += 1
                print(f"{method}: only {done} of {tries} runs were killed in time")
    print("every run ended in the same bits" if not bad else f"{bad} run(s) differ")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
