"""APFL's server: federated averaging, and each client's mixed model is what is scored.

Deng et al. (2020), arXiv:2003.13461, Algorithm 1. The client's half is `clients/apfl.py`, the
method card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from fedsim.strategies.fedavg import FedAvg


class APFL(FedAvg):
    """Average the shared model; each client's mixture with its own weights is scored.

    Args:
        codec, weighting: as of `fedavg`.
    """

    local = True
    payload_kind = "apfl"
