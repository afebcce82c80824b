"""What came of a run once its rounds are done: models, predictions, and the summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fedsim.engine.loop import Rounds
from fedsim.engine.prepare import Prepared
from fedsim.engine.scoring import Scores, mean_scores
from fedsim.folder.runfolder import plain
from fedsim.ledger.privacy import NO_PRIVACY_SUMMARY
from fedsim.method.strategy import Strategy
from fedsim.observers.base import Finished
from fedsim.privacy.secure_sum import masked_bytes
from fedsim.raising import plugin_code
from fedsim.randomness import isolated
from fedsim.wire import flower


def outcome(prepared: Prepared, rounds: Rounds) -> Finished:
    """Score the finished models once more, and on external records, and sum the run up.

    Raises:
        RunError: a model cannot be scored.
    """
    with plugin_code("the finished model could not be scored"):
        predicted = np.stack([rounds.scoring.predict(arrays) for arrays in rounds.selected])
        name, found = prepared.task.predictions(predicted, prepared.federation.view("test"))
        external = _external_scores(prepared, rounds)
    up, down = rounds.ledger.total_megabytes()
    summary = {
        "metrics": rounds.metrics | external | rounds.tally.metrics(),
        "rounds": rounds.finished,
        "stopped": rounds.stopped or None,
        "failed": rounds.failed,
        "mb_up_total": up,
        "mb_down_total": down,
        **(rounds.privacy.summary() if rounds.privacy else NO_PRIVACY_SUMMARY),
        "masked_sum_mb": _masked_sum(prepared),
        "certificate": _certificate(prepared, rounds),
        "unlearning": _unlearning(prepared),
        "audit": None,
        "simulated_hours": rounds.timing.hours if rounds.timing else None,
        "wall_seconds": rounds.seconds,
        "peak_rss_mb": rounds.peak_rss_mb(),
        "data_source": prepared.federation.store.source,
    }
    return Finished(
        summary=plain(summary),
        models=tuple(flower.tensors(arrays) for arrays in rounds.selected),
        owners=() if rounds.has_global_model else tuple(rounds.server.names),
        learned=rounds.learned,
        predicted=predicted,
        predictions=found,
        predicted_in=name,
        build=lambda position: _module(rounds, position),
    )


def _certificate(prepared: Prepared, rounds: Rounds) -> dict[str, Any] | None:
    """How far colluders can have moved the aggregate of a round, where the rule has a bound.

    Without an adversary it is told of one client.
    """
    plan, strategy = prepared.conspiracy, prepared.strategy
    if not isinstance(strategy, Strategy):
        return None
    least = rounds.fewest or len(rounds.server.sample_clients())
    colluders = min(least, 1 if plan is None else len(plan.clients))
    bound = strategy.certificate(least, colluders)
    if bound is None:
        return None
    return {"colluders": colluders, "replies": least, "norm_per_round": bound}


def _unlearning(prepared: Prepared) -> dict[str, Any] | None:
    """Who was taken out of the model, and how."""
    strategy = prepared.strategy
    found = strategy.unlearning() if isinstance(strategy, Strategy) else None
    return None if found is None else dict(found)


def _masked_sum(prepared: Prepared) -> float | None:
    """Megabytes that the clients would send for the masked sum that a claim takes for granted."""
    plan, strategy = prepared.privacy, prepared.strategy
    if plan is None or not plan.shares_noise or not isinstance(strategy, Strategy):
        return None
    return masked_bytes(len(plan.clients), strategy.sum_size) / 1e6


def _module(rounds: Rounds, position: int) -> torch.nn.Module:
    """A finished model; whatever a constructor draws, what follows draws the same."""
    with isolated(rounds.streams.sequence("model")):
        model = rounds.server.new_model()
    flower.load_state(model, rounds.selected[position])
    return model


def _external_scores(prepared: Prepared, rounds: Rounds) -> Scores:
    """Scores of the finished models on records that no client has, means over models."""
    view, task = prepared.federation.external_view(), prepared.task
    if view is None:
        return {}
    found = []
    for position in range(len(rounds.selected)):
        model = _module(rounds, position)
        found.append(task.score(task.predict(model, view, rounds.server.device), view))
    return {f"external_{name}": value for name, value in mean_scores(found).items()}
