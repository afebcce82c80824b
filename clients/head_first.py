"""Sums of the head's inputs when they are asked for, supervised training else.

The client's half of `strategies/head_first.py`.
"""

from __future__ import annotations

from flwr.app import RecordDict

from fedsim import Site
from fedsim.clients.feature_statistics import FeatureGram
from fedsim.clients.supervised import Supervised


class HeadFirst(Supervised):
    """Answer the first round with sums, and train in the others; parameters as of `supervised`."""

    private = "none"

    @property
    def discloses(self) -> tuple[str, ...]:
        """What a site's sums are."""
        return FeatureGram().discloses

    def private_steps(self, units: int, expected_batch: int) -> int:
        """There is no private form: its two kinds of exchanges make different releases."""
        raise ValueError("head_first has no private form: its rounds make different releases")

    def statistics(self, content: RecordDict, site: Site) -> RecordDict:
        """The sums of `feature_gram`, of the first model."""
        return FeatureGram().train(content, site)
