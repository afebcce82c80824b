"""Attacks on privacy claims: on the mechanism alone, on a training run, on finished models.

`release` feeds a mechanism the gradients that would hurt it most, `training` hides marked records
in a real training and watches it, `membership` asks finished models who took part. Each ends in a
lower bound on epsilon out of `fedsim.privacy.audit`, the first two in `checks` of what the claim
takes for granted, too; `fedsim.privacy.verdict` compares them with the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.mechanisms import Mechanism

if TYPE_CHECKING:
    from fedsim.privacy.attacks.training import Training

Watch = Callable[[Sequence[Any]], Iterable[Any]]
"""Wraps what is iterated, to show how far it is; `iter` shows nothing."""

ScoreRecords = Callable[[NDArray[np.bool_], int], NDArray[np.float64]]
"""Trains on the records that the mask [n] includes, with a seed; returns a score [n] of every
record, included or not, that grows with how well the model knows it (such as the log-odds of its
label)."""


@dataclass(frozen=True)
class Subject:
    """What an audit examines.

    Attributes:
        name: of the scenario or run.
        mechanism: of the client whose epsilon is the largest.
        claimed_epsilon: of this client's whole training; None where nothing is claimed.
        delta: the delta of the claim.
        accountant: what computed it, such as "PRV upper".
        certified: whether the claim is proved.
        sample_rate: probability q with which a record joins a step's sample.
        steps: releases of the whole training, at most.
        training: of this client; what the level "run" needs.
        score_records: trains and scores; what the level "lira" needs. The claim must hold for
            training on any subset of the records.
        records: how many records `score_records` takes.
        rows: what units with the worst contents contribute to a release, [d] each, as the client
            method makes them; {}: gradients, and the mechanism bounds them.
    """

    name: str
    mechanism: Mechanism
    claimed_epsilon: float | None
    delta: float
    accountant: str
    certified: bool
    sample_rate: float
    steps: int
    training: Training | None = None
    score_records: ScoreRecords | None = None
    records: int = 0
    rows: Mapping[str, Tensor] = field(default_factory=dict)
