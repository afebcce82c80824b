"""Ditto's server: federated averaging, and each client's own model is what is scored.

Li et al. (2021), arXiv:2012.04221, Algorithm 1. The client's half is `clients/ditto.py`, the method
card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from fedsim.strategies.fedavg import FedAvg


class Ditto(FedAvg):
    """Average the shared model; each client's own stays with it and is scored.

    Args:
        codec, weighting: as of `fedavg`.
    """

    local = True
    payload_kind = "ditto"
