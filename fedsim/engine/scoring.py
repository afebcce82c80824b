"""Scoring: what a model's arrays say of the test and the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord

from fedsim.adversaries import DataPoisoning
from fedsim.engine.prepare import Prepared
from fedsim.errors import RunError
from fedsim.grid.worker import device_for
from fedsim.models.build import build_model
from fedsim.randomness import isolated
from fedsim.wire import flower

Scores = dict[str, float | None]


class Scoring:
    """Scores arrays of one run's model, all in one module of its own.

    Attributes:
        model: the module; its contents are those of the arrays that were scored last.
        device: where it computes.
        latest: the models that were tested last, and what they say: finished ones need not say it
            again.
        selects: whether the scenario selects the model by the pooled validation split.
        validates: whether models are scored on it.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._task = prepared.task
        with isolated(prepared.streams.sequence("model")):
            self.model = build_model(prepared.scenario, prepared.task)
        prepared.mode.arrange(self.model)
        self.device = device_for(prepared.scenario)
        self.selects = prepared.scenario.evaluation.select == "pooled_val"
        self.validates = self.selects or prepared.scenario.evaluation.val_scores
        self.latest: list[tuple[ArrayRecord, np.ndarray]] = []
        self._conspiracy = prepared.conspiracy
        self._test = prepared.federation.view("test")
        self._val = prepared.federation.view("val")

    def fits(self, arrays: ArrayRecord) -> None:
        """Raise ValueError unless arrays have the names and shapes of the model's."""
        flower.load_state(self.model, arrays)

    def predict(self, arrays: ArrayRecord) -> np.ndarray:
        """What a model says of the test split, see `Task.predict`."""
        for tested, predicted in self.latest:
            if tested is arrays:
                return predicted
        self.fits(arrays)
        return self._predicted(self.model, self._test)

    def test(self, arrays: ArrayRecord) -> Scores:
        """Metrics on the test split, of all and of each site; and how well an attack does.

        What it says is kept in `latest`, which a new round must empty: a strategy may write new
        values into the same record.
        """
        predicted = self.predict(arrays)
        self.latest.append((arrays, predicted))
        found = self._task.score(predicted, self._test, per_site=True)
        plan = self._conspiracy
        if plan is None or not isinstance(plan.adversary, DataPoisoning):
            return found
        return found | plan.adversary.scores(
            lambda view: self._predicted(self.model, view), self._test, self._task
        )

    def validation(self, arrays: ArrayRecord) -> Scores:
        """Metrics on the pooled validation split."""
        self.fits(arrays)
        return self.validate(self.model)

    def validate(self, model: torch.nn.Module) -> Scores:
        """The same of a module."""
        return self._task.score(self._predicted(model, self._val), self._val)

    def _predicted(self, model: torch.nn.Module, view: Any) -> np.ndarray:
        found = self._task.predict(model, view, self.device)
        if found.dtype.kind in "fc" and np.isnan(found).any():
            lost = int(np.isnan(found.reshape(len(found), -1)).any(axis=1).sum())
            raise RunError(
                f"task {self._task.name!r} predicts NaN for {lost} of {len(found)} "
                f"{self._task.records}: its predict() must raise, or say a number"
            )
        return found


def home_and_away(each: Sequence[Scores], names: Sequence[str], headline: str) -> Scores:
    """How each client's own model does at its own site, and at all others, means over clients.

    Args:
        each: scores of each client's model, with `<headline>@<site>` for each site.
        names: the clients, in the same order.
        headline: the metric.

    Returns:
        `<headline>@own` and `<headline>@others`; nothing where clients are not sites.
    """
    prefix = f"{headline}@"
    own: list[Scores] = []
    for scores, name in zip(each, names, strict=True):
        sites = {k.removeprefix(prefix): v for k, v in scores.items() if k.startswith(prefix)}
        if name not in sites:
            return {}
        away = [v for site, v in sites.items() if site != name and v is not None]
        mean = sum(away) / len(away) if away else None
        own.append({f"{prefix}own": sites[name], f"{prefix}others": mean})
    return mean_scores(own)


def mean_scores(each: Sequence[Scores]) -> Scores:
    """Means of every metric over models; a metric that is None for some is averaged over others."""
    if len(each) == 1:
        return dict(each[0])
    means: Scores = {}
    for name in each[0]:
        known = [value for scores in each if (value := scores[name]) is not None]
        means[name] = float(np.mean(known)) if known else None
    return means
