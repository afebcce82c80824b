"""What stands between a client method and its releases: on whatever device the method computes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.privacy.attacks.watched import Script, Silence

# A tensor without content, but with a device that is not the CPU: what a GPU would refuse to mix.
ELSEWHERE = torch.device("meta")


class _Inner:
    """Releases of a client, as far as those who watch it look."""

    made = 0
    plan = SimpleNamespace(mechanism=SimpleNamespace(max_grad_norm=1.0, expected_batch=2.0))

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(3), np.arange(3)

    def release(self, gradients: torch.Tensor) -> torch.Tensor:
        assert len(gradients) == 3
        return gradients.sum(0)


@pytest.mark.parametrize("device", [torch.device("cpu"), ELSEWHERE])
def test_a_silent_release_lies_where_the_gradients_lie(device: torch.device) -> None:
    watched: Any = Silence(width=5, kept=9).watch(_Inner())  # type: ignore[arg-type]
    positions, _ = watched.sample()
    assert len(positions) == 0
    released = watched.release(torch.zeros(0, 7, device=device))
    assert (released.shape, released.device) == (torch.Size([7]), device)


@pytest.mark.parametrize("device", [torch.device("cpu"), ELSEWHERE])
def test_a_scripted_release_lies_where_the_gradients_lie(device: torch.device) -> None:
    script = Script(seed=0, records=8, kept=0)
    watched: Any = script.watch(_Inner())  # type: ignore[arg-type]
    for _ in range(2):
        positions, _ = watched.sample()
        part = torch.zeros(len(positions), 7)
        watched._width, watched._device = 7, device  # As after a first release.
        released = watched.release(part)
        assert (released.shape, released.device) == (torch.Size([7]), device)
