"""A network that is trained on a site's images, and its stages."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.distillation import redraw, snapshot_steps, train_with_snapshots
from fedsim.models import ConvNet

MEMBERS = {0: np.arange(12), 2: np.arange(12, 15)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures() -> torch.Tensor:
    """Fifteen images; those of the rare class are brighter on the left."""
    images = torch.randn(15, 3, 8, 8, generator=seeded(1))
    images[12:, :, :, :4] += 2
    return images


def trained(total: int, reached: int | None = None) -> tuple[ConvNet, list[dict], list[np.ndarray]]:
    images, read = pictures(), []

    def look(positions: np.ndarray) -> torch.Tensor:
        read.append(positions)
        return images[positions]

    network = ConvNet(3, 3, 8, 8, 2)
    redraw(network, seeded(2))
    stages = train_with_snapshots(
        network,
        look,
        MEMBERS,
        range(total if reached is None else reached),
        total,
        seeded(3),
        device=torch.device("cpu"),
    )
    return network, stages, read


def test_the_steps_of_the_stages_have_equal_ratios() -> None:
    assert snapshot_steps(300) == [10, 23, 55, 128, 300]
    assert snapshot_steps(1) == [1]


@given(st.integers(1, 5000))
def test_the_last_stage_is_the_trained_network(total: int) -> None:
    steps = snapshot_steps(total)
    assert steps == sorted(set(steps))
    assert 1 <= steps[0] <= steps[-1] == total


def test_stages_are_kept_after_their_steps_and_differ() -> None:
    network, stages, read = trained(12)
    assert len(read) == 12
    assert len(stages) == len(snapshot_steps(12)) == 4
    weights = [stage["features.0.weight"] for stage in stages]
    assert all(not torch.equal(a, b) for a, b in pairwise(weights))
    assert torch.equal(weights[-1], network.features[0].weight)
    # The rate follows the cosine of the whole training: the first stage does not depend on its end.
    first = trained(12, reached=snapshot_steps(12)[0])[0]
    assert torch.equal(weights[0], first.features[0].weight)


def test_a_training_that_is_cut_short_leaves_one_stage() -> None:
    network, stages, _ = trained(300, reached=2)
    assert len(stages) == 1
    assert torch.equal(stages[0]["classifier.bias"], network.classifier.bias)


def test_batches_hold_as_many_images_of_a_rare_class() -> None:
    _, _, read = trained(3)
    for positions in read:
        # All twelve and all three of the two classes fit into a batch's share.
        assert sorted(positions.tolist()) == list(range(15))


def test_the_trained_network_knows_its_classes() -> None:
    network, _, _ = trained(40)
    found = network(pictures()).argmax(dim=1)
    assert found.tolist() == [0] * 12 + [2] * 3


def test_training_depends_on_its_generator_alone() -> None:
    first = trained(4)[1]
    torch.rand(3)
    again = trained(4)[1]
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ValueError, match="no records"):
        train_with_snapshots(
            ConvNet(3, 3, 8, 8, 2),
            lambda positions: pictures()[positions],
            {0: np.arange(0)},
            range(1),
            1,
            seeded(),
            device=torch.device("cpu"),
        )
