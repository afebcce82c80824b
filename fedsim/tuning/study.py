"""What Optuna is asked: which values to try next, and whether a trial is clearly worse.

The answers depend on the space, the seed and the scores that it was told, in this order, and on
nothing else. So a tuning that is typed again asks for the same trials.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from fedsim.errors import InputError
from fedsim.tasks.metric import Better
from fedsim.tuning.space import Dimension

Sampler = Literal["tpe", "random", "sobol"]
_STARTUP = 5  # finished trials before one is stopped early
_WIDTH = 16  # keys of a Sobol' sequence, drawn or not

Series = Sequence[tuple[int, float]]
"""Rounds, and the validation score after each."""


def require_optuna() -> None:
    """Raise InputError where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError(
            "tuning needs the package optuna", hint="type: pip install '.[tune]' in fedsim's folder"
        ) from error


class Study:
    """The trials so far, as Optuna sees them.

    Args:
        space: what may be tried.
        better: which way scores are better.
        seed: of the suggestions.
        sampler: "tpe" learns from the trials before (Bergstra et al., "Algorithms for
            Hyper-Parameter Optimization", 2011); "random" does not, nor does "sobol", whose points
            (scrambled as by Matousek, "On the L2-Discrepancy for Anchored Boxes", 1998) leave no
            part of the space empty where trials are few.
        stop_from: the first round after which a trial may be stopped; None: none is. It is stopped
            where its best score so far is worse than the median of the earlier trials after the
            same round (Golovin et al., "Google Vizier", 2017), once five of them are finished.
    """

    def __init__(
        self,
        space: Sequence[Dimension],
        better: Better,
        seed: int,
        sampler: Sampler = "tpe",
        stop_from: int | None = None,
    ) -> None:
        require_optuna()
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = list(space)
        self._study = optuna.create_study(
            direction="maximize" if better == "higher" else "minimize",
            sampler=_sampler(sampler, seed),
            pruner=optuna.pruners.NopPruner()
            if stop_from is None
            else optuna.pruners.MedianPruner(_STARTUP, stop_from),
        )
        self._points = _points(len(self._space), seed) if sampler == "sobol" else None
        self._asked: list[Any] = []
        self._reported: list[int] = []

    def ask(self) -> dict[str, str]:
        """The values of the next trial: key -> what is typed."""
        if self._points is not None:
            point = next(self._points)
            self._study.enqueue_trial(
                {one.key: one.at(place) for one, place in zip(self._space, point, strict=True)}
            )
        trial = self._study.ask()
        self._asked.append(trial)
        self._reported.append(0)
        return {one.key: one.suggest(trial) for one in self._space}

    def stopped_at(self, number: int, series: Series) -> int | None:
        """The first round after which trial `number` (from 0) is clearly worse; None: it is not.

        Args:
            series: its scores so far; those of earlier calls must be their beginning.
        """
        trial = self._asked[number]
        for round, score in series[self._reported[number] :]:
            self._reported[number] += 1
            trial.report(score, round)
            if trial.should_prune():
                return round
        return None

    def tell(self, number: int, score: float | None, stopped: bool = False) -> None:
        """Take in how a trial ended.

        Args:
            score: the validation score; None: there is none.
            stopped: it was clearly worse, or diverged: values like these are to be avoided.
        """
        from optuna.trial import TrialState

        trial = self._asked[number]
        if stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        elif score is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, score)


def _sampler(name: Sampler, seed: int) -> Any:
    import optuna

    if name != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # Trials of one batch keep their distance; Optuna calls that an experiment.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def _points(dimensions: int, seed: int) -> Iterator[Sequence[float]]:
    """Points of a scrambled Sobol' sequence, each of numbers from 0 to 1.

    A key's values depend on its place among the keys and not on how many follow it: methods that
    share their first key are tried with the same values of it.

    Optuna's own sampler of them draws at random until a trial is finished: the whole first batch.
    """
    from scipy.stats import qmc

    sequence = qmc.Sobol(max(_WIDTH, dimensions), scramble=True, rng=seed)
    while True:
        yield sequence.random(1)[0][:dimensions].tolist()


def versions() -> Mapping[str, str]:
    """The version that the suggestions depend on."""
    import optuna

    return {"optuna": str(optuna.__version__)}
