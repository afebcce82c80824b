"""Federated unlearning: taking a client out of a model that is trained already.

Formulas as pure functions of named arrays, what a server must keep of a training for each of them
(`memories`), what a certificate says (`certificates`), and the client's half of projected ascent
(`ascent`). The strategies are `strategies/unlearn_*.py`, their card `docs/methods/unlearning.md`.
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.unlearning.ascent import ASCEND, Ascent, ascend
    from fedsim.unlearning.certificates import (
        Certificate,
        analytic_bound,
        certificate,
        classical_bound,
    )
    from fedsim.unlearning.formulas import (
        Norms,
        ball_radius,
        calibrated,
        distance,
        last_checkpoint,
        moved,
        project,
        sensitivity,
        sensitivity_by_coordinate,
        weighted_mean,
        without,
    )
    from fedsim.unlearning.memories import (
        Accumulated,
        Contributions,
        FirstAndNorms,
        LastModels,
        Memory,
        Observed,
        Sensitivities,
    )
    from fedsim.unlearning.procedures import WITHOUT_HISTORY, Departure, make_procedure

__all__ = [
    "ASCEND",
    "WITHOUT_HISTORY",
    "Accumulated",
    "Ascent",
    "Certificate",
    "Contributions",
    "Departure",
    "FirstAndNorms",
    "LastModels",
    "Memory",
    "Norms",
    "Observed",
    "Sensitivities",
    "analytic_bound",
    "ascend",
    "ball_radius",
    "calibrated",
    "certificate",
    "classical_bound",
    "distance",
    "last_checkpoint",
    "make_procedure",
    "moved",
    "project",
    "sensitivity",
    "sensitivity_by_coordinate",
    "weighted_mean",
    "without",
]

_FORMULAS = (
    *("Norms", "ball_radius", "calibrated", "distance", "last_checkpoint", "moved", "project"),
    *("sensitivity", "sensitivity_by_coordinate", "weighted_mean", "without"),
)
_CERTIFICATES = ("Certificate", "analytic_bound", "certificate", "classical_bound")
_MEMORIES = (
    *("Accumulated", "Contributions", "FirstAndNorms", "LastModels", "Memory", "Observed"),
    "Sensitivities",
)
__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("ASCEND", "Ascent", "ascend"), "fedsim.unlearning.ascent"),
        **dict.fromkeys(
            ("WITHOUT_HISTORY", "Departure", "make_procedure"), "fedsim.unlearning.procedures"
        ),
        **dict.fromkeys(_FORMULAS, "fedsim.unlearning.formulas"),
        **dict.fromkeys(_CERTIFICATES, "fedsim.unlearning.certificates"),
        **dict.fromkeys(_MEMORIES, "fedsim.unlearning.memories"),
    },
)
