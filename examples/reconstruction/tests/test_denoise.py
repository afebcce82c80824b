from pathlib import Path

import numpy as np
import pytest
import torch
from denoise import Denoising

from fedsim import run

SCENARIO = Path(__file__).parents[1] / "scenario.yaml"


class Records:
    """Four grey images, as a view shows them."""

    indices = np.arange(4)
    sites = np.array([0, 0, 1, 1])
    site_names = ("north", "south")

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(rows), 3, 8, 8)


def test_a_model_that_does_nothing_has_the_psnr_of_the_noise() -> None:
    task, cpu = Denoising(3, 8), torch.device("cpu")
    psnr = task.predict(torch.nn.Identity(), Records(), cpu)
    # Noise of 0.5 times the channels' deviation, about 0.225 on the scale 0 to 1.
    assert psnr == pytest.approx(-20 * np.log10(0.5 * 0.226), abs=1)
    assert np.array_equal(psnr, task.predict(torch.nn.Identity(), Records(), cpu))
    scores = task.score(psnr, Records(), per_site=True)
    assert scores["psnr@south"] == pytest.approx(psnr[2:].mean())


def test_a_run_takes_noise_away(tmp_path: Path) -> None:
    result = run(SCENARIO, runs=tmp_path)
    assert result.metrics["psnr"] is not None
    assert result.metrics["psnr"] > -20 * np.log10(0.5 * 0.226) + 1
