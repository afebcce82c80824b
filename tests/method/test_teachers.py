"""Teachers, cubes, the ramp, and the term of unlabelled records."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.method import (
    UnlabelledTerm,
    added,
    cube_masks,
    follow,
    pasted,
    sigmoid_ramp_up,
    teacher_of,
)

# --- teachers ------------------------------------------------------------------------------------


class Scalar(nn.Module):
    """One number."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value, dtype=torch.float64))


def rounds(count: int) -> list[dict[str, list[float]]]:
    """Fed-CoT of scalars: targets 1 and 3, w <- w - .5 (w - target), alpha1 .9, alpha2 .5, I 3."""
    decay, first_decay, targets = 0.9, 0.5, (1.0, 3.0)
    server, server_teacher = Scalar(), Scalar()
    at_home = [Scalar() for _ in targets]
    found = []
    for _ in range(count):
        students, sync = [], []
        for target, own in zip(targets, at_home, strict=True):
            student, teacher = teacher_of(server), teacher_of(server_teacher)
            follow(own, student, first_decay)
            for _ in range(3):
                student.w.sub_(0.5 * (student.w - target))
                for one in (teacher, own):
                    follow(one, student, decay)
            students.append(student.w.item())
            sync.append(teacher.w.item())
        server, server_teacher = Scalar(np.mean(students)), Scalar(np.mean(sync))
        values = {"w": students, "sync": sync, "async": [one.w.item() for one in at_home]}
        found.append(values | {"server": [server.w.item(), server_teacher.w.item()]})
    return found


def test_the_golden_numbers_of_two_rounds() -> None:
    first, second = rounds(2)
    assert first["w"] == pytest.approx([0.875, 2.625])
    assert first["sync"] == pytest.approx([0.1955, 0.5865])
    assert first["async"] == first["sync"]  # In round 1 they are the same, to the bit.
    assert first["server"] == pytest.approx([1.75, 0.391])
    assert second["w"] == pytest.approx([1.09375, 2.84375])
    assert second["sync"] == pytest.approx([0.612664, 1.003664])
    assert second["async"] == pytest.approx([1.03675975, 1.57027925])
    assert second["server"] == pytest.approx([1.96875, 0.808164])


def test_the_mean_teacher_follows_the_mean_student() -> None:
    """Exponential means and means over clients may change places."""
    student, teacher = teacher_of(Scalar()), teacher_of(Scalar())
    for _ in range(3):
        student.w.sub_(0.5 * (student.w - 2.0))
        follow(teacher, student, 0.9)
    assert teacher.w.item() == pytest.approx(rounds(1)[0]["server"][1])
    assert teacher.w.item() == pytest.approx(0.391)


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_without_a_past_the_teacher_is_the_student_to_the_bit() -> None:
    student, teacher = net(0), teacher_of(net(1))
    student(torch.randn(8, 3))
    follow(teacher, student, 0.0)
    for name, value in student.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], value), name


def test_what_agrees_stays_to_the_bit() -> None:
    student, teacher = net(0), teacher_of(net(0))
    for decay in (0.1, 0.3, 0.7, 0.999):
        follow(teacher, student, decay)
    for one, other in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(one, other)
    follow(teacher, net(1), 1.0)
    for one, other in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_teacher_has_no_gradient_and_is_no_part_of_the_student() -> None:
    student = net(0)
    teacher = teacher_of(student)
    assert not any(one.requires_grad for one in teacher.parameters())
    assert all(one.requires_grad for one in student.parameters())
    assert (teacher.training, student.training) == (False, True)
    before = [one.clone() for one in teacher.parameters()]
    torch.optim.SGD(student.parameters(), lr=1.0).step()
    (student(torch.randn(4, 3)) - teacher(torch.randn(4, 3))).square().sum().backward()
    assert all(one.grad is None for one in teacher.parameters())
    with torch.no_grad():
        for one in student.parameters():
            one.add_(1.0)
    for one, then in zip(teacher.parameters(), before, strict=True):
        assert torch.equal(one, then)


def test_a_decay_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        follow(teacher_of(Scalar()), Scalar(), 1.1)


# --- cubes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(20, 24), (12, 20, 24)])
def test_outside_the_cubes_nothing_changes(size: tuple[int, ...]) -> None:
    draws = torch.Generator().manual_seed(0)
    values = torch.randn(4, 2, *size, generator=draws)
    masks = cube_masks(4, size, 3, (4, 6), draws)
    assert masks.shape == (4, 1, *size)
    mixed = pasted(values, masks)
    where = masks.expand_as(values)
    assert torch.equal(mixed[~where], values[~where])
    assert torch.equal(mixed[where], values.roll(1, 0)[where])
    assert 0 < masks.float().mean() < 1


def test_a_single_cube_is_a_cube_with_a_side_in_the_range() -> None:
    draws = torch.Generator().manual_seed(1)
    sides = set()
    for mask in cube_masks(60, (20, 20, 20), 1, (3, 5), draws)[:, 0]:
        lengths = {int(mask.any(dim=a).any(dim=b).sum()) for a, b in ((0, 0), (0, 1), (1, 1))}
        side = lengths.pop()
        assert not lengths
        assert int(mask.sum()) == side**3
        sides.add(side)
    assert sides == {3, 4, 5}


def test_cubes_that_are_longer_than_an_axis_take_all_of_it() -> None:
    mask = cube_masks(1, (4, 30), 1, (8, 8), torch.Generator().manual_seed(0))[0, 0]
    assert mask.sum() == 4 * 8
    assert not cube_masks(2, (9, 9), 0, (2, 3), torch.Generator().manual_seed(0)).any()
    with pytest.raises(ValueError, match="smallest"):
        cube_masks(1, (9, 9), 1, (4, 3), torch.Generator().manual_seed(0))


def test_one_generator_gives_one_set_of_cubes() -> None:
    one, other = (
        cube_masks(3, (16, 16), 4, (2, 6), torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(one, other)


# --- ramp and term -------------------------------------------------------------------------------


def test_the_ramp_grows_from_its_foot_to_one() -> None:
    found = [sigmoid_ramp_up(step, 10) for step in range(14)]
    assert found[0] == pytest.approx(math.exp(-5))
    assert found[5] == pytest.approx(math.exp(-1.25))
    assert all(a < b for a, b in pairwise(found[:11]))
    assert found[10:] == [1.0] * 4
    assert sigmoid_ramp_up(0, 0) == 1
    with pytest.raises(ValueError, match="no step"):
        sigmoid_ramp_up(-1, 3)


def test_the_term_weighs_and_remembers() -> None:
    model = Scalar(3.0)
    term = UnlabelledTerm(lambda m: (m.w**2, {"kept": 0.5}), lambda step: float(step))
    assert [term(model).item() for _ in range(3)] == [0.0, 9.0, 18.0]
    assert term.means() == {"unlabelled-loss": 9.0, "kept": 0.5}


def test_penalties_are_added_where_there_are_any() -> None:
    model = Scalar(3.0)
    assert added(None, None) is None
    one = added(None, lambda m: m.w)
    both = added(lambda m: m.w, None, lambda m: 2 * m.w)
    assert one is not None
    assert both is not None
    assert (one(model).item(), both(model).item()) == (3.0, 9.0)
