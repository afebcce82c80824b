"""Plain attacks: each colluder by itself sends what it learned, changed.

Sign flipping (Li et al., "RSA", 2019), scaling (Bagdasaryan et al., "How To Backdoor Federated
Learning", 2020), Gaussian noise (Blanchard et al., 2017), free riding (Lin et al., 2019).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat

from fedsim.adversaries import vectors
from fedsim.adversaries.base import Forgery, ModelPoisoning, Scene
from fedsim.method.received import Arrays

Factor = Annotated[float, Field(gt=0, le=1e6)]


class SignFlip(ModelPoisoning):
    """Send the negative of what was learned.

    Args:
        factor: it is multiplied by, besides.
    """

    def __init__(self, factor: Factor = 1.0) -> None:
        self.factor = factor

    def forge(self, scene: Scene) -> Forgery:
        """See the class."""
        return Forgery([vectors.scaled(-self.factor, one) for one in scene.own])


class Scaling(ModelPoisoning):
    """Send several times what was learned.

    Args:
        factor: how many times; 1 is honest.
    """

    def __init__(self, factor: Factor = 10.0) -> None:
        self.factor = factor

    def forge(self, scene: Scene) -> Forgery:
        """See the class."""
        return Forgery([vectors.scaled(self.factor, one) for one in scene.own])


class Gaussian(ModelPoisoning):
    """Send Gaussian noise in the place of what was learned.

    Args:
        scale: standard deviation of each parameter, in root mean squares of what was learned.
    """

    def __init__(self, scale: PositiveFloat = 1.0) -> None:
        self.scale = scale

    def forge(self, scene: Scene) -> Forgery:
        """See the class."""
        draws = scene.numpy_generator("noise")
        return Forgery([_noise(one, self.scale, draws) for one in scene.own])


class FreeRider(ModelPoisoning):
    """Send back the model that came, with a little noise against being found out.

    Args:
        noise: standard deviation of each parameter, in root mean squares of what was learned; 0
            sends the very model.
    """

    def __init__(self, noise: NonNegativeFloat = 0.0) -> None:
        self.noise = noise

    def forge(self, scene: Scene) -> Forgery:
        """See the class."""
        draws = scene.numpy_generator("noise")
        return Forgery([_noise(one, self.noise, draws) for one in scene.own])


def _noise(change: Arrays, scale: float, draws: np.random.Generator) -> Arrays:
    size = sum(value.size for value in change.values())
    deviation = scale * np.sqrt(vectors.square(change) / max(size, 1))
    return {name: deviation * draws.standard_normal(change[name].shape) for name in change}
