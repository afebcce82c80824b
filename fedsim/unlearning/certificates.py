"""What noise after unlearning is worth: bounds on the sensitivity, and a certificate in words.

Fraboni et al., "SIFU: Sequential Informed Federated Unlearning" (2024) restarts from a model whose
distance from the one without the client is at most psi, and adds Gaussian noise. The printed bound
is that of the classical Gaussian mechanism, whose proof needs epsilon < 1; here it is the analytic
one of Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy" (2018).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from fedsim.privacy.audit import gaussian_difference, gaussian_epsilon

ASSUMPTION = (
    "the losses are convex and smooth, and clients take gradient steps no longer than 2 over the "
    "smoothness, without momentum"
)
"""What the bound on the distance rests on (Fraboni et al. 2024, Theorem 1)."""


def classical_bound(epsilon: float, delta: float, sigma: float) -> float:
    """The largest psi by the classical Gaussian mechanism, epsilon sigma / sqrt(2 ln(1.25/delta)).

    As published. Its proof needs epsilon < 1.

    Raises:
        ValueError: a number is out of range.
    """
    _require(epsilon, delta, sigma)
    return epsilon * sigma / math.sqrt(2 * math.log(1.25 / delta))


def analytic_bound(epsilon: float, delta: float, sigma: float) -> float:
    """The largest psi that noise of standard deviation sigma hides at (epsilon, delta).

    The largest sensitivity with which the Gaussian mechanism has that epsilon and delta, exactly
    (Balle and Wang 2018, Theorem 8).

    Args:
        epsilon: above 0.
        delta: 0 < delta < 1.
        sigma: at least 0; 0 gives 0.

    Raises:
        ValueError: a number is out of range.
    """
    _require(epsilon, delta, sigma)
    return sigma * gaussian_difference(epsilon, delta) if sigma else 0.0


@dataclass(frozen=True)
class Certificate:
    """What a restart with noise promises, and to whom.

    Attributes:
        epsilon: at `delta`; None where nothing is promised.
        epsilon_claimed: the epsilon that the method would have if what it rests on held.
        delta: of both.
        certified: whether it is promised.
        sigma: standard deviation of the noise on each coordinate.
        psi: bound on the distance from the model without the client.
        restart: the round whose model was restarted from; 0 is the first model.
        protects: whose data.
        against: from whom.
        rests_on: what must hold; "" where nothing must.
        why_not: why nothing is promised; "" where it is.
    """

    epsilon: float | None
    epsilon_claimed: float | None
    delta: float
    certified: bool
    sigma: float
    psi: float
    restart: int
    protects: str
    against: str
    rests_on: str
    why_not: str

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @property
    def words(self) -> str:
        """The same in a sentence."""
        told = f"{self.protects}, against {self.against}"
        if self.psi == 0:
            return f"exact: restarted from a model that had learned nothing of {self.protects}"
        if self.certified:
            return (
                f"epsilon {self.epsilon:.3g} at delta {self.delta:g} of {told}, if {self.rests_on}"
            )
        claimed = "" if self.epsilon_claimed is None else f" (claimed: {self.epsilon_claimed:.3g})"
        return f"NO CERTIFICATE of {told}{claimed}: {self.why_not}"


def certificate(
    client: str,
    *,
    psi: float,
    sigma: float,
    delta: float,
    restart: int,
    convex: bool,
    euclidean: bool = True,
    contraction: float = 1.0,
) -> Certificate:
    """What a restart with noise promises.

    Args:
        client: who leaves.
        psi: bound on the Euclidean distance from the model without the client, at least 0.
        sigma: standard deviation of the noise, at least 0.
        delta: 0 < delta < 1.
        restart: round of the model.
        convex: whether what the bound rests on was said to hold, see `ASSUMPTION`.
        euclidean: whether psi bounds the Euclidean distance, and not that of each coordinate.
        contraction: that psi was computed with; below 1 the losses must be strongly convex.
    """
    rests_on = ASSUMPTION
    if contraction < 1:
        rests_on += f", and the losses are so strongly convex that steps contract by {contraction}"
    why_not = ""
    claimed: float | None = None
    if psi == 0:
        claimed = 0.0
    elif sigma > 0:
        claimed = gaussian_epsilon(psi / sigma, delta)
    if not euclidean:
        # A bound on each coordinate is none on the norm: nothing may be claimed of it.
        claimed = None
        why_not = "the bound is on each coordinate, and the Gaussian mechanism needs the norm"
    elif psi > 0 and not sigma:
        why_not = "no noise was added"
    elif psi > 0 and not convex:
        why_not = f"nobody said that {rests_on}"
    # The first model never saw the client: what follows from it alone needs no noise.
    certified = euclidean and (psi == 0 or not why_not)
    return Certificate(
        epsilon=claimed if certified else None,
        epsilon_claimed=claimed,
        delta=delta,
        certified=certified,
        sigma=sigma,
        psi=psi,
        restart=restart,
        protects=f"all training records of {client}",
        against="who sees models from the restart on, and none of before",
        rests_on="" if psi == 0 else rests_on,
        why_not="" if certified else why_not,
    )


def _require(epsilon: float, delta: float, sigma: float) -> None:
    if not epsilon > 0 or not 0 < delta < 1 or not sigma >= 0:
        raise ValueError(
            f"Expected epsilon > 0, 0 < delta < 1 and sigma >= 0, not {epsilon}, {delta}, {sigma}."
        )
