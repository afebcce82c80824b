"""A client method of which the training records are poisoned."""

from __future__ import annotations

from dataclasses import replace

from fedsim.adversaries.base import DataPoisoning
from fedsim.method.client import Client, Site
from fedsim.method.wrapper import Wrapper


class Poisoned(Wrapper):
    """The wrapped method on other training records; its private form is that of the method.

    Args:
        inner: the client method.
        adversary: changes the records.
    """

    def __init__(self, inner: Client, adversary: DataPoisoning) -> None:
        super().__init__(inner)
        self._adversary = adversary

    def private_steps(self, units: int, expected_batch: int) -> int:
        """Those of the wrapped method: the poisoned records are as many."""
        return self.inner.private_steps(units, expected_batch)

    def site(self, site: Site) -> Site:
        """The same site with poisoned records."""
        # Of the first round, whichever it is: the same records are poisoned all along.
        draws = replace(site, round=0, exchange=0).generator("poisoned records")
        return replace(site, train=self._adversary.poisoned(site.train, site.task, draws))
