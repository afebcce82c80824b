"""Run folders of many clients, and what their report costs.

`python -m tests.report.many_clients 10000` prints megabytes, seconds and the size of the page.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def write_run(folder: Path, clients: int, rounds: int = 3, seed: int = 0, models: int = 1) -> Path:
    """Write the folder of a finished private run whose numbers are drawn.

    Args:
        folder: where; must not exist.
        clients: how many; each is a site with a score of its own, and reports five metrics.
        rounds: how many; all clients take part in each.
        seed: of the drawn numbers.
        models: that predict the test split: one, or one a client.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = [f"site-{k:05d}" for k in range(clients)]
    counts = rng.poisson(rng.dirichlet(np.full(len(CLASSES), 0.5), clients) * 40) + 1
    sizes = counts.sum(axis=1)
    plan = {
        name: {
            "units": int(size),
            "sample_rate": min(1.0, 16 / int(size)),
            "steps": int(size) // 16 + 1,
            "noise_multiplier": 1.1,
        }
        for name, size in zip(names, sizes, strict=True)
    }
    record = {
        "scenario": "many",
        "seed": seed,
        "status": "done",
        "data": {
            "name": "ham10000",
            "source": "path",
            "root": "/home/somebody/data/ham10000",
            "fingerprint": "f00d",
            "classes": list(CLASSES),
            "classes_by_client": dict(zip(names, counts.tolist(), strict=True)),
            "sizes": {"train": int(sizes.sum()), "val": clients, "test": 500},
            "sizes_by_client": {
                name: {"train": int(size), "val": 1}
                for name, size in zip(names, sizes, strict=True)
            },
        },
        "privacy": {"mechanism": "dp_sgd", "unit": "record", "delta": 1e-5, "clients": plan},
        "released_without_privacy": ["number of records of each client"],
        "versions": {"python": "3.11"},
        "command": ["/home/somebody/bin/fedsim", "run", "many"],
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "scenario.yaml").write_text(
        f"name: many\nrounds: {rounds}\ndata: {{name: ham10000, root: /home/somebody/data}}\n"
    )
    _write_lines(folder / "rounds.jsonl", _rounds(rng, clients, rounds))
    _write_lines(folder / "traffic.jsonl", _messages(clients, rounds))
    sites, scores = [f"auc@{name}" for name in names], rng.random(clients).tolist()
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "metrics": {"auc": 0.8} | dict(zip(sites, scores, strict=True)),
                "mb_up_total": 1.0 * clients * rounds,
                "mb_down_total": 1.0 * clients * rounds,
                "epsilon": 3.0,
                "epsilon_rdp": 3.2,
                "epsilon_claimed": None,
                "accountant": "prv",
                "delta": 1e-5,
                "certified": True,
                "wall_seconds": 60.0,
                "peak_rss_mb": 500.0,
            }
        )
    )  # fmt: skip
    labels = np.arange(500) % len(CLASSES)
    probabilities = rng.dirichlet(np.ones(len(CLASSES)), (models, 500)).astype(np.float32)
    np.savez(
        folder / "predictions.npz",
        labels=labels,
        records=np.arange(500),
        probabilities=probabilities,
    )
    return folder


def _rounds(rng: np.random.Generator, clients: int, rounds: int) -> Iterator[dict[str, Any]]:
    skill = rng.normal(size=clients)
    for number in range(1, rounds + 1):
        loss = np.exp(0.3 * skill + 0.1 * rng.normal(size=clients)) / number
        epsilon = number * (1 + 0.2 * skill**2)
        yield {
            **{"round": number, "phase": "train", "clients": list(range(clients)), "failed": []},
            **{"mb_up": 1.0 * clients, "mb_down": 1.0 * clients},
            **{"mb_up_total": 1.0 * clients * number, "mb_down_total": 1.0 * clients * number},
            **{"epsilon": float(epsilon.max()), "delta": 1e-5, "certified": True},
            "epsilon_by_client": {str(k): float(epsilon[k]) for k in range(clients)},
            "metrics": {"auc": 0.6 + 0.05 * number},
            "metrics_by_client": {
                str(k): {
                    **{"num-examples": 40, "loss": float(loss[k]), "val_loss": float(2 * loss[k])},
                    **{"val_auc": float(np.exp(-loss[k])), "accuracy": float(1 / (1 + loss[k]))},
                }
                for k in range(clients)
            },
            **{"seconds": 20.0, "peak_rss_mb": 500.0},
        }


def _messages(clients: int, rounds: int) -> Iterator[dict[str, Any]]:
    for number in range(1, rounds + 1):
        for client in range(clients):
            for way, size in (("down", 10**6), ("up", 10**6)):
                fields = {"arrays": size - 500, "metrics": 60} if way == "up" else {"arrays": size}
                yield {
                    **{"round": number, "client": client, "direction": way},
                    **{"bytes": size, "fields": fields},
                }


def _write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def cost(folder: Path) -> dict[str, float]:
    """What a process that reports a run takes: `seconds`, peak `mb` of memory, `page_mb`."""
    begun = time.perf_counter()
    # Linux: the peak of this program alone; what a parent took counts in `ru_maxrss`, too.
    code = (
        "import sys, resource\nfrom pathlib import Path\nfrom fedsim.cli import main\n"
        "code = main(['report', sys.argv[1]])\nstatus = Path('/proc/self/status')\n"
        "lines = status.read_text().splitlines() if status.exists() else []\n"
        "own = [line.split()[1] for line in lines if line.startswith('VmHWM')]\n"
        "print(code, *(own or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - begun
    exit_code, peak = done.stdout.split()[-2:]
    assert exit_code == "0", done.stderr
    unit = 1 if sys.platform == "darwin" else 1024  # bytes, or kilobytes
    page = (folder / "report" / "index.html").stat().st_size
    return {"seconds": seconds, "mb": int(peak) * unit / 1e6, "page_mb": page / 1e6}


def main() -> None:
    """Print the costs for the numbers of clients that are typed."""
    for word in sys.argv[1:]:
        clients, _, models = word.partition("x")
        with tempfile.TemporaryDirectory() as base:
            folder = write_run(Path(base) / "run", int(clients), models=int(models or 1))
            found = cost(folder)
        told = "{seconds:.1f} s, {mb:.0f} MB of memory, page of {page_mb:.2f} MB".format(**found)
        print(f"{clients} clients, {models or 1} model(s): {told}")


if __name__ == "__main__":
    main()
