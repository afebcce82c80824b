"""In-context pretraining: what is asked of the network, the same bytes again, and after a stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.data.volumes.prostate import prostate_cases
from fedsim.errors import InputError
from fedsim.models.in_context import InContext
from fedsim.pretrained.catalogue import SHIPPED
from fedsim.pretrained.loading import load_pretrained
from fedsim.pretraining import in_context
from fedsim.pretraining.in_context import (
    FIELD_OF_VIEW,
    InContextPretraining,
    Tasks,
    pretrain_in_context,
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


def test_a_pretraining_that_was_stopped_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    about = pretrain_in_context(SMALL, whole)
    assert json.loads(about["architecture_arguments"]) == {"channels": [2, 2]}

    def stops(line: str) -> None:
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_in_context(SMALL, cut, say=stops)
    assert not cut.exists()
    said: list[str] = []
    assert pretrain_in_context(SMALL, cut, say=said.append) == about
    assert said[0] == "goes on after epoch 1 of 2"
    assert cut.read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.glob("*.unfinished")] == []
    # What is there is left as it is, and never overwritten by something else.
    assert pretrain_in_context(SMALL, cut) == about
    with pytest.raises(InputError, match="made with another seed"):
        pretrain_in_context(replace(SMALL, seed=1), cut)
    load_pretrained(InContext(2, 1, (16, 16), channels=(2, 2)), str(cut))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channels": (16,)}, "channels is (16,)"),
        ({"channels": (0, 2)}, "channels is (0, 2)"),
        ({"size": 17}, "size is 17"),
        ({"size": 8}, "size is 8"),
        ({"cases": 7}, "count is 7"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0, "support": 0}, "batch_size is 0, support is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(InputError) as refused:
        replace(SMALL, **change)  # type: ignore[arg-type]
    assert says in str(refused.value)


def test_the_network_that_ships_outlines_what_it_never_learned_and_follows_its_support() -> None:
    """The whole prostate of other patients; a support that outlines all makes it outline more."""
    model = InContext(2, 1, (48, 48), channels=(16, 16, 16, 16), support=8, draws=1)
    load_pretrained(model, str(SHIPPED["in_context_phantom"]))
    cases = [
        (torch.from_numpy(image)[None], torch.from_numpy(label.astype(np.int64)))
        for image, label in in_context._seen(
            prostate_cases(
                48,
                outlines="gland",
                field_of_view=FIELD_OF_VIEW,
                mean_slices=8,
                scale=0.03,
                seed=0,
            ).cases,
            48,
        )
    ]
    model.remember(cases[1:3], seed=0, empty=True)
    image, label = cases[0]
    found = model.volume_logits(image).argmax(1)
    both = int(((found == 1) & (label == 1)).sum())
    assert 2 * both / int((found == 1).sum() + (label == 1).sum()) > 0.4
    model.remember([(image, torch.ones_like(label)) for image, label in cases[1:3]], 0, empty=True)
    assert (model.volume_logits(image).argmax(1) == 1).float().mean() > (
        2 * (found == 1).float().mean()
    )
