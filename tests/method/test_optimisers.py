"""fedsim's optimisers take torch's steps, bit for bit, and leave torch's compiler alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fedsim.method import optimisers

_CODE = """
import sys
import torch
from fedsim.method.optimisers import SGD, Adam
for kind in (SGD, Adam):
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([weights], lr=0.1)
    optimizer.zero_grad()
    (weights ** 2).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
        ("Adam", {"lr": 0.1}),
    ],
)
def test_the_steps_are_those_of_torch(name: str, how: dict[str, float]) -> None:
    ends = []
    for module in (optimisers, torch.optim):
        draws = torch.Generator().manual_seed(0)
        weights = torch.nn.Parameter(torch.randn(50, generator=draws))
        optimizer = getattr(module, name)([weights], **how)
        assert isinstance(optimizer, getattr(torch.optim, name))
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
        for _ in range(5):
            optimizer.zero_grad()
            (torch.randn(50, generator=draws) * weights**2).sum().backward()
            optimizer.step()
            cosine.step()
            assert weights.requires_grad
            assert weights.is_leaf, "no gradient is followed through the step"
        ends.append(weights.detach())
    assert torch.equal(*ends)


def test_the_compiler_is_not_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
