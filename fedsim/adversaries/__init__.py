"""Adversaries: what clients that collude do with their data, or with what they send.

One is a plugin of the group `fedsim.adversaries`. Data poisoning changes the records that a client
trains on. Model poisoning stands between receiving and aggregating: colluders pool what they
trained, and data, and send something else.
"""

from fedsim.adversaries.base import (
    Adversary,
    DataPoisoning,
    Forgery,
    Knows,
    Lab,
    ModelPoisoning,
    Scene,
    Trial,
)

__all__ = [
    "Adversary",
    "DataPoisoning",
    "Forgery",
    "Knows",
    "Lab",
    "ModelPoisoning",
    "Scene",
    "Trial",
]
