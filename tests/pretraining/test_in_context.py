"""In-context pretraining: what is asked of the network, the same bytes again, and after a stop."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.data.volumes.prostate import prostate_cases
from fedsim.pretraining import in_context
from fedsim.pretraining.in_context import (
    FIELD_OF_VIEW,
    InContextPretraining,
    Tasks,
)

SMALL = InContextPretraining(
    channels=(2, 2), size=16, cases=8, epochs=2, batch_size=1, support=2, seed=0
)


def test_the_query_and_its_case_are_never_in_its_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_context, "_changed", lambda images, masks, rng: (images, masks))
    cases = [
        (np.full((3, 4, 4), number, np.float32), np.ones((3, 4, 4), np.uint8))
        for number in range(3)
    ]
    tasks, rng, seen = Tasks(((cases, ((1,),)),)), np.random.default_rng(0), set()
    for _ in range(200):
        images, masks = tasks._one(6, 4, rng)
        if not masks.all():  # Drawn shapes.
            continue
        query, *support = images[:, 0, 0].tolist()
        assert query not in support
        seen |= {(query, one) for one in support}
    assert seen == {(a, b) for a in range(3) for b in range(3) if a != b}


def test_the_whole_prostate_is_no_task_and_its_patients_are_in_no_scenario() -> None:
    tasks = Tasks.generated(InContextPretraining(cases=8))
    (prostate, asked), _ = tasks.sources
    assert asked == ((1,), (2,))
    assert {tuple(np.unique(label)) for _, label in prostate} == {(0, 1, 2)}
    scenario = prostate_cases(
        48, outlines="gland", field_of_view=FIELD_OF_VIEW, mean_slices=12, scale=0.03, seed=0
    )
    held = {label.tobytes() for case in in_context._seen(scenario.cases, 48) for label in case[1]}
    slices = [label > 0 for _, each in prostate for label in each]
    assert len(slices) > 50
    assert not any(one.any() and one.astype(np.uint8).tobytes() in held for one in slices)
