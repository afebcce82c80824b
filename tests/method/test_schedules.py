"""Half a cosine."""

from __future__ import annotations

import pytest

from fedsim.method.schedules import cosine


def test_the_cosine_has_its_ends_its_middle_and_nothing_after() -> None:
    assert cosine(0, 10, 0.2, 0.01) == pytest.approx(0.2)
    assert cosine(5, 10, 0.2, 0.0) == pytest.approx(0.1)
    assert cosine(10, 10, 0.2, 0.01) == cosine(99, 10, 0.2, 0.01) == pytest.approx(0.01)


def test_it_is_that_of_torch() -> None:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7, eta_min=1e-3)
    for step in range(7):
        assert cosine(step, 7, 0.3, 1e-3) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("step", "steps"), [(-1, 3), (0, 0)])
def test_steps_that_are_not_there_are_refused(step: int, steps: int) -> None:
    with pytest.raises(ValueError, match="no step"):
        cosine(step, steps, 1.0, 0.0)
