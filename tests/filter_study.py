"""What a gradient filter does to each class: scores and keep-rates of private runs, over seeds.

    python -m tests.filter_study isic_noniid_dpsgd isic_noniid_dpsgd_cosine --seeds 5 --runs DIR

A script and not a test: it trains for minutes. Which records a filter kept is private, and no run
writes it down; this watches from inside. Other words with "=" are overrides. A finished run below
--runs is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

import fedsim
from fedsim.grid.worker import Worker
from fedsim.privacy.gradients import Gradients
from fedsim.privacy.mechanisms import Info, Mechanism, Released, State
from fedsim.privacy.noise import Noise
from fedsim.privacy.releases import Releases
from fedsim.report.statistics import measure
from fedsim.scenario import load

COLUMNS = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "specificity": "accuracy, benign",
    "sensitivity": "accuracy, malignant",
    "kept_0": "kept, benign",
    "kept_1": "kept, malignant",
}


class Watch:
    """Counts which records a run's filter keeps, by class; set in place of a worker's method."""

    def __init__(self) -> None:
        self.kept, self.seen = np.zeros(2), np.zeros(2)
        self._releases_of = Worker._releases_of

    def __enter__(self) -> Watch:
        watch = self

        def releases_of(worker: Worker, client: int, view: Any) -> Releases | None:
            releases = watch._releases_of(worker, client, view)
            if releases is not None and releases.settings.filter is not None:
                watch._follow(releases, np.asarray(view.labels))
            return releases

        Worker._releases_of = releases_of  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Worker._releases_of = self._releases_of  # type: ignore[method-assign]

    def _follow(self, releases: Releases, labels: np.ndarray) -> None:
        sample, drawn = releases.sample, [np.zeros(0, np.int64)]
        filters = releases.settings.filter
        alternating = filters is not None and filters.reference == "alternating"

        def sampled() -> tuple[np.ndarray, np.ndarray]:
            drawn[0], places = sample()
            return drawn[0], places

        def see(state: State, info: Info) -> None:
            if alternating and not state.step % 2:  # every other step filters nothing
                return
            classes = labels[drawn[0]]
            self.seen += np.bincount(classes, minlength=2)
            self.kept += np.bincount(classes[info.kept.cpu().numpy()], minlength=2)

        seen = cast(Mechanism, Seen(releases.plan.mechanism, see))
        releases.plan = replace(releases.plan, mechanism=seen)
        releases.sample = sampled  # type: ignore[method-assign]


class Seen:
    """A mechanism whose diagnostics are looked at."""

    def __init__(self, mechanism: Mechanism, see: Callable[[State, Info], None]) -> None:
        self._mechanism, self._see = mechanism, see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mechanism, name)

    def aggregate(self, gradients: Gradients, state: State, rng: Noise) -> tuple[Released, Info]:
        """That of the mechanism."""
        released, info = self._mechanism.aggregate(gradients, state, rng)
        self._see(state, info)
        return released, info


def study(name: str, overrides: list[str], seed: int, runs: Path) -> dict[str, Any]:
    """Scores and keep-rates of one run; both kept in its folder."""
    words = [*overrides, "privacy.audit=false"]  # its training is none of the study's
    for found in (runs / name).glob(f"*-seed{seed}/filter_study.json"):
        if (row := dict(json.loads(found.read_text())))["overrides"] == words:
            return row
    if load(name, words).privacy.unit != "record":  # type: ignore[union-attr]
        raise SystemExit(f"{name}: only privacy.unit=record can be followed by class")
    with Watch() as watch:
        result = fedsim.run(name, *words, seed=seed, runs=runs, backend="inline")
    row: dict[str, Any] = {
        key: result.metrics[key] for key in COLUMNS if not key.startswith("kept")
    }
    row |= {
        f"kept_{label}": float(kept / seen) if seen else None
        for label, (kept, seen) in enumerate(zip(watch.kept, watch.seen, strict=True))
    }
    row |= {"epsilon": result.summary["epsilon"], "overrides": words}
    (result.folder / "filter_study.json").write_text(json.dumps(row))
    return row


def main() -> None:
    """Run what is missing; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="+", metavar="NAME|key=value")
    parser.add_argument("--seeds", type=int, default=5, help="so many: 0, 1, ...")
    parser.add_argument("--runs", type=Path, default=Path("runs/filter_study"))
    arguments = parser.parse_args()
    overrides = [word for word in arguments.words if "=" in word]
    names = [word for word in arguments.words if "=" not in word]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(arguments.seeds):
        for name in names:
            rows[name].append(study(name, overrides, seed, arguments.runs))
    print("| scenario | seeds | " + " | ".join(COLUMNS.values()) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for name in names:
        cells = []
        for key in COLUMNS:
            one = measure([row[key] for row in rows[name]])
            cells.append("-" if one.mean is None else f"{one.mean:.3f} ± {one.sd or 0:.3f}")
        print(f"| `{name}` | {len(rows[name])} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
