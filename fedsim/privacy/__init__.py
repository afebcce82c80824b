"""Differential privacy as pure functions: what is released, what it costs, what an attack proves.

`mechanisms` turns per-sample gradients into one noisy release, `accounting` adds releases up to
epsilon, `audit` bounds epsilon from below out of attack scores. None of them knows the engine, and
none keeps state.

A client method that has a private form needs five names of this package: it checks that records do
not meet in its model (`require_uncoupled`), and learns from them by `Releases` alone, for instance
with `fit_private`, to which it gives a `Loss`. What derives from it must change the private form,
too, where it changes the plain one (`require_private_too`).
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.privacy.coupling import require_uncoupled
    from fedsim.privacy.deriving import require_private_too
    from fedsim.privacy.releases import Releases
    from fedsim.privacy.training import Loss, fit_private

__all__ = [
    "Loss",
    "Releases",
    "fit_private",
    "require_private_too",
    "require_uncoupled",
]

__getattr__ = lazily(
    __name__,
    {
        "require_uncoupled": "fedsim.privacy.coupling",
        "require_private_too": "fedsim.privacy.deriving",
        "Releases": "fedsim.privacy.releases",
        "Loss": "fedsim.privacy.training",
        "fit_private": "fedsim.privacy.training",
    },
)
